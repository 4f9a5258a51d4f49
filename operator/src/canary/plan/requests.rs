//! What users ask of a release. A request is done exactly once, wherever the operator stops: it is written into the status, then taken off the Canary,
//! and only when it is gone there does what it asks for happen, in the write that takes it out of the status.

use fairlead_crds::{Outcome, Phase, Request, VerdictResult};

use super::{Action, Moved, Planner};

impl Planner<'_> {
    pub(super) fn hear(&mut self) -> Moved {
        match self.observed.canary.request.as_deref().map(|text| (text, text.parse::<Request>())) {
            None => match self.status.request.take() {
                Some(request) => self.answer(request),
                None => Moved::No,
            },
            Some((_, Ok(request))) if self.status.request == Some(request) => {
                self.actions.push(Action::TakeRequest);
                Moved::No
            }
            Some((_, Ok(request))) => {
                self.status.request = Some(request);
                Moved::Yes
            }
            Some((text, Err(known))) => {
                self.actions.push(Action::TakeRequest);
                let text: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
                self.warn("RequestRefused", format!("{text:?} was not done: {known}"));
                Moved::No
            }
        }
    }

    fn answer(&mut self, request: Request) -> Moved {
        let phase = self.status.phase;
        let under_way =
            matches!(phase, Some(Phase::Progressing | Phase::Holding | Phase::WaitingApproval | Phase::Suspended));
        match request {
            Request::Approve if under_way && self.wants_approval() => {
                let Some(step) = &mut self.status.step else { return Moved::Yes };
                step.approved = true;
                // What comes after it has its own time.
                if let Some(well) = &mut step.well {
                    well.0 = self.observed.now;
                }
                self.note("Approved", "The step is approved".to_owned())
            }
            Request::Approve => self.refuse_request(request, "no step that is under way asks for approval"),
            // The Deployment is as it was, as long as it is paused.
            Request::Abort if under_way || (phase == Some(Phase::Promoting) && self.is_held()) => {
                self.roll_back(Outcome::Aborted, VerdictResult::Inconclusive, "aborted as asked")
            }
            Request::Promote if under_way => self.promote("Promoted as asked, without further evidence"),
            Request::Abort | Request::Promote if phase == Some(Phase::Promoting) => {
                let why =
                    "the Deployment is being rolled out already; to go back, apply the template that it had before";
                self.refuse_request(request, why)
            }
            Request::Promote if phase == Some(Phase::Failed) => {
                let why = "the release has failed; retry releases the template again, kubectl rollout resume rolls it out unjudged";
                self.refuse_request(request, why)
            }
            Request::Abort | Request::Promote => self.refuse_request(request, "nothing is being released"),
            Request::Retry => self.retry(),
        }
    }

    fn retry(&mut self) -> Moved {
        let failed = self.status.canary.as_ref().filter(|_| self.status.phase == Some(Phase::Failed));
        let held = self.observed.deployment.as_ref().filter(|held| {
            // Where it was resumed by hand it is being rolled out.
            failed.is_some_and(|canary| canary.revision == held.revision)
        });
        match (held, self.status.stable.clone()) {
            (Some(deployment), Some(stable)) => self.start(deployment, &stable.revision),
            _ => self.refuse_request(Request::Retry, "no release of what the Deployment holds has failed"),
        }
    }

    fn is_held(&self) -> bool {
        self.observed.deployment.as_ref().is_some_and(|deployment| deployment.paused)
    }

    /// Whether the present step waits for a person, sooner or later.
    pub(super) fn wants_approval(&self) -> bool {
        let step = self.index().and_then(|index| self.observed.canary.spec.steps.get(index));
        step.is_some_and(|step| step.approval.is_some())
    }

    fn refuse_request(&mut self, request: Request, why: &str) -> Moved {
        self.warn("RequestRefused", format!("{request} was not done: {why}"))
    }
}
