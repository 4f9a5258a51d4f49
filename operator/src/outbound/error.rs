//! Why there is no answer.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;

/// Why there is no answer: a clause that goes on from the URL. It repeats nothing that a server said but its status, or else a URL would be a way to
/// read what only the operator can reach.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL itself.
    #[error("{0}")]
    Url(&'static str),
    /// The authorities that should vouch for the server.
    #[error("cannot be verified: {0}")]
    Roots(String),
    /// DNS.
    #[error("has a host that does not resolve: {0}")]
    Unresolved(io::Error),
    /// It leads to where users must not reach through the operator.
    #[error("leads to {address}, which is {what}: nothing is asked there")]
    Forbidden {
        /// What the name resolves to.
        address: IpAddr,
        /// Of [`super::address::allowed`].
        what: &'static str,
    },
    /// TCP.
    #[error("leads to a host that cannot be connected to: {0}")]
    Unreachable(io::Error),
    /// The handshake, the certificate above all.
    #[error("leads to a host that TLS does not prove: {0}")]
    Tls(&'static str),
    /// What is not HTTP, or breaks off.
    #[error("was not answered in order")]
    Http(#[source] hyper::Error),
    /// A redirect: whoever may redirect decides where the request goes, and the user names that place as well.
    #[error("was answered with a redirect ({0}), which is not followed: write the URL that it leads to")]
    Redirect(StatusCode),
    /// Any other answer than the one that is read.
    #[error("was answered with {0}")]
    Status(StatusCode),
    /// Over this many bytes.
    #[error("was answered with more than {} KiB", .0 / 1024)]
    TooLarge(usize),
    /// From the name to the last byte.
    #[error("was not answered in {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

impl Error {
    /// For metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Url(_) => "invalid_url",
            Self::Roots(_) => "invalid_roots",
            Self::Unresolved(_) => "unresolved",
            Self::Forbidden { .. } => "forbidden_address",
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Http(_) => "malformed",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::Timeout(_) => "timeout",
        }
    }
}
