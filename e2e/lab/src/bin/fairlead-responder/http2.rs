//! HTTP/2 with prior knowledge, by the `h2` crate alone.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tokio::net::TcpStream;

static SMALL: [u8; 1024] = [b'x'; 1024];
static LARGE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
/// A gRPC message: not compressed, its length, its bytes.
static MESSAGE: [u8; 5 + 1024] = {
    let mut message = [b'x'; 5 + 1024];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 4, 0);
    message
};

/// Answers until the caller goes.
pub(crate) async fn serve(stream: TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc") {
            tokio::spawn(unary(request, respond));
        } else {
            let large = request.uri().path().starts_with("/64k");
            let _ = fixed(respond, if large { &LARGE } else { &SMALL });
        }
    }
}

fn fixed(mut respond: SendResponse<Bytes>, body: &'static [u8]) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    let kind = HeaderValue::from_static("application/octet-stream");
    head.headers_mut().insert(header::CONTENT_TYPE, kind);
    head.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    respond.send_response(head, false)?.send_data(Bytes::from_static(body), true)
}

async fn unary(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece?.len())?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(&MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
