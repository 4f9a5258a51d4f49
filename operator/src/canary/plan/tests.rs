//! Releases from the first write to the last, in a world that behaves like a cluster with its proxies.

use std::collections::HashMap;

use fairlead_crds::{CanarySpec, CanaryStep, CanaryStepStatus, Percent};
use serde_json::json;

mod asked;
mod config;
mod steps;

use super::*;
use crate::canary::observe::{CloneDeployment, Rollout, Subject, Trouble};
use crate::canary::outside::{CheckAnswer, Look};
use crate::canary::revision::config_of;
use crate::canary::{Acknowledgements, Counts, Fresh, generation};

/// Requests per second to the Service.
const TRAFFIC: f64 = 20_000.0;

/// A cluster as the plan sees it. Every second pods start, rollouts go on, and proxies follow the status.
struct World {
    now: i64,
    spec: CanarySpec,
    status: CanaryStatus,
    generation: i64,
    deployment: Option<Deployment>,
    clone: Option<CloneDeployment>,
    trouble: Trouble,
    missed_by: Option<String>,
    /// The annotation on the Canary.
    request: Option<String>,
    /// What checks answer, and how often they were asked.
    answers: HashMap<CheckPhase, CheckAnswer>,
    asked: Vec<CheckPhase>,
    looks: Vec<Look>,
    rival: Option<String>,
    injected: bool,
    /// What proxies apply: the number of the split, and what they send the new version, in percent.
    applied: (i64, f64),
    /// Proxies do not follow.
    hanging: bool,
    /// Pods of the clone never become ready.
    unready: bool,
    /// The rollout of the Deployment does not come to an end.
    stalled: bool,
    /// Counted in the present step.
    counted: (Counts, Counts),
    /// Of it, what an operator that stopped had heard of, and the number of the one that runs.
    before: (Counts, Counts),
    source: u64,
    /// Share of the canary's requests that fail, and of the others'.
    failing: (f64, f64),
    /// Phases and weights as they came.
    story: Vec<String>,
    /// Reasons of the events as they came.
    told: Vec<&'static str>,
    /// The operator stops after this many writes, once.
    stop_after: Option<usize>,
    writes: usize,
}

fn rollout(done: bool) -> Rollout {
    Rollout {
        done,
        progress: if done { "2 of 2 pods are ready" } else { "0 of 2 pods are ready" }.to_owned(),
        stuck: None,
    }
}

/// What the new version gets in a split, in percent of the requests.
fn gets(step: &CanaryStepStatus) -> f64 {
    let copies = step.mirror.map_or(0.0, |dark| dark.percent.value() * f64::from(dark.copies));
    let matched = if step.matches.is_empty() { 0.0 } else { 2.0 };
    step.weight.value() + copies + matched
}

impl World {
    fn new() -> Self {
        let spec = serde_json::from_value(json!({"workloadRef": {"kind": "Deployment", "name": "reviews"}})).unwrap();
        Self {
            now: 1_800_000_000,
            spec,
            status: CanaryStatus::default(),
            generation: 1,
            deployment: Some(Deployment {
                revision: "v1".to_owned(),
                noted_config: None,
                paused: false,
                held: false,
                refused: false,
                managed_by: None,
                replicas: 2,
                unavailable: 0,
                progress_deadline: None,
                rollout: rollout(true),
            }),
            clone: None,
            trouble: Trouble::default(),
            missed_by: None,
            request: None,
            answers: HashMap::new(),
            asked: Vec::new(),
            looks: Vec::new(),
            rival: None,
            injected: true,
            applied: (0, 0.0),
            hanging: false,
            unready: false,
            stalled: false,
            counted: Default::default(),
            before: Default::default(),
            source: 1,
            failing: (0.0, 0.0),
            story: Vec::new(),
            told: Vec::new(),
            stop_after: None,
            writes: 0,
        }
    }

    /// A world in which a Canary manages a Deployment.
    fn managed() -> Self {
        let mut world = Self::new();
        world.run(5);
        assert_eq!(world.status.phase, Some(Phase::Initialized));
        assert_eq!(world.deployment().managed_by.as_deref(), Some("reviews"));
        world
    }

