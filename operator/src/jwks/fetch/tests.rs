//! Against servers on loopback, which is open to tests alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const HOST: &str = "issuer.example";
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// What a server does with a connection once it has read a request.
#[derive(Clone)]
enum Answer {
    /// And then closes.
    Bytes(Vec<u8>),
    /// And then says nothing more.
    Pending(Vec<u8>),
    /// Without end.
    Flood(Vec<u8>),
}

struct Server {
    port: u16,
    root: Vec<u8>,
    connections: Arc<AtomicUsize>,
    asked: Arc<parking_lot::Mutex<String>>,
}

fn ok(body: &str) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// A certificate for `name`, and the root that vouches for it.
fn certified(name: &str) -> (ServerConfig, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &root).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (config, root.der().to_vec())
}

async fn serve_as(name: &str, answer: Answer) -> Server {
    let (config, root) = certified(name);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, asked) = (Arc::<AtomicUsize>::default(), Arc::<parking_lot::Mutex<String>>::default());
    let server = Server { port, root, connections: Arc::clone(&connections), asked: Arc::clone(&asked) };
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), Arc::clone(&asked));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = vec![0; 4096];
                let Ok(read) = stream.read(&mut request).await else { return };
                *asked.lock() = String::from_utf8_lossy(&request[..read]).into_owned();
                match answer {
                    Answer::Bytes(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        let _ = stream.shutdown().await;
                    }
                    Answer::Pending(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        let _ = stream.flush().await;
                        std::future::pending::<()>().await;
                    }
                    Answer::Flood(bytes) => while stream.write_all(&bytes).await.is_ok() {},
                }
            });
        }
    });
    server
}

async fn serve(answer: Answer) -> Server {
    serve_as(HOST, answer).await
}

impl Server {
    fn source(&self, path: &str) -> Source {
        let url = format!("https://{HOST}:{}{path}", self.port);
        Source { url, roots: Some(Arc::from([self.root.clone()])) }
    }

