//! Bytes: streams, dialling, copying.
//!
//! [`Stream`] is what both sides of the proxy read and write; [`connect`] opens one to an endpoint; [`copy::both_ways`] joins two.

pub(crate) mod buffers;
pub mod connect;
pub mod copy;
mod gathered;
mod paced;
mod stream;
mod tunnel;

pub(crate) use self::{
    gathered::Gathered,
    paced::Paced,
    stream::{keep_alive, reset},
};
pub use self::{
    stream::{Ahead, Prefixed, Stream},
    tunnel::Tunnel,
};