    /// A world in which a release gets traffic.
    fn releasing() -> Self {
        let mut world = Self::managed();
        world.change("v2");
        world.until(World::splits);
        world
    }

    fn deployment(&self) -> &Deployment {
        self.deployment.as_ref().unwrap()
    }

    fn splits(&self) -> bool {
        self.status.step.as_ref().is_some_and(|step| gets(step) > 0.0)
    }

    fn set_steps(&mut self, steps: serde_json::Value) {
        self.spec.steps = serde_json::from_value::<Vec<CanaryStep>>(steps).unwrap();
    }

    fn index(&self) -> Option<i32> {
        self.status.step.as_ref().and_then(|step| step.index)
    }

    fn reason(&self) -> &str {
        &self.status.verdict.as_ref().unwrap().reason
    }

    /// The user applies another template; the webhook holds it.
    fn change(&mut self, revision: &str) {
        let deployment = self.deployment.as_mut().unwrap();
        if deployment.revision != revision {
            deployment.revision = revision.to_owned();
            deployment.refused = false;
            if deployment.managed_by.is_some() {
                deployment.paused = true;
                deployment.held = true;
            } else {
                deployment.rollout = rollout(false);
            }
        }
    }

    fn observe(&self) -> Observed {
        let behind = self.applied.0 < generation(&self.status);
        let fresh = |counted: &Counts, before| Fresh { source: self.source, counts: counted.since(before) };
        Observed {
            now: Timestamp::from_second(self.now).unwrap(),
            canary: Subject {
                generation: self.generation,
                uid: "c1".to_owned(),
                namespace: "shop".to_owned(),
                name: "reviews".to_owned(),
                request: self.request.clone(),
                spec: self.spec.clone(),
                status: self.status.clone(),
            },
            deployment: self.deployment.clone(),
            clone: self.clone.clone(),
            trouble: self.trouble.clone(),
            missed_by: self.missed_by.clone(),
            unseen_secrets: false,
            checks: self.answers.clone(),
            looks: self.looks.clone(),
            rival: self.rival.clone(),
            injected: self.injected,
            canary_counts: self.counted.0,
            stable_counts: self.counted.1,
            fresh: (fresh(&self.counted.0, &self.before.0), fresh(&self.counted.1, &self.before.1)),
            proxies: Acknowledgements { proxies: 3, acknowledged: if behind { 2 } else { 3 }, refused: None },
        }
    }

    /// Whether the operator stops here.
    fn wrote(&mut self) -> bool {
        self.writes += 1;
        let stops = self.stop_after == Some(self.writes);
        if stops {
            self.source += 1;
            self.before = self.counted;
        }
        stops
    }

