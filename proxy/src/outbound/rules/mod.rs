//! What a route does with a request besides choosing where it goes, in the order in which it is done:
//!
//! 1. a browser that asks what it may send is answered ([`cors`](crate::route::rules::Cors));
//! 2. faults: the delay, then the abort;
//! 3. redirect and respond;
//! 4. stickiness picks the backend;
//! 5. request headers, then the rewrite;
//! 6. copies are drawn.
//!
//! On the way back: response headers, the permission of CORS, the cookie. [`before`](Session::before) and [`Applied::after`] are called once
//! for each request, whatever becomes of its attempts.

mod answer;
mod mirror;

pub use self::mirror::MAX_COPIES;

use std::sync::Arc;

use http::{HeaderValue, Method, Uri, header};
use tokio::time::{Instant, sleep, sleep_until};

use self::mirror::Copies;
use super::http::{Own, Session, Terms};
use crate::{
    balance,
    http::{Fields, Reason, Response, body::Body, exchange::Call},
    route::{
        Destination, RequestHead, Route, Service, Target, cookie,
        rules::{Fault, Grant, Rules, Stickiness, WHOLE},
    },
};

/// What was done with a request, and is left to do with its answer.
#[derive(Debug, Default)]
pub(super) struct Applied {
    rules: Option<Arc<Rules>>,
    /// The head by which routes are chosen, where another one is sent.
    original: Option<Box<Original>>,
    /// The part of the Service that the request has to go to.
    pub(super) set: Option<String>,
    grant: Option<Grant>,
    cookie: Option<HeaderValue>,
    /// To be sent once the caller is answered.
    pub(super) copies: Option<Copies>,
}

/// A head as the caller wrote it.
#[derive(Debug)]
struct Original {
    method: Method,
    uri: Uri,
    headers: Fields,
}

/// Why a request is not sent.
pub(super) enum Stopped {
    /// For a reason that speaks for itself.
    Own(Own),
    /// The route has an answer.
    Answered(Reason, Box<Response<Body>>),
}

impl Stopped {
    fn answered(reason: Reason, response: Response<Body>) -> Self {
        Self::Answered(reason, Box::new(response))
    }
}

impl Applied {
    /// What routes look at.
    pub(super) fn head<'a>(&'a self, call: &'a Call) -> RequestHead<'a> {
        match &self.original {
            Some(original) => RequestHead::new(&original.method, &original.uri, &original.headers),
            None => RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers),
        }
    }

    /// Changes the answer of an endpoint.
    pub(super) fn after(&self, response: &mut Response<Body>) {
        if let Some(rules) = &self.rules {
            rules.response_headers.apply(response.headers_mut());
        }
        self.permit(response);
        if let Some(cookie) = &self.cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie.clone());
        }
    }

    /// Lets the page that asked read why there is no answer of an endpoint.
    pub(super) fn permit(&self, response: &mut Response<Body>) {
        let cors = self.rules.as_ref().and_then(|rules| rules.cors.as_ref());
        if let (Some(cors), Some(grant)) = (cors, &self.grant) {
            cors.decorate(grant, response.headers_mut());
        }
    }
}

impl Session {
    /// Does what the request's route says before the request is sent; costs nothing where no route of the Service has rules.
    pub(super) async fn before(&self, call: &mut Call, terms: Terms) -> (Applied, Option<Stopped>) {
        let mut applied = Applied::default();
        let destination = self.destination.load_full();
        let service = match &*destination {
            Destination::Service(service) if service.has_rules => service,
            _ => return (applied, None),
        };
        let head = applied.head(call);
        let route = service.route(&head).and_then(|route| Some((route, route.takes(&head)?)));
        let Some((route, prefix)) = route else {
            return (applied, None);
        };
        applied.rules.clone_from(&route.rules);
        let stopped = self.obey(&mut applied, service, route, prefix, call, terms).await.err();
        (applied, stopped)
    }

    async fn obey(
        &self,
        applied: &mut Applied,
        service: &Service,
        route: &Route,
        prefix: &str,
        call: &mut Call,
        terms: Terms,
    ) -> Result<(), Stopped> {
        let Some(rules) = applied.rules.clone() else {
            return Ok(());
        };
        let head = RequestHead::new(&call.head.method, &call.head.uri, &call.head.headers);
        if let Some(cors) = &rules.cors {
            if let Some(headers) = cors.preflight(&head) {
                return Err(Stopped::answered(Reason::CorsPreflight, answer::preflight(headers)));
            }
            applied.grant = Some(cors.grant(&head));
        }
        if let Some(fault) = &rules.fault {
            self.fail(fault, route, terms).await?;
        }
        if let Some(answer) = &rules.answer {
            let (reason, mut response) = answer::answer(answer, &head, prefix, terms.grpc).map_err(Stopped::Own)?;
            rules.response_headers.apply(response.headers_mut());
            return Err(Stopped::answered(reason, response));
        }
        if let Some(stickiness) = &rules.stickiness {
            stick(applied, stickiness, service, &head).map_err(Stopped::Own)?;
        }
        if rules.changes_request() {
            let head = &mut call.head;
            let headers = head.headers.clone();
            applied.original = Some(Box::new(Original { method: head.method.clone(), uri: head.uri.clone(), headers }));
            rules.request_headers.apply(&mut head.headers);
            if let Some(rewrite) = &rules.rewrite {
                rewrite.apply(&head.method, &mut head.uri, &mut head.headers, prefix);
            }
        }
        if !rules.mirrors.is_empty() {
            applied.copies = self.mirror(&rules.mirrors, service, call, route, terms);
        }
        Ok(())
    }

    async fn fail(&self, fault: &Fault, route: &Route, terms: Terms) -> Result<(), Stopped> {
        if drawn(fault.delay_share) {
            self.requests.delayed();
            match terms.ends(Some(route)) {
                Some(deadline) if deadline < Instant::now() + fault.delay => {
                    sleep_until(deadline).await;
                    let detail = "the request's deadline passed during a delay that was made on purpose";
                    return Err(Stopped::Own(Own::new(Reason::RequestTimeout, detail)));
                }
                _ => sleep(fault.delay).await,
            }
        }
        if drawn(fault.abort_share) {
            return Err(Stopped::answered(Reason::FaultAbort, answer::abort(fault, &route.name, terms.grpc)));
        }
        Ok(())
    }
}

/// Whether this is one of a share of requests, in millionths.
fn drawn(share: u32) -> bool {
    share > 0 && balance::random() % u64::from(WHOLE) < u64::from(share)
}

/// Picks the backend: the one that the cookie stands for, or one by weight for a user without.
fn stick(applied: &mut Applied, stickiness: &Stickiness, service: &Service, head: &RequestHead<'_>) -> Result<(), Own> {
    let value = cookie(head.header(&header::COOKIE), &stickiness.cookie);
    let known = value.and_then(|value| stickiness.known(value));
    // With all weights 0 there is nothing to stick to, and the request is answered as everywhere else.
    let Some(part) = known.or_else(|| stickiness.choose(balance::random())) else {
        return Ok(());
    };
    match part.split.choose(balance::random()) {
        Some(Target::Set(index)) => applied.set = service.sets.get(*index).map(|set| set.name.clone()),
        Some(Target::Unresolved(why)) => return Err(Own::new(Reason::UnresolvedBackend, &**why)),
        None => {}
    }
    if known.is_none() {
        applied.cookie = Some(part.set_cookie.clone());
    }
    Ok(())
}
