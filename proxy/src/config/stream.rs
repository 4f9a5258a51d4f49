//! The configuration stream: one per proxy, for as long as it runs. [`run`] is its one call.
//!
//! While the operator is away everything that is known stays in use; when it is back, the proxy resumes with the versions it has.

use std::time::Duration;

use fairlead_proxy_api::v1::{self, config_client::ConfigClient};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;

pub use super::session::Store;
use super::{
    persist::StateDir,
    session::{Session, Unsaved},
};
use crate::{
    backoff,
    identity::{Operator, operator::OperatorError},
};

/// First wait after a stream broke: short, because usually the operator was only replaced.
const RETRY_BASE: Duration = Duration::from_millis(200);
/// The longest wait. A thousand proxies that try every five seconds with jitter are 250 handshakes a second at most.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// A stream that lasted so long was a good one: the next attempt is a first attempt.
const GOOD: Duration = Duration::from_secs(10);
/// After so many streams in a row that ended at once, with an operator that could be connected to, the certificate is renewed.
const DOUBT: u32 = 3;
/// If that did not help, it is tried again after so many more: every two minutes, since each costs the operator a token review.
const DOUBT_AGAIN: u32 = 16;
/// How long the operator has to accept the stream.
const ACCEPT: Duration = Duration::from_secs(10);
/// Reports and saved state are at most this old.
const TICK: Duration = Duration::from_secs(1);
/// How often idle destinations are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// What waits to be sent while the network is slow. Above, nothing more is read from the operator; one answer per resource plus
/// subscriptions fits in.
const MAX_OUTBOX: usize = 4 * super::MAX_DESTINATIONS;
/// Of one message: a destination with ten thousand endpoints takes one.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// How it stands with the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// The stream is up.
    Connected,
    /// It is not.
    Away {
        /// Of the last attempt.
        reason: String,
    },
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] OperatorError),
    #[error("the operator did not accept the stream within {ACCEPT:?}")]
    NotAccepted,
    #[error("the operator ended the stream: {0}")]
    Status(Box<tonic::Status>),
    #[error("the operator closed the stream")]
    Closed,
    #[error("the certificate was renewed")]
    Renewed,
}

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The operator.
    pub operator: Operator,
    /// Who we say we are; the operator compares it with the certificate.
    pub hello: v1::Hello,
}

/// Keeps `store` up to date for ever. `random` gives 0..1.
pub async fn run(
    stream: &Stream,
    store: &Store,
    state: &StateDir,
    connection: &watch::Sender<Connection>,
    random: impl Fn() -> f64,
) {
    let mut attempt = 0;
    let mut unsaved = Unsaved::default();
    loop {
        let begun = Instant::now();
        let ended = once(stream, store, state, connection, &mut unsaved).await;
        unsaved.flush(state);
        store.metrics.connected.set(0);
        store.destinations.set_operator(false);
        // Another replica may have to count from the start again, and one with a new certificate has nothing to wait for.
        attempt = if begun.elapsed() >= GOOD || matches!(ended, Ended::Renewed) { 0 } else { attempt + 1 };
        // It answers and yet there is no stream: it may be one that was installed anew and knows nothing of our certificate.
        if attempt % DOUBT_AGAIN == DOUBT && !matches!(ended, Ended::Connect(_)) {
            store.identity.doubt();
        }
        let wait = backoff::delay(attempt, RETRY_BASE, RETRY_MAX, random());
        let reason = ended.to_string();
        // The same sentence every few seconds helps nobody.
        if connection.borrow().clone() == (Connection::Away { reason: reason.clone() }) {
            tracing::debug!(reason, retry_in = ?wait, "still without the operator");
        } else {
            tracing::info!(reason, retry_in = ?wait, "configuration stream ended: what is known stays in use");
        }
        connection.send_replace(Connection::Away { reason });
        tokio::time::sleep(wait).await;
    }
}

async fn once(
    stream: &Stream,
    store: &Store,
    state: &StateDir,
    connection: &watch::Sender<Connection>,
    unsaved: &mut Unsaved,
) -> Ended {
    // Before connecting: a renewal in between must not be missed.
    let mut changes = store.identity.changes();
    let leaves = changes.borrow().leaves;
    let channel = match stream.operator.connect_as(&store.identity).await {
        Ok(channel) => channel,
        Err(error) => return error.into(),
    };
    let mut client =
        ConfigClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);

    let mut session = Session::begin(store, stream.hello.clone());
    let (sender, receiver) = mpsc::channel(16);
    // The operator may wait for Hello before it accepts.
    if let Some(hello) = session.outbox.pop_front() {
        let _ = sender.try_send(hello);
    }
    let accepted = client.stream(ReceiverStream::new(receiver));
    let mut inbound = match tokio::time::timeout(ACCEPT, accepted).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Ended::Status(Box::new(status)),
        Err(_) => return Ended::NotAccepted,
    };
    tracing::info!(operator = stream.operator.address, "configuration stream is up");
    store.metrics.streams.inc();
    store.metrics.connected.set(1);
    store.destinations.set_operator(true);
    connection.send_replace(Connection::Connected);

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            permit = sender.reserve(), if !session.outbox.is_empty() => {
                let Ok(permit) = permit else { return Ended::Closed };
                if let Some(message) = session.outbox.pop_front() {
                    permit.send(message);
                }
            }
            message = inbound.message(), if session.outbox.len() < MAX_OUTBOX => match message {
                Ok(Some(message)) => session.receive(message, unsaved),
                Ok(None) => return Ended::Closed,
                Err(status) => return Ended::Status(Box::new(status)),
            },
            () = store.destinations.changed(), if session.outbox.len() < MAX_OUTBOX => {
                session.follow(unsaved);
            }
            _ = tick.tick() => {
                if session.outbox.is_empty() {
                    session.report();
                }
                unsaved.flush(state);
            }
            _ = sweep.tick() => store.destinations.sweep(),
            // A connection does not outlive the certificate it was made with.
            renewed = changes.wait_for(|change| change.leaves != leaves) => {
                if renewed.is_ok() {
                    return Ended::Renewed;
                }
            }
        }
    }
}
