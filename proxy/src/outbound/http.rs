//! Requests of the application: routed, balanced, tried again where nothing was sent, measured.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper::{body::Incoming, service::service_fn};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Outgoing, opaque::tls, reachable};
use crate::{
    accept::Worker,
    balance::{self, Endpoint, pool::Lease},
    http::{
        MARK, Reason, Version,
        body::{Body, Ending, Verdict},
        exchange::{Call, Failure},
        failed_status, headers, is_grpc, respond, server, status_of, upgrade,
    },
    route::{Destination, Handle, RequestHead, Route, Service, Target},
    tcp::Stream,
    telemetry::{Direction, Requests, Tls, groups::Group},
};

/// Attempts for one request, as long as nothing of it was sent. With the pauses of [`BACKOFF`] the last one begins 175 ms after the first:
/// long enough for news of a vanished endpoint to arrive.
const ATTEMPTS: u32 = 5;

/// No attempt begins later than this after the request: an endpoint that accepts and then says nothing takes seconds each time, and by
/// then the caller is better served by an error.
const WINDOW: Duration = Duration::from_secs(3);

/// The pause before an endpoint that just failed is tried again, doubled each time; others are tried at once.
const BACKOFF: Duration = Duration::from_millis(25);

/// A caller who goes away after this long did so for want of an answer; one who goes earlier may have had other reasons.
const GIVING_UP: Duration = Duration::from_secs(1);

/// Requests that one endpoint may have in flight from this proxy: the default of `limits.requests`. Beyond it something is stuck, and
/// waiting would only spread it.
const MAX_IN_FLIGHT: u32 = 1024;

/// One connection of the application.
struct Session {
    worker: Arc<Worker>,
    destination: Handle,
    original: SocketAddr,
    version: Version,
    requests: Arc<Requests>,
}

/// An answer of the proxy itself.
struct Own {
    reason: Reason,
    detail: String,
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
            Ok((call, upgrade)) => self.call(&call, upgrade, began, grpc).await,
            Err(malformed) => Err((Own::new(Reason::MalformedRequest, malformed), Tls::None)),
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

    /// Tries endpoints until one answers or there is nothing more to try.
    async fn call(
        &self,
        call: &Call,
        upgrade: OnUpgrade,
        began: Instant,
        grpc: bool,
    ) -> Result<Response<Body>, (Own, Tls)> {
        let mut failed: Vec<SocketAddr> = Vec::new();
        let mut set: Option<String> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            // Read again for each attempt: a failure is often the first sign of a change that is on its way.
            let destination = self.destination.load_full();
            let choice = self.choose(&destination, call, set.as_deref(), &failed).map_err(|own| (own, Tls::None))?;
            let deadline = choice.timeout.map(|timeout| began + timeout);
            set = choice.set.map(str::to_owned);
            let endpoint = reachable(&self.worker.mesh, &choice.endpoint);
            let tls = tls(&endpoint);
            if failed.contains(&endpoint.address) {
                let pause = sleep(BACKOFF * 2_u32.pow(attempt.min(ATTEMPTS) - 2));
                within(deadline, pause).await.map_err(|own| (own, tls))?;
            }
            let started = Instant::now();
            let mut in_flight = endpoint.load.begin();
            let group = endpoint.group(&self.worker.mesh.telemetry.groups);
            let mut patience = Patience { group, since: started };
            let outcome = within(deadline, call.attempt(&self.worker.pool, &self.worker.dialler, &endpoint)).await;
            in_flight.heard();
            patience.group = None;
            let now = Instant::now();
            let own = match outcome {
                Ok(Ok((response, lease))) if !says(&endpoint, &response, Reason::ConnectFailure) => {
                    if says(&endpoint, &response, Reason::UpstreamReset) {
                        // An application that breaks connections does so fast; that must not attract more of them.
                        endpoint.load.fail(now);
                    } else {
                        endpoint.load.observe(now - started, now);
                    }
                    self.requests.answered(tls, response.status(), now - began);
                    let verdict = group.map(|group| verdict(group, &response, now - started, grpc));
                    let ending = Ending { lease: Some(lease), in_flight: Some(in_flight), verdict };
                    return Ok(self.forward(call, upgrade, &endpoint, response, ending));
                }
                Ok(Ok((response, lease))) => {
                    // Another proxy says that it could not reach its application.
                    discard(response, lease);
                    Failed::again(call.untouched(), Reason::ConnectFailure, || {
                        format!("{} cannot reach its application", endpoint.address)
                    })
                }
                Ok(Err(failure)) => {
                    let again = failure.nothing_sent() && call.untouched();
                    Failed::again(again, reason(&failure), || failure.to_string())
                }
                Err(own) => Failed { own, again: false },
            };
            endpoint.load.fail(now);
            if let Some(group) = group {
                group.count(true, None);
            }
            if !own.again || attempt >= ATTEMPTS || now - began > WINDOW {
                return Err((own.own, tls));
            }
            failed.push(endpoint.address);
        }
    }

    /// Where the next attempt goes. `set`: the part of the Service that an earlier attempt went to; as long as it exists no other part
    /// answers in its place.
    fn choose<'a>(
        &self,
        destination: &'a Destination,
        call: &Call,
        set: Option<&str>,
        failed: &[SocketAddr],
    ) -> Result<Choice<'a>, Own> {
        let service = match destination {
            Destination::Service(service) => service,
            Destination::Pod(endpoint) => return Ok(Choice::of(endpoint.clone())),
            Destination::PassThrough => {
                let endpoint = Endpoint::new(self.original, None, "", "", Arc::default());
                return Ok(Choice::of(Arc::new(endpoint)));
            }
        };
        let head = RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers);
        let Some(route) = service.route(&head) else {
            return Err(Own::new(Reason::UnresolvedBackend, format!("no route of {} matches", service.name)));
        };
        let chosen = match set.and_then(|name| service.sets.iter().find(|set| set.name == name)) {
            Some(set) => set,
            None => set_of(service, route, balance::random())?,
        };
        let endpoint = balance::pick(&chosen.endpoints, failed, balance::random(), Instant::now())
            .ok_or_else(|| Own::new(Reason::NoEndpoints, format!("{} has no ready endpoint", chosen.name)))?;
        if endpoint.load.in_flight() >= MAX_IN_FLIGHT {
            return Err(Own::new(
                Reason::Overload,
                format!("{} has {MAX_IN_FLIGHT} requests in flight at each endpoint", chosen.name),
            ));
        }
        Ok(Choice { endpoint: endpoint.clone(), set: Some(&chosen.name), timeout: route.timeout })
    }

    /// The endpoint's response, without what concerned its connection.
    fn forward(
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
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// An attempt without a response.
struct Failed {
    own: Own,
    again: bool,
}

impl Failed {
    fn again(again: bool, reason: Reason, detail: impl FnOnce() -> String) -> Self {
        Self { own: Own::new(reason, detail()), again }
    }
}

struct Choice<'a> {
    endpoint: Arc<Endpoint>,
    set: Option<&'a str>,
    timeout: Option<Duration>,
}

