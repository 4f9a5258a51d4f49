//! What the proxy counts.
//!
//! [`Telemetry`] is made once in `main` and shared. The data path asks for a [`Requests`] (one Service or port) once per connection and
//! then only adds to atomics; `admin` calls [`Telemetry::render`]. The number of series is bounded: services beyond
//! [`MAX_SERVICES`] share one named `other`.

pub mod access;
mod collect;
mod family;
pub mod groups;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::StatusCode;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;

use self::access::AccessLog;
pub use self::groups::Groups;
use crate::http::Reason;

/// How many services and ports have series of their own. A pod that talks to more is a gateway, and its scraper would suffer first.
pub const MAX_SERVICES: usize = 300;

/// Upper bounds of the latency histogram in seconds: 0.5 ms to 10 s, enough to read a p99 within a factor of 2.
pub const LATENCY_BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Declares an enum that is a metric's label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

mod authorized;
mod cut_off;
mod limits;
mod mirrored;
mod outliers;
mod plain_callers;
mod tries;

pub use self::authorized::{Authorized, Outcome};
pub use self::cut_off::{CutOff, CutOffs};
pub use self::limits::{Limit, Limited};
pub use self::mirrored::{MirrorOutcome, Mirrored};
pub use self::outliers::{OutlierEvent, Outliers};
pub use self::plain_callers::{PlainCallers, PlainConnection};
pub use self::tries::{NoTry, Tries, TryFailed};

label! {
    /// Which way a connection goes, as the pod sees it.
    Direction {
        /// The application called.
        Outbound = "outbound",
        /// The application is called.
        Inbound = "inbound",
    }
}

label! {
    /// Whether the sides of a connection proved who they are.
    Tls {
        /// They did not.
        None = "none",
        /// They did.
        Mutual = "mutual",
        /// The endpoint did, which is not in the mesh.
        Originated = "originated",
    }
}

label! {
    /// How a connection is treated.
    Transport {
        /// Requests of HTTP/1.
        Http1 = "http1",
        /// Requests of HTTP/2.
        Http2 = "http2",
        /// Bytes.
        Opaque = "opaque",
        /// Bytes to an address that the mesh does not know.
        PassThrough = "pass-through",
    }
}

label! {
    /// Why a connection was refused.
    Refusal {
        /// It was addressed to the proxy's own port, or its destination could not be read.
        Loop = "loop",
        /// There were as many as the proxy allows already.
        Limit = "limit",
        /// Policy demands authentication, and it came without.
        Plaintext = "plaintext",
        /// A rule does not allow it.
        Policy = "policy",
        /// The pod is a canary and there is no stable endpoint to hand the caller to.
        Handover = "handover",
        /// Nothing could be connected to.
        Connect = "connect",
        /// The destination has no endpoint for it.
        NoEndpoints = "no-endpoints",
        /// The destination has as many connections as its policy allows.
        Overload = "overload",
    }
}

label! {
    /// Why a TLS handshake failed, between proxies or with an endpoint outside the mesh.
    Handshake {
        /// The peer's certificate was not accepted: foreign, expired, of another identity, or absent.
        Certificate = "certificate",
        /// The peer did not accept ours.
        Rejected = "rejected",
        /// No common protocol or version.
        Protocol = "protocol",
        /// It took too long.
        Timeout = "timeout",
        /// The peer closed the connection, or it broke.
        Closed = "closed",
    }
}

impl Handshake {
    /// Reads the cause from what the handshake returned.
    pub fn from_error(error: &std::io::Error) -> Self {
        use rustls::{AlertDescription as Alert, Error};
        if error.kind() == std::io::ErrorKind::TimedOut {
            return Self::Timeout;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => Self::Certificate,
            Some(Error::AlertReceived(Alert::NoApplicationProtocol | Alert::ProtocolVersion)) => Self::Protocol,
            Some(Error::AlertReceived(_)) => Self::Rejected,
            Some(_) => Self::Protocol,
            None => Self::Closed,
        }
    }
}

/// How many classes of status codes there are (1xx to 5xx).
const CLASSES: usize = 5;

