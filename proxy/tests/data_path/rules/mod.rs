//! What routes do with requests.

use fairlead_proxy_api::v1;

use crate::support::*;

mod answers;
mod changes;
mod cors;
mod faults;
mod http2;
mod matches;
mod mirror;
mod stickiness;

/// A client's sidecar, plain applications behind it: one for each set of the service.
async fn routed(routes: Vec<v1::Route>, answers: &[&'static str]) -> Sidecar {
    let mut sets = Vec::new();
    for answer in answers {
        let app = App::answering(answer).await;
        sets.push(vec![endpoint(app.address, "")]);
    }
    let mut service = service(sets);
    // The last route is the one to the first set.
    service.routes.splice(0..0, routes);
    client_of(&Authority::new(), service)
}

/// A client's sidecar with one route, and an application behind it that answers with the request's head.
async fn echoed(route: v1::Route) -> Sidecar {
    let app = App::mirror().await;
    let mut service = service(vec![vec![endpoint(app.address, "")]]);
    service.routes = vec![v1::Route { backends: vec![backend(1, 0)], ..route }];
    client_of(&Authority::new(), service)
}

/// A route that takes every request and needs no endpoint.
fn whole(route: v1::Route) -> Vec<v1::Route> {
    let everything = v1::Match { path: Some(prefix("/")), ..v1::Match::default() };
    vec![v1::Route { matches: vec![everything], ..route }]
}

fn prefix(prefix: &str) -> v1::PathMatch {
    v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix(prefix.into())) }
}

fn header(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.into(), value: value.into() }
}

/// The value of a header of a response; names are compared without regard to case.
fn value<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let head = response.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
