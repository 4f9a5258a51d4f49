//! Requests of the application: routed, balanced, tried again where nothing was sent, measured.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::StatusCode;
use tokio::time::Instant;

use super::{Outgoing, rules::Stopped};
use crate::{
    accept::Worker,
    balance::Endpoint,
    http::{
        MARK, Reason, Request, Response, Version,
        body::{Body, Bounds, Ending, Incoming},
        deadline,
        exchange::Call,
        is_grpc, respond, server,
    },
    route::{Destination, Handle, RequestHead, Route, Service},
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

/// What holds for a request from its first byte to its last attempt.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) began: Instant,
    pub(super) grpc: bool,
    /// What the caller said.
    pub(super) deadline: Option<Instant>,
}

impl Terms {
    /// Takes the mesh's headers about deadlines away.
    fn of(call: &mut Call, began: Instant) -> Self {
        let headers = &mut call.head.headers;
        let grpc = is_grpc(headers);
        let deadline = deadline::is_stated(headers, grpc)
            .then(|| deadline::of_application(headers, grpc, deadline::Now::read()))
            .flatten();
        Self { began, grpc, deadline }
    }

    /// When the request must be answered, if `route` takes it.
    pub(super) fn ends(&self, route: Option<&Route>) -> Option<Instant> {
        let routes = route.and_then(|route| route.timeout).map(|timeout| self.began + timeout);
        routes.into_iter().chain(self.deadline).min()
    }
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

impl server::Service for Session {
    async fn handle(&self, request: Request) -> Response<Body> {
        let began = Instant::now();
        let mut call = Call::new(request, self.version, self.original);
        let terms = Terms::of(&mut call, began);
        let (mut applied, stopped) = self.before(&mut call, terms).await;
        let result = match stopped {
            None => match self.translate(&mut call) {
                Ok(()) => self.call(&mut call, &applied, terms).await,
                Err(why) => Err((Own::new(Reason::MalformedRequest, why), Tls::None)),
            },
            Some(Stopped::Own(own)) => Err((own, Tls::None)),
            Some(Stopped::Answered(reason, mut response)) => {
                let status = response.status();
                self.requests.own_with(Tls::None, reason, status, began.elapsed());
                self.note(Some(&applied.head(&call)), status, Some(reason), began);
                applied.permit(&mut response);
                return *response;
            }
        };
        if let Some(copies) = applied.copies.take() {
            self.send(copies);
        }
        match result {
            Ok(mut response) => {
                let reason = response.headers().get(&MARK).and_then(Reason::parse);
                self.note(Some(&applied.head(&call)), response.status(), reason, began);
                applied.after(&mut response);
                response
            }
            Err((own, tls)) => {
                self.note(Some(&applied.head(&call)), own.reason.status(), Some(own.reason), began);
                let mut response = self.own(&own, tls, terms);
                applied.permit(&mut response);
                response
            }
        }
    }

    fn refused(&self, reason: Reason) {
        self.requests.own(Tls::None, reason, Duration::ZERO);
        self.note(None, reason.status(), Some(reason), Instant::now());
    }
}

impl Session {
    /// Has a request go on in the version that the endpoints are stated to speak.
    fn translate(&self, call: &mut Call) -> Result<(), &'static str> {
        match &**self.destination.load() {
            Destination::Service(Service { version: Some(version), .. }) => call.speak(*version, self.original),
            _ => Ok(()),
        }
    }

    /// Writes a request into the access log.
    fn note(&self, head: Option<&RequestHead<'_>>, status: StatusCode, reason: Option<Reason>, began: Instant) {
        let access = &self.worker.mesh.telemetry.access;
        if access.is_on() {
            access.note(Direction::Outbound, &self.name, None, head, status, reason, began.elapsed());
        }
    }

    fn own(&self, own: &Own, tls: Tls, terms: Terms) -> Response<Body> {
        self.requests.own(tls, own.reason, terms.began.elapsed());
        tracing::debug!(
            address = %self.original, reason = own.reason.as_str(), detail = own.detail, "answered for an endpoint"
        );
        respond(own.reason, &own.detail, terms.grpc)
    }

    /// The endpoint's response.
    pub(super) fn forward(
        &self,
        endpoint: &Endpoint,
        mut response: Response<Incoming>,
        bounds: Option<Bounds>,
        ending: Ending,
    ) -> Response<Body> {
        if endpoint.identity.is_none() {
            // Only proxies that proved who they are speak for the mesh.
            response.headers_mut().remove(&MARK);
        }
        let telemetry = &self.worker.mesh.telemetry;
        response.map(|body| Body::forwarded(body, bounds, ending, telemetry, Direction::Outbound))
    }
}

impl Own {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
