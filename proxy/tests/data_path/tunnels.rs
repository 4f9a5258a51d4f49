//! Opaque connections one after the other over one connection between the proxies.

use std::net::SocketAddr;

use fairlead_proxy_api::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::*;

/// Says back what it hears, until the client has said all; then says goodbye.
async fn echo() -> App {
    App::start(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            write.write_all(b" bye").await.ok();
        }
    })
    .await
}

/// Two sidecars in front of `app`, and what counts the connections between them.
async fn counted(app: SocketAddr) -> (Sidecar, Sidecar, App) {
    let authority = Authority::new();
    let server = server_of(&authority, app, v1::MtlsMode::Strict);
    let inbound = server.inbound;
    let between = App::start(move |mut here| async move {
        let mut there = TcpStream::connect(inbound).await.unwrap();
        tokio::io::copy_bidirectional(&mut here, &mut there).await.ok();
    })
    .await;
    let mut service = service(vec![vec![endpoint(between.address, "server")]]);
    service.protocol = v1::Protocol::Opaque.into();
    (client_of(&authority, service), server, between)
}

async fn say(sidecar: &Sidecar, words: &str) -> String {
    let mut stream = connect(sidecar.outbound).await;
    stream.write_all(words.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn connections_share_a_handshake_but_no_bytes() {
    let app = echo().await;
    let (client, server, between) = counted(app.address).await;
    for n in 0..20 {
        let words = format!("connection {n} {}", "x".repeat(n * 1000));
        assert_eq!(say(&client, &words).await, format!("{words} bye"));
    }
    assert_eq!(app.connections(), 20);
    // Each of the two workers has a pool of its own.
    assert!(between.connections() <= 2, "{} handshakes", between.connections());
    server.counted(r#"fairlead_proxy_connections_total{direction="inbound",protocol="opaque",tls="mutual"} 20"#).await;
    client.counted(r#"fairlead_proxy_connections_open{direction="outbound",protocol="opaque",tls="mutual"} 0"#).await;
}

#[tokio::test]
async fn a_connection_that_broke_takes_its_tunnel_with_it() {
    let app = echo().await;
    let (client, _server, between) = counted(app.address).await;
    for round in 0..6 {
        let mut broken = connect(client.outbound).await;
        broken.write_all(b"first words").await.unwrap();
        let mut heard = [0; 11];
        broken.read_exact(&mut heard).await.unwrap();
        socket2::SockRef::from(&broken).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(broken);
        assert_eq!(say(&client, "others").await, "others bye", "round {round}");
    }
    assert!(between.connections() >= 6, "{}", between.connections());
}

#[tokio::test]
async fn connections_at_the_same_time_have_tunnels_of_their_own() {
    let app = echo().await;
    let (client, _server, between) = counted(app.address).await;
    let mut streams = Vec::new();
    for n in 0..8_u8 {
        let mut stream = connect(client.outbound).await;
        stream.write_all(&[b'a' + n]).await.unwrap();
        let mut heard = [0];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[0], b'a' + n);
        streams.push(stream);
    }
    assert_eq!(between.connections(), 8);
    for (n, mut stream) in streams.into_iter().enumerate() {
        stream.write_all(b"!").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "! bye", "{n}");
    }
}

#[tokio::test]
async fn a_server_that_goes_away_leaves_no_tunnel_that_would_be_used() {
    let app = echo().await;
    let pair = pair(app.address);
    let words = "\0 not http";
    assert_eq!(say(&pair.client, words).await, format!("{words} bye"));
    let drained = tokio::time::timeout(SOON / 2, pair.server.proxy.drain(SOON)).await;
    drained.expect("a tunnel that rests does not hold up the end");
}

#[tokio::test]
async fn an_application_that_is_not_there_is_seen_as_a_reset() {
    let (client, _server, _between) = counted(nobody()).await;
    for _ in 0..3 {
        let mut stream = connect(client.outbound).await;
        stream.write_all(b"anybody?").await.ok();
        let error = stream.read(&mut [0]).await.expect_err("not an orderly end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
