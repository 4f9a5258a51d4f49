//! Identities: who may have a certificate, and the authority that signs it.
//!
//! [`keeper`] keeps root and intermediate in Secrets, [`service`] answers proxies (`Identity.Certify`), [`serving`] holds the operator's own
//! certificate, [`bundles`] brings the roots to where sidecars are, [`usable`] tells whether any of it works, [`report`] tells people more, [`requests`] has another authority sign. What decides is pure: [`material`] is what
//! an authority is made of, [`authority`] signs, [`rotation`] says what comes next, [`csr`] and `token` judge requests.

pub mod authority;
pub mod bundles;
pub mod csr;
mod delegation;
pub mod foreign;
pub mod keeper;
mod limit;
pub mod material;
mod renewal;
pub mod report;
pub mod requests;
pub mod rotation;
mod secrets;
pub mod service;
pub mod serving;
pub mod standing;
mod token;
pub mod usable;

use std::net::IpAddr;

pub use fairlead_identity::{SpiffeId, TrustDomain};

use crate::index::Index;
use crate::model::ObjectName;

/// The identity that the caller of a gRPC method proved with its client certificate.
///
/// `serve` puts it into the extensions of each request that came over such a connection; a request without it is anonymous.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity(pub SpiffeId);

/// The address that a gRPC request came from, in the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub std::net::SocketAddr);

/// What the authority must know of a pod before it certifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// `metadata.uid`: two pods may bear one name, one after the other.
    pub uid: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `status.podIPs`; empty until the kubelet reports them.
    pub ips: Vec<IpAddr>,
    /// A deletion has been asked for.
    pub terminating: bool,
}

/// The live pods; the index implements it.
pub trait Pods: Send + Sync + 'static {
    /// The pod of this namespace and name, if the index has seen it.
    fn find(&self, namespace: &str, name: &str) -> Option<PodInfo>;
}

impl Pods for Index {
    fn find(&self, namespace: &str, name: &str) -> Option<PodInfo> {
        let pod = self.pod(&ObjectName::new(namespace, name))?;
        Some(PodInfo { uid: pod.uid, service_account: pod.service_account, ips: pod.ips, terminating: pod.terminating })
    }
}

/// The roots that this mesh trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Grows with each change, also across restarts and installations (it is kept with the root, and unix seconds are its floor), so that a proxy can
    /// tell an older one.
    pub sequence: u64,
    /// DER, at least one.
    pub roots: Vec<Vec<u8>>,
    /// Of other trust domains; proxies alone believe them.
    pub foreign: foreign::Foreign,
}

impl TrustBundle {
    /// Our own roots one after the other, PEM.
    pub fn pem(&self) -> String {
        self.roots.iter().map(|root| authority::pem("CERTIFICATE", root)).collect()
    }
}
