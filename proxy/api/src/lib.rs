//! The protobuf contract between Fairlead's operator and its proxies, and nothing else.
//!
//! `proto/fairlead.proto` says what each message means; this crate is its generated form.

/// Messages, clients and servers of package `fairlead.proxy.v1`.
#[allow(missing_docs, clippy::large_enum_variant, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("fairlead.proxy.v1");
}

mod codec;

use std::net::IpAddr;

pub use codec::Codec;

/// An address as messages have it: 4 or 16 bytes in network order.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// What [`octets`] made; `None`: they are neither 4 nor 16.
pub fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// The audience of the projected service-account token that a proxy shows to the operator: its own, so that a token made for
/// another service opens nothing here, and one taken from here opens nothing elsewhere.
pub const TOKEN_AUDIENCE: &str = "fairlead.dev";

/// How many latency buckets [`v1::GroupCounts`] has.
pub const LATENCY_BUCKETS: usize = 40;
