//! TLS towards endpoints outside the mesh: who must answer there, and who may vouch for it.
//!
//! Out there a peer is known by a name of DNS, and proves it to authorities that a policy names. The proxy shows no certificate: what it is
//! within the mesh is nobody's business elsewhere. As within, nothing is resumed, so that a session never outlives the authorities it was
//! verified by.

use std::{fmt, sync::Arc};

use fairlead_proxy_api::v1;
use prost::Message;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::{CertificateDer, DnsName, ServerName},
};

use super::tls::{Alpn, PROVIDER};

/// What [`Origination`]s are told apart by: all that the operator said of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginationId([u8; SHA256_OUTPUT_LEN]);

impl OriginationId {
    /// Of what the operator said.
    pub fn of(message: &v1::TlsOrigination) -> Self {
        let mut id = [0; SHA256_OUTPUT_LEN];
        id.copy_from_slice(digest(&SHA256, &message.encode_to_vec()).as_ref());
        Self(id)
    }
}

/// Who must answer at endpoints outside the mesh, and who may vouch for it.
pub struct Origination {
    id: OriginationId,
    server_name: Box<str>,
    client: Result<Client, String>,
}

/// What connections are begun with.
pub struct Client {
    server_name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    tcp: Arc<ClientConfig>,
}

impl Origination {
    /// What cannot be used is no error: it is why nothing is sent, while the rest of the destination is known.
    pub fn new(message: v1::TlsOrigination) -> Self {
        let id = OriginationId::of(&message);
        let server_name = message.server_name.as_str().into();
        Self { id, server_name, client: Client::new(message) }
    }

    /// What it is told from others by.
    pub fn id(&self) -> OriginationId {
        self.id
    }

    /// Who must answer.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// To begin a connection with; or a clause that says why there is none.
    pub fn client(&self) -> Result<&Client, &str> {
        self.client.as_ref().map_err(String::as_str)
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origination").field(&self.server_name).finish()
    }
}

impl Client {
    fn new(message: v1::TlsOrigination) -> Result<Self, String> {
        let v1::TlsOrigination { server_name, roots, unresolved } = message;
        let name = DnsName::try_from(server_name.as_str()).map_err(|_| "that is no name of DNS")?.to_owned();
        let mut store = RootCertStore::empty();
        for (index, root) in roots.into_iter().enumerate() {
            let added = store.add(CertificateDer::from(root));
            added.map_err(|error| format!("certificate {index} cannot be an authority: {error}"))?;
        }
        if store.is_empty() {
            let why = if unresolved.is_empty() { "no authority is configured" } else { unresolved.as_str() };
            return Err(why.to_owned());
        }
        let config = config(store).map_err(|why| format!("TLS is not possible: {why}"))?;
        let speaking = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            server_name: ServerName::DnsName(name),
            http1: speaking(&[b"http/1.1"]),
            http2: speaking(&[H2]),
            tcp: speaking(&[]),
        })
    }

    /// Who must answer.
    pub fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// For a connection that carries this.
    pub fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        match alpn {
            Alpn::Http1 => self.http1.clone(),
            Alpn::Http2 => self.http2.clone(),
            Alpn::Tcp => self.tcp.clone(),
        }
    }

    /// Whether what was agreed on carries this. A server that agrees on nothing speaks HTTP/1, as servers did before there was a choice.
    pub fn carries(alpn: Alpn, agreed: Option<&[u8]>) -> bool {
        alpn != Alpn::Http2 || agreed == Some(H2)
    }
}

const H2: &[u8] = b"h2";

fn config(roots: RootCertStore) -> Result<ClientConfig, String> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), PROVIDER.clone()).build();
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        // What is out there is not always new.
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(|error| error.to_string())?
        .with_webpki_verifier(verifier.map_err(|error| error.to_string())?)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::Authority;

    fn message(roots: Vec<Vec<u8>>) -> v1::TlsOrigination {
        v1::TlsOrigination { server_name: "api.example.com".into(), roots, unresolved: String::new() }
    }

    #[test]
    fn another_name_or_authority_is_another_origination() {
        let (a, b) = (Authority::new().root_der(), Authority::new().root_der());
        let id = Origination::new(message(vec![a.clone()])).id();
        assert_eq!(id, OriginationId::of(&message(vec![a.clone()])));
        let other_name = v1::TlsOrigination { server_name: "b.example.com".into(), ..message(vec![a.clone()]) };
        for other in [message(vec![b.clone()]), message(vec![a, b]), other_name] {
            assert_ne!(id, Origination::new(other).id());
        }
    }

    #[test]
    fn each_protocol_is_offered_alone_and_bytes_without_a_name() {
        let origination = Origination::new(message(vec![Authority::new().root_der()]));
        let client = origination.client().unwrap_or_else(|why| panic!("{why}"));
        let offered = |alpn| client.config(alpn).alpn_protocols.clone();
        assert_eq!(offered(Alpn::Http1), [b"http/1.1".to_vec()]);
        assert_eq!(offered(Alpn::Http2), [b"h2".to_vec()]);
        assert!(offered(Alpn::Tcp).is_empty());
        assert!(Client::carries(Alpn::Http1, None) && Client::carries(Alpn::Tcp, None));
        assert!(Client::carries(Alpn::Http2, Some(b"h2")) && !Client::carries(Alpn::Http2, None));
    }

    #[test]
    fn what_cannot_be_verified_has_no_client_and_says_why() {
        let root = Authority::new().root_der();
        let missing = v1::TlsOrigination { unresolved: "ConfigMap shop/ca does not exist".into(), ..message(vec![]) };
        let unnamed = v1::TlsOrigination { server_name: "10.0.0.1".into(), ..message(vec![root.clone()]) };
        for (message, expected) in [
            (message(vec![]), "no authority is configured"),
            (missing, "ConfigMap shop/ca does not exist"),
            (message(vec![root, vec![0x30, 0]]), "certificate 1 cannot be an authority"),
            (unnamed, "that is no name of DNS"),
        ] {
            let origination = Origination::new(message);
            let why = origination.client().err().unwrap_or_default();
            assert!(why.starts_with(expected), "{why}");
        }
    }
}
