//! The attempts of one request: how long each may take, and whether there is another.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::Method;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    choose::Choice,
    http::{Own, Session, Terms},
    opaque::tls,
    reachable,
    rules::Applied,
};
use crate::{
    backoff,
    balance::{Endpoint, limits::Full, pool::Lease, set::Settle},
    http::{
        Fields, MARK, Reason, Response,
        body::{Body, Bounds, Ending, Incoming, Verdict},
        deadline,
        exchange::{Call, Failure, of_caller},
        idle::{Activity, Idle},
        is_grpc,
        patience::may_rest,
        replay::MAX_KEPT,
        status_of,
    },
    route::Tried,
    telemetry::{NoTry, Tls, TryFailed, groups::Group},
};

/// Attempts for one request, as long as nothing of it was sent. With the pauses of [`BACKOFF`] the last one begins 175 ms after the first:
/// long enough for news of a vanished endpoint to arrive.
const ATTEMPTS: u32 = 5;

/// No such attempt begins later than this after the request: an endpoint that accepts and then says nothing takes seconds each time, and by
/// then the caller is better served by an error.
const WINDOW: Duration = Duration::from_secs(3);

/// The pause before an endpoint that just failed is tried again, doubled each time; others are tried at once.
const BACKOFF: Duration = Duration::from_millis(25);

/// A caller who goes away after this long did so for want of an answer; one who goes earlier may have had other reasons.
const GIVING_UP: Duration = Duration::from_secs(1);

/// What an attempt knows of those before.
struct Course {
    terms: Terms,
    attempts: u32,
    /// Those that followed one which may have done something.
    repeats: u32,
    failed: Vec<SocketAddr>,
    /// Where the first went.
    set: Option<String>,
    /// What the route asks for before the next.
    pause: Option<Duration>,
    activity: Option<Arc<Activity>>,
}

/// How an attempt failed.
#[derive(Clone, Copy)]
enum Failed {
    /// The endpoint certainly did nothing.
    Refused,
    /// It may have.
    Tried(Tried),
    /// There is no time for another.
    Over,
}

impl Session {
    /// Tries endpoints until one answers or there is nothing more to try.
    pub(super) async fn call(
        &self,
        call: &mut Call,
        applied: &Applied,
        terms: Terms,
    ) -> Result<Response<Body>, (Own, Tls)> {
        let Terms { began, grpc, .. } = terms;
        let mut course = Course::new(terms, applied.set.clone());
        loop {
            course.attempts += 1;
            // Read again for each attempt: a failure is often the first sign of a change that is on its way.
            let destination = self.destination.load_full();
            let choice = self
                .choose(&destination, &applied.head(call), course.set.as_deref(), &course.failed)
                .map_err(|own| (own, Tls::None))?;
            if course.attempts == 1 {
                let wait = (!may_rest(&call.head.method, self.version, || grpc)).then_some(self.worker.mesh.waits.body);
                course.begin(call, &choice, wait);
            }
            let endpoint = reachable(&self.worker.mesh, &choice.endpoint);
            let tls = tls(&endpoint);
            let mut limits = Limits::of(&choice, &course);
            if let Some(pause) = course.pause(endpoint.address) {
                limits.within(sleep(pause)).await.map_err(|late| (late.into(), tls))?;
            }
            let started = Instant::now();
            limits.begin_try(&choice, started);
            if let Some(ends) = limits.ends() {
                let proxy = endpoint.identity.is_some();
                deadline::tell_next(&mut call.head.headers, ends, started, grpc, proxy);
            }
            let mut in_flight = endpoint.begin().map_err(|full| (self.overload(&choice, full), tls))?;
            let group = endpoint.group(&self.worker.mesh.telemetry.groups);
            let mut patience = Patience { group, since: started };
            let outcome = limits.within(call.attempt(&self.worker.pool, &self.worker.dialler, &endpoint)).await;
            in_flight.heard();
            patience.group = None;
            let now = Instant::now();
            let (failed, own) = match outcome {
                Ok(Ok((response, lease))) if !says(&endpoint, &response, Reason::ConnectFailure) => {
                    if says(&endpoint, &response, Reason::UpstreamReset) {
                        // An application that breaks connections does so fast; that must not attract more of them.
                        endpoint.load.fail(now);
                    } else {
                        endpoint.load.observe(now - started, now);
                    }
                    let verdict = self.verdict(&choice, group, &response, now - started, grpc);
                    let failed = Failed::Tried(Tried::Answered(response.status(), status_of(response.headers())));
                    if let Some(pause) = self.another(call, &choice, &course, &limits, failed, now) {
                        discard(response, lease);
                        course.next(&choice, failed, pause);
                        continue;
                    }
                    self.requests.answered(tls, response.status(), now - began);
                    let ending = Ending { lease: Some(lease), in_flight: Some(in_flight), verdict, place: None };
                    let bounds = self.bounds(call, &choice, limits, response.headers());
                    return Ok(self.forward(&endpoint, response, bounds, ending));
                }
                Ok(Ok((response, lease))) => {
                    // Another proxy says that it could not reach its application.
                    discard(response, lease);
                    let detail = format!("{} cannot reach its application", endpoint.address);
                    (Failed::Refused, Own::new(Reason::ConnectFailure, detail))
                }
                // Neither says anything of the endpoint.
                Ok(Err(failure @ Failure::Caller(_))) => {
                    return Err((Own::new(reason(&failure), failure.to_string()), tls));
                }
                Ok(Err(failure)) if let Some(full) = failure.full() => {
                    return Err((self.overload(&choice, full), tls));
                }
                Ok(Err(failure)) => (Failed::from(&failure), Own::new(reason(&failure), failure.to_string())),
                Err(late) => (Failed::from(late), late.into()),
            };
            endpoint.load.fail(now);
            if let Some(group) = group {
                group.count(true, None);
            }
            // A caller's own deadline may be shorter than what any endpoint needs.
            if !(matches!(failed, Failed::Over) && limits.is_callers && now - started < GIVING_UP) {
                self.settle(&choice, true, now);
            }
            match self.another(call, &choice, &course, &limits, failed, now) {
                Some(pause) => course.next(&choice, failed, pause),
                None => return Err((own, tls)),
            }
        }
    }

