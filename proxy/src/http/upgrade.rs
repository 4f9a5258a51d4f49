//! What follows an accepted upgrade or CONNECT: bytes.

use std::{future::pending, io, sync::Arc};

use parking_lot::Mutex;

use super::{
    body::{Denied, Ending},
    h1::Conn,
};
use crate::{
    tcp::{Ahead, copy},
    telemetry::{Direction, Telemetry},
};

/// The endpoint agreed to carry something else than messages.
#[derive(Debug)]
pub struct Switch {
    /// Its connection.
    pub(super) endpoint: Arc<Mutex<Conn>>,
    /// Counts bytes.
    pub(super) telemetry: Arc<Telemetry>,
    /// As seen from the pod.
    pub(super) direction: Direction,
    /// Ends it.
    pub(super) denied: Option<Denied>,
    /// Lives as long (connection counts, load).
    pub(super) held: Ending,
}

/// Joins both sides; ends when either does.
pub(super) async fn join(caller: Conn, switch: Switch) -> io::Result<()> {
    let Switch { endpoint, telemetry, direction, denied, held } = switch;
    let Some(endpoint) = Arc::into_inner(endpoint) else {
        return Err(io::Error::other("a switched connection is still in use"));
    };
    let [mut caller, mut endpoint] = [caller, endpoint.into_inner()].map(|conn| {
        let (stream, rest) = conn.into_parts();
        Ahead::new(stream, rest)
    });
    let denied = async {
        match denied {
            Some(denied) => denied.wait().await,
            None => pending().await,
        }
    };
    let (copied, result) = copy::both_ways_until(&mut caller, &mut endpoint, denied).await;
    telemetry.copied(direction, copied.forth, copied.back);
    drop(held);
    if result.is_err() {
        caller.into_inner().reset();
        endpoint.into_inner().reset();
    }
    result
}