    /// One reconciliation. Answers whether anything was written.
    fn reconcile(&mut self) -> bool {
        let plan = plan(&self.observe());
        let before = self.writes;
        if plan.status != self.status {
            let split = |status: &CanaryStatus| {
                status.step.clone().map(|step| CanaryStepStatus {
                    approved: false,
                    well: None,
                    announced: false,
                    overdue: false,
                    ..step
                })
            };
            if split(&plan.status) != split(&self.status) {
                assert!(generation(&plan.status) > generation(&self.status), "splits are numbered upwards");
                let step = plan.status.step.as_ref().unwrap();
                let what = |step: &CanaryStepStatus| (step.index, step.weight, step.mirror, step.matches.clone());
                let is_news = self.status.step.as_ref().map(what) != Some(what(step))
                    && (self.status.step.is_some() || gets(step) > 0.0);
                let told = match step {
                    CanaryStepStatus { mirror: Some(dark), .. } => format!("mirror {} %", dark.percent),
                    step if !step.matches.is_empty() => "matches".to_owned(),
                    step => format!("{} %", step.weight),
                };
                if is_news {
                    self.story.push(told);
                }
                self.counted = Default::default();
                self.before = Default::default();
            }
            if plan.status.phase != self.status.phase {
                self.story.push(format!("{:?}", plan.status.phase.unwrap()));
            }
            // As the API server keeps it.
            self.status = serde_json::from_value(serde_json::to_value(&plan.status).unwrap()).unwrap();
            assert_eq!(self.status, plan.status, "the status survives being written");
            if self.wrote() {
                return true;
            }
        }
        self.told.extend(plan.notes.iter().map(|note| note.reason));
        for action in &plan.actions {
            self.perform(action);
            if !matches!(action, Action::Ask(_)) && self.wrote() {
                return true;
            }
        }
        self.writes > before
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::Manage => self.deployment.as_mut().unwrap().managed_by = Some("reviews".to_owned()),
            Action::ApplyClone { replicas } => {
                let deployment = self.deployment.clone().unwrap();
                if let Some(clone) = &self.clone
                    && clone.revision != deployment.revision
                {
                    assert!(self.applied.1 == 0.0, "pods that get traffic are replaced");
                }
                self.clone = Some(CloneDeployment {
                    revision: deployment.revision,
                    ours: true,
                    deleting: false,
                    replicas: *replicas,
                    progress_deadline: None,
                    rollout: rollout(false),
                });
            }
            Action::Ask(phase) => {
                self.asked.push(*phase);
            }
            Action::TakeRequest => self.request = None,
            Action::Forgive => self.deployment.as_mut().unwrap().refused = false,
            Action::Restart => {
                let deployment = self.deployment.as_mut().unwrap();
                deployment.noted_config = config_of(&deployment.revision).map(str::to_owned);
                deployment.rollout = rollout(false);
            }
            Action::DeleteClone => {
                assert!(self.applied.1 == 0.0 || self.hanging, "a clone that gets traffic is deleted");
                self.clone = None;
            }
            Action::Unpause => {
                let deployment = self.deployment.as_mut().unwrap();
                deployment.paused = false;
                deployment.held = false;
                deployment.refused = false;
                deployment.rollout = rollout(false);
            }
            Action::Refuse => self.deployment.as_mut().unwrap().refused = true,
            Action::Release { unpause } => {
                let deployment = self.deployment.as_mut().unwrap();
                deployment.managed_by = None;
                deployment.held = false;
                deployment.paused &= !unpause;
            }
        }
    }

    /// A second passes: plans are made until nothing is left to do, then the world goes on.
    fn tick(&mut self) {
        for round in 0.. {
            if !self.reconcile() {
                break;
            }
            assert!(round < 20, "it never comes to rest: {:?}", self.status);
        }
        self.now += 1;
        if let Some(clone) = &mut self.clone {
            clone.rollout.done = !self.unready;
        }
        if let Some(deployment) = &mut self.deployment {
            deployment.rollout.done |= !deployment.paused && !self.stalled;
        }
        let weight = self.status.step.as_ref().map_or(0.0, |step| step.weight.value());
        let gets = self.status.step.as_ref().map_or(0.0, gets);
        if !self.hanging {
            self.applied = (generation(&self.status), gets);
        }
        if self.splits() && self.clone.as_ref().is_some_and(|clone| clone.rollout.done) {
            let rest = 1.0 - weight / 100.0;
            for (counts, share, failing) in
                [(&mut self.counted.0, gets / 100.0, self.failing.0), (&mut self.counted.1, rest, self.failing.1)]
            {
                let requests = (TRAFFIC * share) as u64;
                counts.requests += requests;
                counts.failures += (requests as f64 * failing) as u64;
                counts.latency[8] += requests;
            }
        }
    }

    fn run(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.tick();
        }
    }

    fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            self.tick();
            if holds(self) {
                return;
            }
        }
        panic!("it never came to that; {:?} after {:?}", self.status, self.story);
    }

    fn until_phase(&mut self, phase: Phase) {
        self.until(|world| world.status.phase == Some(phase));
    }

    fn condition(&self, type_: &str) -> (&str, &str, &str) {
        let condition = self.status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (&condition.status, &condition.reason, &condition.message)
    }

    /// Nothing is written any more.
    fn assert_at_rest(&mut self) {
        let writes = self.writes;
        self.run(100);
        assert_eq!(self.writes, writes, "something is still written: {:?}", self.story);
    }
}

