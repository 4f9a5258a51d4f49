//! Connections that are forwarded as bytes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use super::{Outgoing, reachable};
use crate::{
    accept::Worker,
    balance::{self, Endpoint, InFlight, pool::Opaque, set::EndpointSet},
    route::{Destination, Target},
    tcp::{
        self, Stream,
        connect::{self, ConnectError},
        copy,
    },
    telemetry::{Direction, Refusal, Tls, Transport},
};

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;

/// A connection to an endpoint, for bytes.
pub(super) struct Upstream {
    pub(super) connection: Opaque,
    tls: Tls,
    _in_flight: InFlight,
}

/// Connects to one of the destination's endpoints; if it fails, to another. `None` is counted and logged.
pub(super) async fn connect(outgoing: &Outgoing<'_>) -> Option<Upstream> {
    let worker = outgoing.worker;
    let telemetry = &worker.mesh.telemetry;
    let mut failed: Vec<SocketAddr> = Vec::new();
    let random = balance::random();
    for _ in 0..ATTEMPTS {
        let destination = outgoing.destination.load_full();
        let Some((endpoint, picked)) = choose(&destination, outgoing.original, random, &failed) else {
            telemetry.refused(Direction::Outbound, Refusal::NoEndpoints);
            tracing::debug!(address = %outgoing.original, "there is no endpoint for a connection");
            return None;
        };
        let endpoint = reachable(&worker.mesh, &endpoint);
        let mut in_flight = endpoint.load.begin();
        let began = Instant::now();
        match worker.pool.opaque(&worker.dialler, &endpoint).await {
            Ok(connection) => {
                let now = Instant::now();
                endpoint.load.observe(now - began, now);
                settle(outgoing, picked, false, now);
                in_flight.heard();
                return Some(Upstream { connection, tls: tls(&endpoint), _in_flight: in_flight });
            }
            Err(ConnectError::Full(full)) => {
                in_flight.heard();
                tracing::debug!(address = %outgoing.original, %full, "there is no room for a connection");
                telemetry.refused(Direction::Outbound, Refusal::Overload);
                if let Some(chosen) = picked {
                    telemetry.requests(Direction::Outbound, &chosen.service).limited.count(full.limit);
                }
                return None;
            }
            Err(error) => {
                endpoint.load.fail(Instant::now());
                settle(outgoing, picked, true, Instant::now());
                in_flight.heard();
                tracing::debug!(address = %outgoing.original, %error, "an endpoint was not reached");
                failed.push(endpoint.address);
            }
        }
    }
    telemetry.refused(Direction::Outbound, Refusal::Connect);
    None
}

/// Where an endpoint was chosen from.
struct Chosen {
    set: Arc<EndpointSet>,
    endpoint: Arc<Endpoint>,
    trial: bool,
    service: Arc<str>,
}

/// Of bytes only the connection tells how the endpoint does.
fn settle(outgoing: &Outgoing<'_>, chosen: Option<Chosen>, failed: bool, now: Instant) {
    let Some(Chosen { set, endpoint, trial, service }) = chosen else { return };
    if let Some(event) = set.record(&endpoint, trial, failed, now) {
        outgoing.worker.mesh.telemetry.requests(Direction::Outbound, &service).outliers.count(event);
    }
}

fn choose(
    destination: &Destination,
    original: SocketAddr,
    random: u64,
    failed: &[SocketAddr],
) -> Option<(Arc<Endpoint>, Option<Chosen>)> {
    match destination {
        // It left the mesh's knowledge while the connection was being looked at.
        Destination::PassThrough => Some((Arc::new(Endpoint::new(original, None, "", "", Arc::default())), None)),
        Destination::Pod(endpoint) => Some((endpoint.clone(), None)),
        Destination::Service(service) => match service.opaque.choose(random)? {
            Target::Set(index) => {
                let set = service.sets.get(*index)?;
                let picked = set.pick(failed, None, balance::random(), Instant::now())?;
                let chosen = Chosen {
                    set: set.clone(),
                    endpoint: picked.endpoint.clone(),
                    trial: picked.trial,
                    service: service.name.clone(),
                };
                Some((picked.endpoint.clone(), Some(chosen)))
            }
            Target::Unresolved(_) => None,
        },
    }
}

/// Copies until both sides have ended; `said` is what the endpoint said already.
pub(super) async fn join(outgoing: &Outgoing<'_>, mut client: Stream, mut upstream: Upstream, said: Bytes) {
    let telemetry = &outgoing.worker.mesh.telemetry;
    let _open = telemetry.open(Direction::Outbound, Transport::Opaque, upstream.tls);
    if client.write_all(&said).await.is_err() {
        return upstream.connection.stream.reset();
    }
    let (copied, result) = copy::both_ways(&mut client, &mut upstream.connection.stream).await;
    telemetry.copied(Direction::Outbound, copied.forth, copied.back + said.len() as u64);
    if result.is_err() {
        client.reset();
        upstream.connection.stream.reset();
    } else {
        upstream.connection.release();
    }
}

/// Forwards to an address that the mesh does not know, as if there were no proxy.
pub(super) async fn pass_through(worker: &Worker, client: TcpStream, original: SocketAddr) {
    let telemetry = &worker.mesh.telemetry;
    let upstream = match connect::tcp(original, connect::PASS_THROUGH).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(%error, "an address outside the mesh was not reached");
            telemetry.refused(Direction::Outbound, Refusal::Connect);
            return tcp::reset(&client);
        }
    };
    let _open = telemetry.open(Direction::Outbound, Transport::PassThrough, Tls::None);
    let (mut client, mut upstream) = (Stream::from(client), Stream::from(upstream));
    let (copied, result) = copy::both_ways(&mut client, &mut upstream).await;
    telemetry.copied(Direction::Outbound, copied.forth, copied.back);
    if result.is_err() {
        client.reset();
        upstream.reset();
    }
}

pub(super) fn tls(endpoint: &Endpoint) -> Tls {
    match (&endpoint.identity, &endpoint.origination) {
        (Some(_), _) => Tls::Mutual,
        (None, Some(_)) => Tls::Originated,
        (None, None) => Tls::None,
    }
}
