//! TLS configurations of the mesh. TLS 1.3 alone, both sides authenticated, no resumption.
//!
//! Resumption is off on purpose: a resumed session would carry a verdict from before a change of the trust bundle, or outlive the
//! peer's certificate. Connections between proxies are pooled, so handshakes are rare.

use std::sync::{Arc, LazyLock};

use fairlead_identity::{
    SpiffeId,
    verifier::{ClientVerifier, ServerVerifier, Trusted},
};
use rustls::{
    CipherSuite, ClientConfig, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

/// What follows the handshake between two proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes of a protocol that the proxies do not look into: one connection after the other, in a tunnel.
    Tcp,
}

impl Alpn {
    /// All, in the order in which a server prefers them; a client offers just one.
    pub const ALL: [Self; 3] = [Self::Http2, Self::Http1, Self::Tcp];

    /// The protocol's name on the wire.
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"fairlead/h1",
            Self::Http2 => b"fairlead/h2",
            Self::Tcp => b"fairlead/tcp",
        }
    }

    /// Of the name that was negotiated; `None` if the peer is not a Fairlead proxy.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.name() == name)
    }
}

pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::ring::default_provider();
    // Ten rounds instead of fourteen for every byte. Certificates and key exchange are of 128 bits as well.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

/// A proxy has one certificate, whatever the peer asks for.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// For the inbound side: every workload of a trusted domain, the mesh's protocols.
pub(super) fn server(certified: Arc<CertifiedKey>, trusted: Trusted) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(trusted)))
        .with_cert_resolver(Arc::new(Own(certified)));
    config.alpn_protocols = Alpn::ALL.map(|alpn| alpn.name().to_vec()).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// For a server that must prove `expected`. Without `certified` the client stays anonymous: only to ask for a first certificate.
pub(super) fn client(
    certified: Option<Arc<CertifiedKey>>,
    trusted: Trusted,
    expected: SpiffeId,
    alpn: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(trusted, expected)));
    let mut config = match certified {
        Some(certified) => builder.with_client_cert_resolver(Arc::new(Own(certified))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}
