//! Who is told, in which order, and what becomes of those who do not answer.
//!
//! A lane is what one receiver is told of one Canary, in order. Lanes do not wait for each other, but for one request of a Canary at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::Notify;
use http::StatusCode;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::about::Told;
use super::metrics::Metrics;
use super::secrets::{SecretError, Secrets};
use super::turns::Turns;
use super::{form, post};
use crate::outbound::{Error, Location, Outbound};

/// That wait in all. A notification that comes hours late tells nobody anything.
const MAX_WAITING: usize = 100;
/// For one try.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After the tries that failed. A receiver that is restarted is back by then; one that is away for longer has the status.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];

/// All that waits to be told.
pub(super) struct Letters {
    outbound: Outbound,
    secrets: Arc<Secrets>,
    turns: Turns,
    metrics: Metrics,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// At most as many as letters.
    lanes: Vec<Lane>,
    next: u64,
}

struct Lane {
    number: u64,
    namespace: String,
    canary: String,
    to: Notify,
    letters: VecDeque<Letter>,
    _work: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Letter {
    number: u64,
    told: Arc<Told>,
}

/// Why nobody heard it.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error("the URL {0}")]
    Asked(#[from] Error),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Letters {
    pub(super) fn new(outbound: Outbound, secrets: Arc<Secrets>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { outbound, secrets, turns: Turns::new(1), metrics, waiting: Mutex::default() })
    }

    pub(super) fn post(self: &Arc<Self>, to: &[Notify], told: &Told) {
        let told = Arc::new(told.clone());
        for to in to {
            self.put(to, &told);
        }
    }

    fn put(self: &Arc<Self>, to: &Notify, told: &Arc<Told>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            self.drop_oldest(&mut waiting);
        }
        waiting.next += 1;
        let letter = Letter { number: waiting.next, told: Arc::clone(told) };
        let same = |lane: &&mut Lane| lane.namespace == told.namespace && lane.canary == told.canary && lane.to == *to;
        if let Some(lane) = waiting.lanes.iter_mut().find(same) {
            lane.letters.push_back(letter);
            return;
        }
        let number = letter.number;
        let work = AbortOnDropHandle::new(tokio::spawn(Arc::clone(self).work(number)));
        waiting.lanes.push(Lane {
            number,
            namespace: told.namespace.clone(),
            canary: told.canary.clone(),
            to: to.clone(),
            letters: [letter].into(),
            _work: work,
        });
    }

    /// Of the namespace that has most of them, so that one that floods the others loses its own.
    fn drop_oldest(&self, waiting: &mut Waiting) {
        let mut of: HashMap<&str, usize> = HashMap::new();
        for lane in &waiting.lanes {
            *of.entry(&lane.namespace).or_default() += lane.letters.len();
        }
        let Some(most) = of.into_iter().max_by_key(|(_, letters)| *letters).map(|(namespace, _)| namespace.to_owned())
        else {
            return;
        };
        let lanes = waiting.lanes.iter_mut().filter(|lane| lane.namespace == most);
        let oldest = lanes.min_by_key(|lane| lane.letters.front().map_or(u64::MAX, |letter| letter.number));
        if let Some(letter) = oldest.and_then(|lane| lane.letters.pop_front()) {
            let Told { namespace, canary, event, .. } = &*letter.told;
            tracing::warn!(namespace, canary, event, "notification dropped: more than {MAX_WAITING} wait");
            self.metrics.told("dropped");
        }
        // Whoever is told nothing more has nobody who tells.
        waiting.lanes.retain(|lane| !lane.letters.is_empty());
    }

    async fn work(self: Arc<Self>, lane: u64) {
        while let Some((letter, to)) = self.front(lane) {
            self.deliver(lane, &letter, &to).await;
            self.waiting.lock().done(lane, letter.number);
        }
    }

    /// `None`: nothing waits there, and the lane is gone.
    fn front(&self, lane: u64) -> Option<(Letter, Notify)> {
        let mut waiting = self.waiting.lock();
        let at = waiting.lanes.iter().position(|other| other.number == lane)?;
        let lane = waiting.lanes.get(at)?;
        if let Some(letter) = lane.letters.front() {
            return Some((letter.clone(), lane.to.clone()));
        }
        waiting.lanes.swap_remove(at);
        None
    }

    async fn deliver(&self, lane: u64, letter: &Letter, to: &Notify) {
        let Told { namespace, canary, event, .. } = &*letter.told;
        let mut pauses = PAUSES.into_iter();
        loop {
            // What stands behind the host may be a secret.
            let mut host = String::new();
            let Err(error) = self.once(&letter.told, to, &mut host).await else {
                self.metrics.told("delivered");
                return;
            };
            let pause = if error.is_final() { None } else { pauses.next() };
            let Some(pause) = pause else {
                let outcome = error.outcome();
                tracing::warn!(namespace, canary, event, host, outcome, %error, "notification not delivered: given up");
                self.metrics.told(outcome);
                return;
            };
            tracing::debug!(namespace, canary, event, host, %error, "notification not delivered: trying again");
            tokio::time::sleep(pause).await;
            // Dropped for a newer one meanwhile.
            if self.front(lane).is_none_or(|(front, _)| front.number != letter.number) {
                return;
            }
        }
    }

    async fn once(&self, told: &Told, to: &Notify, host: &mut String) -> Result<(), Undelivered> {
        let url = match (&to.url, &to.url_from) {
            (Some(url), _) => url.as_str().into(),
            (None, Some(key)) => self.secrets.read(&told.namespace, key).await?,
            (None, None) => return Err(Error::Url("is missing").into()),
        };
        let location = Location::http_or_https(&url).map_err(Error::Url)?;
        location.host().clone_into(host);
        let body = form::body(to.format, told).map_err(|_| Error::Url("cannot be asked"))?;
        let request = post("application/json", body)?;
        let _turn = self.turns.take(&format!("{}/{}", told.namespace, told.canary)).await;
        match self.outbound.status(&location, request, TIMEOUT).await? {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => Err(Error::Redirect(status).into()),
            status => Err(Error::Status(status).into()),
        }
    }
}

impl Undelivered {
    /// Whether another try would end the same.
    fn is_final(&self) -> bool {
        match self {
            Self::Asked(Error::Status(status)) => {
                !status.is_server_error()
                    && !matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            Self::Asked(error) => {
                matches!(error, Error::Url(_) | Error::Roots(_) | Error::Forbidden { .. } | Error::Redirect(_))
            }
            // It may have been applied together with the Canary.
            Self::Secret(_) => false,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Asked(error) => error.outcome(),
            Self::Secret(error) => error.outcome(),
        }
    }
}

impl Waiting {
    fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.letters.len()).sum()
    }

    /// Unless it was dropped meanwhile.
    fn done(&mut self, lane: u64, letter: u64) {
        if let Some(lane) = self.lanes.iter_mut().find(|other| other.number == lane)
            && lane.letters.front().is_some_and(|front| front.number == letter)
        {
            lane.letters.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