#[test]
fn the_first_release_is_not_judged() {
    let mut world = World::managed();
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v1");
    assert!(!world.deployment().paused);
    assert!(world.clone.is_none());
    assert_eq!(world.condition("Accepted").0, "True");
    assert_eq!(world.condition("Programmed"), ("True", "Programmed", "3/3 proxies"));
    world.assert_at_rest();
}

#[test]
fn a_canary_that_is_made_in_the_middle_of_a_rollout_lets_it_end_and_holds_the_next() {
    let mut world = World::new();
    world.deployment.as_mut().unwrap().rollout = rollout(false);
    world.stalled = true;
    world.run(30);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v1", "what is being rolled out is what is stable");
    assert!(!world.deployment().paused && world.clone.is_none());
    world.stalled = false;
    world.run(5);
    world.change("v2");
    world.until_phase(Phase::Succeeded);
}

#[test]
fn a_good_version_is_promoted() {
    let mut world = World::managed();
    world.change("v2");
    world.until_phase(Phase::Succeeded);
    assert_eq!(
        world.story,
        ["Initialized", "Progressing", "1 %", "5 %", "10 %", "25 %", "50 %", "Promoting", "0 %", "Succeeded"]
    );
    let deployment = world.deployment();
    assert!(!deployment.paused && !deployment.held && deployment.rollout.done);
    assert!(world.clone.is_none());
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2");
    let release = &world.status.history[0];
    assert_eq!((release.revision.as_str(), release.outcome), ("v2", Outcome::Succeeded));
    world.assert_at_rest();

    // And the next one.
    world.change("v3");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.history.len(), 2);
    assert_eq!(world.status.history[0].revision, "v3");
}

#[test]
fn while_the_deployment_rolls_out_the_split_stays() {
    let mut world = World::releasing();
    world.stalled = true;
    world.until_phase(Phase::Promoting);
    world.run(1_000);
    assert_eq!(world.status.step.as_ref().unwrap().weight.to_string(), "50");
    assert!(world.clone.is_some());
    assert_eq!(
        world.status.verdict.as_ref().unwrap().reason,
        "the Deployment is being rolled out: 0 of 2 pods are ready"
    );
    world.stalled = false;
    world.until_phase(Phase::Succeeded);
}

#[test]
fn a_bad_version_is_rolled_back_and_not_tried_again() {
    let mut world = World::managed();
    world.failing = (0.2, 0.001);
    world.change("v2");
    world.until_phase(Phase::Failed);
    assert_eq!(world.story, ["Initialized", "Progressing", "1 %", "0 %", "RollingBack", "Failed"]);
    assert!(world.deployment().paused, "the running version stays");
    assert!(world.clone.is_none());
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v1");
    let verdict = world.status.verdict.clone().unwrap();
    assert_eq!(verdict.result, VerdictResult::Regressed);
    assert!(verdict.reason.contains("requests failed; stable"), "{}", verdict.reason);
    assert!(verdict.evidence.starts_with("canary "), "{}", verdict.evidence);
    assert_eq!(world.status.history[0].outcome, Outcome::Failed);
    assert!(world.status.canary.as_ref().unwrap().requests > 0, "what it was judged by can be read");
    assert!(world.deployment().refused && !world.deployment().rolls_out_on_release());
    world.assert_at_rest();
}

#[test]
fn after_a_failure_another_template_is_tried() {
    let mut world = World::managed();
    world.failing = (0.2, 0.0);
    world.change("v2");
    world.until_phase(Phase::Failed);
    world.failing = (0.0, 0.0);
    world.change("v3");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v3");
}

#[test]
fn after_a_failure_the_old_template_ends_the_pause() {
    let mut world = World::managed();
    world.failing = (0.2, 0.0);
    world.change("v2");
    world.until_phase(Phase::Failed);
    world.change("v1");
    assert!(world.deployment().rolls_out_on_release(), "another template than the one that was proved bad");
    world.run(5);
    assert_eq!(world.status.phase, Some(Phase::Initialized));
    assert!(!world.deployment().paused);
    assert_eq!(world.status.verdict, None);
    world.assert_at_rest();
}

