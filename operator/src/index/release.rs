//! What releases make of a route: divided backends, copies for canaries, and in front of it routes for the requests that a canary alone gets.

use super::canary::{Canary, Cookie};
use super::conjunction;
use super::service::ServicePort;
use super::split::{self, Undivided, divide, share_of_route};
use crate::model::{Backend, Mirror, ObjectName, PathChange, Route, Target};

/// What a user wrote as one backend, and the part of a Service that it leads to.
#[derive(Clone)]
pub(super) struct Chosen<'a> {
    pub weight: u32,
    /// What a cookie of the route says of it.
    pub sticky: &'a str,
    /// Or why there is none.
    pub part: Result<Part<'a>, String>,
}

/// A part of a Service: its set and those of its canaries.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub service: ObjectName,
    pub port: &'a ServicePort,
    pub set: u32,
    /// Without canaries.
    pub endpoints: usize,
    pub releases: Vec<Release<'a>>,
}

/// A Deployment that is being released, in a part that it serves.
#[derive(Clone, Copy)]
pub(super) struct Release<'a> {
    pub canary: &'a Canary,
    /// How many of the part's endpoints are the Deployment's own.
    pub stable: usize,
    /// Of its canary, with at least one endpoint.
    pub set: u32,
}

/// The routes that take the place of one. `route` lacks its backends, which lead where `chosen` does.
pub(super) fn routes(route: Route, chosen: &[Chosen<'_>]) -> Vec<Route> {
    let mut routes = Vec::new();
    // Requests that are answered at once come to nobody.
    if route.rules.answer.is_none() {
        routes.extend(canaries(chosen).into_iter().filter_map(|canary| front(&route, chosen, canary)));
    }
    routes.push(filled(route, chosen));
    routes
}

/// The releases of a route, each once.
fn canaries<'a>(chosen: &[Chosen<'a>]) -> Vec<&'a Canary> {
    let mut canaries: Vec<&Canary> = Vec::new();
    for canary in chosen.iter().filter(|c| c.weight > 0).flat_map(Chosen::releases).map(|r| r.canary) {
        if canaries.iter().all(|known| known.name != canary.name) {
            canaries.push(canary);
        }
    }
    canaries
}

/// The route of those requests that a canary alone gets. Bytes that are no HTTP have nothing to be told by.
fn front(route: &Route, chosen: &[Chosen<'_>], canary: &Canary) -> Option<Route> {
    let rewritten = route.rules.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    let keeps_prefix = matches!(rewritten, Some(PathChange::Prefix(_)));
    let matches = conjunction::all(&route.matches, &canary.matches, keeps_prefix);
    if matches.is_empty() {
        return None;
    }
    let name = format!("{}#{}-canary", route.name, canary.deployment);
    let chosen: Vec<Chosen<'_>> = chosen.iter().map(|c| c.given_to(canary)).collect();
    Some(filled(Route { name, matches, requests_only: true, ..route.clone() }, &chosen))
}

fn filled(mut route: Route, chosen: &[Chosen<'_>]) -> Route {
    let sent_on = route.rules.answer.is_none();
    let cookie = if sent_on && route.rules.stickiness.is_none() { cookie(chosen) } else { None };
    let undivided: Vec<Undivided> = chosen.iter().map(|c| c.undivided(|_, release| release.canary.share)).collect();
    for (chosen, divided) in chosen.iter().zip(divide(&undivided)) {
        let sticky = cookie.map_or(chosen.sticky, |cookie| &cookie.stable);
        let target = match &chosen.part {
            Ok(part) => Target::EndpointSet(part.set),
            Err(why) => Target::Unresolved(why.clone()),
        };
        route.backends.push(Backend { weight: divided.rest, sticky: sticky.to_owned(), target });
        let weighted = chosen.releases().filter(|release| release.canary.share > 0);
        for (release, weight) in weighted.zip(divided.canaries) {
            let sticky = match (cookie, &release.canary.cookie) {
                (Some(cookie), Some(own)) if own.rule.cookie == cookie.rule.cookie => &own.canary,
                _ => sticky,
            };
            let target = Target::EndpointSet(release.set);
            route.backends.push(Backend { weight, sticky: sticky.to_owned(), target });
        }
    }
    if let Some(cookie) = cookie {
        route.rules.stickiness = Some(cookie.rule.clone());
    }
    if sent_on {
        route.mirrors.extend(copies(chosen));
    }
    route
}

/// What keeps users on their side; of several releases the first that says it, for a route gives one cookie.
fn cookie<'a>(chosen: &[Chosen<'a>]) -> Option<&'a Cookie> {
    canaries(chosen).into_iter().find_map(|canary| canary.cookie.as_ref())
}

/// Copies for canaries without a share. A release gets one mirror however many parts of a Service's port it serves, so that no request is copied
/// for one part and again for another.
fn copies(chosen: &[Chosen<'_>]) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    let mut done = Vec::new();
    for part in chosen.iter().flat_map(|c| &c.part) {
        let is_same = |other: &Part<'_>| other.service == part.service && other.port.port == part.port.port;
        for Release { canary, set, .. } in &part.releases {
            let key = (&canary.name, &part.service, part.port.port);
            let Some(dark) = canary.dark.filter(|_| !done.contains(&key)) else { continue };
            done.push(key);
            let of = |other: &Part<'_>, release: &Release<'_>| {
                if is_same(other) && release.canary.name == canary.name { dark.share } else { 0 }
            };
            let share = share_of_route(&chosen.iter().map(|c| c.undivided(of)).collect::<Vec<_>>());
            if share > 0 {
                mirrors.push(Mirror { endpoint_set: *set, share, copies: dark.copies, counted: true });
            }
        }
    }
    mirrors
}

impl<'a> Chosen<'a> {
    fn releases(&self) -> impl Iterator<Item = Release<'a>> {
        self.part.iter().flat_map(|part| part.releases.iter().copied())
    }

    /// With those of its releases that have a share by `share`.
    fn undivided(&self, share: impl Fn(&Part<'_>, &Release<'_>) -> u32) -> Undivided {
        let releases = self.part.iter().flat_map(|part| {
            let of = |release: &Release<'_>| split::Release { share: share(part, release), stable: release.stable };
            part.releases.iter().map(of).filter(|release| release.share > 0).collect::<Vec<_>>()
        });
        Undivided {
            weight: self.weight,
            endpoints: self.part.as_ref().map_or(0, |part| part.endpoints),
            releases: releases.collect(),
        }
    }

    /// For requests that this release's canary alone gets: all of the backend leads to it, if its Deployment is there.
    fn given_to(&self, canary: &Canary) -> Self {
        let mut given = self.clone();
        if let Ok(part) = &mut given.part
            && let Some(release) = part.releases.iter().find(|release| release.canary.name == canary.name)
        {
            part.set = release.set;
            part.releases.clear();
        }
        given
    }
}
