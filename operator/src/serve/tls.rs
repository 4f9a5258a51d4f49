//! TLS configurations: 1.3 alone, one crypto provider, no resumption (a session must not outlive the trust that it rests on).

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio::sync::watch;

use crate::ca::serving::ServingCertificate;
use crate::ca::{SpiffeId, TrustBundle, peer};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// For the API server, which shows no certificate.
pub fn webhooks(serving: Arc<ServingCertificate>) -> Result<ServerConfig, Error> {
    let config =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?.with_no_client_auth();
    Ok(finish(config.with_cert_resolver(serving), &[HTTP2, HTTP1]))
}

/// For proxies and other replicas: a client may show a certificate, and then it must prove an identity of `trust_domain`.
pub fn grpc(serving: Arc<ServingCertificate>, bundle: &TrustBundle, trust_domain: &str) -> Result<ServerConfig, Error> {
    let chain = WebPkiClientVerifier::builder_with_provider(roots(bundle)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let verifier = MeshClient { chain, trust_domain: trust_domain.to_owned() };
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier));
    Ok(finish(config.with_cert_resolver(serving), &[HTTP2]))
}

/// As [`grpc`], replaced whenever the bundle changes.
pub fn follow(
    serving: Arc<ServingCertificate>,
    mut bundles: watch::Receiver<Arc<TrustBundle>>,
    trust_domain: String,
) -> Result<Arc<ArcSwap<ServerConfig>>, Error> {
    let first = grpc(Arc::clone(&serving), &bundles.borrow_and_update(), &trust_domain)?;
    let config = Arc::new(ArcSwap::from_pointee(first));
    let followed = Arc::clone(&config);
    tokio::spawn(async move {
        while bundles.changed().await.is_ok() {
            match grpc(Arc::clone(&serving), &bundles.borrow_and_update(), &trust_domain) {
                Ok(next) => followed.store(Arc::new(next)),
                Err(error) => tracing::error!(%error, "new trust bundle not usable; going on with the old one"),
            }
        }
    });
    Ok(config)
}

/// For calls to another replica: it must prove to be `operator`, under whatever address it is called.
pub fn replica(
    serving: Arc<ServingCertificate>,
    bundle: &TrustBundle,
    operator: &SpiffeId,
    dns_name: &str,
) -> Result<ClientConfig, Error> {
    let chain = WebPkiServerVerifier::builder_with_provider(roots(bundle)?, provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let dns_name = ServerName::try_from(dns_name.to_owned()).map_err(|error| Error::General(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OperatorServer { chain, operator: operator.clone(), dns_name }))
        .with_client_cert_resolver(serving);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn finish(mut config: ServerConfig, protocols: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(bundle: &TrustBundle) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for root in &bundle.roots {
        roots.add(CertificateDer::from(root.as_slice()))?;
    }
    Ok(Arc::new(roots))
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// The chain as rustls verifies it, and the identity as SPIFFE wants it, both within the handshake.
#[derive(Debug)]
struct MeshClient {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientCertVerifier for MeshClient {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, chain, now)?;
        peer::read(leaf, &self.trust_domain).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A workload's certificate has no DNS name, and an operator's is worth nothing without the operator's identity.
#[derive(Debug)]
struct OperatorServer {
    chain: Arc<WebPkiServerVerifier>,
    operator: SpiffeId,
    dns_name: ServerName<'static>,
}

/// A server that is not the operator.
#[derive(Debug, thiserror::Error)]
#[error("the server proved to be {0}, which is not the operator")]
struct NotTheOperator(SpiffeId);

impl ServerCertVerifier for OperatorServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _called: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(leaf, chain, &self.dns_name, ocsp, now)?;
        let identity = peer::read(leaf, self.operator.trust_domain()).map_err(refused)?.identity.0;
        if identity == self.operator { Ok(verified) } else { Err(refused(NotTheOperator(identity))) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
