//! Bytes: streams, dialling, copying.
//!
//! [`Stream`] is what both sides of the proxy read and write; [`connect`] opens one to an endpoint; [`copy::both_ways`] joins two.

pub mod connect;
pub mod copy;
mod stream;

pub use self::stream::{Prefixed, Stream};
pub(crate) use self::stream::{keep_alive, reset};