#[test]
fn the_old_template_in_the_middle_ends_the_release() {
    let mut world = World::releasing();
    world.change("v1");
    world.until(|world| world.status.phase == Some(Phase::Initialized) && !world.deployment().paused);
    assert!(world.clone.is_none());
    assert_eq!(world.status.history[0].outcome, Outcome::Superseded);
    world.assert_at_rest();
}

#[test]
fn another_template_in_the_middle_starts_over() {
    let mut world = World::releasing();
    world.until(|world| world.status.step.as_ref().is_some_and(|step| step.index == Some(2)));
    world.story.clear();
    world.change("v3");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.story, ["0 %", "1 %", "5 %", "10 %", "25 %", "50 %", "Promoting", "0 %", "Succeeded"]);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v3");
    let outcomes: Vec<_> =
        world.status.history.iter().map(|release| (release.revision.as_str(), release.outcome)).collect();
    assert_eq!(outcomes, [("v3", Outcome::Succeeded), ("v2", Outcome::Superseded)]);
}

#[test]
fn another_template_during_the_promotion_is_judged_against_the_promoted_one() {
    let mut world = World::releasing();
    world.until_phase(Phase::Promoting);
    world.change("v3");
    world.until(|world| world.status.phase == Some(Phase::Progressing));
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v3");
}

#[test]
fn pods_that_crash_end_the_release_with_their_own_words() {
    let mut world = World::managed();
    world.unready = true;
    world.change("v2");
    world.run(10);
    let verdict = world.status.verdict.clone().unwrap();
    assert_eq!(verdict.reason, "the new version is starting: 0 of 2 pods are ready");
    assert!(!world.splits(), "no traffic before the pods are ready");
    world.trouble.hopeless = Some("pod a, container b: CrashLoopBackOff: back-off".to_owned());
    world.until_phase(Phase::Failed);
    assert_eq!(world.status.verdict.as_ref().unwrap().reason, "pod a, container b: CrashLoopBackOff: back-off");
    assert!(world.clone.is_none() && world.deployment().paused);
}

#[test]
fn pods_that_crash_later_end_the_release_as_well() {
    let mut world = World::releasing();
    world.trouble.hopeless = Some("pod a, container b: CrashLoopBackOff: back-off".to_owned());
    world.until_phase(Phase::Failed);
    assert!(world.clone.is_none());
}

#[test]
fn a_clone_that_makes_no_progress_is_given_up_when_kubernetes_gives_it_up() {
    let mut world = World::managed();
    world.unready = true;
    world.change("v2");
    world.run(5);
    world.clone.as_mut().unwrap().rollout.stuck = Some("exceeded its progress deadline".to_owned());
    world.until_phase(Phase::Failed);
    assert_eq!(world.status.history[0].reason, "its pods did not become ready: exceeded its progress deadline");
}

#[test]
fn evidence_outlives_the_operator_and_ends_with_the_release() {
    let mut world = World::releasing();
    world.run(2);
    assert!(world.reconcile(), "what was counted since");
    let kept = world.status.judgement.clone();
    assert!(kept.is_some());
    assert!(!world.reconcile() && world.status.judgement == kept, "nothing new is nothing to write");
    // Another one knows the same counters, and takes none of them again.
    world.source += 1;
    world.before = world.counted;
    assert!(world.reconcile() && !world.reconcile());
    world.until_phase(Phase::Succeeded);
    world.change("v3");
    world.run(1);
    assert_eq!(world.status.judgement, None);
}

#[test]
fn little_traffic_is_not_a_failure() {
    let mut world = World::releasing();
    world.counted = Default::default();
    world.clone.as_mut().unwrap().rollout.done = false;
    world.unready = true;
    world.run(1_000);
    assert_eq!(world.status.phase, Some(Phase::Progressing));
    assert_eq!(world.status.verdict.as_ref().unwrap().result, VerdictResult::Inconclusive);
}

