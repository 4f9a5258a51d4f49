//! Requests of the application: routed, balanced, tried again where nothing was sent, measured.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Outgoing;
use crate::{
    accept::Worker,
    balance::Endpoint,
    http::{
        MARK, Reason, Request, Response, Version,
        body::{Body, Ending, Incoming},
        exchange::Call,
        is_grpc, respond,
        server::{self, Service},
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
    if let Err(error) = server::serve(client, version, &worker.forever, session).await {
        tracing::debug!(%error, destination = %name, "a connection of the application broke");
    }
}

impl Service for Session {
    async fn handle(&self, request: Request) -> Response<Body> {
        let began = Instant::now();
        let grpc = is_grpc(&request.head.headers);
        let call = Call::new(request, self.version, self.original);
        let result = self.call(&call, began, grpc).await;
        self.note(Some(&call), &result, began);
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

    fn refused(&self, reason: Reason) {
        self.requests.own(Tls::None, reason, Duration::ZERO);
        self.note(None, &Err((Own::new(reason, ""), Tls::None)), Instant::now());
    }
}

impl Session {
    /// Writes a request into the access log.
    fn note(&self, call: Option<&Call>, result: &Result<Response<Body>, (Own, Tls)>, began: Instant) {
        let access = &self.worker.mesh.telemetry.access;
        if !access.is_on() {
            return;
        }
        let (status, reason) = match result {
            Ok(response) => (response.status(), response.headers().get(&MARK).and_then(Reason::parse)),
            Err((own, _)) => (own.reason.status(), Some(own.reason)),
        };
        let head = call.map(|call| RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers));
        access.note(Direction::Outbound, &self.name, None, head.as_ref(), status, reason, began.elapsed());
    }

    /// The endpoint's response.
    pub(super) fn forward(
        &self,
        endpoint: &Endpoint,
        mut response: Response<Incoming>,
        ending: Ending,
    ) -> Response<Body> {
        if endpoint.identity.is_none() {
            // Only proxies that proved who they are speak for the mesh.
            response.headers_mut().remove(&MARK);
        }
        let telemetry = &self.worker.mesh.telemetry;
        response.map(|body| Body::forwarded(body, ending, telemetry, Direction::Outbound))
    }
}

impl Own {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
