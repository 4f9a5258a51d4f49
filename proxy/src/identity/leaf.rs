//! Our own certificate with its key.

use std::{sync::Arc, time::SystemTime};

use fairlead_identity::{
    SpiffeId,
    leaf::{Claims, LeafError, claims},
    verifier,
};
use ring::digest;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor, UnixTime},
    sign::CertifiedKey,
};

use super::bundle::TrustBundle;

/// Root, online intermediate, leaf: a chain has two certificates; the bound leaves room for one more intermediate.
const MAX_CHAIN: usize = 4;

/// Why what the operator issued, or what the state directory holds, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// The chain is empty or absurdly long.
    #[error("a chain of {0} certificates was issued, expected 1 to {MAX_CHAIN}")]
    Chain(usize),
    /// Not fit to be a leaf.
    #[error("the issued certificate is unusable: {0}")]
    Leaf(#[from] LeafError),
    /// Somebody else's certificate.
    #[error("the certificate was issued to {issued}, this pod is {expected}")]
    Identity {
        /// What the certificate says.
        issued: SpiffeId,
        /// What this pod is.
        expected: SpiffeId,
    },
    /// For another key, or the key does not load.
    #[error("the certificate does not belong to the key: {0}")]
    Key(rustls::Error),
    /// The chain does not lead to the bundle.
    #[error("the issued chain does not verify: {0}")]
    Verify(rustls::Error),
}

/// Our own certificate with its key.
pub struct Leaf {
    claims: Claims,
    key: PrivatePkcs8KeyDer<'static>,
    certified: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Leaf {
    // The key is never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("claims", &self.claims).finish_non_exhaustive()
    }
}

impl Leaf {
    /// Takes a key (PKCS#8) and the chain issued for it (leaf first), if they belong together and prove `own` under `bundle` at `now`.
    pub fn new(
        own: &SpiffeId,
        key: PrivatePkcs8KeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Self, IssuedError> {
        let Some((first, intermediates)) = chain.split_first() else {
            return Err(IssuedError::Chain(0));
        };
        if chain.len() > MAX_CHAIN {
            return Err(IssuedError::Chain(chain.len()));
        }
        let claims = claims(first)?;
        if claims.identity != *own {
            return Err(IssuedError::Identity { issued: claims.identity, expected: own.clone() });
        }
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            verifier::verify_chain(bundle.anchors(), first, intermediates, unix_time(now), usage)
                .map_err(IssuedError::Verify)?;
        }
        let certified = CertifiedKey::from_der(
            chain,
            PrivateKeyDer::Pkcs8(key.clone_key()),
            &rustls::crypto::ring::default_provider(),
        )
        .map_err(IssuedError::Key)?;
        Ok(Self { claims, key, certified: Arc::new(certified) })
    }

    /// What the certificate says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// PKCS#8, for the state directory alone.
    pub(crate) fn key(&self) -> &PrivatePkcs8KeyDer<'static> {
        &self.key
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Whether peers that trust `bundle` would accept this certificate now.
    pub fn verifies_under(&self, bundle: &TrustBundle, now: SystemTime) -> bool {
        self.leads_to(bundle.anchors(), now)
    }

    /// SHA-256 of each root of `bundle` to which the chain leads.
    pub fn roots_in(&self, bundle: &TrustBundle, now: SystemTime) -> Vec<Vec<u8>> {
        let each = bundle.roots().iter().zip(bundle.anchors());
        each.filter(|(_, anchor)| self.leads_to(std::slice::from_ref(*anchor), now))
            .map(|(root, _)| digest::digest(&digest::SHA256, root).as_ref().to_vec())
            .collect()
    }

    fn leads_to(&self, anchors: &[TrustAnchor<'_>], now: SystemTime) -> bool {
        self.chain().split_first().is_some_and(|(first, intermediates)| {
            let usage = webpki::KeyUsage::client_auth();
            verifier::verify_chain(anchors, first, intermediates, unix_time(now), usage).is_ok()
        })
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
