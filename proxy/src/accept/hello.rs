//! Reads from a TLS `ClientHello`, without answering it, whether another proxy is calling.

use std::io;

use rustls::server::Acceptor;

use crate::identity::Alpn;

/// What a complete hello says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A proxy of the mesh: the handshake is ours.
    Mesh,
    /// TLS of the application's own.
    Application,
}

/// What the first bytes of a TLS connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More is needed.
    Partial,
    /// All that is needed was there.
    Complete(Hello),
}

impl Parsed {
    /// Looks at what was read so far. What is not a hello that rustls can read is the application's business.
    pub fn from_bytes(mut bytes: &[u8]) -> Self {
        let mut acceptor = Acceptor::default();
        while !bytes.is_empty() {
            match acceptor.read_tls(&mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Self::Complete(Hello::Application),
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let mesh = accepted
                        .client_hello()
                        .alpn()
                        .is_some_and(|mut names| names.any(|name| Alpn::from_name(name).is_some()));
                    return Self::Complete(if mesh { Hello::Mesh } else { Hello::Application });
                }
                Err(_) => return Self::Complete(Hello::Application),
            }
        }
        Self::Partial
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), "example.org".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_proxy_is_told_from_an_application_by_its_protocols() {
        for (alpn, expected) in [
            (&[b"fairlead/h2".as_slice()][..], Hello::Mesh),
            (&[b"fairlead/tcp"], Hello::Mesh),
            (&[b"h2", b"http/1.1"], Hello::Application),
            (&[], Hello::Application),
        ] {
            assert_eq!(Parsed::from_bytes(&hello(alpn)), Parsed::Complete(expected));
        }
    }

    #[test]
    fn a_hello_may_come_in_pieces() {
        let bytes = hello(&[b"fairlead/h1"]);
        for len in 0..bytes.len() {
            assert_eq!(Parsed::from_bytes(&bytes[..len]), Parsed::Partial, "{len}");
        }
    }

    #[test]
    fn what_only_begins_like_tls_is_the_application_s() {
        assert_eq!(Parsed::from_bytes(&[0x16, 3, 1, 0, 4, 9, 9, 9, 9]), Parsed::Complete(Hello::Application));
    }
}