#[test]
fn a_hold_outlasts_the_evidence() {
    let mut world = World::managed();
    world.spec.steps = serde_json::from_value::<Vec<CanaryStep>>(json!([{"weight": 50, "hold": "1m"}])).unwrap();
    world.change("v2");
    world.until_phase(Phase::Holding);
    let began = world.status.step.as_ref().unwrap().since.0.as_second();
    world.until_phase(Phase::Promoting);
    assert!((60..65).contains(&(world.now - began)), "it lasted {} s", world.now - began);
}

#[test]
fn a_version_that_turns_bad_while_it_is_held_is_rolled_back() {
    let mut world = World::managed();
    world.spec.steps = serde_json::from_value::<Vec<CanaryStep>>(json!([{"weight": 50, "hold": "10m"}])).unwrap();
    world.change("v2");
    world.until_phase(Phase::Holding);
    world.failing = (0.5, 0.0);
    world.until_phase(Phase::Failed);
}

#[test]
fn suspended_it_stays_where_it_is() {
    let mut world = World::releasing();
    world.spec.suspend = true;
    world.until_phase(Phase::Suspended);
    let step = world.status.step.clone();
    world.run(300);
    assert_eq!(world.status.phase, Some(Phase::Suspended));
    assert_eq!(world.status.step, step, "the split stays");
    assert!(world.clone.is_some());
    world.spec.suspend = false;
    world.until_phase(Phase::Succeeded);
}

#[test]
fn suspended_before_it_began_nothing_runs() {
    let mut world = World::managed();
    world.spec.suspend = true;
    world.change("v2");
    world.run(10);
    assert_eq!(world.status.phase, Some(Phase::Suspended));
    assert!(world.clone.is_none());
    world.spec.suspend = false;
    world.until_phase(Phase::Succeeded);
}

#[test]
fn what_is_released_when_the_canary_goes_is_known_as_soon_as_it_is_proved_bad() {
    let mut world = World::releasing();
    assert!(world.deployment().rolls_out_on_release(), "nothing is proved against it");
    world.failing = (0.5, 0.0);
    world.hanging = true;
    world.until_phase(Phase::RollingBack);
    assert!(world.clone.is_some() && !world.deployment().rolls_out_on_release());
}

#[test]
fn a_new_canary_does_not_roll_out_what_one_of_its_name_proved_bad() {
    let mut world = World::managed();
    world.failing = (0.2, 0.0);
    world.change("v2");
    world.until_phase(Phase::Failed);
    // Deleted and made again while no operator ran.
    world.status = CanaryStatus::default();
    world.applied = (0, 0.0);
    world.run(20);
    assert!(world.deployment().paused);
    world.assert_at_rest();
    world.failing = (0.0, 0.0);
    world.change("v3");
    world.until_phase(Phase::Succeeded);
    assert!(!world.deployment().paused);
}

#[test]
fn a_new_canary_rolls_out_what_one_of_its_name_was_still_judging() {
    let mut world = World::releasing();
    world.status = CanaryStatus::default();
    world.applied = (0, 0.0);
    world.run(5);
    assert!(!world.deployment().paused && world.clone.is_none());
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2");
    world.assert_at_rest();
}

#[test]
fn a_deployment_that_goes_takes_the_release_along_and_may_come_back() {
    let mut world = World::releasing();
    let deployment = world.deployment.take();
    world.until(|world| world.clone.is_none());
    assert_eq!(world.condition("ResolvedRefs").1, "DeploymentNotFound");
    assert_eq!(world.status.phase, Some(Phase::Initialized));
    world.assert_at_rest();
    world.deployment =
        deployment.map(|deployment| Deployment { paused: false, held: false, managed_by: None, ..deployment });
    world.run(5);
    assert_eq!(world.condition("ResolvedRefs").0, "True");
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2", "as it is");
}

