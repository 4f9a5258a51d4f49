//! What both directions share about HTTP.
//!
//! [`server::serve`] reads requests from a connection; [`exchange::Call`] carries one of them to an endpoint, again if nothing of it was
//! sent; [`respond`] is how the proxy answers itself; [`upgrade`] joins the two sides after an upgrade or CONNECT. What is read and written
//! is in [`h1`] and `http2`; above them a message is a [`Head`] or a [`Response`] and a body, whatever version it came in.

pub mod body;
pub mod deadline;
pub mod exchange;
mod fields;
mod grpc;
pub mod h1;
pub mod headers;
pub(crate) mod http2;
pub mod idle;
pub(crate) mod interim;
mod message;
pub mod patience;
mod reason;
pub mod replay;
mod respond;
pub mod server;
mod upgrade;

pub use self::{
    fields::Fields,
    grpc::{failed_status, is_grpc, is_grpc_type, speaks_against, status_for, status_of},
    message::{Head, Request, Response},
    reason::Reason,
    respond::{MARK, answer, respond},
};

/// The bytes that the head of a message may take; a longer one gets 431. Enough for the cookies of the worst browser sessions, and what
/// servers allow at most by default.
pub const MAX_HEAD: usize = 64 * 1024;

/// On each copy of a request, with its number: so that an application can leave out what must not happen twice. A request that carries it is not
/// copied again, so copies of copies end where an application passes it on.
pub const MIRROR: ::http::HeaderName = ::http::HeaderName::from_static("fairlead-mirror");

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What happened.
    pub(crate) error: std::io::Error,
    /// Whether it is certain that the endpoint did not look at it.
    pub(crate) nothing_sent: bool,
    /// Whether it was the caller who did not send what it had announced.
    pub(crate) caller: bool,
}

/// Which HTTP a connection speaks. Requests go on in the version they came in, unless endpoints are stated to speak the other one alone.
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