    async fn fetch(&self) -> Result<Arc<str>, FetchError> {
        leading_to(vec![Ipv4Addr::LOCALHOST.into()]).fetch(&self.source("/keys?of=all")).await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Every name leads there, and the loopback is open.
fn leading_to(addresses: Vec<IpAddr>) -> Fetcher {
    Fetcher { outbound: Outbound::leading_to(addresses) }
}

#[tokio::test]
async fn keys_are_what_the_server_publishes() {
    let server = serve(ok(KEYS)).await;
    assert_eq!(&*server.fetch().await.unwrap(), KEYS);
    let asked = server.asked.lock().clone();
    assert!(asked.starts_with("GET /keys?of=all HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {HOST}:{}\r\n", server.port)), "{asked}");
    assert!(!asked.to_lowercase().contains("authorization") && !asked.to_lowercase().contains("cookie"), "{asked}");
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{KEYS}\r\n0\r\n\r\n", KEYS.len());
    assert_eq!(&*serve(Answer::Bytes(chunked.into_bytes())).await.fetch().await.unwrap(), KEYS);
}

#[tokio::test]
async fn an_answer_that_is_none_is_said_by_its_kind_and_not_by_its_words() {
    let large = KEYS.replace("\"a\"", &format!("\"{}\"", "a".repeat(jwk::MAX_SET)));
    let endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{KEYS}");
    let redirect = "HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/s3cr3t\r\nContent-Length: 0\r\n\r\n";
    for (answer, outcome, expected) in [
        (
            ok("<html>s3cr3t</html>"),
            "invalid_keys",
            "was answered with what is not a JSON Web Key Set (line 1, column 1)",
        ),
        (ok("{\"s3cr3t\": \"s3cr3t\"}"), "invalid_keys", "was answered with what is not a JSON Web Key Set"),
        (ok(""), "invalid_keys", "was answered with what is not a JSON Web Key Set"),
        (ok("{\"keys\":[]}"), "invalid_keys", "was answered with what has no key"),
        (
            ok("{\"keys\":[{\"kty\":\"oct\",\"k\":\"s3cr3t\"}]}"),
            "invalid_keys",
            "was answered with what has no key that can be used",
        ),
        (
            Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff".to_vec()),
            "invalid_keys",
            "was answered with what",
        ),
        (ok(&large), "too_large", "was answered with more than 64 KiB"),
        (Answer::Flood(endless), "too_large", "was answered with more than 64 KiB"),
        (Answer::Flood(b"HTTP/1.1 200 OK\r\nx: s3cr3t\r\n".repeat(1000)), "malformed", "was not answered in order"),
        (
            Answer::Bytes(redirect.as_bytes().to_vec()),
            "redirect",
            "was answered with a redirect (302 Found), which is not followed",
        ),
        (
            Answer::Bytes(b"HTTP/1.1 404 s3cr3t\r\nContent-Length: 6\r\n\r\ns3cr3t".to_vec()),
            "status",
            "was answered with 404 Not Found",
        ),
        (Answer::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), "status", "was answered with 204 No Content"),
        (Answer::Bytes(b"220 s3cr3t SMTP\r\n".to_vec()), "malformed", "was not answered in order"),
        (Answer::Bytes(cut.into_bytes()), "malformed", "was not answered in order"),
        (Answer::Bytes(Vec::new()), "malformed", "was not answered in order"),
    ] {
        let server = serve(answer).await;
        let error = server.fetch().await.unwrap_err();
        assert_eq!(error.outcome(), outcome, "{error}");
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
        assert_eq!(server.connections(), 1, "nothing is asked for twice, and no redirect is followed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_silent_costs_ten_seconds() {
    for pending in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"keys\":"] {
        let server = serve(Answer::Pending(pending.into())).await;
        let begin = tokio::time::Instant::now();
        let error = server.fetch().await.unwrap_err();
        // Time that is paused runs as soon as nobody is busy, so the connection may be what is out of time first.
        assert!(matches!(error.outcome(), "timeout" | "unreachable"), "{error}");
        assert!(begin.elapsed() <= Duration::from_millis(10_010));
    }
}

#[tokio::test]
async fn whoever_is_not_vouched_for_gets_no_request() {
    let server = serve(ok(KEYS)).await;
    let strangers = serve(ok(KEYS)).await;
    let loopback = leading_to(vec![Ipv4Addr::LOCALHOST.into()]);
    let of = |roots: Option<Arc<[Vec<u8>]>>| Source { roots, ..server.source("/keys") };
    for roots in [None, Some(Arc::from([strangers.root.clone()])), Some(Arc::from([]))] {
        let error = loopback.fetch(&of(roots)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "leads to a host that TLS does not prove: no authority that is trusted vouches for its certificate"
        );
    }
    let error = loopback.fetch(&of(Some(Arc::from([vec![0x30, 0]])))).await.unwrap_err();
    assert_eq!(error.outcome(), "invalid_roots", "{error}");
    // Somebody else's, whose name is nobody's business.
    let other = serve_as("s3cr3t.internal", ok(KEYS)).await;
    let error = other.fetch().await.unwrap_err();
    assert_eq!(error.to_string(), "leads to a host that TLS does not prove: its certificate is for another name");
    for server in [server, other] {
        assert_eq!(*server.asked.lock(), "");
    }
}

#[tokio::test]
async fn what_is_not_tls_is_not_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 s3cr3t SMTP\r\n").await;
        }
    });
    let source = Source { url: format!("https://{HOST}:{port}/"), roots: None };
    let error = leading_to(vec![Ipv4Addr::LOCALHOST.into()]).fetch(&source).await.unwrap_err();
    assert_eq!(error.outcome(), "tls", "{error}");
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_name_that_leads_to_what_is_forbidden_leads_nowhere() {
    let server = serve(ok(KEYS)).await;
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    for (addresses, forbidden) in [
        (vec![METADATA], METADATA),
        (vec!["::ffff:169.254.169.254".parse().unwrap()], "::ffff:169.254.169.254".parse().unwrap()),
        (vec!["fd00:ec2::254".parse().unwrap()], "fd00:ec2::254".parse().unwrap()),
        // The good address does not make up for the bad one.
        (vec![loopback, METADATA], METADATA),
    ] {
        let error = leading_to(addresses).fetch(&server.source("/keys")).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Outbound(outbound::Error::Forbidden { address, .. }) if address == forbidden),
            "{error}"
        );
    }
    // As installed, the loopback is out of reach, by whatever name, and so is an address that needs no name.
    let installed = Fetcher { outbound: Outbound::leading_to(vec![loopback]).guarded() };
    assert_eq!(installed.fetch(&server.source("/keys")).await.unwrap_err().outcome(), "forbidden_address");
    for host in ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::a9fe:a9fe]"] {
        let source = Source { url: format!("https://{host}:{}/keys", server.port), ..server.source("") };
        let error = Fetcher::default().fetch(&source).await.unwrap_err();
        assert_eq!(error.outcome(), "forbidden_address", "{error}");
    }
    // Spellings of 127.0.0.1 that only a resolver of C understands, and a name that means it.
    for host in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost"] {
        let source = Source { url: format!("https://{host}:{}/keys", server.port), ..server.source("") };
        let error = Fetcher::default().fetch(&source).await.unwrap_err();
        assert!(matches!(error.outcome(), "forbidden_address" | "invalid_url" | "unresolved"), "{host}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn the_address_that_was_looked_at_is_connected_to() {
    let server = serve(ok(KEYS)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Good for whoever asks first, and the metadata service for whoever asks again.
    let resolve = move |_: String, port| -> BoxFuture<'static, _> {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let address = if first { IpAddr::from(Ipv4Addr::LOCALHOST) } else { METADATA };
        Box::pin(async move { Ok(vec![SocketAddr::new(address, port)]) })
    };
    let fetcher = Fetcher { outbound: Outbound::resolving(resolve) };
    assert!(fetcher.fetch(&server.source("/keys")).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(fetcher.fetch(&server.source("/keys")).await.unwrap_err().outcome(), "forbidden_address");
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let server = serve(ok(KEYS)).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let source = Source { url: format!("https://{HOST}:{closed}/"), ..server.source("") };
    let loopback = leading_to(vec![Ipv4Addr::LOCALHOST.into()]);
    assert_eq!(loopback.fetch(&source).await.unwrap_err().outcome(), "unreachable");
    assert_eq!(leading_to(Vec::new()).fetch(&server.source("/")).await.unwrap_err().outcome(), "unreachable");
    let resolve = |_: String, _| -> BoxFuture<'static, _> { Box::pin(async { Err(io::Error::other("no such name")) }) };
    let lost = Fetcher { outbound: Outbound::resolving(resolve) };
    let error = lost.fetch(&server.source("/")).await.unwrap_err();
    assert_eq!(error.to_string(), "has a host that does not resolve: no such name");
    let source = Source { url: "http://issuer.example/".into(), roots: None };
    assert_eq!(lost.fetch(&source).await.unwrap_err().to_string(), "is not an https URL");
}
