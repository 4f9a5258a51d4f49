//! Listeners: TLS, limits on connections, graceful stop.
//!
//! [`listen::accept`] turns a socket into a bounded stream of [`Connection`]s; [`http::run`] serves a router on them, be it webhooks, gRPC or metrics.
//! [`tls`] says with which certificates, and what a client must prove; [`replica`] is the one place where the operator is a client itself.

mod connection;
pub mod http;
pub mod listen;
pub mod replica;
pub mod tls;

pub use self::connection::Connection;

#[cfg(test)]
mod tests;
