//! The configuration stream to proxies, and what they say in return.
//!
//! [`ConfigService`] serves `Config.Stream`: what [`crate::index`] computes goes out, acknowledgements and counters come in and
//! are kept in the [`Registry`], which the status reconcilers and releases ask. [`ReplicaService`] and [`share`] bring the
//! registries of several replicas together at the leader.

mod encode;
mod evidence;
mod groups;
mod metrics;
mod plain_callers;
mod registry;
mod replica;
mod session;
mod stream;
mod trust;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use encode::{request_match, resource_to_wire};
pub use metrics::Metrics;
pub use registry::{Programmed, Registry, StreamId};
pub use replica::{Connect, ReplicaService, run as share};
pub use stream::ConfigService;
pub use trust::Everywhere;
