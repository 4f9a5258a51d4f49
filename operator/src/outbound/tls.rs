//! Who proves to be the host of a URL.

use std::io;
use std::sync::Arc;

use fairlead_identity::verifier;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Error, Location};

/// Shakes hands with whom one of `roots` vouches for; `None`: the public authorities that came with the operator.
pub(super) async fn connect(
    stream: TcpStream,
    location: &Location,
    config: ClientConfig,
) -> Result<TlsStream<TcpStream>, Error> {
    let name = location.server_name().map_err(|_| Error::Url("has a host that cannot be verified"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    stream.map_err(|error| Error::Tls(unproved(&error)))
}

/// TLS 1.2 is good enough for what is public: servers outside are not ours to renew.
pub(super) fn config(roots: Option<&[Vec<u8>]>) -> Result<ClientConfig, Error> {
    let mut store = RootCertStore::empty();
    match roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(roots) => {
            for root in roots {
                let root = CertificateDer::from(root.as_slice());
                store.roots.push(verifier::anchor(&root).map_err(|error| Error::Roots(error.to_string()))?);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Roots(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What is wrong, without the names that are in the server's certificate.
fn unproved(error: &io::Error) -> &'static str {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            UnknownIssuer | BadSignature => "no authority that is trusted vouches for its certificate",
            NotValidForName | NotValidForNameContext { .. } => "its certificate is for another name",
            Expired | ExpiredContext { .. } => "its certificate has expired",
            NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet",
            _ => "its certificate is not valid",
        },
        _ => "the handshake failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_authorities_are_there() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 50);
        config(None).unwrap();
    }
}