#[test]
fn what_is_not_in_force_touches_nothing_and_says_why() {
    let with = |change: fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        world.run(20);
        assert_eq!(world.deployment().managed_by, None);
        world.assert_at_rest();
        let (status, reason, message) = world.condition("Accepted");
        assert_eq!(status, "False");
        (reason.to_owned(), message.to_owned())
    };
    let (reason, message) = with(|world| world.rival = Some("older".to_owned()));
    assert_eq!(reason, "Conflicted");
    assert!(message.contains("Canary older is older"), "{message}");
    assert_eq!(with(|world| world.injected = false).0, "NotInjected");
    let (reason, message) = with(|world| {
        world.clone = Some(CloneDeployment {
            revision: String::new(),
            ours: false,
            deleting: false,
            replicas: 1,
            progress_deadline: None,
            rollout: rollout(true),
        });
    });
    assert_eq!(reason, "NameTaken");
    assert!(message.contains("reviews-canary"), "{message}");
}

#[test]
fn a_foreign_clone_is_never_deleted() {
    let mut world = World::managed();
    world.clone = Some(CloneDeployment {
        revision: String::new(),
        ours: false,
        deleting: false,
        replicas: 1,
        progress_deadline: None,
        rollout: rollout(true),
    });
    world.change("v2");
    world.run(50);
    assert!(world.clone.is_some());
}

#[test]
fn where_the_sidecars_are_taken_away_the_release_ends_and_the_deployment_is_released() {
    let mut world = World::releasing();
    world.injected = false;
    world.until(|world| world.deployment().managed_by.is_none());
    assert!(world.clone.is_none());
    assert!(!world.deployment().paused, "nothing was proved against it");
    world.assert_at_rest();
}

#[test]
fn a_proxy_that_hangs_keeps_a_clone_for_a_while_and_no_longer() {
    let mut world = World::releasing();
    world.hanging = true;
    world.failing = (0.5, 0.0);
    // What it counted so far is enough.
    world.counted.0.failures = world.counted.0.requests;
    world.until_phase(Phase::RollingBack);
    let began = world.now;
    assert_eq!(world.condition("Programmed").2, "2/3 proxies");
    world.until_phase(Phase::Failed);
    assert!((30..35).contains(&(world.now - began)), "it took {} s", world.now - began);
}

#[test]
fn a_change_that_nothing_held_is_taken_as_it_is() {
    let mut world = World::managed();
    let deployment = world.deployment.as_mut().unwrap();
    deployment.revision = "v2".to_owned();
    world.run(5);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2");
    assert_eq!(world.status.phase, Some(Phase::Initialized));
    assert!(world.clone.is_none());
    world.assert_at_rest();
}

#[test]
fn what_is_resumed_by_hand_is_released() {
    for failing in [0.0, 0.5] {
        let mut world = World::releasing();
        if failing > 0.0 {
            world.failing = (failing, 0.0);
            world.until_phase(Phase::Failed);
        }
        world.deployment.as_mut().unwrap().paused = false;
        world.until_phase(Phase::Succeeded);
        assert!(world.clone.is_none());
        assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2");
    }
}

#[test]
fn a_users_own_pause_is_left_alone() {
    let mut world = World::managed();
    world.deployment.as_mut().unwrap().paused = true;
    world.run(20);
    assert!(world.deployment().paused);
    world.assert_at_rest();
}

#[test]
fn a_deployment_scaled_to_zero_is_released_at_once() {
    let mut world = World::managed();
    world.deployment.as_mut().unwrap().replicas = 0;
    world.change("v2");
    world.until_phase(Phase::Succeeded);
    assert!(!world.story.contains(&"1 %".to_owned()));
}

#[test]
fn the_clone_is_scaled_with_its_deployment() {
    let mut world = World::releasing();
    world.deployment.as_mut().unwrap().replicas = 7;
    world.run(3);
    assert_eq!(world.clone.as_ref().unwrap().replicas, 7);
    assert!(world.splits(), "the release goes on");
}

#[test]
fn a_clone_that_someone_deletes_comes_back() {
    let mut world = World::releasing();
    world.clone = None;
    world.run(2);
    assert!(world.clone.is_some());
    world.until_phase(Phase::Succeeded);
}

