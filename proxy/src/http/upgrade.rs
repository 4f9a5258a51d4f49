//! What follows an accepted upgrade or CONNECT: bytes.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{
    tcp::copy,
    telemetry::{Direction, Telemetry},
};

/// Joins both sides once both have switched; ends when either does. `held` lives as long (connection counts, load).
pub fn join<H: Send + 'static>(
    caller: OnUpgrade,
    endpoint: OnUpgrade,
    telemetry: std::sync::Arc<Telemetry>,
    direction: Direction,
    held: H,
) {
    tokio::spawn(async move {
        let _held = held;
        match tokio::try_join!(caller, endpoint) {
            Ok((caller, endpoint)) => {
                let (mut caller, mut endpoint) = (TokioIo::new(caller), TokioIo::new(endpoint));
                let (copied, result) = copy::both_ways(&mut caller, &mut endpoint).await;
                telemetry.copied(direction, copied.forth, copied.back);
                if let Err(error) = result {
                    tracing::debug!(%error, "an upgraded connection broke");
                }
            }
            Err(error) => tracing::debug!(%error, "an upgrade did not happen"),
        }
    });
}
