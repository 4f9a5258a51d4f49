//! gRPC of the echo role: whatever messages come, they come back, each as soon as it is there. Served over h2c.
//!
//! `Unary` is a stream of one; one handler serves both methods.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::stream;
use http::{StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::grpc::{CONTENT_TYPE, Code, Decoder, frame, trailers};

/// The routes of the service `fairlead.bookinfo.v1.Echo`.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/fairlead.bookinfo.v1.Echo/{method}", post(echo))
}

async fn echo(Path(method): Path<String>, request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if !content_type.is_some_and(|kind| kind.as_bytes().starts_with(CONTENT_TYPE.as_bytes())) {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected content-type application/grpc\n").into_response();
    }
    let head = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    if !matches!(method.as_str(), "Stream" | "Unary") {
        // An error without a body carries its status in the headers.
        return (head, trailers(Code::Unimplemented, "the methods are Stream and Unary")).into_response();
    }
    let start = Some((request.into_body(), Decoder::default()));
    let answers = stream::unfold(start, async |state| {
        let (mut body, mut decoder) = state?;
        match next_message(&mut body, &mut decoder).await {
            Ok(Some(message)) => Some((Frame::data(frame(&message)), Some((body, decoder)))),
            Ok(None) => Some((Frame::trailers(trailers(Code::Ok, "")), None)),
            Err((code, why)) => Some((Frame::trailers(trailers(code, why)), None)),
        }
    });
    let body = StreamBody::new(futures::StreamExt::map(answers, Ok::<_, Infallible>));
    (head, Body::new(body)).into_response()
}

async fn next_message(body: &mut Body, decoder: &mut Decoder) -> Result<Option<Bytes>, (Code, &'static str)> {
    loop {
        if let Some(message) = decoder.take()? {
            return Ok(Some(message));
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    decoder.push(&data);
                }
            }
            Some(Err(_)) => return Err((Code::Internal, "the request broke off")),
            None if decoder.is_empty() => return Ok(None),
            None => return Err((Code::Internal, "the request ended within a message")),
        }
    }
}