/// Counters of one Service (outbound) or port (inbound).
#[derive(Debug)]
pub struct Requests {
    // By Tls and class of the status, of endpoints' answers.
    answered: [[AtomicU64; CLASSES]; Tls::ALL.len()],
    // By Tls, Reason and class of the status, of the proxy's own answers.
    own: [[[AtomicU64; CLASSES]; Reason::ALL.len()]; Tls::ALL.len()],
    delayed: AtomicU64,
    /// Copies of requests.
    pub mirrored: Mirrored,
    /// Tries after the first.
    pub tries: Tries,
    /// Endpoints that were left out.
    pub outliers: Outliers,
    /// What was over a limit.
    pub limited: Limited,
    /// Answers without their end.
    pub cut_off: CutOffs,
    latency: Latency,
}

#[derive(Debug, Default)]
struct Latency {
    // Not cumulative; the last one is beyond every bound.
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Requests {
    fn new() -> Self {
        Self {
            answered: Default::default(),
            own: Default::default(),
            delayed: AtomicU64::new(0),
            mirrored: Mirrored::default(),
            tries: Tries::default(),
            outliers: Outliers::default(),
            limited: Limited::default(),
            cut_off: CutOffs::default(),
            latency: Latency::default(),
        }
    }

    /// An endpoint answered; `latency` is from the request's first byte to the last of the response head.
    pub fn answered(&self, tls: Tls, status: StatusCode, latency: Duration) {
        self.answered[tls as usize][class(status)].fetch_add(1, Relaxed);
        self.observe(latency);
    }

    /// The proxy answered itself.
    pub fn own(&self, tls: Tls, reason: Reason, latency: Duration) {
        self.own_with(tls, reason, reason.status(), latency);
    }

    /// The proxy answered itself, with a status that a route says.
    pub fn own_with(&self, tls: Tls, reason: Reason, status: StatusCode, latency: Duration) {
        self.own[tls as usize][reason as usize][class(status)].fetch_add(1, Relaxed);
        self.observe(latency);
    }

    /// A request was held up on purpose.
    pub fn delayed(&self) {
        self.delayed.fetch_add(1, Relaxed);
    }

    fn observe(&self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let index = LATENCY_BOUNDS.partition_point(|bound| *bound < seconds);
        self.latency.buckets[index].fetch_add(1, Relaxed);
        self.latency.micros.fetch_add(latency.as_micros() as u64, Relaxed);
    }
}

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1
}

/// Counts of everything that is not a request; bounded by the enums they are indexed with.
#[derive(Debug, Default)]
struct Counters {
    // By Direction, Transport, Tls.
    connections: [[[AtomicU64; Tls::ALL.len()]; 4]; 2],
    open: [[[AtomicI64; Tls::ALL.len()]; 4]; 2],
    // By Direction: received from and sent to the one who connected, of opaque connections.
    received: [AtomicU64; 2],
    sent: [AtomicU64; 2],
    refused: [[AtomicU64; Refusal::ALL.len()]; 2],
    handshakes: [[AtomicU64; 5]; 2],
    handovers: AtomicU64,
}

type Services = HashMap<(Direction, Arc<str>), Arc<Requests>>;

#[derive(Default)]
struct Tables {
    services: RwLock<Services>,
    authorized: Authorized,
    counters: Counters,
}

/// The proxy's metrics and the counters of releases.
pub struct Telemetry {
    registry: Mutex<Registry>,
    tables: Arc<Tables>,
    /// What releases are judged by.
    pub groups: Groups,
    /// Whom mutual TLS would cut off.
    pub plain_callers: PlainCallers,
    /// A line for each request, if somebody wants it.
    pub access: AccessLog,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// A connection that is open; counted as such until dropped.
#[derive(Debug)]
pub struct Open {
    tables: Arc<Tables>,
    place: (Direction, Transport, Tls),
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tables")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (direction, transport, tls) = self.place;
        self.tables.counters.open[direction as usize][transport as usize][tls as usize].fetch_sub(1, Relaxed);
    }
}

impl Telemetry {
    /// With every counter at zero, and without an access log.
    pub fn new() -> Self {
        Self::with_access_log(AccessLog::default())
    }

    /// With every counter at zero.
    pub fn with_access_log(access: AccessLog) -> Self {
        let tables = Arc::new(Tables::default());
        let mut registry = Registry::with_prefix("fairlead_proxy");
        registry.register_collector(Box::new(collect::Collect { tables: tables.clone(), access: access.clone() }));
        Self {
            registry: Mutex::new(registry),
            tables,
            groups: Groups::default(),
            plain_callers: PlainCallers::default(),
            access,
        }
    }

    /// Adds metrics of other parts of the proxy; their names get the prefix `fairlead_proxy_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// Everything, as `OpenMetrics` text.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }

