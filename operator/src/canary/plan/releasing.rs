//! A release that is under way: the new version starts, gets traffic, and goes from step to step.

use fairlead_crds::{CanaryStep, CheckPhase, OnInconclusive, Outcome, Phase, Verdict, VerdictResult};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::record::version;
use super::{Action, Moved, Planner, SOON, WATCHFUL, steps};
use crate::canary::judge::{self, By, judge};
use crate::canary::observe::{CloneDeployment, Deployment};
use crate::canary::outside::CheckAnswer;
use crate::canary::revision::template_of;

/// How many looks at a metric must in a row be outside its limits: one may be chance, or a gap.
const LOOKS: u32 = 3;

/// What the evidence says of a step.
enum Judged {
    /// The new version is bad.
    Regressed(String),
    /// It is well.
    Well,
    /// Too little is known.
    Open,
    /// A metric is outside its limits, and may yet come back.
    Outside,
    /// A metric was not looked at yet, as when the operator has just begun.
    Unseen,
}

impl Planner<'_> {
    /// A new version starts or gets traffic.
    pub(super) fn releasing(&mut self, deployment: &Deployment) -> Moved {
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.clone()).unwrap_or_default();
        let stable = self.status.stable.as_ref().map(|stable| stable.revision.clone()).unwrap_or_default();
        let superseded = |planner: &mut Self, reason: &str| {
            planner.roll_back(Outcome::Superseded, VerdictResult::Inconclusive, reason)
        };
        if stable == deployment.revision {
            return superseded(self, "the Deployment is what the running version is again");
        }
        // Only a template's change is held: configuration alone changes without a write to the Deployment.
        let rolls_out = |of: &str| !deployment.paused && template_of(of) != template_of(&stable);
        if canary != deployment.revision {
            if rolls_out(&deployment.revision) {
                return superseded(self, "the template changed again and is rolled out without having been held");
            }
            return self.start_over(deployment);
        }
        if rolls_out(&canary) {
            return self.promote("The Deployment was resumed by hand: it is rolled out without further evidence");
        }
        if deployment.refused {
            self.actions.push(Action::Forgive);
        }
        if let Some(moved) = self.suspended() {
            return moved;
        }
        self.again = WATCHFUL;
        if deployment.replicas == 0 && !self.in_step() {
            return self.scaled_to_zero();
        }
        let current =
            self.observed.clone.as_ref().filter(|clone| clone.revision == deployment.revision && !clone.deleting);
        if let Some(reason) = current.and_then(|clone| self.cannot_run(clone)) {
            return self.roll_back(Outcome::Failed, VerdictResult::Regressed, &reason);
        }
        if current.is_none() {
            match self.ask(CheckPhase::BeforeStart) {
                Some(CheckAnswer::Passed) => {}
                Some(CheckAnswer::Refused(why)) => {
                    return self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &why);
                }
                answer => {
                    self.verdict(VerdictResult::Inconclusive, &format!("before the start: {}", pending(answer)));
                    return Moved::No;
                }
            }
        }
        let index = self.index();
        let wanted = steps::replicas(&self.observed.canary.spec, index.unwrap_or(0), deployment.replicas);
        let deadline = self.observed.canary.spec.rollout.progress_deadline;
        let deadline = deadline
            .map_or(deployment.progress_deadline, |deadline| i64::try_from(deadline.as_std().as_secs().max(1)).ok());
        let fits = current.is_some_and(|clone| clone.replicas == wanted && clone.progress_deadline == deadline);
        // What runs under the old template may be replaced only when nobody sends it anything.
        if !fits && (current.is_some() || self.observed.clone.is_none() || self.unused()) {
            self.actions.push(Action::ApplyClone { replicas: wanted });
            self.again = SOON;
        }
        if let Some(index) = index {
            return self.step(index, deployment, current);
        }
        let rollout = current.map(|clone| &clone.rollout);
        if fits && rollout.is_some_and(|rollout| rollout.done) {
            if let Some(why) = self.unreadable(0) {
                self.verdict(VerdictResult::Inconclusive, &why);
                return Moved::No;
            }
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

    /// Held as asked, or let go again.
    fn suspended(&mut self) -> Option<Moved> {
        let is_suspended = self.status.phase == Some(Phase::Suspended);
        if !self.observed.canary.spec.suspend {
            if !is_suspended {
                return None;
            }
            self.status.phase = Some(Phase::Progressing);
            self.note("Resumed", "The release goes on".to_owned());
            // Anew, as nothing was judged in the meantime and its deadline may be over. What a person said of it counts.
            let approved = self.is_approved();
            if let Some(index) = self.index() {
                self.enter(index);
                if let Some(step) = &mut self.status.step {
                    step.approved = approved;
                }
            }
            return Some(Moved::Yes);
        }
        if !is_suspended {
            self.status.phase = Some(Phase::Suspended);
            return Some(
                self.note("Suspended", "The release is held where it is until spec.suspend is false".to_owned()),
            );
        }
        if self.in_step() {
            self.count();
        }
        self.again = WATCHFUL;
        Some(Moved::No)
    }

    /// A release of what runs nowhere needs no evidence, and what people and programs have to say all the same.
    fn scaled_to_zero(&mut self) -> Moved {
        for phase in [CheckPhase::BeforeStart, CheckPhase::BeforePromote] {
            match self.ask(phase) {
                Some(CheckAnswer::Passed) => {}
                Some(CheckAnswer::Refused(why)) => {
                    return self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &why);
                }
                answer => {
                    self.verdict(VerdictResult::Inconclusive, &format!("scaled to zero: {}", pending(answer)));
                    return Moved::No;
                }
            }
        }
        if self.observed.canary.spec.steps.iter().any(|step| step.approval.is_some()) {
            let reason = "scaled to zero: nothing runs that a person could approve; scale it up, or promote it";
            self.verdict(VerdictResult::Inconclusive, reason);
            return Moved::No;
        }
        self.promote("The Deployment is scaled to zero: nothing runs that could be judged")
    }

    /// Why the new version's pods will never be ready.
    fn cannot_run(&self, clone: &CloneDeployment) -> Option<String> {
        let trouble = &self.observed.trouble;
        if trouble.hopeless.is_some() {
            return trouble.hopeless.clone();
        }
        let stuck = clone.rollout.stuck.as_ref()?;
        let said = trouble.unschedulable.as_ref().or(trouble.unready.as_ref());
        let said = said.map(|said| format!("; {said}")).unwrap_or_default();
        Some(format!("its pods did not become ready: {stuck}{said}"))
    }

    /// A step runs: is it passed?
    fn step(&mut self, index: usize, deployment: &Deployment, clone: Option<&CloneDeployment>) -> Moved {
        let spec = &self.observed.canary.spec;
        let Some(step) = self.status.step.clone() else { return Moved::No };
        // The spec was edited. More pods come before more traffic.
        let edited = index < spec.steps.len() && !steps::is_as_asked(spec, index, &step);
        let has_room = || {
            let needed = steps::replicas(spec, index, deployment.replicas);
            clone.is_some_and(|clone| clone.replicas >= needed && clone.rollout.done)
        };
        if edited && has_room() && self.unreadable(index).is_none() {
            return self.enter(index);
        }
        self.count();
        let wanted = spec.steps.get(index);
        // Splits of one second are numbered into the next.
        let since = |time: Timestamp| self.observed.now.duration_since(time).max(SignedDuration::ZERO);
        let lasted = since(step.since.0);
        let limit = |limit: std::time::Duration| SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
        let (deadline, hold) = (
            limit(spec.analysis.step_deadline.as_std()),
            limit(wanted.map(|wanted| wanted.hold.as_std()).unwrap_or_default()),
        );
        // One that was well had its verdict; what comes after that has a time of its own, from the end of the hold.
        let overdue = step.well.is_none() && lasted >= deadline;
        let late = step.well.as_ref().is_some_and(|well| {
            since(well.0) >= deadline && lasted >= hold.checked_add(deadline).unwrap_or(SignedDuration::MAX)
        });
        let judged = self.judge(wanted.is_none_or(CanaryStep::steers));
        match judged {
            Judged::Regressed(reason) => return self.roll_back(Outcome::Failed, VerdictResult::Regressed, &reason),
            Judged::Well => {
                if let Some(step) = self.status.step.as_mut().filter(|step| step.well.is_none()) {
                    step.well = Some(Time(self.observed.now));
                }
            }
            Judged::Unseen => {
                self.status.phase = Some(Phase::Progressing);
                return Moved::No;
            }
            Judged::Open | Judged::Outside => {
                self.status.phase = Some(Phase::Progressing);
                let may_advance = matches!(judged, Judged::Open);
                if let Some(moved) = self.undecided(overdue, may_advance) {
                    return moved;
                }
            }
        }
        if edited {
            self.status.phase = Some(Phase::Progressing);
            let progress = clone.map(|clone| clone.rollout.progress.clone()).unwrap_or_default();
            let why = self
                .unreadable(index)
                .unwrap_or_else(|| format!("the step was edited and needs more pods: {progress}"));
            self.also(&why);
            return Moved::No;
        }
        if lasted < hold {
            self.status.phase = Some(Phase::Holding);
            return Moved::No;
        }
        self.gates(index, deployment, clone, late)
    }

    /// Too little is known of a step. `None`: it counts as passed all the same.
    fn undecided(&mut self, overdue: bool, may_advance: bool) -> Option<Moved> {
        if !overdue {
            return Some(Moved::No);
        }
        let analysis = &self.observed.canary.spec.analysis;
        let reason = self.status.verdict.as_ref().map(|verdict| verdict.reason.clone()).unwrap_or_default();
        let late = format!("no verdict in {}: {reason}", analysis.step_deadline);
        match analysis.on_inconclusive {
            OnInconclusive::Rollback => Some(self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &late)),
            OnInconclusive::Advance if may_advance => self
                .first_overdue()
                .then(|| self.warn("Undecided", format!("{late}. The step counts as passed, as onInconclusive says"))),
            _ if self.first_overdue() => {
                Some(self.warn("Undecided", format!("{late}. It goes on; promote or abort ends it")))
            }
            _ => Some(Moved::No),
        }
    }

    fn first_overdue(&mut self) -> bool {
        self.status.step.as_mut().is_some_and(|step| !std::mem::replace(&mut step.overdue, true))
    }

    /// The evidence is well and the hold over: what else must be true before the next step? `late`: for longer than a step may wait.
    fn gates(&mut self, index: usize, deployment: &Deployment, clone: Option<&CloneDeployment>, late: bool) -> Moved {
        let spec = &self.observed.canary.spec;
        self.status.phase = Some(Phase::Progressing);
        let last = index + 1 >= spec.steps.len();
        // One after the other, so that the last is not asked for what another refuses.
        for phase in [Some(CheckPhase::Step), last.then_some(CheckPhase::BeforePromote)].into_iter().flatten() {
            match self.ask(phase) {
                Some(CheckAnswer::Passed) => {}
                Some(CheckAnswer::Refused(why)) => {
                    return self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &why);
                }
                answer => {
                    // One that nobody has asked yet is not late.
                    let is_late = late && matches!(answer, Some(CheckAnswer::Pending(Some(_))));
                    return self.held_up(&pending(answer), is_late);
                }
            }
            if phase == CheckPhase::Step && self.wants_approval() && !self.is_approved() {
                let announced =
                    self.status.step.as_mut().is_some_and(|step| std::mem::replace(&mut step.announced, true));
                self.status.phase = Some(Phase::WaitingApproval);
                let ask = format!(
                    "fairlead canary approve -n {} {}",
                    self.observed.canary.namespace, self.observed.canary.name
                );
                self.also(&format!("waits for approval: {ask}"));
                if announced {
                    return Moved::No;
                }
                return self.note("WaitingApproval", format!("Step {} waits for approval: {ask}", index + 1));
            }
        }
        if last {
            let reason = self.status.verdict.as_ref().map(|verdict| verdict.reason.clone()).unwrap_or_default();
            return self.promote(&format!("All steps passed: {reason}"));
        }
        // Pods first, traffic then.
        let needed = steps::replicas(spec, index + 1, deployment.replicas);
        let Some(clone) = clone else { return Moved::No };
        if needed >= clone.replicas {
            // Not back to as many as the present step needs.
            self.actions.retain(|action| !matches!(action, Action::ApplyClone { .. }));
        }
        if needed > clone.replicas {
            self.actions.push(Action::ApplyClone { replicas: needed });
        } else if let Some(why) = self.unreadable(index + 1) {
            return self.held_up(&why, false);
        } else if clone.rollout.done {
            return self.enter(index + 1);
        }
        self.again = SOON;
        let progress = self.refusal().unwrap_or_else(|| clone.rollout.progress.clone());
        self.held_up(&format!("the next step needs {needed} pods: {progress}"), late)
    }

    /// Something besides the evidence is missing.
    fn held_up(&mut self, why: &str, late: bool) -> Moved {
        let analysis = &self.observed.canary.spec.analysis;
        self.also(why);
        if !late {
            return Moved::No;
        }
        let late = format!("not passed in {}: {why}", analysis.step_deadline);
        if analysis.on_inconclusive == OnInconclusive::Rollback {
            return self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &late);
        }
        if self.first_overdue() {
            return self.warn("Undecided", format!("{late}. It goes on; promote or abort ends it"));
        }
        Moved::No
    }

    fn is_approved(&self) -> bool {
        self.status.step.as_ref().is_some_and(|step| step.approved)
    }

    /// Weighs what was counted since the last time, and says what follows. Only a step that steers traffic must be proved well.
    fn judge(&mut self, steers: bool) -> Judged {
        let spec = &self.observed.canary.spec;
        let Some(step) = self.status.step.clone() else { return Judged::Open };
        let Some(by) = steps::judged_by(&step) else {
            self.verdict(VerdictResult::Inconclusive, "the new version gets no traffic in this step");
            return self.metrics(Judged::Well);
        };
        let (analysis, number) = (&spec.analysis, step.since.0.as_second());
        let kept = judge::recall(self.status.judgement.as_deref(), analysis, spec.steps.len(), number);
        let mut evidence = kept.clone();
        let (canary, stable) = &self.observed.fresh;
        judge::weigh(&mut evidence, analysis, by, number, canary, stable);
        let judgement = judge(&evidence, by, &self.observed.canary_counts, &self.observed.stable_counts, analysis);
        if evidence != kept {
            self.status.judgement = judge::keep(&evidence, analysis);
        }
        if self.observed.deployment.as_ref().is_some_and(|deployment| deployment.replicas == 0) {
            self.verdict(
                VerdictResult::Inconclusive,
                "the Deployment is scaled to zero: nothing runs that could be judged",
            );
            return Judged::Unseen;
        }
        let unjudged = by == By::Limits && !judge::has_limits(analysis);
        self.status.verdict = Some(Verdict {
            result: judgement.result,
            evidence: judgement.evidence,
            reason: if unjudged {
                format!("{}; nothing to compare with, and no absolute limit", judge::seen(&self.observed.canary_counts))
            } else {
                judgement.reason.clone()
            },
        });
        if spec.skip_analysis {
            self.also("not judged, as skipAnalysis says");
            return Judged::Well;
        }
        let judged = match judgement.result {
            VerdictResult::Regressed => return Judged::Regressed(judgement.reason),
            VerdictResult::NonInferior => Judged::Well,
            VerdictResult::Inconclusive if !steers || unjudged => Judged::Well,
            VerdictResult::Inconclusive => Judged::Open,
        };
        self.metrics(judged)
    }

    /// What other systems measure can only make things worse.
    fn metrics(&mut self, judged: Judged) -> Judged {
        let metrics = &self.observed.canary.spec.analysis.metrics;
        if self.observed.canary.spec.skip_analysis {
            return judged;
        }
        let mut lacking: Option<(Judged, String)> = None;
        for metric in metrics {
            let look = self.observed.looks.iter().find(|look| look.name == metric.name);
            let unseen = || (Judged::Unseen, format!("metric {} was not looked at yet", metric.name));
            let found = match look.map(|look| (look, look.value, &look.error)) {
                Some((look, Some(value), _)) => {
                    let below = metric.min.filter(|min| value < *min).map(|min| format!("below {min}"));
                    let above = metric.max.filter(|max| value > *max).map(|max| format!("above {max}"));
                    let Some(where_) = below.or(above) else { continue };
                    let broken = format!("metric {} is {value}, {where_}", metric.name);
                    if look.outside_in_a_row >= LOOKS {
                        return Judged::Regressed(format!("{broken}, in {} looks in a row", look.outside_in_a_row));
                    }
                    (Judged::Outside, broken)
                }
                Some((_, None, Some(error))) => (Judged::Open, format!("metric {}: {error}", metric.name)),
                _ => unseen(),
            };
            // What is outside says more than what is not known.
            if lacking.is_none() || matches!(found.0, Judged::Outside) {
                lacking = Some(found);
            }
        }
        let Some((lacking, why)) = lacking else { return judged };
        self.also(&why);
        // Evidence that is still open keeps its deadline, whatever a metric says.
        match (judged, lacking) {
            (Judged::Open, Judged::Unseen) => Judged::Open,
            (_, lacking) => lacking,
        }
    }

    pub(super) fn enter(&mut self, index: usize) -> Moved {
        let spec = &self.observed.canary.spec;
        if index >= spec.steps.len() {
            return Moved::No;
        }
        self.split(index, steps::weight(spec, index));
        if let (Some(step), Some(asked)) = (&mut self.status.step, steps::steering(spec, index)) {
            step.mirror = asked.mirror;
            step.matches.clone_from(&asked.matches);
        }
        self.status.phase = Some(Phase::Progressing);
        for side in [&mut self.status.canary, &mut self.status.stable].into_iter().flatten() {
            *side = version(&side.revision);
        }
        self.verdict(VerdictResult::Inconclusive, "the step has just begun");
        let of = spec.steps.len();
        self.note("Step", format!("Step {} of {of}: {}", index + 1, steps::describe(spec, index)))
    }
}

/// Why a check has not answered.
fn pending(answer: Option<CheckAnswer>) -> String {
    match answer {
        Some(CheckAnswer::Pending(Some(why))) => format!("{why}, which is tried again"),
        _ => "a check is being asked".to_owned(),
    }
}
