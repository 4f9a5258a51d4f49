//! What the states of a Canary mean for somebody who waits for the end of a release: whether it has ended, and how.
//!
//! [`Follow::look`] is the one call that enters: it is shown each state in turn and answers by data alone.
//!
//! # Expected flow
//! A script changes a Deployment and waits. The webhook has paused and marked the Deployment in that very write, but the operator need not
//! have seen it: the Canary may still say that nothing is being released, or go on with the release before. So whoever waits keeps the
//! template that the Deployment had at the beginning ([`Follow::applied`]). As long as that has not changed, a release that ends in
//! favour of another template was not the one that was meant.
//!
//! # Guarantees
//! "Promoted" is said only where the history or the phase says it of the revision that was followed, or where nothing is being released
//! and nothing is held, so that what was applied is what runs.

use std::time::Duration;

use fairlead_crds::{
    CONFIG_ANNOTATION, Canary, CanaryStatus, HELD_ANNOTATION, Outcome, Phase, REFUSED_ANNOTATION, Release, Request,
};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::state::{self, is_under_way, objection, pending};

/// How long an operator may take to see what was there before it was waited for: one that has just been restarted is there by then.
const SETTLED: Duration = Duration::from_secs(15);

/// Of a Deployment what decides whether a release is about to begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    /// Paused by the webhook.
    pub(super) held: bool,
    /// A template of it was proved bad.
    refused: bool,
    /// Its pod template, without what a promotion writes into it.
    template: Value,
}

impl Workload {
    pub(crate) fn read(deployment: &DynamicObject) -> Self {
        let annotated = |name: &str| deployment.annotations().contains_key(name);
        let spec = &deployment.data["spec"];
        let mut template = spec["template"].clone();
        if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(CONFIG_ANNOTATION);
            }
            metadata.retain(|_, part| *part != json!({}));
        }
        Self {
            held: spec["paused"] == json!(true) && annotated(HELD_ANNOTATION),
            refused: annotated(REFUSED_ANNOTATION),
            template,
        }
    }
}

/// What there is at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// `None`: there is none any more.
    pub(crate) canary: Option<&'a Canary>,
    /// Its Deployment, looked at after the Canary.
    pub(crate) workload: Option<&'a Workload>,
    /// How long it has been waited.
    pub(crate) elapsed: Duration,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// For what it is waited.
    Waiting(String),
    /// It is over.
    Ended(Ending),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// What was released is the running version.
    pub(crate) promoted: bool,
    /// One sentence.
    pub(crate) sentence: String,
}

impl Ending {
    fn good(sentence: String) -> Self {
        Self { promoted: true, sentence }
    }

    fn bad(sentence: String) -> Self {
        Self { promoted: false, sentence }
    }
}

/// A release that is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    uid: Option<String>,
    /// Releases that had ended before.
    past: Vec<Release>,
    /// What the Deployment held at the beginning, where that is what is waited for.
    template: Option<Value>,
    /// `None` until a release is under way.
    revision: Option<String>,
    /// It was being taken away before it was settled what is waited for. That may take longer.
    is_leaving: bool,
}

impl Follow {
    /// Waits for what the Deployment held before `canary` was read.
    pub(crate) fn applied(canary: &Canary, workload: Option<&Workload>) -> Self {
        Self {
            uid: canary.uid(),
            past: canary.status.as_ref().map(|status| status.history.clone()).unwrap_or_default(),
            template: workload.map(|workload| workload.template.clone()),
            revision: None,
            is_leaving: false,
        }
    }

    /// Waits for the release that `canary` is about, as it was before something was asked of it.
    pub(crate) fn release(canary: &Canary) -> Self {
        let revision = canary.status.as_ref().and_then(|status| status.canary.as_ref());
        let revision = revision.map(|version| version.revision.clone());
        Self { revision, ..Self::applied(canary, None) }
    }

    /// What a state means.
    pub(crate) fn look(&mut self, seen: &Seen<'_>) -> Look {
        let Some(canary) = seen.canary else {
            return Look::Ended(Ending::bad("the Canary was deleted: its Deployment goes on without it".to_owned()));
        };
        if canary.uid() != self.uid {
            let sentence = "the Canary was deleted and made anew: what it was about is not known any more";
            return Look::Ended(Ending::bad(sentence.to_owned()));
        }
        let fresh = CanaryStatus::default();
        let status = canary.status.as_ref().unwrap_or(&fresh);
        if self.revision.is_none() && is_under_way(status.phase) {
            self.revision = status.canary.as_ref().map(|version| version.revision.clone());
            self.is_leaving = status.phase == Some(Phase::RollingBack);
        }
        self.is_leaving |= status.phase == Some(Phase::RollingBack) && seen.elapsed < SETTLED;
        let Some(revision) = &self.revision else { return idle(canary, status, seen) };
        match fate(revision, &self.past, status) {
            None => Look::Waiting(format!("revision {revision} is being released ({})", state::phase(status))),
            Some(ending) if self.meant_another(&ending, status, seen) => {
                self.past.clone_from(&status.history);
                self.revision = None;
                self.is_leaving = false;
                self.look(seen)
            }
            Some(ending) => Look::Ended(ending),
        }
    }

