//! Decides what happens to a release next: a pure function of what is observed.
//!
//! [`plan`] is the one call that enters. It makes at most one transition at a time. A plan with a transition has no actions: the
//! new status is persisted first, and the next plan, made from it, says what follows. So wherever the operator stops, the next
//! one goes on from what is written.

mod conditions;
mod ending;
mod record;
mod releasing;
mod requests;
mod steps;

use std::time::Duration;

use fairlead_crds::{CanaryStatus, CheckPhase, ConditionType, Fact, Outcome, Phase, VerdictResult, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::record::version;
use super::observe::{Deployment, Observed};
use super::revision::{agree, template_of};

/// How long a clone is kept for proxies that do not acknowledge that they send it nothing: longer than any that is connected needs,
/// short enough that one that hangs does not keep a bad version running.
pub const ACKNOWLEDGE_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// The reason of the condition `Accepted` of the younger of two Canaries of one Deployment.
pub const CONFLICTED: &str = "Conflicted";

/// The reason of the condition `Accepted` while the API server does not take the clone.
const CLONE_REFUSED: &str = "CloneRefused";

/// While there is evidence to look at: as often as proxies report.
const WATCHFUL: Duration = Duration::from_secs(1);
/// While something is awaited that takes moments.
const SOON: Duration = Duration::from_secs(1);
/// While the user must do something that no watch of ours tells.
const BLOCKED: Duration = Duration::from_secs(10);
/// While nothing happens: for the count of proxies in the status.
const IDLE: Duration = Duration::from_secs(60);

/// What to do. Each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Label the Deployment, so that the webhook holds its changes.
    Manage,
    /// Make the clone what the Deployment's template says.
    ApplyClone {
        /// With so many pods.
        replicas: i64,
    },
    /// Take the clone away.
    DeleteClone,
    /// Let the cluster roll the Deployment out, if it is still as it was observed.
    Unpause,
    /// Have the Deployment's pods replaced, if it is still as it was observed, so that they read their configuration anew.
    Restart,
    /// Mark the Deployment's template as proved bad, for the time when there is no status to say so.
    Refuse,
    /// Take that mark away.
    Forgive,
    /// Take the user's request off the Canary, now that the status has it.
    TakeRequest,
    /// Ask the checks of this phase.
    Ask(CheckPhase),
    /// Take the label away and, where asked, let the cluster roll the Deployment out.
    Release {
        /// Whether a held Deployment is rolled out.
        unpause: bool,
    },
}

/// An event to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something is wrong.
    pub warning: bool,
    /// `CamelCase`.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// What happens next.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To be persisted where it differs from what was observed.
    pub status: CanaryStatus,
    /// To be told once the status is persisted.
    pub notes: Vec<Note>,
    /// To be done once the status is persisted. None where there was a transition: then plan again at once.
    pub actions: Vec<Action>,
    /// When to look again if nothing happens.
    pub again: Duration,
}

/// Decides what happens next.
pub fn plan(observed: &Observed) -> Plan {
    let mut planner = Planner {
        observed,
        status: CanaryStatus {
            observed_generation: Some(observed.canary.generation),
            ..observed.canary.status.clone()
        },
        notes: Vec::new(),
        actions: Vec::new(),
        again: IDLE,
    };
    let moved = planner.hear() == Moved::Yes || planner.advance() == Moved::Yes;
    planner.conditions();
    if moved {
        planner.actions.clear();
        planner.again = Duration::ZERO;
    }
    Plan { status: planner.status, notes: planner.notes, actions: planner.actions, again: planner.again }
}

/// What becomes of a status when the API server does not take the clone. [`plan`] keeps saying so until the clone is as it should be.
pub fn clone_refused(status: &CanaryStatus, refusal: &str, now: Timestamp) -> CanaryStatus {
    let mut status = status.clone();
    let message = format!("The API server does not take what the new version needs, which is tried again: {refusal}");
    let fact = Fact::fails(CLONE_REFUSED, message);
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, ConditionType::Accepted, &fact, generation, &Time(now));
    status
}

/// Whether a transition was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Yes,
    No,
}

struct Planner<'a> {
    observed: &'a Observed,
    status: CanaryStatus,
    notes: Vec<Note>,
    actions: Vec<Action>,
    again: Duration,
}