    /// How long an answer may keep somebody waiting.
    fn bounds(&self, call: &Call, choice: &Choice<'_>, limits: Limits, headers: &Fields) -> Option<Bounds> {
        if call.head.method == Method::CONNECT {
            return None;
        }
        let of_route = choice.route.and_then(|route| route.idle);
        // Whether it is gRPC is for the endpoint to say: a caller could say it of anything.
        let by_default = || {
            (!may_rest(&call.head.method, self.version, || is_grpc(headers))).then_some(self.worker.mesh.waits.answer)
        };
        let unread = of_route.or_else(by_default);
        Some(Bounds { idle: limits.into_idle(), unread, denied: None, requests: self.requests.clone() })
    }

    /// A limit of the set is reached. Another try would only find the same.
    fn overload(&self, choice: &Choice<'_>, full: Full) -> Own {
        self.requests.limited.count(full.limit);
        let name = choice.set.map_or("the endpoint", |set| &set.name);
        Own::new(Reason::Overload, format!("{name}: {full}"))
    }

    /// Tells the balancer what came of an attempt.
    fn settle(&self, choice: &Choice<'_>, failed: bool, now: Instant) {
        if let Some(set) = choice.set
            && let Some(event) = set.record(&choice.endpoint, choice.trial, failed, now)
        {
            self.requests.outliers.count(event);
        }
    }

    /// What an answer says for releases and for the balancer; of calls of gRPC only the end tells.
    fn verdict(
        &self,
        choice: &Choice<'_>,
        group: Option<&Arc<Group>>,
        response: &Response<Incoming>,
        latency: Duration,
        grpc: bool,
    ) -> Option<Verdict> {
        let mut verdict = Verdict::of(response, latency, grpc);
        verdict.group = group.cloned();
        if verdict.awaits_grpc_status {
            verdict.settle = choice.set.map(|set| Settle {
                set: set.clone(),
                endpoint: choice.endpoint.clone(),
                trial: choice.trial,
                requests: self.requests.clone(),
            });
        } else {
            self.settle(choice, verdict.against, Instant::now());
        }
        (verdict.group.is_some() || verdict.settle.is_some()).then_some(verdict)
    }

    /// Whether another attempt follows one that failed so, and after which pause.
    fn another(
        &self,
        call: &Call,
        choice: &Choice<'_>,
        course: &Course,
        limits: &Limits,
        failed: Failed,
        now: Instant,
    ) -> Option<Duration> {
        let (cause, pause) = match failed {
            Failed::Over => return None,
            Failed::Refused if course.attempts >= ATTEMPTS || now - course.terms.began > WINDOW => return None,
            Failed::Refused => (TryFailed::Refused, Duration::ZERO),
            Failed::Tried(tried) => {
                let retry = choice.route?.retry.as_ref()?;
                if course.repeats >= retry.attempts || !retry.follows(tried, &call.head.method, course.terms.grpc) {
                    return None;
                }
                let cause = match tried {
                    Tried::Answered(..) => TryFailed::Answered,
                    Tried::Broke => TryFailed::Broke,
                    Tried::Late => TryFailed::Late,
                };
                (cause, backoff::delay(course.repeats, retry.base, retry.max, rand::random()))
            }
        };
        let refused = if !call.repeatable() {
            NoTry::Body
        } else if limits.deadline.is_some_and(|deadline| now + pause >= deadline) {
            NoTry::Deadline
        } else if choice.budget.is_some_and(|budget| !budget.withdraw(now)) {
            NoTry::Budget
        } else {
            self.requests.tries.again(cause);
            return Some(pause);
        };
        self.requests.tries.no_more(refused);
        None
    }
}

