//! The health port: where the kubelet asks.
//!
//! Under Strict the kubelet could not reach the application, having no identity. So the injector points its probes here, and the proxy
//! asks the application from inside the pod, exactly what the pod declared ([`probes`]) and nothing else. `/ready` says whether the proxy
//! itself serves.

mod grpc;
mod http_probe;
pub mod probes;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
    time::timeout,
};

pub use self::probes::Probes;
use self::probes::{Check, Probe};
use crate::admin::{
    Phase,
    serve::{Answer, text},
};

/// On all addresses. Never captured.
pub const PORT: u16 = 15020;
/// How much of an application's answer is passed on: enough for the message that an operator of it looks for.
const MAX_BODY: usize = 1024;

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    status: StatusCode,
    body: Bytes,
}

impl Outcome {
    fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self { status, body: body.slice(..body.len().min(MAX_BODY)) }
    }
}

/// Answers the health port.
#[derive(Debug, Clone)]
pub struct Health {
    phase: watch::Receiver<Phase>,
    probes: Arc<Probes>,
    pod: IpAddr,
}

impl Health {
    /// `pod` is the pod's own address, the one the kubelet would probe; without one (outside a cluster), loopback.
    pub fn new(phase: watch::Receiver<Phase>, probes: Probes, pod: Option<IpAddr>) -> Self {
        Self { phase, probes: Arc::new(probes), pod: pod.unwrap_or(Ipv4Addr::LOCALHOST.into()) }
    }

    /// The longest that a declared probe may take.
    pub fn longest(&self) -> Duration {
        self.probes.longest()
    }

    /// Answers one request.
    pub async fn answer(self, request: Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        }
        let path = request.uri().path();
        if path == "/ready" {
            return self.phase.borrow().answer();
        }
        let Some(probe) = path.strip_prefix("/probe/").and_then(|name| self.probes.get(name)) else {
            return text(StatusCode::NOT_FOUND, "this pod declares no such probe");
        };
        let outcome = probe_app(probe, self.pod, request.headers().get(header::USER_AGENT)).await;
        let mut answer = Answer::new(outcome.body.into());
        *answer.status_mut() = outcome.status;
        answer
    }
}

/// Asks the application, within the time that was declared. `user_agent` is the kubelet's.
async fn probe_app(probe: &Probe, pod: IpAddr, user_agent: Option<&HeaderValue>) -> Outcome {
    let asked = async {
        match &probe.check {
            Check::Http(http) => http_probe::ask(http, probe.port, pod, user_agent).await,
            Check::Tcp { host } => match connect(host.as_deref(), probe.port, pod).await {
                Ok(_) => Outcome::new(StatusCode::OK, "connected\n"),
                Err(error) => unreachable_app(&error),
            },
            Check::Grpc { service } => grpc::ask(service, SocketAddr::new(pod, probe.port)).await,
        }
    };
    timeout(probe.timeout, asked).await.unwrap_or_else(|_| {
        let reason = format!("no answer from port {} within {:?}\n", probe.port, probe.timeout);
        Outcome::new(StatusCode::GATEWAY_TIMEOUT, reason)
    })
}

/// Dials what a probe is for: the pod, unless it names a host of its own.
async fn connect(host: Option<&str>, port: u16, pod: IpAddr) -> io::Result<TcpStream> {
    match host {
        None => TcpStream::connect((pod, port)).await,
        Some(host) => {
            let mut error = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in lookup_host((host, port)).await? {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(failed) => error = failed,
                }
            }
            Err(error)
        }
    }
}

fn unreachable_app(error: &io::Error) -> Outcome {
    let reason = format!("the application cannot be reached: {error}\n");
    Outcome::new(StatusCode::SERVICE_UNAVAILABLE, reason)
}

#[cfg(test)]
mod tests;
