//! Copies of requests whose answers nobody waits for.
//!
//! # Guarantees
//!
//! - The caller waits for nothing here: a copy is a task of its own. One without a body begins at once; one with a body when the answer to the
//!   caller does, for by then the body has been read and kept, as for another attempt. Nothing is read for the sake of a copy.
//! - Bounded: at most [`MAX_COPIES`] at once for each worker, each for at most [`PATIENCE`]; what is beyond, and what was not kept whole, is
//!   not copied, and counted.
//! - A copy is a request of its own: it has as much time as the caller's has from its first byte, [`PATIENCE`] at most, and says so to the
//!   next hop. What the caller said of its deadline does not go along: the copy may be late where the request was in time.
//! - A copy counts neither for the balancer nor for ejections. Those that a release asked for are its evidence, counted as its requests would be
//!   once they were sent: one that has no answer when its time is over has failed, one that was never sent says nothing. Others are no evidence.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::{
    super::{
        attempts::says,
        http::{Session, Terms},
        reachable,
    },
    drawn,
};
use crate::{
    accept::Worker,
    balance::{self, Endpoint, set::EndpointSet},
    http::{
        MIRROR, Reason,
        body::{Body, Ending, Verdict},
        deadline,
        exchange::Call,
        replay::Held,
    },
    route::{RequestHead, Route, Service, rules::Mirror},
    telemetry::MirrorOutcome,
};

/// Copies that one worker has on their way at most: as many as a busy pod needs for requests of some 100 ms, and with bodies of the
/// greatest length 8 MiB.
pub const MAX_COPIES: usize = 128;

/// The longest body that is kept for copies: what a form or an API's request takes.
const MAX_BODY: usize = 64 * 1024;

/// How long a copy may take until the last byte of its answer, where its request has more time or no deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much of an answer is read so that its connection can be used again.
const MAX_ANSWER: usize = 1024 * 1024;

/// Copies that have to wait for the request's body.
#[derive(Debug)]
pub(in crate::outbound) struct Copies {
    /// As it is sent, without a body.
    call: Call,
    body: Option<Arc<Held>>,
    shadows: Vec<Shadow>,
    time: Duration,
    grpc: bool,
}

/// Who gets a copy.
#[derive(Debug)]
struct Shadow {
    endpoint: Arc<Endpoint>,
    /// As evidence of a release.
    counted: bool,
}

impl Session {
    /// Draws the copies of a request, and sends them if they need not wait.
    pub(super) fn mirror(
        &self,
        mirrors: &[Mirror],
        service: &Service,
        call: &Call,
        route: &Route,
        terms: Terms,
    ) -> Option<Copies> {
        let headers = &call.head.headers;
        let ordinary = call.head.method != Method::CONNECT && !headers.contains_key(&header::UPGRADE);
        if !ordinary || headers.contains_key(&MIRROR) {
            return None;
        }
        let mut shadows = Vec::new();
        for mirror in mirrors.iter().filter(|mirror| drawn(mirror.share)) {
            for _ in 0..mirror.copies {
                match service.sets.get(mirror.set).and_then(|set| self.endpoint_for_copy(set, call)) {
                    Some(endpoint) => {
                        let endpoint = reachable(&self.worker.mesh, endpoint);
                        shadows.push(Shadow { endpoint, counted: mirror.counted });
                    }
                    None => self.requests.mirrored.count(MirrorOutcome::NoEndpoints),
                }
            }
        }
        if shadows.is_empty() {
            return None;
        }
        let mut copy = call.with_body(Bytes::new());
        if let Some(version) = service.version
            && copy.speak(version, self.original).is_err()
        {
            // Then the request itself is refused.
            return None;
        }
        let headers = &mut copy.head.headers;
        // The body is there already.
        headers.remove(&header::EXPECT);
        let time = terms.ends(Some(route)).map_or(PATIENCE, |ends| (ends - terms.began).min(PATIENCE));
        let copies = Copies { call: copy, body: call.held(), shadows, time, grpc: terms.grpc };
        if let Some(body) = &copies.body {
            body.keep(MAX_BODY);
            return Some(copies);
        }
        self.send(copies);
        None
    }

    /// Nobody learns from a copy how its endpoint does, so none decides over an endpoint's return.
    fn endpoint_for_copy<'a>(&self, set: &'a EndpointSet, call: &Call) -> Option<&'a Arc<Endpoint>> {
        let head = RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers);
        let own = self.worker.mesh.own_addresses.first().copied();
        let key = set.key().and_then(|source| source.key(&head, own));
        set.pick_unrecorded(key, balance::random(), Instant::now())
    }

    /// Sends what had to wait, now that the caller is answered.
    pub(in crate::outbound) fn send(&self, copies: Copies) {
        let Copies { call, body, shadows, time, grpc } = copies;
        let body = match body {
            None => Bytes::new(),
            Some(held) => match held.whole() {
                Some(body) => body,
                None => return self.requests.mirrored.add(MirrorOutcome::Body, shadows.len()),
            },
        };
        for (number, shadow) in (1_u64..).zip(shadows) {
            let Ok(permit) = self.worker.copies.clone().try_acquire_owned() else {
                self.requests.mirrored.count(MirrorOutcome::Dropped);
                continue;
            };
            let mut call = call.with_body(body.clone());
            call.head.headers.insert(MIRROR, HeaderValue::from(number));
            let now = Instant::now();
            let ends = now + time;
            deadline::tell_next(&mut call.head.headers, ends, now, grpc, shadow.endpoint.identity.is_some());
            let (worker, requests) = (self.worker.clone(), self.requests.clone());
            tokio::spawn(async move {
                requests.mirrored.count(deliver(&worker, call, &shadow, ends, grpc).await);
                drop(permit);
            });
        }
    }
}

async fn deliver(worker: &Worker, call: Call, shadow: &Shadow, ends: Instant, grpc: bool) -> MirrorOutcome {
    let endpoint = &shadow.endpoint;
    let group = endpoint.group(&worker.mesh.telemetry.groups).filter(|_| shadow.counted);
    let began = Instant::now();
    let (response, lease) = match timeout_at(ends, call.attempt(&worker.pool, &worker.dialler, endpoint)).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(failure)) => {
            tracing::debug!(%failure, endpoint = %endpoint.address, "a copy was not delivered");
            // Without room for it here, the endpoint never heard of it.
            if let Some(group) = group
                && failure.full().is_none()
            {
                group.count(true, None);
            }
            return MirrorOutcome::Failed;
        }
        Err(_) => {
            if let Some(group) = group {
                group.count(true, None);
            }
            return MirrorOutcome::Failed;
        }
    };
    let mut ending = Ending { lease: Some(lease), ..Ending::default() };
    if let Some(group) = group {
        if says(endpoint, &response, Reason::ConnectFailure) {
            group.count(true, None);
        } else {
            let mut verdict = Verdict::of(&response, began.elapsed(), grpc);
            verdict.group = Some(group.clone());
            ending.verdict = Some(verdict);
        }
    }
    match timeout_at(ends, drain(Body::observed(response.into_body(), ending))).await {
        Ok(()) => MirrorOutcome::Answered,
        Err(_) => MirrorOutcome::Failed,
    }
}

/// Reads an answer that nobody wants. One that is too long ends with its connection.
async fn drain(mut body: Body) {
    let mut read = 0;
    while read <= MAX_ANSWER {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => return,
        }
    }
}
