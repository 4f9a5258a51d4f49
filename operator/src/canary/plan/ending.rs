//! How releases end: rolled out, taken back, or overtaken by the next.

use fairlead_crds::{CheckPhase, Outcome, Percent, Phase, VerdictResult};
use k8s_openapi::jiff::SignedDuration;

use super::record::version;
use super::{Action, Moved, Planner, SOON};
use crate::canary::observe::Deployment;
use crate::canary::outside::CheckAnswer;
use crate::canary::revision::{config_of, template_of};

/// All of it.
const WHOLE: f64 = 1.0;

/// As Kubernetes has it for Deployments that say nothing.
const ROOM_WITHIN: SignedDuration = SignedDuration::from_mins(10);

impl Planner<'_> {
    /// The evidence is in: the Deployment itself is rolled out, then traffic goes back to it.
    pub(super) fn promoting(&mut self, deployment: &Deployment) -> Moved {
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.clone()).unwrap_or_default();
        let stable = self.status.stable.as_ref().map(|stable| stable.revision.clone()).unwrap_or_default();
        // Configuration that changed since is read by the pods that start now, and is the next release's matter.
        let only_config = !deployment.paused && template_of(&deployment.revision) == template_of(&canary);
        if deployment.revision != canary && !only_config {
            if stable == deployment.revision {
                // Its own pods first, then those of the new version go.
                self.again = SOON;
                if deployment.paused {
                    self.actions.push(Action::Unpause);
                    return Moved::No;
                }
                if !deployment.rollout.done {
                    self.waits(&format!(
                        "the template went back: the Deployment is rolled back: {}",
                        deployment.rollout.progress
                    ));
                    return Moved::No;
                }
                let reason = "the template went back while it was being rolled out";
                return self.roll_back(Outcome::Superseded, VerdictResult::Inconclusive, reason);
            }
            if !deployment.paused {
                let reason = "the template changed again and is rolled out without having been held";
                return self.roll_back(Outcome::Superseded, VerdictResult::Inconclusive, reason);
            }
            // It had passed: what comes next is judged against it.
            self.status.stable = Some(version(&canary));
            return self.start_over(deployment);
        }
        self.again = SOON;
        // Nothing is written to the Deployment where configuration alone changed: then its pods are still the old ones.
        let restarts = template_of(&canary) == template_of(&stable)
            && canary != stable
            && deployment.noted_config.as_deref() != config_of(&deployment.revision);
        if deployment.paused || restarts {
            if let Some(moved) = self.make_room(deployment) {
                return moved;
            }
            self.actions.push(if deployment.paused { Action::Unpause } else { Action::Restart });
        } else if !deployment.rollout.done {
            let waiting = deployment.rollout.stuck.as_ref().unwrap_or(&deployment.rollout.progress);
            self.waits(&format!("the Deployment is being rolled out: {waiting}"));
        } else if self.in_step() {
            self.leave_step();
            return Moved::Yes;
        } else if self.remove_clone() {
            let Some(said) = self.asked_after(CheckPhase::AfterPromote) else { return Moved::No };
            let reason = format!("revision {canary} is rolled out{said}");
            self.remember(Outcome::Succeeded, &reason);
            self.status.stable = Some(version(&canary));
            self.settle(Phase::Succeeded);
            self.verdict(VerdictResult::NonInferior, &reason);
            return self.note("Succeeded", format!("Revision {canary} is the running version{said}"));
        }
        Moved::No
    }

    /// Sees to it that the rollout takes no capacity away: where it stops pods before it starts others, the clone has as many. `Some`: not yet.
    fn make_room(&mut self, deployment: &Deployment) -> Option<Moved> {
        let clone = self.observed.clone.as_ref().filter(|clone| {
            // One that cannot run, or is not there, is no help, and the evidence does not need it any more.
            clone.ours && !clone.deleting && clone.revision == deployment.revision && clone.rollout.stuck.is_none()
        })?;
        let needed = deployment.unavailable;
        let since = self.status.step.as_ref().map(|step| self.observed.now.duration_since(step.since.0));
        let over = since.is_none_or(|since| since > self.room_within());
        if needed == 0 || over || self.observed.trouble.hopeless.is_some() {
            return None;
        }
        if clone.replicas < needed {
            self.actions.push(Action::ApplyClone { replicas: needed });
            if self.refusal().is_some() {
                self.actions.pop();
                return None;
            }
            self.waits("the new version gets as many pods as the rollout takes away");
            return Some(Moved::No);
        }
        if !clone.rollout.done {
            self.waits(&format!(
                "the new version gets as many pods as the rollout takes away: {}",
                clone.rollout.progress
            ));
            return Some(Moved::No);
        }
        // All at once: then nobody may be sent to pods that are all stopped.
        let step = self.status.step.as_ref()?;
        if needed >= deployment.replicas {
            if step.weight.fraction() < WHOLE {
                let index = self.index().unwrap_or(0);
                self.split(index, Percent::try_from(100.0).unwrap_or(step.weight));
                return Some(Moved::Yes);
            }
            if !self.acknowledged() {
                self.waits("the rollout stops all pods at once, so all traffic goes to the new version first");
                return Some(Moved::No);
            }
        }
        None
    }

    /// How long a promotion waits for pods that take the place of those that it stops: as long as pods may take to start.
    fn room_within(&self) -> SignedDuration {
        let deadline = self.observed.canary.spec.rollout.progress_deadline;
        deadline.and_then(|deadline| SignedDuration::try_from(deadline.as_std()).ok()).unwrap_or(ROOM_WITHIN)
    }

    /// Proxies send the new version nothing any more: it goes.
    pub(super) fn rolling_back(&mut self) -> Moved {
        self.again = SOON;
        if self.in_step() {
            self.leave_step();
            return Moved::Yes;
        }
        let verdict = self.status.verdict.clone();
        let regressed = verdict.as_ref().is_some_and(|verdict| verdict.result == VerdictResult::Regressed);
        let ending = self.status.ending.unwrap_or(if regressed { Outcome::Failed } else { Outcome::Superseded });
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.as_str());
        let refused = self
            .observed
            .deployment
            .as_ref()
            .filter(|held| ending != Outcome::Superseded && Some(held.revision.as_str()) == canary);
        if let Some(deployment) = refused {
            self.refuse(deployment);
        }
        if !self.remove_clone() {
            return Moved::No;
        }
        let Some(said) = self.asked_after(CheckPhase::AfterRollback) else { return Moved::No };
        let reason = verdict.map(|verdict| verdict.reason).unwrap_or_default();
        let reason = format!("{reason}{said}");
        self.remember(ending, &reason);
        self.status.ending = None;
        if let Some(deployment) = refused {
            self.status.phase = Some(Phase::Failed);
            let stays = if deployment.paused {
                "The Deployment stays paused on the running version until its template changes, or a retry is asked for"
            } else {
                "Its pods keep the configuration that they have read; those that start anew read the new one"
            };
            return self.warn("Failed", format!("{reason}. {stays}"));
        }
        self.settle(Phase::Initialized);
        self.note("RolledBack", format!("The new version is gone: {reason}"))
    }

    /// Another version than the one that runs as a canary.
    pub(super) fn start_over(&mut self, deployment: &Deployment) -> Moved {
        self.remember(Outcome::Superseded, "the template changed again");
        self.before_steps();
        self.status.canary = Some(version(&deployment.revision));
        self.status.judgement = None;
        self.status.phase = Some(Phase::Progressing);
        self.verdict(VerdictResult::Inconclusive, "the template changed again: the release starts over");
        self.note(
            "StartedOver",
            format!("The template changed again: revision {} is released now", deployment.revision),
        )
    }

    pub(super) fn promote(&mut self, why: &str) -> Moved {
        self.status.phase = Some(Phase::Promoting);
        self.renumber();
        self.verdict(VerdictResult::NonInferior, why);
        self.note("Promoting", format!("{why}. The Deployment is rolled out"))
    }

    /// Ends the release without the new version. With the result that was there the evidence stays in the status.
    pub(super) fn roll_back(&mut self, ending: Outcome, result: VerdictResult, reason: &str) -> Moved {
        self.leave_step();
        self.status.phase = Some(Phase::RollingBack);
        self.status.ending = Some(ending);
        self.verdict(result, reason);
        self.warn("RollingBack", format!("The new version is taken away: {reason}"))
    }

    /// What a check says that nothing depends on any more, to be told. `None`: it has not answered yet. It is not asked a second time.
    fn asked_after(&mut self, phase: CheckPhase) -> Option<String> {
        match self.ask(phase) {
            None | Some(CheckAnswer::Pending(None)) => None,
            Some(CheckAnswer::Passed) => Some(String::new()),
            Some(CheckAnswer::Refused(why) | CheckAnswer::Pending(Some(why))) => Some(format!("; {why}")),
        }
    }
}
