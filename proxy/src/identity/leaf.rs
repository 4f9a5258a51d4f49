//! Leaf certificates: what a peer's must look like, and our own with its key.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use super::{
    bundle::TrustBundle,
    spiffe::{SpiffeError, SpiffeId},
    verifier,
};

/// Root, online intermediate, leaf: a chain has two certificates; the bound leaves room for one more intermediate.
const MAX_CHAIN: usize = 4;

/// Why a certificate is not the leaf of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not DER, or not X.509.
    #[error("certificate does not parse")]
    Unparsable,
    /// Bytes after the certificate.
    #[error("certificate is followed by other data")]
    Trailing,
    /// basicConstraints or keyUsage of an authority.
    #[error("certificate is an authority's, not a leaf")]
    Authority,
    /// keyUsage without digitalSignature, or extendedKeyUsage without what this side of TLS needs.
    #[error("certificate's key usage does not allow TLS authentication")]
    KeyUsage,
    /// No URI name, two, or one that is not text.
    #[error("certificate must have exactly one URI name")]
    Uri,
    /// The one URI name is not an identity.
    #[error("certificate's URI name: {0}")]
    Spiffe(#[from] SpiffeError),
}

/// What a leaf says about its bearer. It says so truthfully only after its chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The one URI name.
    pub identity: SpiffeId,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
}

/// Checks the rules of X.509-SVID for a leaf and reads its identity. Counts URI names with a parser that does not skip malformed ones.
pub fn claims(certificate: &CertificateDer<'_>) -> Result<Claims, LeafError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| LeafError::Unparsable)?;
    if !rest.is_empty() {
        return Err(LeafError::Trailing);
    }
    // Each accessor fails where the extension occurs twice or does not parse.
    let constraints = parsed.basic_constraints().map_err(|_| LeafError::Unparsable)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(LeafError::Authority);
    }
    let usage = parsed.key_usage().map_err(|_| LeafError::Unparsable)?;
    let usage = usage.ok_or(LeafError::KeyUsage)?.value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(LeafError::Authority);
    }
    if !usage.digital_signature() {
        return Err(LeafError::KeyUsage);
    }
    // Which purposes, webpki checks; here only that they are stated at all.
    let purposes = parsed.extended_key_usage().map_err(|_| LeafError::Unparsable)?;
    if purposes.is_none_or(|purposes| purposes.value.any) {
        return Err(LeafError::KeyUsage);
    }
    let names = parsed.subject_alternative_name().map_err(|_| LeafError::Unparsable)?.ok_or(LeafError::Uri)?;
    let mut uri = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(_) if uri.is_some() => return Err(LeafError::Uri),
            GeneralName::URI(text) => uri = Some(*text),
            GeneralName::Invalid(..) => return Err(LeafError::Uri),
            _ => {}
        }
    }
    let validity = parsed.validity();
    Ok(Claims {
        identity: SpiffeId::parse(uri.ok_or(LeafError::Uri)?)?,
        not_before: system_time(validity.not_before),
        not_after: system_time(validity.not_after),
    })
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

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
            &rustls::crypto::aws_lc_rs::default_provider(),
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
        self.chain().split_first().is_some_and(|(first, intermediates)| {
            verifier::verify_chain(
                bundle.anchors(),
                first,
                intermediates,
                unix_time(now),
                webpki::KeyUsage::client_auth(),
            )
            .is_ok()
        })
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
