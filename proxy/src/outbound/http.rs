//! Requests of the application: routed, balanced, tried again where nothing was sent, measured.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http::{Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper::{body::Incoming, service::service_fn};
use tokio::time::Instant;

use super::Outgoing;
use crate::{
    accept::Worker,
    balance::Endpoint,
    http::{
        MARK, Reason, Version,
        body::{Body, Ending},
        exchange::Call,
        headers, is_grpc, respond, server, upgrade,
    },
    route::{Destination, Handle, RequestHead},
    tcp::Stream,
    telemetry::{Direction, Requests, Tls},
};

/// One connection of the application.
pub(super) struct Session {
    pub(super) worker: Arc<Worker>,
    pub(super) destination: Handle,
    pub(super) original: SocketAddr,
    pub(super) version: Version,
    pub(super) requests: Arc<Requests>,
    name: Arc<str>,
}

/// An answer of the proxy itself.
pub(super) struct Own {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

/// Serves requests until the connection ends.
pub(super) async fn serve(outgoing: &Outgoing<'_>, client: Stream, version: Version) {
    let worker = outgoing.worker;
    let telemetry = &worker.mesh.telemetry;
    let _open = telemetry.open(Direction::Outbound, version.transport(), Tls::None);
    let name = match &**outgoing.destination.load() {
        Destination::Service(service) => service.name.clone(),
        Destination::Pod(_) => "pod".into(),
        Destination::PassThrough => "pass-through".into(),
    };
    let session = Arc::new(Session {
        worker: worker.clone(),
        destination: outgoing.destination.clone(),
        original: outgoing.original,
        version,
        requests: telemetry.requests(Direction::Outbound, &name),
        name: name.clone(),
    });
    let service = service_fn(move |request| {
        let session = session.clone();
        async move { Ok::<_, Infallible>(session.handle(request).await) }
    });
    if let Err(error) = server::serve(client, version, &worker.forever, service).await {
        tracing::debug!(%error, destination = %name, "a connection of the application broke");
    }
}

impl Session {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let began = Instant::now();
        let grpc = is_grpc(request.headers());
        let result = match Call::new(request, self.version, self.original) {
            Ok((call, upgrade)) => {
                let result = self.call(&call, upgrade, began, grpc).await;
                self.note(Some(&call), &result, began);
                result
            }
            Err(malformed) => {
                let result = Err((Own::new(Reason::MalformedRequest, malformed), Tls::None));
                self.note(None, &result, began);
                result
            }
        };
        match result {
            Ok(response) => response,
            Err((own, tls)) => {
                self.requests.own(tls, own.reason, began.elapsed());
                tracing::debug!(
                    address = %self.original, reason = own.reason.as_str(), detail = own.detail, "answered for an endpoint"
                );
                respond(own.reason, &own.detail, grpc)
            }
        }
    }

    /// Writes a request into the access log.
    fn note(&self, call: Option<&Call>, result: &Result<Response<Body>, (Own, Tls)>, began: Instant) {
        let access = &self.worker.mesh.telemetry.access;
        if !access.is_on() {
            return;
        }
        let (status, reason) = match result {
            Ok(response) => {
                let mark = response.headers().get(MARK);
                (response.status(), mark.and_then(|mark| Reason::parse(mark.as_bytes())))
            }
            Err((own, _)) => (own.reason.status(), Some(own.reason)),
        };
        let head = call.map(|call| RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers));
        access.note(Direction::Outbound, &self.name, None, head.as_ref(), status, reason, began.elapsed());
    }

    /// The endpoint's response, without what concerned its connection.
    pub(super) fn forward(
        &self,
        call: &Call,
        caller: OnUpgrade,
        endpoint: &Endpoint,
        mut response: Response<Incoming>,
        mut ending: Ending,
    ) -> Response<Body> {
        let status = response.status();
        if endpoint.identity.is_none() {
            // Only proxies that proved who they are speak for the mesh.
            response.headers_mut().remove(MARK);
        }
        let switching =
            status == StatusCode::SWITCHING_PROTOCOLS || (call.head.method == Method::CONNECT && status.is_success());
        headers::strip(response.headers_mut(), switching);
        if switching {
            ending.lease = None;
            let telemetry = self.worker.mesh.telemetry.clone();
            let upstream = hyper::upgrade::on(&mut response);
            upgrade::join(caller, upstream, telemetry, Direction::Outbound, ending);
            return response.map(|_| Body::Empty);
        }
        // Responses of HTTP/1.0 servers go on in the proxy's own version.
        if self.version == Version::Http1 {
            *response.version_mut() = http::Version::HTTP_11;
        }
        response.map(|body| Body::observed(body, ending))
    }
}

impl Own {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
