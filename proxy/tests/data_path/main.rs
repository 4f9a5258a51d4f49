//! The whole path on loopback, without capture: test client → outbound proxy → mutual TLS → inbound proxy → test application.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod access_log;
mod authorization;
mod balancing;
mod destinations;
mod framing;
mod http1;
mod http2;
mod limits;
mod origination;
mod overload;
mod policy;
mod rules;
mod support;
mod tcp;
mod tokens;
mod translated;
mod tries;
mod tunnels;
