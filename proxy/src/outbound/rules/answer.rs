//! Answers that a route has ready.

use ::http::{HeaderValue, Method, header};
use bytes::Bytes;

use super::super::http::Own;
use crate::{
    http::{self, Fields, MARK, Reason, Response, body::Body, status_for},
    route::{
        RequestHead,
        rules::{Answer, Fault},
    },
};

/// What a browser is told that asked what it may send.
pub(super) fn preflight(mut headers: Fields) -> Response<Body> {
    headers.insert(MARK, HeaderValue::from_static(Reason::CorsPreflight.as_str()));
    Response::new(Reason::CorsPreflight.status(), headers, Body::Empty)
}

/// A failure that is made on purpose.
pub(super) fn abort(fault: &Fault, route: &str, grpc: bool) -> Response<Body> {
    let detail = format!("route {route} has requests fail on purpose");
    let grpc = grpc.then(|| (fault.grpc_status.unwrap_or_else(|| status_for(fault.status)), detail.as_str()));
    let text = format!("fairlead: {}: {detail}\n", Reason::FaultAbort.as_str());
    http::answer(Reason::FaultAbort, fault.status, Bytes::from(text), grpc)
}

/// Redirects or responds.
pub(super) fn answer(
    answer: &Answer,
    head: &RequestHead<'_>,
    prefix: &str,
    grpc: bool,
) -> Result<(Reason, Response<Body>), Own> {
    match answer {
        Answer::Redirect(redirect) => {
            let location = redirect.location(head, prefix).ok_or_else(|| {
                Own::new(Reason::MalformedRequest, "the route redirects, and the request names no host to redirect to")
            })?;
            let grpc = grpc.then(|| (status_for(redirect.status), "the route redirects"));
            let mut response = http::answer(Reason::Redirect, redirect.status, Bytes::new(), grpc);
            response.headers_mut().insert(header::LOCATION, location);
            Ok((Reason::Redirect, response))
        }
        Answer::Respond(status, body) => {
            let message = String::from_utf8_lossy(body);
            let grpc = grpc.then(|| (status_for(*status), &*message));
            let body = if head.method() == Method::HEAD.as_str() { Bytes::new() } else { body.clone() };
            Ok((Reason::Respond, http::answer(Reason::Respond, *status, body, grpc)))
        }
    }
}