impl Choice<'_> {
    fn of(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, set: None, timeout: None }
    }
}

fn set_of<'a>(service: &'a Service, route: &Route, random: u64) -> Result<&'a crate::route::EndpointSet, Own> {
    let unresolved = |why: &str| Own::new(Reason::UnresolvedBackend, why);
    match route.split.choose(random) {
        None => Err(Own::new(Reason::NoEndpoints, format!("all backends of {} have weight 0", service.name))),
        Some(Target::Unresolved(why)) => Err(unresolved(why)),
        Some(Target::Set(index)) => {
            service.sets.get(*index).ok_or_else(|| unresolved("the backend's endpoint set is missing"))
        }
    }
}

/// Bounds a part of a request by its deadline.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Result<T, Own> {
    match deadline {
        None => Ok(future.await),
        Some(deadline) => timeout_at(deadline, future)
            .await
            .map_err(|_| Own::new(Reason::RequestTimeout, "no response within the route's request timeout")),
    }
}

fn reason(failure: &Failure) -> Reason {
    match failure {
        Failure::Connect(_) => Reason::ConnectFailure,
        Failure::NotSent { .. } | Failure::Reset { .. } => Reason::UpstreamReset,
    }
}

/// Whether an authenticated proxy answers for its application, and why; with [`Reason::ConnectFailure`] the request was not done. Nobody else
/// is believed.
fn says(endpoint: &Endpoint, response: &Response<Incoming>, reason: Reason) -> bool {
    endpoint.identity.is_some() && response.headers().get(MARK).is_some_and(|mark| mark == reason.as_str())
}

/// Counts an attempt against its release if the caller goes away before there was an answer: a version that hangs is judged by nothing
/// else where callers are less patient than the route.
struct Patience<'a> {
    group: Option<&'a Arc<Group>>,
    since: Instant,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if let Some(group) = self.group
            && self.since.elapsed() >= GIVING_UP
        {
            group.count(true, None);
        }
    }
}

/// Lets a short answer that nobody wants go by, so that its connection can be used again.
fn discard(response: Response<Incoming>, lease: Lease) {
    let ending = Ending { lease: Some(lease), ..Ending::default() };
    let body = Body::observed(response.into_body(), ending);
    tokio::spawn(async move {
        use http_body_util::BodyExt;
        // What another proxy says for itself is a sentence, and comes at once.
        let _ = timeout(Duration::from_secs(1), http_body_util::Limited::new(body, 4096).collect()).await;
    });
}

fn verdict(group: &Arc<Group>, response: &Response<Incoming>, latency: Duration, grpc: bool) -> Verdict {
    let in_headers = status_of(response.headers());
    Verdict {
        group: group.clone(),
        latency,
        failed: response.status().is_server_error() || (grpc && in_headers.is_some_and(failed_status)),
        awaits_grpc_status: grpc && in_headers.is_none() && response.status().is_success(),
    }
}
