//! Requests to the application.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fairlead_authz::Caller;
use http::{HeaderValue, StatusCode, header};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{authorization::Asked, authorize, limits::Limited, policy::Plain, tokens::Claimed};
use crate::{
    accept::Worker,
    balance::Endpoint,
    http::{
        Fields, Head, MARK, MIRROR, Reason, Request, Response, Version,
        body::{Body, Bounds, Denied, Ending},
        deadline,
        exchange::{Call, Failure, of_caller},
        is_grpc,
        patience::may_rest,
        respond,
        server::{self, Service},
    },
    identity::SpiffeId,
    route::RequestHead,
    tcp::Stream,
    telemetry::{Direction, Requests, Tls},
};

/// What a caller is told of policy: the rule is in the log alone.
const DENIED: &str = "policy does not allow this";

/// RFC 6750 section 3.1.
const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// One connection to the application.
struct Session {
    worker: Arc<Worker>,
    application: Arc<Endpoint>,
    version: Version,
    tls: Tls,
    caller: Caller,
    requests: Arc<Requests>,
    name: Arc<str>,
}

/// Serves requests until the connection ends, or `until` is cancelled; then what is in flight is still answered.
pub(super) async fn serve(
    worker: &Arc<Worker>,
    client: Stream,
    version: Version,
    caller: Caller,
    original: SocketAddr,
    until: &CancellationToken,
) {
    let telemetry = &worker.mesh.telemetry;
    let tls = if caller.identity.is_some() { Tls::Mutual } else { Tls::None };
    let _open = telemetry.open(Direction::Inbound, version.transport(), tls);
    let name: Arc<str> = original.port().to_string().into();
    let session = Arc::new(Session {
        worker: worker.clone(),
        application: Arc::new(Endpoint::new(original, None, "", "", Arc::default())),
        version,
        tls,
        caller,
        requests: telemetry.requests(Direction::Inbound, &name),
        name,
    });
    if let Err(error) = server::serve(client, version, until, session).await {
        tracing::debug!(%error, port = original.port(), "a connection to the application broke");
    }
}

impl Session {
    /// Whether a plain caller would not be let in any more: connections are kept for hours, and policy must not wait for their end.
    fn policy_changed(&self) -> bool {
        let port = self.port();
        matches!(self.worker.mesh.workload.load().plain(port), Plain::Refuse)
    }

    /// What the token of a request claims, if rules let it in; otherwise why not.
    fn admit(&self, call: &mut Call) -> Result<Claimed, Reason> {
        let mesh = &self.worker.mesh;
        let workload = mesh.workload.load();
        let claimed = workload.claims(&mut call.head.headers).map_err(|refusal| {
            let (address, port) = (self.caller.address, self.port());
            if mesh.refusals.worth_a_line(address, Instant::now()) {
                tracing::warn!(%address, port, reason = %refusal, "a token was refused");
            }
            Reason::TokenRefused
        })?;
        let asked = Asked::new(&call.head, &claimed);
        let allowed = authorize::allows(mesh, &workload, &self.caller, self.port(), Some(&asked));
        if allowed { Ok(claimed) } else { Err(Reason::PolicyDenied) }
    }

    /// Ready when rules do not let in any more the request of this head.
    fn denied(&self, head: Head, claimed: Claimed) -> Denied {
        let (worker, caller, port) = (self.worker.clone(), self.caller.clone(), self.port());
        Denied::new(async move {
            authorize::denied(&worker.mesh, &caller, port, Some(Asked::new(&head, &claimed))).await;
        })
    }

    fn port(&self) -> u16 {
        self.application.address.port()
    }

    /// Counts a request against the limits of the port.
    fn take(&self, call: &Call) -> Result<(), Limited> {
        let port = self.port();
        let mesh = &self.worker.mesh;
        let workload = mesh.workload.load();
        let limits = workload.limits(port);
        if limits.is_empty() {
            return Ok(());
        }
        let head = RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers);
        mesh.limiter.take(port, limits, &head, &self.caller)
    }

    /// Writes a request into the access log.
    fn note(&self, call: Option<&Call>, status: StatusCode, reason: Option<Reason>, began: Instant) {
        let access = &self.worker.mesh.telemetry.access;
        if !access.is_on() {
            return;
        }
        let caller = self.caller.identity.as_ref().map(SpiffeId::as_str);
        let head = call.map(|call| RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers));
        access.note(Direction::Inbound, &self.name, caller, head.as_ref(), status, reason, began.elapsed());
    }

    /// When the answer must be there, and says so to the application. Only a caller who proved who it is can set a deadline, or say that a
    /// request is a copy; what others write is not passed on either.
    fn deadline(&self, headers: &mut Fields, began: Instant) -> Option<Instant> {
        if self.tls == Tls::None {
            deadline::forget(headers);
            headers.remove(&MIRROR);
            return None;
        }
        let deadline = deadline::of_proxy(headers, began)?;
        deadline::tell_application(headers, deadline, deadline::Now::read());
        Some(deadline)
    }
}

