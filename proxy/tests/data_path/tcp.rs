use std::{sync::Arc, time::Duration};

use fairlead_proxy_api::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

/// Says back what it hears, until the client has said all; then says goodbye.
async fn echo() -> App {
    App::start(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
        write.write_all(b" bye").await.ok();
    })
    .await
}

#[tokio::test]
async fn unknown_bytes_are_forwarded_authenticated_and_half_closes_with_them() {
    let app = echo().await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "*1\r\n$4\r\nPING\r\n bye");
    pair.server
        .counted(r#"fairlead_proxy_connections_total{direction="inbound",protocol="opaque",tls="mutual"} 1"#)
        .await;
    pair.client.counted(r#"fairlead_proxy_opaque_bytes_total{direction="outbound",way="sent"} 14"#).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_soon() {
    let app = App::start(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let command = read_until(&mut stream, "\r\n").await.unwrap();
        stream.write_all(command.as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    let greeting = tokio::time::timeout(Duration::from_secs(2), read_until(&mut client, "\r\n"))
        .await
        .expect("the greeting comes without a word from the client");
    assert_eq!(greeting.unwrap(), "220 ready\r\n");
    // Once it is known to be opaque, what looks like HTTP is not.
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(read_until(&mut client, "\r\n").await.unwrap(), "GET / HTTP/1.1\r\n");
}

#[tokio::test]
async fn a_client_that_is_late_with_its_request_is_served_as_http() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.write_all(b"GET /late HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    assert_eq!(status(&response), 200);
    pair.client
        .counted(
            r#"fairlead_proxy_requests_total{direction="outbound",service="test/server:9080",tls="mutual",class="2xx""#,
        )
        .await;
}

#[tokio::test]
async fn a_port_that_is_stated_opaque_is_not_looked_into() {
    let app = echo().await;
    let mut service = service(vec![vec![endpoint(app.address, "")]]);
    service.protocol = v1::Protocol::Opaque.into();
    let client = client_of(&Authority::new(), service);
    let mut stream = connect(client.outbound).await;
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "GET / HTTP/1.1\r\nConnection: x\r\n\r\n bye");
}

#[tokio::test]
async fn an_unknown_address_passes_through_untouched() {
    let app = echo().await;
    let sidecar = Pod { dials: app.address, ..Pod::new(Authority::new().identity("client")) }.start();
    let mut client = connect(sidecar.outbound).await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "GET / HTTP/1.1\r\n\r\n bye");
}

#[tokio::test]
async fn tls_of_the_application_s_own_arrives_as_it_was_sent() {
    let key = rcgen::generate_simple_self_signed(["app.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = key.cert.der().clone();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let app = App::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            stream.write_all(b"from the application").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let pair = pair(app.address);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connect(pair.client.outbound).await;
    let mut stream = connector
        .connect("app.example".try_into().unwrap(), stream)
        .await
        .expect("the application's own certificate arrives");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "from the application");
}

#[tokio::test]
async fn an_opaque_connection_finds_an_endpoint_that_is_there() {
    let app = echo().await;
    let endpoints = vec![endpoint(nobody(), ""), endpoint(app.address, "")];
    let client = client_of(&Authority::new(), service(vec![endpoints]));
    for _ in 0..10 {
        let mut stream = connect(client.outbound).await;
        stream.write_all(b"\0\0\0\x01").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"\0\0\0\x01 bye");
    }
}

#[tokio::test]
async fn megabytes_arrive_whole() {
    let app = echo().await;
    let pair = pair(app.address);
    let (mut read, mut write) = connect(pair.client.outbound).await.into_split();
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 253) as u8).collect();
    let copy = sent.clone();
    tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), sent.len() + 4);
    assert!(received[..sent.len()] == sent);
}
