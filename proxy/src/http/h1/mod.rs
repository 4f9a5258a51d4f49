//! HTTP/1 as bytes: heads are parsed once and kept as they were written, bodies are passed on as they come.
//!
//! [`request`], [`response`] and [`Chunked`] judge bytes and do no I/O; they are as strict as RFC 9112 allows, because what two parties may
//! read differently is how requests are smuggled. [`Conn`](conn) is a connection, [`serve`] the side that is called, [`send`](client) the one
//! that calls.

mod chunked;
pub(crate) mod client;
mod conn;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod head;
mod server;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzz"))]
mod view;
mod websocket;
mod write;

pub use self::{
    chunked::{Chunked, Item},
    head::{Answered, Asked, Parsed, Refusal, request, response},
};
pub(crate) use self::{
    conn::{Conn, H1Body},
    head::host_is_valid,
    server::serve,
    write::interim as write_interim,
};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
    /// With the connection.
    Close,
}

/// Digits and nothing else.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        // One digit more could be beyond 64 bits; nobody sends exabytes.
        return None;
    }
    value.iter().try_fold(0, |sum: u64, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}
