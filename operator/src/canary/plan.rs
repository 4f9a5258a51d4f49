//! Decides what happens to a release next: a pure function of what is observed.
//!
//! [`plan`] is the one call that enters. It makes at most one transition at a time. A plan with a transition has no actions: the
//! new status is persisted first, and the next plan, made from it, says what follows. So wherever the operator stops, the next
//! one goes on from what is written.

mod conditions;
mod record;

use std::time::Duration;

use fairlead_crds::{
    CanaryStatus, ConditionType, Fact, Outcome, Percent, Phase, Verdict, VerdictResult, set_condition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::record::version;
use super::judge::{self, judge};
use super::observe::{Deployment, Observed};

/// How long a clone is kept for proxies that do not acknowledge that they send it nothing: longer than any that is connected needs,
/// short enough that one that hangs does not keep a bad version running.
pub const ACKNOWLEDGE_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// The reason of the condition `Accepted` while the API server does not take the clone.
const CLONE_REFUSED: &str = "CloneRefused";

/// While there is evidence to look at. Proxies report about once a second.
const WATCHFUL: Duration = Duration::from_secs(2);
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
    /// Make the clone what the Deployment's template says, with as many pods.
    ApplyClone,
    /// Take the clone away.
    DeleteClone,
    /// Let the cluster roll the Deployment out, if it is still as it was observed.
    Unpause,
    /// Mark the Deployment's template as proved bad, for the time when there is no status to say so.
    Refuse,
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
    planner.conditions();
    if planner.advance() == Moved::Yes {
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
                    self.roll_back(None, &objection.message)
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
            Some(_) if self.status.stable.is_some() || self.status.canary.is_some() || self.splits() => {
                if self.status.canary.is_some() && self.status.phase != Some(Phase::Failed) {
                    self.remember(Outcome::Superseded, "the Deployment was deleted");
                }
                self.status.phase = Some(Phase::Initialized);
                self.status.stable = None;
                self.status.canary = None;
                self.status.verdict = None;
                self.status.judgement = None;
                if self.splits() {
                    self.split(None);
                }
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
        if deployment.revision == stable.revision {
            if refused.is_some() {
                self.settle(Phase::Initialized);
                return self.note("Initialized", "The template is that of the running version again".to_owned());
            }
            // What an earlier Canary of this name proved bad waits for the user.
            if deployment.held && !(deployment.refused && deployment.paused) {
                self.actions.push(Action::Unpause);
                self.again = SOON;
            }
        } else if refused.as_ref() == Some(&deployment.revision) {
            if !deployment.paused {
                return self.promote("The Deployment was resumed by hand: it is rolled out against the evidence");
            }
            self.refuse(deployment);
        } else if deployment.paused {
            self.status.canary = Some(version(&deployment.revision));
            self.status.stable = Some(version(&stable.revision));
            self.status.judgement = None;
            self.status.phase = Some(Phase::Progressing);
            self.verdict(VerdictResult::Inconclusive, "the new version is starting");
            return self.note(
                "Started",
                format!("Revision {} runs as Deployment {}-canary", deployment.revision, self.workload()),
            );
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

    /// A new version starts or gets traffic.
    fn releasing(&mut self, deployment: &Deployment) -> Moved {
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.clone());
        let stable = self.status.stable.as_ref().map(|stable| stable.revision.clone());
        if stable.as_ref() == Some(&deployment.revision) {
            return self.roll_back(None, "the template is that of the running version again");
        }
        if canary.as_ref() != Some(&deployment.revision) {
            if !deployment.paused {
                return self.roll_back(None, "the template changed again and is rolled out without having been held");
            }
            return self.start_over(deployment);
        }
        if !deployment.paused {
            return self.promote("The Deployment was resumed by hand: it is rolled out without further evidence");
        }
        if self.observed.canary.spec.suspend {
            if self.status.phase != Some(Phase::Suspended) {
                self.status.phase = Some(Phase::Suspended);
                return self
                    .note("Suspended", "The release is held where it is until spec.suspend is false".to_owned());
            }
            if self.splits() {
                self.count();
            }
            self.again = WATCHFUL;
            return Moved::No;
        }
        if self.status.phase == Some(Phase::Suspended) {
            self.status.phase = Some(Phase::Progressing);
            return self.note("Resumed", "The release goes on".to_owned());
        }
        if deployment.replicas == 0 && !self.splits() {
            return self.promote("The Deployment is scaled to zero: nothing runs that could be judged");
        }
        self.again = WATCHFUL;
        let current =
            self.observed.clone.as_ref().filter(|clone| clone.revision == deployment.revision && !clone.deleting);
        if current.is_some() {
            if let Some(trouble) = &self.observed.trouble {
                return self.roll_back(Some(VerdictResult::Regressed), trouble);
            }
            if let Some(stuck) = current.and_then(|clone| clone.rollout.stuck.as_ref()) {
                return self
                    .roll_back(Some(VerdictResult::Regressed), &format!("its pods did not become ready: {stuck}"));
            }
        }
        let fits = current.is_some_and(|clone| clone.replicas == deployment.replicas);
        // What runs under the old template may be replaced only when nobody sends it anything.
        if !fits && (current.is_some() || self.observed.clone.is_none() || self.unused()) {
            self.actions.push(Action::ApplyClone);
            self.again = SOON;
        }
        if self.splits() {
            return self.step();
        }
        let rollout = current.map(|clone| &clone.rollout);
        if fits && rollout.is_some_and(|rollout| rollout.done) {
            return self.enter(0);
        }
        let progress = match rollout {
            Some(rollout) => rollout.progress.clone(),
            None => self.refusal().unwrap_or_else(|| "its Deployment is being made".to_owned()),
        };
        self.verdict(VerdictResult::Inconclusive, &format!("the new version is starting: {progress}"));
        self.again = SOON;
        Moved::No
    }

    /// The new version gets traffic: what does the evidence say?
    fn step(&mut self) -> Moved {
        let spec = &self.observed.canary.spec;
        let Some(step) = self.status.step.clone() else { return Moved::No };
        let index = usize::try_from(step.index).unwrap_or(0);
        let wanted = spec.steps.get(index);
        if wanted.is_some_and(|wanted| wanted.weight.unwrap_or(Percent::ZERO) != step.weight) {
            return self.enter(index);
        }
        self.count();
        let (analysis, number) = (&spec.analysis, step.since.0.as_second());
        let kept = judge::recall(self.status.judgement.as_deref(), analysis, spec.steps.len(), number);
        let mut evidence = kept.clone();
        let (canary, stable) = &self.observed.fresh;
        judge::weigh(&mut evidence, analysis, number, canary, stable);
        let judgement = judge(&evidence, &self.observed.canary_counts, &self.observed.stable_counts, analysis);
        if evidence != kept {
            self.status.judgement = judge::keep(&evidence, analysis);
        }
        self.status.verdict =
            Some(Verdict { result: judgement.result, evidence: judgement.evidence, reason: judgement.reason.clone() });
        let phase = match judgement.result {
            VerdictResult::Regressed => {
                return self.roll_back(Some(VerdictResult::Regressed), &judgement.reason);
            }
            VerdictResult::Inconclusive => Phase::Progressing,
            VerdictResult::NonInferior => {
                let hold = wanted.map(|wanted| wanted.hold.as_std()).unwrap_or_default();
                let lasted = self.observed.now.duration_since(step.since.0);
                if SignedDuration::try_from(hold).is_ok_and(|hold| lasted < hold) {
                    Phase::Holding
                } else if index + 1 < spec.steps.len() {
                    return self.enter(index + 1);
                } else {
                    return self.promote(&format!("All steps passed: {}", judgement.reason));
                }
            }
        };
        self.status.phase = Some(phase);
        Moved::No
    }

    /// The evidence is in: the Deployment itself is rolled out, then traffic goes back to it.
    fn promoting(&mut self, deployment: &Deployment) -> Moved {
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.clone()).unwrap_or_default();
        if deployment.revision != canary {
            if self.status.stable.as_ref().is_some_and(|stable| stable.revision == deployment.revision) {
                return self.roll_back(None, "the template went back while it was being rolled out");
            }
            if !deployment.paused {
                return self.roll_back(None, "the template changed again and is rolled out without having been held");
            }
            // It had passed: what comes next is judged against it.
            self.status.stable = Some(version(&canary));
            return self.start_over(deployment);
        }
        self.again = SOON;
        if deployment.paused {
            self.actions.push(Action::Unpause);
        } else if !deployment.rollout.done {
            let Some(verdict) = &mut self.status.verdict else { return Moved::No };
            let waiting = deployment.rollout.stuck.as_ref().unwrap_or(&deployment.rollout.progress);
            verdict.reason = format!("the Deployment is being rolled out: {waiting}");
        } else if self.splits() {
            self.split(None);
            return Moved::Yes;
        } else if self.remove_clone() {
            let reason = format!("revision {canary} is rolled out");
            self.remember(Outcome::Succeeded, &reason);
            self.status.stable = Some(version(&canary));
            self.settle(Phase::Succeeded);
            self.verdict(VerdictResult::NonInferior, &reason);
            return self.note("Succeeded", format!("Revision {canary} is the running version"));
        }
        Moved::No
    }

    /// Proxies send the new version nothing any more: it goes.
    fn rolling_back(&mut self) -> Moved {
        self.again = SOON;
        if self.splits() {
            self.split(None);
            return Moved::Yes;
        }
        let verdict = self.status.verdict.clone();
        let regressed = verdict.as_ref().is_some_and(|verdict| verdict.result == VerdictResult::Regressed);
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.as_str());
        let refused =
            self.observed.deployment.as_ref().filter(|held| regressed && Some(held.revision.as_str()) == canary);
        if let Some(deployment) = refused {
            self.refuse(deployment);
        }
        if !self.remove_clone() {
            return Moved::No;
        }
        let reason = verdict.map(|verdict| verdict.reason).unwrap_or_default();
        self.remember(if regressed { Outcome::Failed } else { Outcome::Superseded }, &reason);
        if refused.is_some() {
            self.status.phase = Some(Phase::Failed);
            return self.warn(
                "Failed",
                format!("{reason}. The Deployment stays paused on the running version until its template changes"),
            );
        }
        self.settle(Phase::Initialized);
        self.note("RolledBack", format!("The new version is gone: {reason}"))
    }

    /// Another template than the one that runs as a canary.
    fn start_over(&mut self, deployment: &Deployment) -> Moved {
        self.remember(Outcome::Superseded, "the template changed again");
        if self.splits() {
            self.split(None);
        }
        self.status.canary = Some(version(&deployment.revision));
        self.status.judgement = None;
        self.status.phase = Some(Phase::Progressing);
        self.verdict(VerdictResult::Inconclusive, "the template changed again: the release starts over");
        self.note(
            "StartedOver",
            format!("The template changed again: revision {} is released now", deployment.revision),
        )
    }

    fn enter(&mut self, index: usize) -> Moved {
        let Some(step) = self.observed.canary.spec.steps.get(index) else { return Moved::No };
        let weight = step.weight.unwrap_or(Percent::ZERO);
        self.split(Some((index, weight)));
        self.status.phase = Some(Phase::Progressing);
        for side in [&mut self.status.canary, &mut self.status.stable].into_iter().flatten() {
            *side = version(&side.revision);
        }
        self.verdict(VerdictResult::Inconclusive, "the step has just begun");
        let of = self.observed.canary.spec.steps.len();
        self.note("Step", format!("Step {} of {of}: {weight} % of the traffic goes to the new version", index + 1))
    }

    fn promote(&mut self, why: &str) -> Moved {
        self.status.phase = Some(Phase::Promoting);
        self.verdict(VerdictResult::NonInferior, why);
        self.note("Promoting", format!("{why}. The Deployment is rolled out"))
    }

    /// Ends the release. With a result the evidence stays in the status, without one there was no verdict.
    fn roll_back(&mut self, result: Option<VerdictResult>, reason: &str) -> Moved {
        if self.splits() {
            self.split(None);
        }
        self.status.phase = Some(Phase::RollingBack);
        self.verdict(result.unwrap_or(VerdictResult::Inconclusive), reason);
        self.warn("RollingBack", format!("The new version is taken away: {reason}"))
    }
}

#[cfg(test)]
mod tests;
