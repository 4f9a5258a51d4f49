use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use fairlead_proxy::telemetry::groups::Reported;
use fairlead_proxy_api::v1;
use futures::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::support::*;

pub type Body = BoxBody<Bytes, Infallible>;

/// An HTTP/2 application.
pub async fn app<F>(serve: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> App
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    App::start(move |stream| {
        let serve = serve.clone();
        let service = service_fn(move |request| {
            let response = serve(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        async move {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        }
    })
    .await
}

/// A client of HTTP/2.
pub async fn client(address: SocketAddr) -> SendRequest<Body> {
    let io = TokioIo::new(connect(address).await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Asks for `protocol` at `/chat` (RFC 8441).
pub async fn extended_connect(
    address: SocketAddr,
    protocol: &str,
    headers: &[(&'static str, &'static str)],
) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let (sender, connection) = h2::client::handshake(connect(address).await).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    // Not offered before the proxy's settings came.
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let mut request = Request::connect("http://server:9080/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (answer, say) = sender.send_request(request, false).unwrap();
    (tokio::time::timeout(SOON, answer).await.unwrap().unwrap(), say)
}

fn grpc_response(body: Body) -> Response<Body> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn trailers(status: &str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    Frame::trailers(trailers)
}

fn grpc_call(body: Body) -> Request<Body> {
    Request::post("http://server:9080/echo.Echo/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn requests_of_http2_share_a_connection_and_keep_their_authority() {
    let app = app(|request: Request<Incoming>| async move {
        let text = format!("{} {}", request.method(), request.uri());
        Response::new(Full::from(text).boxed())
    })
    .await;
    let pair = pair(app.address);
    let mut client = client(pair.client.outbound).await;
    for n in 0..10 {
        let uri = format!("http://server:9080/{n}?q");
        let request = Request::get(&uri).body(Empty::new().boxed()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("GET {uri}"));
    }
    assert_eq!(app.connections(), 1);
    pair.server
        .counted(r#"fairlead_proxy_connections_total{direction="inbound",protocol="http2",tls="mutual"} 1"#)
        .await;
}

#[tokio::test]
async fn a_host_header_cannot_contradict_the_authority() {
    let app = app(|request: Request<Incoming>| async move {
        let text = format!("{:?} {:?}", request.uri().authority(), request.headers().get("host"));
        Response::new(Full::from(text).boxed())
    })
    .await;
    let pair = pair(app.address);
    let mut client = client(pair.client.outbound).await;
    let request = Request::get("http://one/").header("host", "two").body(Empty::new().boxed()).unwrap();
    let response = client.send_request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "Some(one) None");
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers_at_the_end() {
    let app = app(|request: Request<Incoming>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let echoed = request
            .into_body()
            .into_data_stream()
            .filter_map(async |data| data.ok())
            .map(|data| Ok(Frame::data(data)))
            .chain(futures::stream::iter([Ok(trailers("0"))]));
        // The stream of an HTTP/2 body is not Sync; a channel is.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut echoed = std::pin::pin!(echoed);
            while let Some(frame) = echoed.next().await {
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
        grpc_response(BodyExt::boxed(StreamBody::new(frames)))
    })
    .await;
    let pair = pair(app.address);
    let mut client = client(pair.client.outbound).await;
    let (sender, receiver) = mpsc::channel(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body = BodyExt::boxed(StreamBody::new(frames));
    let response = client.send_request(grpc_call(body)).await.unwrap();
    let mut answers = response.into_body();
    for message in ["one", "two", "three"] {
        sender.send(Ok(Frame::data(Bytes::from(message)))).await.unwrap();
        let answer = answers.frame().await.unwrap().unwrap();
        assert_eq!(answer.into_data().unwrap(), message);
    }
    drop(sender);
    let last = answers.frame().await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_release_counts_the_status_that_grpc_puts_into_trailers() {
    let app = app(|request: Request<Incoming>| async move {
        let status = match request.uri().path() {
            "/bad" => "14",
            "/caller" => "5",
            _ => "0",
        };
        let frames = [Ok(Frame::data(Bytes::from_static(b"x"))), Ok(trailers(status))];
        grpc_response(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
    })
    .await;
    let counted = v1::Endpoint { group: "canary".into(), ..endpoint(app.address, "") };
    let sidecar = client_of(&Authority::new(), service(vec![vec![counted]]));
    let mut client = client(sidecar.outbound).await;
    for path in ["/good", "/bad", "/caller"] {
        let mut request = grpc_call(Empty::new().boxed());
        *request.uri_mut() = format!("http://server{path}").parse().unwrap();
        let response = client.send_request(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let counts = sidecar.telemetry.groups.changed(&mut Reported::default());
    assert_eq!((counts[0].requests, counts[0].failures), (3, 1), "NOT_FOUND is the caller's");
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_terms() {
    let sidecar = client_of(&Authority::new(), service(vec![vec![]]));
    let mut client = client(sidecar.outbound).await;
    let response = client.send_request(grpc_call(Empty::new().boxed())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["fairlead-proxy"], "no-endpoints");
}

#[tokio::test]
async fn grpc_is_tried_elsewhere_when_an_application_is_gone() {
    let authority = Authority::new();
    let app = app(|_| async { grpc_response(Empty::new().boxed()) }).await;
    let live = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let dead = server_of(&authority, nobody(), v1::MtlsMode::Strict);
    let endpoints = vec![endpoint(dead.inbound, "server"), endpoint(live.inbound, "server")];
    let sidecar = client_of(&authority, service(vec![endpoints]));
    let mut client = client(sidecar.outbound).await;
    for _ in 0..10 {
        let response = client.send_request(grpc_call(Empty::new().boxed())).await.unwrap();
        assert!(response.headers().get("fairlead-proxy").is_none(), "{response:?}");
    }
}

#[tokio::test]
async fn a_request_that_goaway_left_unread_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let app = App::start(move |mut stream| {
        let first = count.fetch_add(1, SeqCst) == 0;
        async move {
            if !first {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                }
                return;
            }
            // Settings; and as soon as there is a head, that no stream was or will be looked at.
            stream.read_exact(&mut [0; 24]).await.unwrap();
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut frame = [0; 9];
            while frame[3] != 1 {
                stream.read_exact(&mut frame).await.unwrap();
                let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
                stream.read_exact(&mut vec![0; len]).await.unwrap();
            }
            stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let sidecar = client_of(&Authority::new(), service(vec![vec![endpoint(app.address, "")]]));
    let mut client = client(sidecar.outbound).await;
    // Not of those that may be done twice.
    let request = Request::post("http://server/").body(Empty::new().boxed()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!((response.status(), asked.load(SeqCst)), (StatusCode::OK, 2));
}

#[tokio::test]
async fn a_websocket_over_http2_is_carried_both_ways() {
    let app = App::start(|stream| async move {
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let protocol = request.extensions().get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
            assert_eq!((request.uri().path(), protocol.as_deref()), ("/chat", Some("websocket")));
            let mut said = request.into_body();
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            tokio::spawn(async move {
                while let Some(Ok(data)) = said.data().await {
                    said.flow_control().release_capacity(data.len()).unwrap();
                    answer.send_data(data, false).unwrap();
                }
                answer.send_data(Bytes::from_static(b"bye"), true).unwrap();
            });
        }
    })
    .await;
    let pair = pair(app.address);
    let (answer, mut say) = extended_connect(pair.client.outbound, "websocket", &[]).await;
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
    let mut heard = answer.into_body();
    for word in ["ping", "pong"] {
        say.send_data(Bytes::from(word), false).unwrap();
        let data = tokio::time::timeout(SOON, heard.data()).await.unwrap().unwrap().unwrap();
        assert_eq!(data, word);
    }
    say.send_data(Bytes::new(), true).unwrap();
    let last = tokio::time::timeout(SOON, heard.data()).await.unwrap().unwrap().unwrap();
    assert_eq!(last, "bye");
}
