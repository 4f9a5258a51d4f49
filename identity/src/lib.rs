//! Who a workload is: [`SpiffeId`], the certificate that states it ([`leaf`]), and the verifiers by which a TLS handshake proves it ([`verifier`]).
//! Beside it the keys of those who vouch for users ([`jwk`]).
//!
//! Operator and proxy share this, so that one holds for proved what the other does. No I/O, and no policy: who may do what is decided elsewhere.

pub mod jwk;
pub mod leaf;
pub mod spiffe;
pub mod verifier;

pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
