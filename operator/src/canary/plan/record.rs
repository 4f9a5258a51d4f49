//! What a plan is put together from: the split, the clone that goes, verdict, history and notes.

use fairlead_crds::{
    CanaryStepStatus, CheckPhase, Outcome, Percent, Phase, Release, Verdict, VerdictResult, VersionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::counts::Counts;
use super::super::observe::Deployment;
use super::super::outside::CheckAnswer;
use super::{ACKNOWLEDGE_WITHIN, Action, Moved, Note, Planner, SOON};

/// How many releases the status remembers.
const REMEMBERED: usize = 10;

impl Planner<'_> {
    /// Ends a release's traces in the status, except for what the history and the numbering of splits keep.
    pub(super) fn settle(&mut self, phase: Phase) {
        self.status.phase = Some(phase);
        self.status.canary = None;
        self.status.verdict = None;
        self.status.judgement = None;
        self.status.ending = None;
        if let Some(stable) = &mut self.status.stable {
            *stable = version(&stable.revision);
        }
    }

    /// Which step runs.
    pub(super) fn index(&self) -> Option<usize> {
        self.status.step.as_ref()?.index.and_then(|index| usize::try_from(index).ok())
    }

    /// Whether a step runs: only then may anybody send the new version anything.
    pub(super) fn in_step(&self) -> bool {
        self.index().is_some()
    }

    /// Whether every proxy follows the present split, or had its time to.
    pub(super) fn acknowledged(&self) -> bool {
        let proxies = &self.observed.proxies;
        let over = self
            .status
            .step
            .as_ref()
            .is_none_or(|step| self.observed.now.duration_since(step.since.0) > ACKNOWLEDGE_WITHIN);
        over || proxies.acknowledged >= proxies.proxies
    }

    /// Whether no proxy sends the canary anything, or those that might had their time.
    pub(super) fn unused(&self) -> bool {
        !self.in_step() && self.acknowledged()
    }

    /// Has the checks of a phase asked, and says what they answered so far. Without any they have passed.
    pub(super) fn ask(&mut self, phase: CheckPhase) -> Option<CheckAnswer> {
        if !self.observed.canary.spec.checks.iter().any(|check| check.phase == phase) {
            return Some(CheckAnswer::Passed);
        }
        // Also while they are asked: that somebody still waits keeps them being asked.
        self.actions.push(Action::Ask(phase));
        self.again = self.again.min(SOON);
        self.observed.checks.get(&phase).cloned()
    }

    /// Takes the clone away once it is unused. True when there is none.
    pub(super) fn remove_clone(&mut self) -> bool {
        match self.observed.clone.as_ref().filter(|clone| clone.ours) {
            None => true,
            Some(clone) => {
                if !clone.deleting && self.unused() {
                    self.actions.push(Action::DeleteClone);
                }
                self.again = SOON;
                false
            }
        }
    }

    /// Has the Deployment itself remember that what it holds was proved bad.
    pub(super) fn refuse(&mut self, deployment: &Deployment) {
        if deployment.held && !deployment.refused {
            self.actions.push(Action::Refuse);
            self.again = SOON;
        }
    }

    /// Takes our label from the Deployment.
    pub(super) fn release(&mut self, deployment: &Deployment, unpause: bool) {
        if deployment.managed_by.as_deref() == Some(&self.observed.canary.name) {
            self.actions.push(Action::Release { unpause: unpause && deployment.rolls_out_on_release() });
            self.again = SOON;
        }
    }

    /// No step runs any more: the canary gets nothing.
    pub(super) fn leave_step(&mut self) {
        if self.in_step() {
            self.number(None, Percent::ZERO);
        }
    }

    /// A new split, later than all before.
    pub(super) fn split(&mut self, index: usize, weight: Percent) {
        self.number(i32::try_from(index).ok(), weight);
    }

    /// The same split, from now on.
    pub(super) fn renumber(&mut self) {
        if let Some(step) = self.status.step.clone() {
            self.number(step.index, step.weight);
            if let Some(split) = &mut self.status.step {
                (split.mirror, split.matches) = (step.mirror, step.matches);
            }
        }
    }

    /// No step runs yet: what is asked and acknowledged from here on is about this release.
    pub(super) fn before_steps(&mut self) {
        self.number(None, Percent::ZERO);
    }

    fn number(&mut self, index: Option<i32>, weight: Percent) {
        let last = self.status.step.as_ref();
        let earliest = last.map_or(Timestamp::MIN.as_second(), |step| step.since.0.as_second() + 1);
        let since = Timestamp::from_second(self.observed.now.as_second().max(earliest)).unwrap_or(self.observed.now);
        self.status.step = Some(CanaryStepStatus {
            index,
            weight,
            mirror: None,
            matches: Vec::new(),
            approved: false,
            well: None,
            announced: false,
            overdue: false,
            since: Time(since),
        });
    }

    pub(super) fn count(&mut self) {
        let sides = [
            (&mut self.status.canary, &self.observed.canary_counts),
            (&mut self.status.stable, &self.observed.stable_counts),
        ];
        for (side, counts) in sides {
            if let Some(side) = side {
                *side = counted(&side.revision, counts);
            }
        }
    }

    pub(super) fn verdict(&mut self, result: VerdictResult, reason: &str) {
        // A verdict on the evidence keeps the evidence.
        let evidence = match &self.status.verdict {
            Some(verdict) if verdict.result == result => verdict.evidence.clone(),
            _ => String::new(),
        };
        self.status.verdict = Some(Verdict { result, evidence, reason: bounded(reason) });
    }

    /// What is waited for now, instead of what the verdict said.
    pub(super) fn waits(&mut self, reason: &str) {
        if let Some(verdict) = &mut self.status.verdict {
            verdict.reason = bounded(reason);
        }
    }

    /// And what besides.
    pub(super) fn also(&mut self, reason: &str) {
        if let Some(verdict) = &mut self.status.verdict {
            verdict.reason = bounded(&format!("{}; {reason}", verdict.reason));
        }
    }

    pub(super) fn remember(&mut self, outcome: Outcome, reason: &str) {
        let Some(canary) = &self.status.canary else { return };
        let release = Release {
            revision: canary.revision.clone(),
            outcome,
            reason: bounded(reason),
            finished: Time(self.observed.now),
        };
        self.status.history.insert(0, release);
        self.status.history.truncate(REMEMBERED);
    }

    pub(super) fn note(&mut self, reason: &'static str, message: String) -> Moved {
        self.notes.push(Note { warning: false, reason, message });
        Moved::Yes
    }

    pub(super) fn warn(&mut self, reason: &'static str, message: String) -> Moved {
        self.notes.push(Note { warning: true, reason, message });
        Moved::Yes
    }
}

/// A version of which nothing is counted yet.
pub(super) fn version(revision: &str) -> VersionStatus {
    VersionStatus { revision: revision.to_owned(), ..VersionStatus::default() }
}

fn counted(revision: &str, counts: &Counts) -> VersionStatus {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    // Two decimals: more would pretend a precision that buckets do not have.
    let milliseconds = |share| counts.quantile(share).map(|limit| (limit * 100.0).round() / 100.0);
    VersionStatus {
        revision: revision.to_owned(),
        requests: count(counts.requests),
        errors: count(counts.failures),
        p50: milliseconds(0.5),
        p99: milliseconds(0.99),
    }
}

/// What the schema takes of a sentence.
fn bounded(sentence: &str) -> String {
    sentence.chars().take(1024).collect()
}