impl Planner<'_> {
    fn workload(&self) -> &str {
        &self.observed.canary.spec.workload_ref.name
    }

    fn advance(&mut self) -> Moved {
        let phase = self.status.phase;
        let objection = self.objection();
        let Some(deployment) = &self.observed.deployment else {
            return self.without_deployment();
        };
        if let Some(objection) = objection {
            self.again = BLOCKED;
            return match phase {
                Some(Phase::Progressing | Phase::Holding | Phase::WaitingApproval | Phase::Suspended) => {
                    self.roll_back(Outcome::Superseded, VerdictResult::Inconclusive, &objection.message)
                }
                // What has begun is finished.
                Some(Phase::Promoting) => self.promoting(deployment),
                Some(Phase::RollingBack) => self.rolling_back(),
                _ => {
                    self.remove_clone();
                    let failed = phase == Some(Phase::Failed);
                    self.release(deployment, !failed);
                    Moved::No
                }
            };
        }
        if deployment.managed_by.as_deref() != Some(&self.observed.canary.name) {
            self.actions.push(Action::Manage);
            self.again = Duration::ZERO;
        }
        match phase {
            None => self.begin(deployment),
            Some(Phase::Initialized | Phase::Succeeded | Phase::Failed) => self.idle(deployment),
            Some(Phase::Progressing | Phase::Holding | Phase::WaitingApproval | Phase::Suspended) => {
                self.releasing(deployment)
            }
            Some(Phase::Promoting) => self.promoting(deployment),
            Some(Phase::RollingBack) => self.rolling_back(),
        }
    }

    fn without_deployment(&mut self) -> Moved {
        self.again = BLOCKED;
        match self.status.phase {
            None => Moved::No,
            Some(_) if self.status.stable.is_some() || self.status.canary.is_some() || self.in_step() => {
                if self.status.canary.is_some() && self.status.phase != Some(Phase::Failed) {
                    self.remember(Outcome::Superseded, "the Deployment was deleted");
                }
                self.status.phase = Some(Phase::Initialized);
                self.status.stable = None;
                self.status.canary = None;
                self.status.verdict = None;
                self.status.judgement = None;
                self.status.ending = None;
                self.leave_step();
                Moved::Yes
            }
            Some(_) => {
                self.remove_clone();
                Moved::No
            }
        }
    }

    /// The first look at a Deployment: what runs is what is stable. The first release has nothing to be judged against.
    fn begin(&mut self, deployment: &Deployment) -> Moved {
        self.status.stable = Some(version(&deployment.revision));
        self.status.phase = Some(Phase::Initialized);
        let message = format!(
            "Deployment {} runs revision {}; changes of it will be released step by step",
            self.workload(),
            deployment.revision
        );
        self.note("Initialized", message)
    }

    /// Nothing is being released. Does the Deployment hold something new?
    fn idle(&mut self, deployment: &Deployment) -> Moved {
        let phase = self.status.phase;
        let Some(stable) = self.status.stable.clone() else {
            return self.begin(deployment);
        };
        let refused =
            self.status.canary.as_ref().filter(|_| phase == Some(Phase::Failed)).map(|canary| canary.revision.clone());
        // Configuration alone changes without a write to the Deployment, so there is nothing to hold: its pods keep what they read.
        let same_template = template_of(&deployment.revision) == template_of(&stable.revision);
        if deployment.revision == stable.revision {
            if refused.is_some() {
                self.settle(Phase::Initialized);
                return self.note("Initialized", "The Deployment is what the running version is again".to_owned());
            }
            // What an earlier Canary of this name proved bad waits for the user.
            if deployment.held && !(deployment.refused && deployment.paused) {
                self.actions.push(Action::Unpause);
                self.again = SOON;
            }
        } else if refused.as_ref().is_some_and(|refused| agree(refused, &deployment.revision)) {
            if !deployment.paused && !same_template {
                return self.promote("The Deployment was resumed by hand: it is rolled out against the evidence");
            }
            self.refuse(deployment);
        } else if agree(&deployment.revision, &stable.revision) {
            // What can be read of its configuration is more than it was, or less.
            self.status.stable = Some(version(&deployment.revision));
            return Moved::Yes;
        } else if same_template && deployment.paused && !deployment.held {
            // A pause of the user's own, which a release would end.
        } else if deployment.paused || same_template {
            return self.start(deployment, &stable.revision);
        } else {
            self.status.stable = Some(version(&deployment.revision));
            self.settle(Phase::Initialized);
            let message = format!(
                "Revision {} is rolled out without a canary: its change was not held, or the Deployment was resumed by hand",
                deployment.revision
            );
            return self.warn("NotHeld", message);
        }
        self.remove_clone();
        Moved::No
    }

    /// A version is released.
    fn start(&mut self, deployment: &Deployment, stable: &str) -> Moved {
        self.status.canary = Some(version(&deployment.revision));
        self.status.stable = Some(version(stable));
        self.status.judgement = None;
        self.status.ending = None;
        self.status.phase = Some(Phase::Progressing);
        self.before_steps();
        self.verdict(VerdictResult::Inconclusive, "the new version is starting");
        let why = if template_of(&deployment.revision) == template_of(stable) {
            ": a ConfigMap or Secret that it names changed"
        } else {
            ""
        };
        self.note(
            "Started",
            format!("Revision {} runs as Deployment {}-canary{why}", deployment.revision, self.workload()),
        )
    }
}

#[cfg(test)]
mod tests;
