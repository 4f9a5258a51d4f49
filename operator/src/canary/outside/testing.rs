//! A server on the loopback, and time that moves only when a test moves it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use fairlead_crds::{CheckPhase, Percent};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::about::{ApiVersion, Asked, CheckBody, Names};
use crate::outbound::Outbound;

/// How a server answers a request.
#[derive(Clone)]
pub(super) enum Answer {
    /// With a body that nobody must repeat.
    Status(u16),
    /// 200, with this.
    Body(String),
    /// To another place.
    Redirect(String),
    /// Never.
    Silence,
}

/// A request as the server saw it.
#[derive(Clone)]
pub(super) struct Heard {
    pub(super) line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

pub(super) struct Server {
    pub(super) port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    /// Answers in this order; the last answer is given again and again.
    pub(super) async fn start(answers: impl Into<Vec<Answer>>) -> Self {
        let answers = answers.into();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let hears = Arc::clone(&heard);
        let router = Router::new().fallback(move |request: Request| {
            let (hears, answers) = (Arc::clone(&hears), answers.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                let line = format!("{} {}", head.method, head.uri);
                let at = {
                    let mut heard = hears.lock();
                    heard.push(Heard { line, headers: head.headers, body });
                    heard.len() - 1
                };
                answer(answers.get(at).or(answers.last()).unwrap()).await
            }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, heard }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://gate.shop:{}{path}", self.port)
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.heard.lock().len()
    }
}

async fn answer(answer: &Answer) -> Response {
    let builder = Response::builder().header("x-said", "s3cr3t");
    match answer {
        Answer::Status(status) => builder.status(*status).body(Body::from("s3cr3t")),
        Answer::Body(body) => builder.body(Body::from(body.clone())),
        Answer::Redirect(to) => builder.status(302).header("location", to).body(Body::empty()),
        Answer::Silence => std::future::pending().await,
    }
    .unwrap()
}

/// Every name leads to the loopback.
pub(super) fn outbound() -> Outbound {
    Outbound::leading_to(vec![Ipv4Addr::LOCALHOST.into()])
}

/// Waits for sockets and tasks, and moves no clock: a runtime that is busy does not let time that is paused run.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3_000_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("not so in time: {what}");
}

/// Lets whatever is going on come to rest.
pub(super) async fn settle() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn seconds(seconds: u64) {
    // Timers are as coarse as a millisecond.
    tokio::time::advance(Duration::from_millis(seconds * 1000 + 2)).await;
    settle().await;
}

pub(super) fn asked() -> Asked {
    Asked {
        namespace: "shop".into(),
        canary: "reviews".into(),
        uid: "0f".into(),
        revision: "5d8f".into(),
        number: 1_800_000_000,
    }
}

pub(super) fn names() -> Names {
    Names {
        namespace: "shop".into(),
        workload: "reviews".into(),
        canary: "reviews-canary".into(),
        revision: "5d8f".into(),
    }
}

pub(super) fn body() -> CheckBody {
    CheckBody {
        api_version: ApiVersion::default(),
        phase: CheckPhase::Step,
        namespace: "shop".into(),
        canary: "reviews".into(),
        workload: "reviews".into(),
        revision: "5d8f".into(),
        stable_revision: None,
        step: Some(0),
        weight: Percent::ZERO,
    }
}
