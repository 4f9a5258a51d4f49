//! Whether a request costs more where more is configured: the steps that look something up, each with little and with much to look in.
//! Prints a JSON list of step, what there is of, how many, and nanoseconds of each round.
//!
//! Rounds of little and much take turns, so that a busy machine slows both.

use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use fairlead_proxy::balance::set::{Behaviour, EndpointSet};
use fairlead_proxy::balance::{self, Endpoint, Load};
use fairlead_proxy::config::Destinations;
use fairlead_proxy::http::Fields;
use fairlead_proxy::route::{self, Destination, RequestHead};
use fairlead_proxy_api::v1;
use http::{HeaderMap, Method, Uri};
use tokio::time::Instant;

const ROUNDS: usize = 9;
/// Of one round: long beside the clock, short beside what else the machine does.
const ROUND: Duration = Duration::from_millis(20);
/// Calls between two looks at the clock.
const BATCH: u32 = 64;
/// Requests differ, or the processor would learn the one there is.
const REQUESTS: usize = 64;

/// A step with so much to look in.
struct Case {
    step: &'static str,
    of: &'static str,
    count: usize,
    call: Box<dyn FnMut(usize)>,
    rounds: Vec<f64>,
}

impl Case {
    fn new(step: &'static str, of: &'static str, count: usize, call: impl FnMut(usize) + 'static) -> Self {
        Self { step, of, count, call: Box::new(call), rounds: Vec::new() }
    }

    fn round(&mut self) {
        let began = Instant::now();
        let mut calls = 0;
        while began.elapsed() < ROUND {
            for n in 0..BATCH {
                (self.call)(black_box((calls + n) as usize % REQUESTS));
            }
            calls += BATCH;
        }
        self.rounds.push(began.elapsed().as_nanos() as f64 / f64::from(calls));
    }
}

fn main() {
    let mut cases = Vec::new();
    for count in [1, 1000] {
        cases.push(Case::new("route by exact path", "routes", count, routes(count, exact)));
        cases.push(Case::new("route by prefix", "routes", count, routes(count, prefix)));
        cases.push(Case::new("route by header", "routes", count, routes(count, header)));
    }
    for count in [2, 1000] {
        cases.push(Case::new("endpoint", "endpoints", count, endpoints(count)));
    }
    for count in [1, 5000] {
        cases.push(Case::new("destination", "Services", count, destinations(count)));
    }
    // The first round of each warms caches.
    for _ in 0..=ROUNDS {
        cases.iter_mut().for_each(Case::round);
    }
    let list: Vec<_> = cases
        .iter()
        .map(|case| serde_json::json!({"step": case.step, "of": case.of, "count": case.count, "rounds": case.rounds[1..]}))
        .collect();
    println!("{}", serde_json::Value::from(list));
}

fn exact(n: usize) -> v1::Match {
    path(v1::path_match::Kind::Exact(format!("/api/v1/items-{n}/details")))
}

fn prefix(n: usize) -> v1::Match {
    path(v1::path_match::Kind::Prefix(format!("/api/v1/items-{n}")))
}

fn path(kind: v1::path_match::Kind) -> v1::Match {
    v1::Match { path: Some(v1::PathMatch { kind: Some(kind) }), ..v1::Match::default() }
}

fn header(n: usize) -> v1::Match {
    let kind = Some(v1::header_match::Kind::Exact(format!("tenant-{n}")));
    v1::Match {
        headers: vec![v1::HeaderMatch { name: "x-tenant".into(), kind, ..v1::HeaderMatch::default() }],
        ..v1::Match::default()
    }
}

/// Finds the route of requests that are spread over all of them.
fn routes(count: usize, entry: fn(usize) -> v1::Match) -> impl FnMut(usize) {
    let backend = || v1::Backend { weight: 1, target: Some(v1::backend::Target::EndpointSet(0)) };
    let route = |matches| v1::Route { matches, backends: vec![backend()], ..v1::Route::default() };
    let service = v1::Service {
        namespace: "lab".into(),
        name: "server".into(),
        port: 80,
        routes: (0..count).map(|n| route(vec![entry(n)])).chain([route(vec![])]).collect(),
        endpoint_sets: vec![v1::EndpointSet::default()],
        opaque_backends: vec![backend()],
        ..v1::Service::default()
    };
    let message = v1::Destination { kind: Some(v1::destination::Kind::Service(service)) };
    let compiled = route::compile(None, message).unwrap_or_else(|error| panic!("{error}"));
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| {
            let n = n * count / REQUESTS;
            let mut headers = HeaderMap::new();
            for (name, value) in [("host", "server"), ("user-agent", "lab"), ("accept", "*/*")] {
                headers.insert(name, http::HeaderValue::from_static(value));
            }
            if let Ok(value) = format!("tenant-{n}").parse() {
                headers.insert("x-tenant", value);
            }
            let uri: Uri = format!("/api/v1/items-{n}/details").parse().unwrap_or_default();
            (uri, Fields::from(headers))
        })
        .collect();
    move |n| {
        let Destination::Service(service) = &compiled else { return };
        let (uri, headers) = &requests[n];
        black_box(service.route(&RequestHead::new(&Method::GET, uri, headers)));
    }
}

/// Chooses an endpoint.
fn endpoints(count: usize) -> impl FnMut(usize) {
    let all: Vec<_> = (0..count)
        .map(|n| {
            let load = Arc::new(Load::default());
            load.observe(Duration::from_micros(500 + n as u64), Instant::now());
            Arc::new(Endpoint::new(address(n), None, "", "", load))
        })
        .collect();
    let set = EndpointSet::new("lab".into(), all, Behaviour::default(), Arc::default());
    move |_| {
        black_box(set.pick(&[], None, balance::random(), Instant::now()));
    }
}

/// Finds the destination of an address where so many were called. A proxy keeps a part of them, which is what is looked for.
fn destinations(count: usize) -> impl FnMut(usize) {
    let destinations = Destinations::new();
    let nothing = v1::Destination { kind: Some(v1::destination::Kind::PassThrough(v1::PassThrough {})) };
    for n in 0..count {
        // It is kept or not; neither can fail.
        let _ = destinations.restore(address(n), "1", nothing.clone());
    }
    let kept: Vec<_> = destinations.list().into_iter().map(|(address, ..)| address).collect();
    move |n| {
        let mut get = pin!(destinations.get(kept[n * kept.len() / REQUESTS]));
        // Its answer is known, so it does not wait.
        let found = get.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(black_box(found).is_ready());
    }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 96, (n / 250) as u8, (n % 250) as u8 + 1], 80))
}
