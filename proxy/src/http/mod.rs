//! What both directions share about HTTP.
//!
//! [`server::serve`] reads requests from a connection; [`exchange::Call`] carries one of them to an endpoint, again if nothing of it was
//! sent; [`respond`] is how the proxy answers itself; [`upgrade`] joins the two sides after an upgrade or CONNECT.

pub mod body;
pub mod exchange;
mod framing;
mod grpc;
pub mod headers;
mod reason;
mod respond;
pub mod server;
pub mod upgrade;

pub use self::{
    grpc::{failed_status, is_grpc, is_grpc_type, status_of},
    reason::Reason,
    respond::{MARK, respond},
};

/// The bytes that the head of a message may take; a longer one gets 431. Enough for the cookies of the worst browser sessions, and what
/// servers allow at most by default.
pub const MAX_HEAD: usize = 64 * 1024;

/// Which HTTP a connection speaks. Requests go on in the version they came in: the proxy does not translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// 1.0 and 1.1.
    Http1,
    /// With prior knowledge.
    Http2,
}

impl Version {
    /// How proxies call it between each other.
    pub fn alpn(self) -> crate::identity::Alpn {
        match self {
            Self::Http1 => crate::identity::Alpn::Http1,
            Self::Http2 => crate::identity::Alpn::Http2,
        }
    }

    /// As a label.
    pub fn transport(self) -> crate::telemetry::Transport {
        match self {
            Self::Http1 => crate::telemetry::Transport::Http1,
            Self::Http2 => crate::telemetry::Transport::Http2,
        }
    }
}
