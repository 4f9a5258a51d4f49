//! What happens to the requests of a route on their way, compiled: nothing here can fail any more.

mod compile;
mod cors;
mod stickiness;
mod url;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

pub(super) use self::compile::compile;
pub use self::{
    cors::{Cors, Grant},
    stickiness::{Part, Stickiness},
    url::{PathChange, Redirect, Rewrite},
};
use crate::http::Fields;

/// What shares of requests are parts of.
pub const WHOLE: u32 = 1_000_000;

/// What happens to the requests of a route on their way.
#[derive(Debug, Default)]
pub struct Rules {
    /// On the way to the endpoint.
    pub request_headers: HeaderChanges,
    /// On the way back.
    pub response_headers: HeaderChanges,
    /// What the endpoint sees of the target.
    pub rewrite: Option<Rewrite>,
    /// In place of an endpoint's.
    pub answer: Option<Answer>,
    /// What pages of other origins may ask.
    pub cors: Option<Cors>,
    /// Made on purpose.
    pub fault: Option<Fault>,
    /// Keeps users with a backend.
    pub stickiness: Option<Stickiness>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
}

/// A share of requests of which copies are sent besides.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    /// Into `Service::sets`.
    pub set: usize,
    /// Part of [`WHOLE`].
    pub share: u32,
    /// Of each.
    pub copies: u32,
    /// Whether how they are answered counts for the release that their endpoint is part of.
    pub counted: bool,
}

impl Rules {
    /// Whether the endpoint sees another head than the one that routes are chosen by.
    pub fn changes_request(&self) -> bool {
        self.rewrite.is_some() || !self.request_headers.is_empty()
    }
}

/// An answer without an endpoint.
#[derive(Debug)]
pub enum Answer {
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Says it all.
    Respond(StatusCode, Bytes),
}

/// Faults made on purpose; shares are parts of [`WHOLE`].
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of requests that wait.
    pub delay_share: u32,
    /// How long.
    pub delay: Duration,
    /// Of requests that fail.
    pub abort_share: u32,
    /// How, for callers of HTTP.
    pub status: StatusCode,
    /// How, for callers of gRPC; `None`: by what stands for the status.
    pub grpc_status: Option<u8>,
}

/// Changes of headers.
#[derive(Debug, Default)]
pub struct HeaderChanges {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Removes, then sets, then adds.
    pub fn apply(&self, headers: &mut Fields) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}