    /// Whether what ended was the release before the one that is waited for.
    fn meant_another(&self, ending: &Ending, status: &CanaryStatus, seen: &Seen<'_>) -> bool {
        let (Some(template), Some(workload)) = (&self.template, seen.workload) else { return false };
        if *template != workload.template {
            return false;
        }
        if ending.promoted {
            // Who is promoted is held no longer.
            return workload.held;
        }
        // A template that is held and failed stays Failed, and an objection ends releases as well.
        let went_for_another = status.phase != Some(Phase::Failed) && objection(status).is_none();
        went_for_another && (self.is_leaving || seen.elapsed < SETTLED)
    }
}

/// How the release of this revision ended, if it has.
fn fate(revision: &str, past: &[Release], status: &CanaryStatus) -> Option<Ending> {
    let is_canary = status.canary.as_ref().is_some_and(|version| version.revision == revision);
    let newer = status.canary.as_ref().filter(|_| is_under_way(status.phase) && !is_canary);
    let stable = status.stable.as_ref().map(|version| version.revision.as_str());
    let instead = match (newer, stable) {
        (Some(newer), _) => format!("; revision {} is being released now", newer.revision),
        (None, Some(stable)) => format!("; revision {stable} is the running version"),
        (None, None) => String::new(),
    };
    let ended = status.history.iter().find(|release| release.revision == revision && !past.contains(release));
    if let Some(Release { outcome, reason, .. }) = ended {
        return Some(match outcome {
            Outcome::Succeeded => Ending::good(format!("revision {revision} was promoted: {reason}")),
            Outcome::Failed => Ending::bad(format!("revision {revision} was rolled back: {reason}{instead}")),
            Outcome::Aborted => Ending::bad(format!("revision {revision} was aborted: {reason}{instead}")),
            Outcome::Superseded => Ending::bad(format!("revision {revision} was superseded: {reason}{instead}")),
        });
    }
    match status.phase {
        phase if is_under_way(phase) && newer.is_none() => None,
        Some(Phase::Succeeded) if stable == Some(revision) => {
            Some(Ending::good(format!("revision {revision} is the running version")))
        }
        Some(Phase::Failed) if is_canary => {
            Some(Ending::bad(format!("revision {revision} was rolled back{}{instead}", because(status))))
        }
        _ => Some(Ending::bad(format!("revision {revision} was not promoted{instead}"))),
    }
}

fn because(status: &CanaryStatus) -> String {
    status.verdict.as_ref().map(|verdict| format!(": {}", verdict.reason)).unwrap_or_default()
}

/// Nothing is being released: is something about to be?
fn idle(canary: &Canary, status: &CanaryStatus, seen: &Seen<'_>) -> Look {
    let waiting = |what: &str| Look::Waiting(what.to_owned());
    let workload_name = &canary.spec.workload_ref.name;
    let Some(workload) = seen.workload else {
        return Look::Ended(Ending::bad(format!(
            "there is no Deployment {workload_name}: create it, or correct spec.workloadRef.name"
        )));
    };
    if status.phase.is_none() || status.observed_generation < canary.metadata.generation {
        return waiting("the operator has not looked at the Canary yet");
    }
    if pending(canary).as_deref() == Some(Request::Retry.to_string().as_str()) {
        return waiting("the operator has not answered the request to retry yet");
    }
    let is_settling = seen.elapsed < SETTLED;
    if let Some(objection) = objection(status) {
        if is_settling {
            return Look::Waiting(format!("the Canary is not in force: {objection}"));
        }
        return Look::Ended(Ending::bad(format!(
            "nothing is released, because the Canary is not in force: {objection}"
        )));
    }
    match status.phase {
        Some(Phase::Failed) if is_settling => {
            waiting("the last release failed; if the Deployment holds a newer template, its release is about to begin")
        }
        Some(Phase::Failed) => {
            let last = status.canary.as_ref().map_or("the last one", |version| version.revision.as_str());
            let failed = format!("nothing is being released; revision {last} was rolled back{}", because(status));
            Look::Ended(Ending::bad(failed))
        }
        _ if workload.held && (is_settling || !workload.refused) => {
            Look::Waiting(format!("the change of Deployment {workload_name} is held; its release is about to begin"))
        }
        _ if workload.held => Look::Ended(Ending::bad(format!(
            "nothing is being released; Deployment {workload_name} is held with a template that an earlier Canary proved bad: \
             change it, or roll it out as it is with kubectl rollout resume"
        ))),
        _ => {
            let stable = status.stable.as_ref().map(|version| version.revision.as_str()).unwrap_or_default();
            Look::Ended(Ending::good(format!("nothing is being released; revision {stable} is the running version")))
        }
    }
}

#[cfg(test)]
mod tests;
