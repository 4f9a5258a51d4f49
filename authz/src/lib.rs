//! Who may do what at a workload: the rules of `PeerAuth`, and the decision on a connection or a request.
//!
//! Operator and proxy share this, so that what the operator explains is what proxies do. [`Rule`] is what an author wrote, as plain data;
//! [`Policy::compile`] makes of a workload's rules what decides without allocating. No I/O, no clock.
//!
//! # How it decides
//!
//! A Deny that holds refuses, whatever else holds; otherwise an Allow that holds lets in; otherwise the default counts. Where servers may
//! read a request in several ways ([`path`], [`host`], lists in headers), a Deny holds if it does for any of them, an Allow only if it does for
//! all. The same goes for what is not known: of bytes that are not HTTP, a Deny that asks for a path holds and an Allow that asks for one does not.

mod header;
pub mod host;
mod index;
pub mod path;
mod pattern;
mod policy;
mod request;
mod rule;
#[cfg(test)]
mod tests;

pub use header::{ValuePattern, whole};
pub use ipnet::IpNet;
pub use pattern::{HostPattern, IdentityPattern, TextPattern};
pub use policy::{Decision, Policy};
pub use request::{Caller, Request, is_grpc_type};
pub use rule::{Action, Claim, Effect, Grpc, Header, Operation, Rule, Source};
