//! Requests of the proxy's own: to endpoints that were left out, and to those that a policy has checked.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{self as balance, Endpoint, set::EndpointSet};
use crate::{
    config::Destinations,
    identity::{Alpn, Identity},
    route::Destination,
    tcp::connect,
    telemetry::{Direction, Telemetry},
};

/// Probes at the same time: more would be a burst of handshakes.
const AT_ONCE: usize = 16;

/// Checks at the same time. Those that find no room wait for the next look, so that endpoints that hang cost a bounded number of connections.
const CHECKS_AT_ONCE: usize = 64;

/// How often is looked for endpoints whose time is over.
const EVERY: Duration = Duration::from_millis(500);

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What probes need.
pub struct Prober {
    /// Where endpoints are.
    pub destinations: Arc<Destinations>,
    /// Proves who asks.
    pub identity: Arc<Identity>,
    /// Counts who returns.
    pub telemetry: Arc<Telemetry>,
    /// Of the pod.
    pub own_addresses: Vec<IpAddr>,
}

impl Prober {
    /// Asks for as long as it is polled.
    pub async fn run(self) {
        let prober = Arc::new(self);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let checks = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for (service, set, path) in prober.sets() {
                let due: Vec<_> = set
                    .ejected()
                    .filter(|e| places.available_permits() > 0 && e.health.claim(Instant::now()))
                    .cloned()
                    .collect();
                for endpoint in due {
                    let Ok(place) = places.clone().acquire_owned().await else { return };
                    let (prober, service, set, path) = (prober.clone(), service.clone(), set.clone(), path.clone());
                    tokio::spawn(async move {
                        let well = prober.ask(&endpoint, &path, PATIENCE).await;
                        if let Some(event) = set.record(&endpoint, true, !well, Instant::now()) {
                            tracing::debug!(set = set.name, address = %endpoint.address, ?event, "asked an endpoint that was left out");
                            prober.telemetry.requests(Direction::Outbound, &service).outliers.count(event);
                        }
                        drop(place);
                    });
                }
            }
            prober.check(&checks, balance::random);
        }
    }

    /// Begins the checks that are due.
    fn check(self: &Arc<Self>, places: &Arc<Semaphore>, random: fn() -> u64) {
        let now = Instant::now();
        self.destinations.each(|destination| {
            let Destination::Service(service) = destination else { return };
            for (set, check) in service.sets.iter().filter_map(|set| Some((set, set.check()?))) {
                for endpoint in &set.endpoints {
                    if places.available_permits() == 0 || !endpoint.health.claim_check(check, random(), now) {
                        continue;
                    }
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let (prober, service) = (self.clone(), service.name.clone());
                    let (set, endpoint, check) = (set.clone(), endpoint.clone(), check.clone());
                    tokio::spawn(async move {
                        let well = prober.ask(&endpoint, &check.path, check.timeout).await;
                        if let Some(event) = set.record_check(&endpoint, well, Instant::now()) {
                            tracing::info!(set = set.name, address = %endpoint.address, ?event, "checks found an endpoint changed");
                            prober.telemetry.requests(Direction::Outbound, &service).outliers.count(event);
                        }
                        drop(place);
                    });
                }
            }
        });
    }

    fn sets(&self) -> Vec<(Arc<str>, Arc<EndpointSet>, PathAndQuery)> {
        let mut found = Vec::new();
        self.destinations.each(|destination| {
            if let Destination::Service(service) = destination {
                for set in &service.sets {
                    if let Some(path) = set.probe() {
                        found.push((service.name.clone(), set.clone(), path.clone()));
                    }
                }
            }
        });
        found
    }

    /// Whether a GET is answered with 200 to 399 in time.
    async fn ask(&self, endpoint: &Endpoint, path: &PathAndQuery, limit: Duration) -> bool {
        let reached = endpoint.seen_from(&self.own_addresses);
        let endpoint = reached.as_ref().unwrap_or(endpoint);
        let asked = async {
            let mut connection =
                connect::endpoint(&self.identity, &self.telemetry, endpoint, Alpn::Http1).await.ok()?.stream;
            let host = match &endpoint.origination {
                // Servers that many share tell by it what is asked for.
                Some(origination) => origination.server_name().to_owned(),
                None => endpoint.address.to_string(),
            };
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fairlead-proxy/{}\r\nConnection: close\r\n\r\n",
                env!("CARGO_PKG_VERSION"),
            );
            connection.write_all(request.as_bytes()).await.ok()?;
            let mut line = [0; 12];
            connection.read_exact(&mut line).await.ok()?;
            let status = line.strip_prefix(b"HTTP/1.")?.get(2..)?;
            Some(matches!(status, [b'2' | b'3', b'0'..=b'9', b'0'..=b'9']))
        };
        timeout(limit, asked).await.ok().flatten().unwrap_or(false)
    }
}
