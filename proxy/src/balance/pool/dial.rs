//! Makes the pool's connections.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Multiplexed;
use crate::{
    balance::{self, Endpoint, limits::Place},
    http::{Version, h1::Conn, http2},
    identity::{Alpn, Identity},
    tcp::{
        Stream,
        connect::{self, ConnectError, Connection},
    },
    telemetry::Telemetry,
};

/// How long a connection is given new requests: after that a new one is made, so that long-lived HTTP/2 connections follow endpoints that
/// were added behind one address, and no peer's certificate is believed for ever.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// Makes the pool's connections.
#[derive(Clone)]
pub struct Dialler {
    /// Proves who calls.
    pub identity: Arc<Identity>,
    /// Counts failed handshakes.
    pub telemetry: Arc<Telemetry>,
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialler")
    }
}

/// When a new connection gets its last request. Ages differ by up to a tenth, so that connections made together do not end together.
fn retirement(connection: &Connection, random: u64) -> Instant {
    let spread = MAX_AGE.mul_f64((random % 1000) as f64 / 10_000.0);
    let aged = Instant::now() + MAX_AGE - spread;
    connection.expires.map_or(aged, |expires| aged.min(expires))
}

/// A connection for one request after the other.
pub(super) async fn dial_http1(
    dialler: &Dialler,
    endpoint: &Endpoint,
) -> Result<(Arc<Mutex<Conn>>, Instant), Arc<ConnectError>> {
    let alpn = Version::Http1.alpn();
    let connection = connect::endpoint(&dialler.identity, &dialler.telemetry, endpoint, alpn).await?;
    let retire = retirement(&connection, balance::random());
    Ok((Arc::new(Mutex::new(Conn::new(connection.stream))), retire))
}

/// A connection for many requests at once.
pub(super) async fn dial_http2(
    dialler: &Dialler,
    endpoint: &Endpoint,
    place: Option<Place>,
) -> Result<Multiplexed, Arc<ConnectError>> {
    let alpn = Version::Http2.alpn();
    let connection = connect::endpoint(&dialler.identity, &dialler.telemetry, endpoint, alpn).await?;
    let retire = retirement(&connection, balance::random());
    let streams = Arc::<AtomicUsize>::default();
    let limits = place.as_ref().map(|place| place.limits().clone());
    let sender = http2::connect(connection.stream, streams.clone(), place)
        .await
        .map_err(|source| Arc::new(ConnectError::Tcp { address: endpoint.address, source }))?;
    let used = Arc::new(Mutex::new(Instant::now()));
    Ok(Multiplexed { sender, streams, used, retire, https: endpoint.origination.is_some(), limits })
}

/// A connection for bytes, and when it carries no other than the first.
pub(super) async fn dial_opaque(dialler: &Dialler, endpoint: &Endpoint) -> Result<(Stream, Instant), ConnectError> {
    let connection = connect::endpoint(&dialler.identity, &dialler.telemetry, endpoint, Alpn::Tcp).await?;
    let retire = retirement(&connection, balance::random());
    Ok((connection.stream, retire))
}
