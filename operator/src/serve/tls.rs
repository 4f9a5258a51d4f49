//! TLS configurations: 1.3 alone, one crypto provider, no resumption (a session must not outlive the trust that it rests on).

use std::sync::Arc;

use arc_swap::ArcSwap;
use fairlead_identity::verifier::{self, ClientVerifier, ServerVerifier, Trusted};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};
use tokio::sync::watch;

use crate::ca::serving::ServingCertificate;
use crate::ca::{SpiffeId, TrustBundle, TrustDomain};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// For the API server, which shows no certificate.
pub fn webhooks(serving: Arc<ServingCertificate>) -> Result<ServerConfig, Error> {
    let config =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?.with_no_client_auth();
    Ok(finish(config.with_cert_resolver(serving), &[HTTP2, HTTP1]))
}

/// For proxies and other replicas: a client may show a certificate, and then it must prove an identity of `trust_domain`.
pub fn grpc(
    serving: Arc<ServingCertificate>,
    bundle: &TrustBundle,
    trust_domain: &TrustDomain,
) -> Result<ServerConfig, Error> {
    // Proxies and replicas are of our own domain: other meshes have nothing to ask of this operator.
    let verifier = ClientVerifier::new(Trusted::new(trust_domain.clone(), anchors(bundle)?)).or_anonymous();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier));
    Ok(finish(config.with_cert_resolver(serving), &[HTTP2]))
}

/// As [`grpc`], replaced whenever the bundle changes.
pub fn follow(
    serving: Arc<ServingCertificate>,
    mut bundles: watch::Receiver<Arc<TrustBundle>>,
    trust_domain: TrustDomain,
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
) -> Result<ClientConfig, Error> {
    let trust_domain =
        TrustDomain::parse(operator.trust_domain()).map_err(|error| Error::General(error.to_string()))?;
    let verifier = ServerVerifier::new(Trusted::new(trust_domain, anchors(bundle)?), operator.clone());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
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
    Arc::new(rustls::crypto::ring::default_provider())
}

fn anchors(bundle: &TrustBundle) -> Result<Arc<[TrustAnchor<'static>]>, Error> {
    let anchor = |root: &Vec<u8>| verifier::anchor(&CertificateDer::from(root.as_slice()));
    bundle.roots.iter().map(anchor).collect::<Result<_, _>>().map_err(|error| Error::General(error.to_string()))
}
