//! The TLS verifiers of the mesh: a chain to the trust bundle, a proper leaf, our trust domain, and (for servers) the expected identity.
//!
//! Host names play no part: the server name that a client passes is ignored, the expected [`SpiffeId`] is what counts.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    leaf::{self, LeafError},
    spiffe::{SpiffeId, TrustDomain},
};

/// What the provider can verify; the same for every verifier.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| rustls::crypto::ring::default_provider().signature_verification_algorithms);

/// Why a peer with a valid chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not the leaf of a workload.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// Of another mesh, whose roots are not among those that are trusted.
    #[error("peer {0} is not of this trust domain")]
    TrustDomain(SpiffeId),
    /// Another workload than the one that was dialled.
    #[error("peer is {actual}, expected {expected}")]
    Identity {
        /// What it proved.
        actual: SpiffeId,
        /// What the configuration says lives there.
        expected: SpiffeId,
    },
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// What went wrong in a handshake, for people: rustls prints reasons of verifiers such as ours only in their debug form.
pub fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            format!("invalid peer certificate: {reason}")
        }
        other => other.to_string(),
    }
}

/// What chains may lead to, from a root in DER.
pub fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, webpki::Error> {
    webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned())
}

/// Verifies signatures, validity, constraints and purposes from `leaf` up to one of `anchors`.
pub fn verify_chain(
    anchors: &[TrustAnchor<'_>],
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), Error> {
    let leaf = EndEntityCert::try_from(leaf).map_err(chain_error)?;
    leaf.verify_for_usage(ALGORITHMS.all, anchors, intermediates, now, usage, None, None).map(drop).map_err(chain_error)
}

/// Gives the peer the alert that says what is wrong, where TLS has one.
fn chain_error(error: webpki::Error) -> Error {
    use webpki::Error as Chain;
    Error::InvalidCertificate(match error {
        Chain::UnknownIssuer => CertificateError::UnknownIssuer,
        Chain::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        Chain::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        Chain::BadDer | Chain::BadDerTime | Chain::TrailingData(_) => CertificateError::BadEncoding,
        Chain::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// Whom to believe: the roots of our own trust domain, and those of others. Each set proves identities of its own domain and of no other, so that another
/// mesh can never speak for one of ours, nor for a third.
#[derive(Debug, Clone)]
pub struct Trusted {
    trust_domain: TrustDomain,
    anchors: Arc<[TrustAnchor<'static>]>,
    foreign: BTreeMap<TrustDomain, Arc<[TrustAnchor<'static>]>>,
}

impl Trusted {
    /// Our own domain alone.
    pub fn new(trust_domain: TrustDomain, anchors: Arc<[TrustAnchor<'static>]>) -> Self {
        Self { trust_domain, anchors, foreign: BTreeMap::new() }
    }

    /// Another domain as well. Roots that are said to be another's are never taken for our own domain.
    pub fn and(mut self, trust_domain: TrustDomain, anchors: Arc<[TrustAnchor<'static>]>) -> Self {
        if trust_domain != self.trust_domain {
            self.foreign.insert(trust_domain, anchors);
        }
        self
    }

    fn of(&self, trust_domain: &str) -> Option<&[TrustAnchor<'static>]> {
        if trust_domain == self.trust_domain.as_str() {
            return Some(&self.anchors);
        }
        self.foreign.iter().find(|(domain, _)| domain.as_str() == trust_domain).map(|(_, anchors)| anchors.as_ref())
    }
}

/// The name that a leaf states decides which roots it must lead to; it is believed only afterwards.
fn verify_peer(
    trusted: &Trusted,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<SpiffeId, Error> {
    let claims = leaf::claims(leaf);
    let stated = claims.as_ref().ok().and_then(|claims| trusted.of(claims.identity.trust_domain()));
    // Whoever states none that we know is told first what is wrong with its chain, as everybody is.
    verify_chain(stated.unwrap_or(&trusted.anchors), leaf, intermediates, now, usage)?;
    let identity = claims.map_err(PeerError::from)?.identity;
    if stated.is_none() {
        return Err(PeerError::TrustDomain(identity).into());
    }
    Ok(identity)
}

/// Accepts the one server that proves `expected`.
#[derive(Debug)]
pub struct ServerVerifier {
    trusted: Trusted,
    expected: SpiffeId,
}

impl ServerVerifier {
    /// `expected` must be of a domain that is trusted, otherwise nobody is accepted.
    pub fn new(trusted: Trusted, expected: SpiffeId) -> Self {
        Self { trusted, expected }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let actual = verify_peer(&self.trusted, end_entity, intermediates, now, KeyUsage::server_auth())?;
        if actual == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(PeerError::Identity { actual, expected: self.expected.clone() }.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Accepts every workload of the trust domains; who of them may do what, policy decides.
#[derive(Debug)]
pub struct ClientVerifier {
    trusted: Trusted,
    anonymous: bool,
}

impl ClientVerifier {
    /// A client without a certificate is refused: peers that speak a mesh protocol always have one.
    pub fn new(trusted: Trusted) -> Self {
        Self { trusted, anonymous: false }
    }

    /// Lets clients through that show no certificate at all: they may have come for one.
    pub fn or_anonymous(self) -> Self {
        Self { anonymous: true, ..self }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.anonymous
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate; hints would only make every handshake longer.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify_peer(&self.trusted, end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

fn tls13_only() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}
