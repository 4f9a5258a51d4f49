//! A release that is under way: the new version starts, gets traffic, and goes from step to step.

use fairlead_crds::{CheckPhase, OnInconclusive, Outcome, Phase, Verdict, VerdictResult};
use k8s_openapi::jiff::SignedDuration;

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
        if deployment.replicas == 0 && !self.in_step() {
            return self.promote("The Deployment is scaled to zero: nothing runs that could be judged");
        }
        self.again = WATCHFUL;
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
        let fits = current.is_some_and(|clone| clone.replicas == wanted);
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
            // Anew, as nothing was judged in the meantime and its deadline may be over.
            return Some(self.index().map_or(Moved::Yes, |index| self.enter(index)));
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
        if index < spec.steps.len() && !steps::is_as_asked(spec, index, &step) {
            return self.enter(index);
        }
        self.count();
        let wanted = spec.steps.get(index);
        // Splits of one second are numbered into the next.
        let lasted = self.observed.now.duration_since(step.since.0).max(SignedDuration::ZERO);
        let exceeds = |limit: std::time::Duration| SignedDuration::try_from(limit).is_ok_and(|limit| lasted >= limit);
        let overdue = exceeds(spec.analysis.step_deadline.as_std());
        match self.judge(wanted.is_some_and(fairlead_crds::CanaryStep::steers)) {
            Judged::Regressed(reason) => return self.roll_back(Outcome::Failed, VerdictResult::Regressed, &reason),
            Judged::Well => {}
            Judged::Open => {
                self.status.phase = Some(Phase::Progressing);
                if let Some(moved) = self.undecided(overdue) {
                    return moved;
                }
            }
        }
        if !exceeds(wanted.map(|wanted| wanted.hold.as_std()).unwrap_or_default()) {
            self.status.phase = Some(Phase::Holding);
            return Moved::No;
        }
        self.gates(index, deployment, clone, overdue)
    }

    /// Too little is known of a step. `None`: it counts as passed all the same.
    fn undecided(&mut self, overdue: bool) -> Option<Moved> {
        if !overdue {
            return Some(Moved::No);
        }
        let analysis = &self.observed.canary.spec.analysis;
        let reason = self.status.verdict.as_ref().map(|verdict| verdict.reason.clone()).unwrap_or_default();
        let late = format!("no verdict in {}: {reason}", analysis.step_deadline);
        match analysis.on_inconclusive {
            OnInconclusive::Rollback => Some(self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &late)),
            OnInconclusive::Advance => self
                .first_overdue()
                .then(|| self.warn("Undecided", format!("{late}. The step counts as passed, as onInconclusive says"))),
            OnInconclusive::Hold if self.first_overdue() => {
                Some(self.warn("Undecided", format!("{late}. It goes on; promote or abort ends it")))
            }
            OnInconclusive::Hold => Some(Moved::No),
        }
    }

    fn first_overdue(&mut self) -> bool {
        self.status.step.as_mut().is_some_and(|step| !std::mem::replace(&mut step.overdue, true))
    }

    /// The evidence is well and the hold over: what else must be true before the next step?
    fn gates(
        &mut self,
        index: usize,
        deployment: &Deployment,
        clone: Option<&CloneDeployment>,
        overdue: bool,
    ) -> Moved {
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
                answer if overdue && spec.analysis.on_inconclusive == OnInconclusive::Rollback => {
                    let late = format!("not passed in {}: {}", spec.analysis.step_deadline, pending(answer));
                    return self.roll_back(Outcome::Failed, VerdictResult::Inconclusive, &late);
                }
                answer => {
                    self.also(&pending(answer));
                    return Moved::No;
                }
            }
            if phase == CheckPhase::Step && self.wants_approval() && !self.is_approved() {
                let waited = self.observed.canary.status.phase == Some(Phase::WaitingApproval);
                self.status.phase = Some(Phase::WaitingApproval);
                let ask = format!(
                    "fairlead canary approve -n {} {}",
                    self.observed.canary.namespace, self.observed.canary.name
                );
                self.also(&format!("waits for approval: {ask}"));
                if waited {
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
        } else if clone.rollout.done {
            return self.enter(index + 1);
        }
        self.again = SOON;
        self.also(&format!("the next step needs {needed} pods: {}", clone.rollout.progress));
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
        let mut open = None;
        for metric in metrics {
            let Some(look) = self.observed.looks.iter().find(|look| look.name == metric.name) else {
                open.get_or_insert(format!("metric {} was not looked at yet", metric.name));
                continue;
            };
            let limits = [("below", metric.min), ("above", metric.max)];
            let broken = look.value.and_then(|value| {
                let is_broken = |(side, limit): &(&str, Option<f64>)| {
                    limit.is_some_and(|limit| if *side == "below" { value < limit } else { value > limit })
                };
                let (side, limit) = limits.into_iter().find(is_broken)?;
                Some(format!("metric {} is {value}, {side} {}", metric.name, limit.unwrap_or_default()))
            });
            match (broken, &look.error) {
                (Some(broken), _) if look.outside_in_a_row >= LOOKS => {
                    return Judged::Regressed(format!("{broken}, in {} looks in a row", look.outside_in_a_row));
                }
                (Some(broken), _) => open = open.or(Some(broken)),
                (None, Some(error)) => open = open.or(Some(format!("metric {}: {error}", metric.name))),
                (None, None) if look.value.is_none() => {
                    open.get_or_insert(format!("metric {} was not looked at yet", metric.name));
                }
                (None, None) => {}
            }
        }
        match open {
            Some(open) => {
                self.also(&open);
                Judged::Open
            }
            None => judged,
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
