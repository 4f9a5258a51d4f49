//! The admin port: what this proxy is doing, for people and scrapers inside the pod.
//!
//! It listens on loopback alone. [`Admin::answer`] is its one call; [`serve`] carries it, and the health port as well.

pub mod serve;
mod view;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::watch;

use self::serve::{Answer, text};
use crate::{
    config::{Destinations, OwnWorkload, stream::Connection},
    identity::Identity,
    telemetry::Telemetry,
};

/// On 127.0.0.1. Never captured.
pub const PORT: u16 = 15000;

/// How far the proxy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has no certificate yet.
    Certifying,
    /// The operator has not said yet how arriving traffic is treated.
    Configuring,
    /// It serves.
    Ready,
    /// It was asked to end.
    Draining,
}

impl Phase {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Certifying => "waiting for a certificate from the operator",
            Self::Configuring => "waiting for the first configuration from the operator",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }

    /// The answer to `/ready`.
    pub fn answer(self) -> Answer {
        let status = if self == Self::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(status, self.describe())
    }
}

/// What the admin port reads.
#[derive(Clone)]
pub struct Admin {
    /// How far the proxy has come.
    pub phase: watch::Receiver<Phase>,
    /// Once there is one.
    pub identity: watch::Receiver<Option<Arc<Identity>>>,
    /// How it stands with the operator.
    pub connection: watch::Receiver<Connection>,
    /// `host:port`.
    pub operator: String,
    /// How arriving traffic is treated.
    pub workload: Arc<OwnWorkload>,
    /// What the application talks to.
    pub destinations: Arc<Destinations>,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
}

impl Admin {
    /// Answers one request.
    pub fn answer(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        }
        match request.uri().path() {
            "/ready" => self.phase.borrow().answer(),
            "/live" => text(StatusCode::OK, "alive"),
            "/metrics" => match self.telemetry.render() {
                Ok(metrics) => typed("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written"),
            },
            "/config" => typed("application/json", format!("{:#}\n", view::config(self))),
            _ => text(StatusCode::NOT_FOUND, "there is /ready, /live, /metrics and /config"),
        }
    }
}

fn typed(content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(body.into());
    let content_type = header::HeaderValue::from_static(content_type);
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer
}

#[cfg(test)]
mod tests;