impl Course {
    fn new(terms: Terms, set: Option<String>) -> Self {
        Self { terms, attempts: 0, repeats: 0, failed: Vec::new(), set, pause: None, activity: None }
    }

    /// The first attempt is about to be made. `wait`: for the caller's body, unless the route says how long.
    fn begin(&mut self, call: &Call, choice: &Choice<'_>, wait: Option<Duration>) {
        if let Some(budget) = choice.budget {
            budget.request(self.terms.began);
        }
        if let Some(wait) = wait.filter(|_| choice.route.is_none_or(|route| route.idle.is_none())) {
            call.bound_body(wait);
        }
        let Some(route) = choice.route else { return };
        if route.retry.as_ref().is_some_and(|retry| retry.concerns(&call.head.method, self.terms.grpc)) {
            call.keep_body(MAX_KEPT);
        }
        self.activity = route.idle.map(Activity::new);
        if let Some(activity) = &self.activity {
            call.watch(activity);
        }
    }

    /// What to wait before an attempt on that endpoint.
    fn pause(&mut self, address: SocketAddr) -> Option<Duration> {
        let again = self.failed.contains(&address);
        self.pause.take().or_else(|| again.then(|| BACKOFF * 2_u32.pow(self.attempts.clamp(2, ATTEMPTS) - 2)))
    }

    /// Another attempt follows.
    fn next(&mut self, choice: &Choice<'_>, failed: Failed, pause: Duration) {
        self.failed.push(choice.endpoint.address);
        self.set = choice.set.map(|set| set.name.clone());
        if let Failed::Tried(_) = failed {
            self.repeats += 1;
            self.pause = Some(pause);
        }
    }
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        if failure.nothing_sent() { Self::Refused } else { Self::Tried(Tried::Broke) }
    }
}

impl From<Late> for Failed {
    fn from(late: Late) -> Self {
        if late == Late::Try { Self::Tried(Tried::Late) } else { Self::Over }
    }
}

/// What bounds the time of one attempt.
struct Limits {
    deadline: Option<Instant>,
    /// Of this attempt alone.
    one: Option<Instant>,
    activity: Option<Arc<Activity>>,
    /// The deadline is the caller's own, not the route's.
    is_callers: bool,
}

/// Which of the bounds was reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    Deadline,
    Try,
    Idle,
}

impl Limits {
    fn of(choice: &Choice<'_>, course: &Course) -> Self {
        let deadline = course.terms.ends(choice.route);
        let is_callers = deadline.is_some() && deadline == course.terms.deadline;
        Self { deadline, one: None, activity: course.activity.clone(), is_callers }
    }

    fn begin_try(&mut self, choice: &Choice<'_>, now: Instant) {
        self.one = choice.route.and_then(|route| route.try_timeout).map(|timeout| now + timeout);
        if let Some(activity) = &self.activity {
            activity.moved();
        }
    }

    fn ends(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.one).min()
    }

    fn into_idle(self) -> Option<Idle> {
        let activity = self.activity?;
        activity.moved();
        Some(Idle::of(activity))
    }

    async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, Late> {
        let late = if self.one < self.deadline && self.one.is_some() || self.deadline.is_none() {
            Late::Try
        } else {
            Late::Deadline
        };
        let future = async {
            match self.ends() {
                None => Ok(future.await),
                // A timer ends a little late, and an answer may be quick.
                Some(ends) if ends <= Instant::now() => Err(late),
                Some(ends) => timeout_at(ends, future).await.map_err(|_| late),
            }
        };
        match &self.activity {
            None => future.await,
            Some(activity) => tokio::select! {
                biased;
                done = future => done,
                () = Idle::of(activity.clone()) => Err(Late::Idle),
            },
        }
    }
}

impl From<Late> for Own {
    fn from(late: Late) -> Self {
        match late {
            Late::Deadline => Self::new(Reason::RequestTimeout, "no response before the request's deadline"),
            Late::Try => Self::new(Reason::RequestTimeout, "no response within the route's timeout for one try"),
            Late::Idle => Self::new(Reason::IdleTimeout, "nothing moved within the route's idle timeout"),
        }
    }
}

fn reason(failure: &Failure) -> Reason {
    match failure {
        Failure::Connect(_) => Reason::ConnectFailure,
        Failure::NotSent { .. } | Failure::Reset { .. } => Reason::UpstreamReset,
        Failure::Caller(error) => of_caller(error),
    }
}

/// Whether an authenticated proxy answers for its application, and why; with [`Reason::ConnectFailure`] the request was not done. Nobody else
/// is believed.
pub(super) fn says(endpoint: &Endpoint, response: &Response<Incoming>, reason: Reason) -> bool {
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
