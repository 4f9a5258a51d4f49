//! The attempts of one request: where each goes, and whether there is another.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    http::{Own, Session},
    opaque::tls,
    reachable,
    rules::Applied,
};
use crate::{
    balance::{Endpoint, pool::Lease},
    http::{
        MARK, Reason, Response,
        body::{Body, Ending, Incoming, Verdict},
        exchange::{Call, Failure},
        failed_status, status_of,
    },
    telemetry::{Tls, groups::Group},
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

impl Session {
    /// Tries endpoints until one answers or there is nothing more to try.
    pub(super) async fn call(
        &self,
        call: &Call,
        applied: &Applied,
        began: Instant,
        grpc: bool,
    ) -> Result<Response<Body>, (Own, Tls)> {
        let mut failed: Vec<SocketAddr> = Vec::new();
        let mut set = applied.set.clone();
        let mut attempt = 0;
        loop {
            attempt += 1;
            // Read again for each attempt: a failure is often the first sign of a change that is on its way.
            let destination = self.destination.load_full();
            let choice = self
                .choose(&destination, &applied.head(call), set.as_deref(), &failed)
                .map_err(|own| (own, Tls::None))?;
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
                    return Ok(self.forward(&endpoint, response, ending));
                }
                Ok(Ok((response, lease))) => {
                    // Another proxy says that it could not reach its application.
                    discard(response, lease);
                    Failed::again(call.untouched(), Reason::ConnectFailure, || {
                        format!("{} cannot reach its application", endpoint.address)
                    })
                }
                // Says nothing of the endpoint.
                Ok(Err(failure @ Failure::Caller(_))) => {
                    return Err((Own::new(reason(&failure), failure.to_string()), tls));
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
        Failure::Caller(_) => Reason::MalformedRequest,
    }
}

/// Whether an authenticated proxy answers for its application, and why; with [`Reason::ConnectFailure`] the request was not done. Nobody else
/// is believed.
fn says(endpoint: &Endpoint, response: &Response<Incoming>, reason: Reason) -> bool {
    endpoint.identity.is_some() && response.headers().get(&MARK) == Some(reason.as_str().as_bytes())
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
