//! Who this proxy is and whom it believes.
//!
//! [`Identity`] is what the data path asks: a TLS configuration to accept with, one to dial a given peer with. It is made once there is
//! a certificate ([`certify`]), so that no code has to deal with a proxy that has none, and is replaced piece by piece afterwards: the
//! leaf at renewal, the trust bundle when the operator pushes one. Both sides of each change are whole configurations behind one
//! atomic pointer; handshakes in flight finish with what they began with.

pub mod bundle;
pub mod certify;
pub mod leaf;
pub mod operator;
pub mod origination;
pub mod renew;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use fairlead_identity::verifier::Trusted;
pub use fairlead_identity::{SpiffeId, TrustDomain};
use fairlead_proxy_api::v1;
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig, pki_types::CertificateDer};
use tokio::sync::{Notify, watch};

use self::certify::Issued;
pub use self::{bundle::TrustBundle, leaf::Leaf, operator::Operator, origination::Origination, tls::Alpn};

/// How many client configurations are kept. A pod that talks to more workloads than this rebuilds some, at a few microseconds each.
const MAX_CLIENT_CONFIGS: usize = 512;

/// Who a peer proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// From its certificate.
    pub identity: SpiffeId,
    /// When that certificate ends. A connection should not be used for longer.
    pub not_after: SystemTime,
}

/// Reads a peer's identity from the certificates of a finished handshake, as `CommonState::peer_certificates` gives them.
///
/// The handshake has verified them already; this only reads. `None`: there is no certificate (not a mesh connection).
pub fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Option<Peer> {
    let claims = fairlead_identity::leaf::claims(certificates?.first()?).ok()?;
    Some(Peer { identity: claims.identity, not_after: claims.not_after })
}

/// The proxy's certificate and trust bundle, as TLS configurations.
pub struct Identity {
    own: SpiffeId,
    trust_domain: TrustDomain,
    current: ArcSwap<Current>,
    // Changes are made one after the other; readers never wait for them.
    change: Mutex<()>,
    changed: watch::Sender<Change>,
    doubted: Notify,
    asked: watch::Sender<Duration>,
}

/// What changed last, counted, so that who keeps a connection or a file can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// How many leaves there were.
    pub leaves: u64,
    /// How many bundles there were.
    pub bundles: u64,
}

struct Current {
    leaf: Arc<Leaf>,
    bundle: Arc<TrustBundle>,
    trusted: Trusted,
    server: Arc<ServerConfig>,
    // Locked once per new upstream connection, next to a handshake that costs a thousand times more.
    clients: Mutex<HashMap<(SpiffeId, Alpn), Arc<ClientConfig>>>,
}

impl Current {
    fn new(trust_domain: &TrustDomain, leaf: Arc<Leaf>, bundle: Arc<TrustBundle>) -> Result<Self, rustls::Error> {
        let trusted = bundle.trusted(trust_domain);
        let server = tls::server(leaf.certified().clone(), trusted.clone())?;
        Ok(Self { leaf, bundle, trusted, server: Arc::new(server), clients: Mutex::default() })
    }
}

impl Identity {
    /// `leaf` must have been checked against `bundle`, as [`Leaf::new`] does.
    pub fn new(trust_domain: TrustDomain, leaf: Leaf, bundle: TrustBundle) -> Result<Self, rustls::Error> {
        let own = leaf.claims().identity.clone();
        let current = Current::new(&trust_domain, Arc::new(leaf), Arc::new(bundle))?;
        Ok(Self {
            own,
            trust_domain,
            current: ArcSwap::from_pointee(current),
            change: Mutex::new(()),
            changed: watch::Sender::new(Change { leaves: 1, bundles: 1 }),
            doubted: Notify::new(),
            asked: watch::Sender::new(Duration::ZERO),
        })
    }

    /// This proxy.
    pub fn own(&self) -> &SpiffeId {
        &self.own
    }

    /// The mesh it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// To accept connections of other proxies with: any workload of the trust domain, [`Alpn::ALL`].
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// To dial `expected` with. Nobody else is accepted, whatever name is given to the connector.
    ///
    /// Fails only if the provider cannot do TLS 1.3.
    pub fn client_config(&self, expected: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, rustls::Error> {
        let current = self.current.load();
        let key = (expected.clone(), alpn);
        if let Some(config) = current.clients.lock().get(&key) {
            return Ok(config.clone());
        }
        let config = Arc::new(tls::client(
            Some(current.leaf.certified().clone()),
            current.trusted.clone(),
            expected.clone(),
            alpn.name(),
        )?);
        let mut clients = current.clients.lock();
        if clients.len() >= MAX_CLIENT_CONFIGS {
            // Any will do: what is in use comes back at once, and the bound is far above what pods talk to.
            if let Some(some) = clients.keys().next().cloned() {
                clients.remove(&some);
            }
        }
        clients.insert(key, config.clone());
        Ok(config)
    }

    /// The certificate in use.
    pub fn leaf(&self) -> Arc<Leaf> {
        self.current.load().leaf.clone()
    }

    /// The bundle in use.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.current.load().bundle.clone()
    }

    /// Follows renewals and new bundles.
    pub fn changes(&self) -> watch::Receiver<Change> {
        self.changed.subscribe()
    }

    /// Uses a renewed certificate from now on, and the bundle that came with it if that is newer.
    ///
    /// A bundle with a lower number is taken too where the one in use does not cover the new certificate: the operator was installed
    /// anew and counts from the start, and only the operator can have issued this.
    pub fn install(&self, issued: Issued) -> Result<(), rustls::Error> {
        let Issued { leaf, bundle } = issued;
        let _one = self.change.lock();
        let current = self.current.load().bundle.clone();
        let covered = leaf.verifies_under(&current, SystemTime::now());
        let newer = bundle.sequence() > current.sequence() || !covered;
        let bundle = if newer { Arc::new(bundle) } else { current };
        let next = Current::new(&self.trust_domain, Arc::new(leaf), bundle)?;
        self.current.store(Arc::new(next));
        self.changed.send_modify(|change| {
            change.leaves += 1;
            change.bundles += u64::from(newer);
        });
        Ok(())
    }

    /// Says that the operator seems not to accept our certificate: it is renewed soon, whatever its age.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Has the certificate renewed at a random moment within this time, unless it is due before: the operator wishes it.
    pub fn renew_within(&self, time: Duration) {
        self.asked.send_replace(time);
    }

    /// What the operator has to know before it takes the next step of a rotation.
    pub fn trust(&self, now: SystemTime) -> v1::Trust {
        let current = self.current.load();
        let not_before = current.leaf.claims().not_before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        v1::Trust {
            sequence: current.bundle.sequence(),
            leaf_roots: current.leaf.roots_in(&current.bundle, now),
            leaf_not_before: not_before.as_secs().try_into().unwrap_or(i64::MAX),
        }
    }

    /// Trusts `bundle` from now on, if it is newer than the one in use; says whether it was.
    pub fn install_bundle(&self, bundle: TrustBundle) -> Result<bool, rustls::Error> {
        let _one = self.change.lock();
        let current = self.current.load();
        if bundle.sequence() <= current.bundle.sequence() {
            return Ok(false);
        }
        let next = Current::new(&self.trust_domain, current.leaf.clone(), Arc::new(bundle))?;
        self.current.store(Arc::new(next));
        self.changed.send_modify(|change| change.bundles += 1);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