#[test]
fn another_weight_in_the_spec_is_a_new_step() {
    let mut world = World::releasing();
    world.spec.steps[0].weight = Some(Percent::try_from(2.0).unwrap());
    world.generation += 1;
    world.run(1);
    let step = world.status.step.as_ref().unwrap();
    assert_eq!((step.index, step.weight.value()), (Some(0), 2.0));
    assert_eq!(world.status.observed_generation, Some(2));
}

#[test]
fn splits_within_one_second_are_still_numbered_apart() {
    let mut world = World::releasing();
    let mut numbers = vec![generation(&world.status)];
    // The clock stands still.
    for weight in 2..6 {
        world.spec.steps[0].weight = Some(Percent::try_from(f64::from(weight)).unwrap());
        world.reconcile();
        numbers.push(generation(&world.status));
    }
    numbers.dedup();
    assert!(numbers.len() == 5 && numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn every_transition_is_told_once() {
    let mut world = World::managed();
    world.change("v2");
    world.until_phase(Phase::Succeeded);
    world.failing = (0.2, 0.0);
    world.change("v3");
    world.until_phase(Phase::Failed);
    world.run(100);
    assert_eq!(
        world.told,
        [
            "Initialized",
            "Started",
            "Step",
            "Step",
            "Step",
            "Step",
            "Step",
            "Promoting",
            "Succeeded",
            "Started",
            "Step",
            "RollingBack",
            "Failed"
        ]
    );
}

#[test]
fn an_objection_is_told_once() {
    let mut world = World::managed();
    world.rival = Some("older".to_owned());
    world.run(50);
    assert_eq!(world.told, ["Initialized", "Conflicted"]);
}

#[test]
fn the_history_keeps_ten() {
    let mut world = World::managed();
    for release in 2..15 {
        world.change(&format!("v{release}"));
        world.until_phase(Phase::Succeeded);
        world.change(&format!("v{release}next"));
        world.until(|world| world.status.phase != Some(Phase::Succeeded));
    }
    assert_eq!(world.status.history.len(), 10);
}

/// The end of a story: what a user reads, without times and counts.
fn end(world: &World) -> serde_json::Value {
    json!({
        "phase": world.status.phase,
        "stable": world.status.stable.as_ref().map(|version| &version.revision),
        "weight": world.status.step.as_ref().map(|step| step.weight),
        "index": world.index(),
        "request": (&world.request, &world.status.request),
        "history": world.status.history.iter().map(|release| (&release.revision, release.outcome)).collect::<Vec<_>>(),
        "clone": world.clone.is_some(),
        "paused": world.deployment.as_ref().map(|deployment| deployment.paused),
        "managed": world.deployment.as_ref().map(|deployment| deployment.managed_by.is_some()),
        "refused": world.deployment.as_ref().map(|deployment| deployment.refused),
    })
}

/// Plays a story with an operator that stops after the first write, the second, and so on; each must end the same.
fn survives_every_stop(story: impl Fn(&mut World)) {
    let play = |stop_after| {
        let mut world = World::new();
        world.stop_after = stop_after;
        story(&mut world);
        world.run(50);
        world
    };
    let undisturbed = play(None);
    assert!(undisturbed.writes > 10);
    for stop in 1..=undisturbed.writes {
        assert_eq!(end(&play(Some(stop))), end(&undisturbed), "stopped after write {stop}");
    }
}

#[test]
fn an_operator_that_stops_after_any_write_of_a_good_release_changes_nothing() {
    survives_every_stop(|world| {
        world.run(5);
        world.change("v2");
        world.until_phase(Phase::Succeeded);
    });
}

#[test]
fn an_operator_that_stops_after_any_write_of_a_bad_release_changes_nothing() {
    survives_every_stop(|world| {
        world.failing = (0.2, 0.0);
        world.run(5);
        world.change("v2");
        world.until_phase(Phase::Failed);
    });
}

#[test]
fn an_operator_that_stops_after_any_write_of_a_restarted_release_changes_nothing() {
    survives_every_stop(|world| {
        world.run(5);
        world.change("v2");
        world.until(World::splits);
        world.change("v3");
        world.until_phase(Phase::Succeeded);
    });
}