    /// The counters of one Service or port, or those of `other` when there are [`MAX_SERVICES`]. Takes a lock: once per connection.
    pub fn requests(&self, direction: Direction, name: &Arc<str>) -> Arc<Requests> {
        let key = (direction, name.clone());
        if let Some(found) = self.tables.services.read().get(&key) {
            return found.clone();
        }
        let mut services = self.tables.services.write();
        let key = if services.len() >= MAX_SERVICES { (direction, Arc::from("other")) } else { key };
        services.entry(key).or_insert_with(|| Arc::new(Requests::new())).clone()
    }

    /// A connection begins.
    pub fn open(&self, direction: Direction, transport: Transport, tls: Tls) -> Open {
        let counters = &self.tables.counters;
        let [d, t, m] = [direction as usize, transport as usize, tls as usize];
        counters.connections[d][t][m].fetch_add(1, Relaxed);
        counters.open[d][t][m].fetch_add(1, Relaxed);
        Open { tables: self.tables.clone(), place: (direction, transport, tls) }
    }

    /// A connection was refused.
    pub fn refused(&self, direction: Direction, refusal: Refusal) {
        self.tables.counters.refused[direction as usize][refusal as usize].fetch_add(1, Relaxed);
    }

    /// A handshake between proxies failed, or one with an endpoint outside the mesh.
    pub fn handshake_failed(&self, direction: Direction, why: Handshake) {
        self.tables.counters.handshakes[direction as usize][why as usize].fetch_add(1, Relaxed);
    }

    /// What rules did.
    pub fn authorized(&self) -> &Authorized {
        &self.tables.authorized
    }

    /// A plain caller of a canary was handed to the stable version.
    pub fn handed_over(&self) {
        self.tables.counters.handovers.fetch_add(1, Relaxed);
    }

    /// Bytes of an opaque connection: received from who connected, and sent to it.
    pub fn copied(&self, direction: Direction, received: u64, sent: u64) {
        let counters = &self.tables.counters;
        counters.received[direction as usize].fetch_add(received, Relaxed);
        counters.sent[direction as usize].fetch_add(sent, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered_once_each() {
        let telemetry = Telemetry::new();
        let name: Arc<str> = "bookinfo/reviews:9080".into();
        let requests = telemetry.requests(Direction::Outbound, &name);
        requests.answered(Tls::Mutual, StatusCode::OK, Duration::from_millis(3));
        requests.own(Tls::None, Reason::NoEndpoints, Duration::from_millis(1));
        let open = telemetry.open(Direction::Inbound, Transport::Http2, Tls::Mutual);
        telemetry.refused(Direction::Inbound, Refusal::Plaintext);
        telemetry.handshake_failed(Direction::Inbound, Handshake::Certificate);

        let text = telemetry.render().unwrap();
        for line in [
            r#"fairlead_proxy_requests_total{direction="outbound",service="bookinfo/reviews:9080",tls="mutual",class="2xx",reason=""} 1"#,
            r#"fairlead_proxy_requests_total{direction="outbound",service="bookinfo/reviews:9080",tls="none",class="5xx",reason="no-endpoints"} 1"#,
            r#"fairlead_proxy_connections_open{direction="inbound",protocol="http2",tls="mutual"} 1"#,
            r#"fairlead_proxy_connections_refused_total{direction="inbound",reason="plaintext"} 1"#,
            r#"fairlead_proxy_handshakes_failed_total{direction="inbound",reason="certificate"} 1"#,
            r#"fairlead_proxy_request_duration_seconds_bucket{le="0.005",direction="outbound",service="bookinfo/reviews:9080"} 2"#,
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line}\nin\n{text}");
        }
        drop(open);
        assert!(
            !telemetry
                .render()
                .unwrap()
                .contains(r#"connections_open{direction="inbound",protocol="http2",tls="mutual"} 1"#)
        );
    }

    #[test]
    fn services_beyond_the_bound_share_one_series() {
        let telemetry = Telemetry::new();
        for n in 0..MAX_SERVICES + 5 {
            telemetry.requests(Direction::Outbound, &format!("ns/{n}:80").into()).answered(
                Tls::None,
                StatusCode::OK,
                Duration::ZERO,
            );
        }
        let text = telemetry.render().unwrap();
        assert!(text.contains(r#"service="other",tls="none",class="2xx",reason=""} 5"#), "{text}");
        assert!(telemetry.tables.services.read().len() <= MAX_SERVICES + 2);
    }
}
