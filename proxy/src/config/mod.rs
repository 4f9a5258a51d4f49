//! What the operator says: received on one stream, compiled, and read by the data path without a lock.
//!
//! [`Destinations::get`] is the data path's one call; [`stream::run`] keeps what it returns up to date; [`persist`] lets a proxy whose
//! container restarts alone begin with what it knew. Memory is bounded by [`MAX_DESTINATIONS`], whatever the application dials.

pub mod destinations;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod metrics;
pub mod persist;
mod session;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod workload;

use std::net::SocketAddr;

use fairlead_proxy_api::v1;

pub use self::{
    destinations::{Destinations, MAX_DESTINATIONS},
    metrics::Metrics,
    workload::OwnWorkload,
};

/// One resource as it stands: which version is in use, and whether a newer one was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Of what is in use; empty: nothing yet.
    pub version: String,
    /// The last version that was not taken, with the reason; cleared by the next that is.
    pub refused: Option<Refused>,
}

/// A version that does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub version: String,
    /// A sentence for whoever wrote it.
    pub reason: String,
}

/// One spelling for each address, so that a v4-mapped or scoped form is not another destination.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn to_proto(address: SocketAddr) -> v1::Address {
    v1::Address { ip: fairlead_proxy_api::octets(address.ip()), port: address.port().into() }
}

fn from_proto(address: &v1::Address) -> Option<SocketAddr> {
    let port = u16::try_from(address.port).ok()?;
    Some(canonical(SocketAddr::new(fairlead_proxy_api::address(&address.ip)?, port)))
}

/// The name of a destination on the wire.
pub(crate) fn destination_name(address: SocketAddr) -> v1::ResourceName {
    v1::ResourceName { kind: Some(v1::resource_name::Kind::Destination(to_proto(address))) }
}

/// The name of the proxy's own workload on the wire.
fn workload_name() -> v1::ResourceName {
    v1::ResourceName { kind: Some(v1::resource_name::Kind::Workload(v1::OwnWorkload {})) }
}
