//! Gates by HTTP.

use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::{Check, CheckPhase};
use futures::future::join_all;
use http::StatusCode;
use parking_lot::Mutex;

use super::about::{Asked, CheckAnswer, CheckBody};
use super::metrics::Metrics;
use super::standing::Standing;
use super::turns::{PER_KEY, Turns};
use super::{post, shown};
use crate::outbound::{Error, Location, Outbound};

/// After what is no answer. A gate that is busy starting wants no more; a release that waits for it loses no more.
const AGAIN: Duration = Duration::from_secs(5);

/// Of each check, in order.
type Answers = Mutex<Vec<CheckAnswer>>;

/// All checks that are asked.
pub(super) struct Checks {
    outbound: Outbound,
    turns: Turns,
    metrics: Metrics,
    standing: Arc<Standing<(Asked, CheckPhase), Vec<Check>, Answers>>,
}

impl Checks {
    pub(super) fn new(outbound: Outbound, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { outbound, turns: Turns::new(PER_KEY), metrics, standing: Standing::new() })
    }

    pub(super) fn ask(self: &Arc<Self>, asked: &Asked, phase: CheckPhase, checks: &[Check], body: &CheckBody) {
        let checks = checks.iter().filter(|check| check.phase == phase).cloned().collect();
        self.standing.keep(&(asked.clone(), phase), checks, |checks: &Vec<Check>| {
            let answers = Arc::new(Mutex::new(vec![CheckAnswer::Pending(None); checks.len()]));
            let (all, known, checks, body) = (Arc::clone(self), Arc::clone(&answers), checks.clone(), body.clone());
            let asking = async move {
                join_all(checks.iter().enumerate().map(|(at, check)| all.until_answered(check, &body, &known, at)))
                    .await;
            };
            (answers, asking)
        });
    }

    pub(super) fn answer(&self, asked: &Asked, phase: CheckPhase) -> Option<CheckAnswer> {
        let answers = self.standing.known(&(asked.clone(), phase))?;
        let answers = answers.lock();
        Some(together(&answers))
    }

    async fn until_answered(&self, check: &Check, body: &CheckBody, known: &Answers, at: usize) {
        loop {
            let answer = self.once(check, body).await;
            let done = !matches!(answer, CheckAnswer::Pending(_));
            if let Some(known) = known.lock().get_mut(at) {
                *known = answer;
            }
            if done {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn once(&self, check: &Check, body: &CheckBody) -> CheckAnswer {
        let turn = self.turns.take(&body.namespace).await;
        let answered = self.request(check, body).await;
        drop(turn);
        let (answer, outcome) = judged(&check.url, answered);
        self.metrics.checked(outcome);
        answer
    }

    async fn request(&self, check: &Check, body: &CheckBody) -> Result<StatusCode, Error> {
        let location = Location::http_or_https(&check.url).map_err(Error::Url)?;
        let body = serde_json::to_vec(body).map_err(|_| Error::Url("cannot be asked"))?;
        self.outbound.status(&location, post("application/json", body)?, check.timeout.as_std()).await
    }
}

/// A sentence for a status, and what it is for metrics.
fn judged(url: &str, answered: Result<StatusCode, Error>) -> (CheckAnswer, &'static str) {
    let url = shown(url);
    let pending = |clause: String, outcome| (CheckAnswer::Pending(Some(format!("check {url} {clause}"))), outcome);
    match answered {
        Ok(status) if status.is_success() => (CheckAnswer::Passed, "passed"),
        Ok(status) if status.is_client_error() => {
            (CheckAnswer::Refused(format!("check {url} answered {}", status.as_u16())), "refused")
        }
        Ok(status) if status.is_redirection() => {
            pending(Error::Redirect(status).to_string(), Error::Redirect(status).outcome())
        }
        Ok(status) => pending(format!("answered {}", status.as_u16()), Error::Status(status).outcome()),
        Err(error) => pending(error.to_string(), error.outcome()),
    }
}

/// One that refuses decides, whatever the others say.
fn together(answers: &[CheckAnswer]) -> CheckAnswer {
    let refused = answers.iter().find(|answer| matches!(answer, CheckAnswer::Refused(_)));
    let pending = || answers.iter().find(|answer| matches!(answer, CheckAnswer::Pending(Some(_))));
    let untried = || answers.iter().find(|answer| matches!(answer, CheckAnswer::Pending(None)));
    refused.or_else(pending).or_else(untried).cloned().unwrap_or(CheckAnswer::Passed)
}

#[cfg(test)]
mod tests;
