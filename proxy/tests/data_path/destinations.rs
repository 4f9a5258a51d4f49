//! What is not a Service with pods of one family.

use std::net::SocketAddr;

use fairlead_proxy_api::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp";

/// As with the pods of a headless Service, by name or one by one.
#[tokio::test]
async fn a_pods_own_address_is_that_pod_and_authenticated() {
    let authority = Authority::new();
    let app = App::answering(APP).await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let other = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother").await;
    let pod = endpoint(server.inbound, "server");
    let service = Some(v1::destination::Kind::Pod(pod));
    let client = Pod { service, ..Pod::new(authority.identity("client")) }.start();
    for _ in 0..5 {
        assert!(get(client.outbound, "/", "").await.ends_with("app"));
    }
    assert_eq!(other.connections(), 0);
    client
        .counted(r#"fairlead_proxy_requests_total{direction="outbound",service="pod",tls="mutual",class="2xx""#)
        .await;
}

#[tokio::test]
async fn bytes_to_a_pods_own_address_are_authenticated_too() {
    let authority = Authority::new();
    // A server that speaks first, as databases of StatefulSets do.
    let app = App::start(|mut stream| async move {
        stream.write_all(b"hello").await.unwrap();
        let mut said = [0; 3];
        if stream.read_exact(&mut said).await.is_ok() {
            stream.write_all(&said).await.unwrap();
        }
    })
    .await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let service = Some(v1::destination::Kind::Pod(endpoint(server.inbound, "server")));
    let client = Pod { service, ..Pod::new(authority.identity("client")) }.start();
    let mut stream = connect(client.outbound).await;
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    stream.write_all(b"yes").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "yes");
}

/// A Service without a selector: some of its endpoints are pods, others lie outside.
#[tokio::test]
async fn endpoints_by_hand_are_met_as_what_they_are() {
    let authority = Authority::new();
    let (inside, outside) = (App::answering(APP).await, App::answering(APP).await);
    let server = server_of(&authority, inside.address, v1::MtlsMode::Strict);
    let endpoints = vec![endpoint(server.inbound, "server"), endpoint(outside.address, "")];
    let client = client_of(&authority, service(vec![endpoints]));
    for _ in 0..50 {
        assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    }
    assert!(inside.connections() > 0 && outside.connections() > 0);
}

#[tokio::test]
async fn an_endpoint_of_ipv6_is_reached() {
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        // A machine without IPv6 cannot tell.
        return;
    };
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_some() {
                    stream.write_all(APP.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let SocketAddr::V6(address) = address else { unreachable!("it was bound to one") };
    let endpoint =
        v1::Endpoint { ip: address.ip().octets().to_vec(), port: address.port().into(), ..v1::Endpoint::default() };
    let client = client_of(&Authority::new(), service(vec![vec![endpoint]]));
    assert!(get(client.outbound, "/", "").await.ends_with("app"));
}