impl Service for Session {
    async fn handle(&self, request: Request) -> Response<Body> {
        let began = Instant::now();
        let grpc = is_grpc(&request.head.headers);
        let answer = |call: Option<&Call>, reason: Reason, detail: &str| {
            self.requests.own(self.tls, reason, began.elapsed());
            self.note(call, reason.status(), Some(reason), began);
            respond(reason, detail, grpc)
        };
        if self.tls == Tls::None && self.policy_changed() {
            return answer(None, Reason::PlaintextRefused, "mTLS is Strict here by now");
        }
        let mut call = Call::new(request, self.version, self.application.address);
        let deadline = self.deadline(&mut call.head.headers, began);
        let admitted = self.admit(&mut call);
        let own = |reason, detail: &str| answer(Some(&call), reason, detail);
        let claimed = match admitted {
            Ok(claimed) => claimed,
            Err(Reason::TokenRefused) => {
                let mut response = own(Reason::TokenRefused, "the token is not valid");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, INVALID_TOKEN);
                return response;
            }
            Err(reason) => return own(reason, DENIED),
        };
        if let Err(limited) = self.take(&call) {
            let mut response = own(Reason::RateLimited, &format!("over the limit {}", limited.name));
            // Whole seconds, and never so few that the next request is too early again.
            let seconds = limited.retry_after.as_secs() + u64::from(limited.retry_after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            return response;
        }
        let worker = &self.worker;
        // Proxies bound their own callers, as a route may say.
        let is_plain = self.tls != Tls::Mutual;
        if is_plain && !may_rest(&call.head.method, self.version, || grpc) {
            call.bound_body(worker.mesh.waits.body);
        }
        let attempt = async {
            let attempt = call.attempt(&worker.pool, &worker.dialler, &self.application);
            match deadline {
                None => Some(attempt.await),
                Some(deadline) => timeout_at(deadline, attempt).await.ok(),
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = attempt => outcome,
            () = authorize::denied(&worker.mesh, &self.caller, self.port(), Some(Asked::new(&call.head, &claimed))) => {
                return own(Reason::PolicyDenied, DENIED);
            }
        };
        let Some(outcome) = outcome else {
            return own(Reason::RequestTimeout, "no response before the deadline that came with the request");
        };
        match outcome {
            Ok((mut response, lease)) => {
                self.requests.answered(self.tls, response.status(), began.elapsed());
                self.note(Some(&call), response.status(), None, began);
                // The mark is the mesh's: an application that sets it could make callers repeat requests.
                response.headers_mut().remove(&MARK);
                let ending = Ending { lease: Some(lease), ..Ending::default() };
                let telemetry = &worker.mesh.telemetry;
                let bounded = is_plain && !may_rest(&call.head.method, self.version, || is_grpc(response.headers()));
                let bounds = response.body().lasts().then(|| Bounds {
                    idle: None,
                    unread: bounded.then_some(worker.mesh.waits.answer),
                    denied: Some(self.denied(call.into_head(), claimed)),
                    requests: self.requests.clone(),
                });
                response.map(|body| Body::forwarded(body, bounds, ending, telemetry, Direction::Inbound))
            }
            // Both say to the proxy that called: this was not done, ask another endpoint.
            Err(failure @ (Failure::Connect(_) | Failure::NotSent { .. })) => {
                own(Reason::ConnectFailure, &failure.to_string())
            }
            Err(failure @ Failure::Reset { .. }) => own(Reason::UpstreamReset, &failure.to_string()),
            Err(ref failure @ Failure::Caller(ref error)) => own(of_caller(error), &failure.to_string()),
        }
    }
    fn refused(&self, reason: Reason) {
        self.requests.own(self.tls, reason, Duration::ZERO);
        self.note(None, reason.status(), Some(reason), Instant::now());
    }
}
