//! Releases by evidence: a changed Deployment is held, runs as a clone beside the stable version, and is judged step by step.
//!
//! # Expected flow
//! 1. The leader labels the Deployment of each Canary (phase `Initialized`). From then on the webhook asks [`hold::review`] about every
//!    write to it.
//! 2. The template changes: the webhook pauses the Deployment in that write. [`controller`] sees a new [`revision`](revision::revision)
//!    and runs it as `<name>-canary` (`Progressing`). A `ConfigMap` or Secret that it names changes: the same, but there is nothing to hold, as running pods
//!    keep what they read.
//! 3. When the clone's pods are ready, `status.step` says what they get: a share of the traffic, copies, or requests that match. Proxies follow the status,
//!    not the spec. [`judge`] looks at what they counted. Good evidence, what [`outside`] says, a hold that is over (`Holding`) and a person's word
//!    (`WaitingApproval`) lead to the next step.
//! 4. After the last step the clone gets as many pods as the rollout takes away, and the Deployment is unpaused. Once its rollout is done the new version gets
//!    nothing by the split any more, proxies acknowledge, the clone is deleted (`Promoting`, `Succeeded`). Bad evidence, pods that cannot run, a check that
//!    refuses, an abort: no split, acknowledgement, clone deleted; the Deployment stays paused (`RollingBack`, `Failed`) and this version is not tried
//!    again until somebody asks for it.
//!
//! # Guarantees
//! - The whole state of a release is the Canary's status. [`plan`] decides from it and from the objects as they are now; each
//!   decision is persisted before anything follows from it. So the operator may stop between any two writes.
//! - What a user asks for with an annotation is done once: it goes into the status, then off the Canary, and then happens.
//! - A clone is taken away only after every proxy said that it sends it nothing, or [`plan::ACKNOWLEDGE_WITHIN`] passed.
//! - Where NetworkPolicies isolate the application, its pods may talk among themselves as long as a pod of the clone runs, so that
//!   the clone can hand plain callers over ([`passage`]).
//! - The Deployment is unpaused only at the very version of the object that was judged: a template that changed meanwhile stays held.
//! - A Canary may go at any moment, with the operator or without it: nothing holds it back. Its split ends with it, the clone goes
//!   by its owner reference, and the Deployment says by itself (label and annotations) how it is to be released.
//!
//! # Assumptions
//! One replica of the operator writes at a time. `status.step.since` grows with every change of the split, by whole seconds; its
//! unix seconds are the generation under which proxies acknowledge a Canary, and part of the name under which they count.
//!
//! # Caveats
//! A template that changes while nothing holds it (before the label is there) is rolled out by the cluster without a canary; the
//! Canary says so in an event. `kubectl rollout resume` by hand releases what is held without further judgement.
//!
//! # Errors
//! A reconciliation that fails is tried again with growing pauses; a conflict at once, as someone else merely wrote first.

mod act;
mod clone;
pub mod config;
pub mod controller;
pub mod counts;
pub mod hold;
pub mod judge;
pub mod observe;
pub mod outside;
pub mod passage;
pub mod plan;
pub mod revision;

use fairlead_crds::CanaryStatus;

pub use counts::Counts;

/// The field manager of all that releases write.
pub const FIELD_MANAGER: &str = "fairlead-canary";

/// On a clone and its pods: the revision of the template that they were made from.
pub const TEMPLATE: &str = "fairlead.dev/template";

/// What proxies counted. The registry of what proxies report implements it.
pub trait Evidence: Send + Sync {
    /// The sum over all proxies of what they counted under this name since its beginning; `None` where nobody counted anything.
    fn counts(&self, group: &str) -> Option<Counts>;

    /// Called once, when this process begins to judge.
    fn take_over(&self);

    /// Of these, what nobody but this process can have taken for evidence, since [`Evidence::take_over`].
    fn fresh(&self, group: &str) -> Fresh;
}

/// Counters for evidence, of which each request must be taken once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Who sums them: another process knows of other callers, so that its sums cannot be compared with these.
    pub source: u64,
    /// Cumulative, as long as the source is the same.
    pub counts: Counts,
}

/// How far proxies follow. The registry of what proxies acknowledged implements it.
pub trait Programmed: Send + Sync {
    /// Of the proxies whose configuration this Canary is part of, how many acknowledged `generation` or a later one.
    fn acknowledgements(&self, namespace: &str, canary: &str, generation: i64) -> Acknowledgements;
}

/// How far proxies follow one state of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledgements {
    /// How many have it as part of their configuration.
    pub proxies: usize,
    /// How many of them said that they applied it.
    pub acknowledged: usize,
    /// One that refused it, with its reason.
    pub refused: Option<String>,
}

/// The number of a traffic split: what proxies acknowledge a Canary under. 0 before the first.
pub fn generation(status: &CanaryStatus) -> i64 {
    status.step.as_ref().map_or(0, |step| step.since.0.as_second())
}

/// When the step began that is counted under this name, in unix seconds.
pub fn began(group: &str) -> Option<i64> {
    group.rsplit('/').nth(1)?.parse().ok()
}

/// The names under which proxies count the canary and the running version in the present step. `None` before the first.
pub fn groups(namespace: &str, canary: &str, status: &CanaryStatus) -> Option<(String, String)> {
    let revision = &status.canary.as_ref()?.revision;
    let index = status.step.as_ref()?.index?;
    let prefix = format!("{namespace}/{canary}/{revision}/{index}/{}", generation(status));
    Some((format!("{prefix}/canary"), format!("{prefix}/stable")))
}
