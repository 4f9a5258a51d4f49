//! Steps of every kind.

use super::*;

#[test]
fn a_release_of_every_kind_of_step_goes_through_them_in_their_order() {
    let mut world = World::managed();
    world.set_steps(json!([
        {"hold": "10s"},
        {"mirror": {"percent": 50}},
        {"matches": [{"headers": [{"name": "end-user", "value": "jason"}]}]},
        {"weight": 1},
        {"hold": "10s"},
        {"weight": 50, "replicas": 3},
        {"weight": 100},
    ]));
    world.spec.analysis.errors.max = Some(Percent::try_from(5.0).unwrap());
    world.change("v2");
    world.until_phase(Phase::Succeeded);
    let story: Vec<&str> =
        world.story.iter().map(String::as_str).filter(|what| *what != "Holding" && *what != "Progressing").collect();
    assert_eq!(
        story,
        [
            "Initialized",
            "0 %",
            "mirror 50 %",
            "matches",
            "1 %",
            "1 %",
            "50 %",
            "100 %",
            "Promoting",
            "0 %",
            "Succeeded"
        ]
    );
    assert!(world.index().is_none());
}

#[test]
fn copies_and_matched_requests_are_judged_by_absolute_limits_alone() {
    for step in [
        json!({"mirror": {}}),
        json!({"matches": [{"headers": [{"name": "a", "value": "b"}]}]}),
        json!({"weight": 100}),
    ] {
        let mut world = World::managed();
        world.set_steps(json!([step]));
        world.spec.analysis.errors.max = Some(Percent::try_from(10.0).unwrap());
        // Far worse than the running version, and within the limit.
        world.failing = (0.05, 0.0);
        world.change("v2");
        world.until_phase(Phase::Succeeded);
        world.failing = (0.3, 0.3);
        world.change("v3");
        world.until_phase(Phase::Failed);
        let reason = world.reason();
        assert!(reason.ends_with("more than the 10 % that may fail at most"), "{reason}");
        assert!(!reason.contains("stable"), "{reason}");
    }
}

#[test]
fn where_nothing_can_be_judged_the_hold_alone_is_waited_for() {
    let mut world = World::managed();
    world.set_steps(json!([{"weight": 100, "hold": "1m"}]));
    world.failing = (0.5, 0.0);
    world.change("v2");
    world.until_phase(Phase::Holding);
    let began = world.status.step.as_ref().unwrap().since.0.as_second();
    world.run(5);
    let reason = world.reason();
    assert!(reason.ends_with("; nothing to compare with, and no absolute limit"), "{reason}");
    world.until_phase(Phase::Promoting);
    assert!((60..65).contains(&(world.now - began)), "it lasted {} s", world.now - began);
}

#[test]
fn a_version_that_turns_bad_in_a_step_that_only_holds_is_rolled_back() {
    let mut world = World::managed();
    world.set_steps(json!([{"weight": 50}, {"hold": "1h"}]));
    world.change("v2");
    world.until(|world| world.index() == Some(1));
    world.run(60);
    assert_eq!(world.status.phase, Some(Phase::Holding));
    assert_eq!(world.status.step.as_ref().unwrap().weight.to_string(), "50", "traffic stays as it was");
    world.failing = (0.5, 0.0);
    world.until_phase(Phase::Failed);
}

#[test]
fn pods_come_before_the_traffic_that_needs_them() {
    let mut world = World::managed();
    world.deployment.as_mut().unwrap().replicas = 10;
    world.spec.rollout.replicas = fairlead_crds::Replicas::ByWeight;
    world.set_steps(json!([{"weight": 1, "hold": "1m"}, {"weight": 50}, {"weight": 60, "replicas": 2}]));
    world.change("v2");
    world.until_phase(Phase::Holding);
    assert_eq!(world.clone.as_ref().unwrap().replicas, 1);
    world.unready = true;
    world.until(|world| world.clone.as_ref().unwrap().replicas == 5);
    world.run(30);
    assert_eq!(world.index(), Some(0), "they are not ready yet");
    assert!(world.reason().ends_with("; the next step needs 5 pods: 0 of 2 pods are ready"), "{}", world.reason());
    world.unready = false;
    world.until(|world| world.index() == Some(1));
    world.until(|world| world.index() == Some(2));
    world.run(2);
    assert_eq!(world.clone.as_ref().unwrap().replicas, 2);
    world.until_phase(Phase::Succeeded);
}

#[test]
fn a_rollout_takes_no_capacity_away() {
    let mut world = World::managed();
    let deployment = world.deployment.as_mut().unwrap();
    (deployment.replicas, deployment.unavailable) = (8, 4);
    world.set_steps(json!([{"weight": 10, "replicas": 1}]));
    world.change("v2");
    world.until_phase(Phase::Promoting);
    world.until(|world| !world.deployment().paused);
    let clone = world.clone.as_ref().unwrap();
    assert!(clone.replicas == 4 && clone.rollout.done, "as many as the rollout may stop");
    assert_eq!(world.status.step.as_ref().unwrap().weight.to_string(), "10");
    world.until_phase(Phase::Succeeded);
}

#[test]
fn before_all_pods_are_stopped_at_once_all_traffic_is_elsewhere() {
    let mut world = World::managed();
    world.deployment.as_mut().unwrap().unavailable = 2;
    world.set_steps(json!([{"weight": 10}]));
    world.change("v2");
    world.until_phase(Phase::Promoting);
    world.until(|world| !world.deployment().paused);
    assert!(world.applied.1 > 99.0, "every proxy knows it");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.step.as_ref().unwrap().weight.to_string(), "0");
}

#[test]
fn a_clone_that_gets_no_room_does_not_keep_a_good_version_from_being_rolled_out() {
    let mut world = World::releasing();
    world.deployment.as_mut().unwrap().unavailable = 2;
    world.until_phase(Phase::Promoting);
    world.unready = true;
    world.clone.as_mut().unwrap().rollout = Rollout { stuck: Some("no room".to_owned()), ..rollout(false) };
    world.until_phase(Phase::Succeeded);
}

fn idle_step(deadline: &str, then: &str) -> World {
    let mut world = World::managed();
    world.set_steps(json!([{"weight": 1}, {"weight": 2}]));
    world.spec.analysis.step_deadline = deadline.parse().unwrap();
    world.spec.analysis.on_inconclusive = serde_json::from_value(json!(then)).unwrap();
    world.change("v2");
    world.until(World::splits);
    // Nobody sends anything.
    world.clone.as_mut().unwrap().rollout.done = false;
    world.counted = Default::default();
    world.unready = true;
    world
}

#[test]
fn a_step_without_a_verdict_is_held_and_told_once() {
    let mut world = idle_step("5m", "Hold");
    world.run(1_000);
    assert_eq!(world.status.phase, Some(Phase::Progressing));
    assert!(world.status.step.as_ref().unwrap().overdue);
    assert_eq!(world.told.iter().filter(|reason| **reason == "Undecided").count(), 1);
    world.unready = false;
    world.until_phase(Phase::Succeeded);
}

#[test]
fn a_step_without_a_verdict_counts_as_passed_where_that_is_asked_for() {
    let mut world = idle_step("5m", "Advance");
    world.run(298);
    assert_eq!(world.index(), Some(0));
    world.unready = false;
    world.clone.as_mut().unwrap().rollout.done = true;
    world.spec.analysis.errors.margin = Percent::try_from(0.01).unwrap();
    world.until(|world| world.index() == Some(1));
    assert!(world.told.contains(&"Undecided"));
    world.until_phase(Phase::Promoting);
}

#[test]
fn a_step_without_a_verdict_is_rolled_back_where_that_is_asked_for() {
    let mut world = idle_step("5m", "Rollback");
    world.until_phase(Phase::Failed);
    assert!(world.reason().starts_with("no verdict in 5m: "), "{}", world.reason());
    assert_eq!(world.status.history[0].outcome, Outcome::Failed);
    assert!(world.deployment().paused && world.deployment().refused);
}

#[test]
fn unjudged_a_release_needs_its_holds_alone() {
    let mut world = World::managed();
    world.spec.skip_analysis = true;
    world.set_steps(json!([{"weight": 50, "hold": "30s"}]));
    world.failing = (0.9, 0.0);
    world.change("v2");
    world.until_phase(Phase::Succeeded);
    world.trouble.hopeless = Some("it crashes".to_owned());
    world.change("v3");
    world.until_phase(Phase::Failed);
}

#[test]
fn what_its_pods_say_is_told_when_they_do_not_become_ready() {
    let mut world = World::managed();
    world.unready = true;
    world.change("v2");
    world.run(5);
    world.trouble.unschedulable = Some("pod a: 0/2 nodes are available".to_owned());
    world.run(1);
    let (status, reason, message) = world.condition("Accepted");
    assert_eq!((status, reason), ("False", "Unschedulable"));
    assert!(
        message.contains("loosen anti-affinity") && message.ends_with("(pod a: 0/2 nodes are available)"),
        "{message}"
    );
    world.clone.as_mut().unwrap().rollout.stuck = Some("timed out progressing".to_owned());
    world.until_phase(Phase::Failed);
    assert_eq!(world.reason(), "its pods did not become ready: timed out progressing; pod a: 0/2 nodes are available");
}

#[test]
fn a_service_that_selects_by_version_is_said_and_nothing_ends_for_it() {
    let mut world = World::releasing();
    world.missed_by = Some("Service reviews selects version=v1".to_owned());
    world.run(1);
    let (status, reason, message) = world.condition("Accepted");
    assert_eq!((status, reason), ("False", "ServiceSelectsVersion"));
    assert!(message.ends_with("take it out of the selector"), "{message}");
    world.until_phase(Phase::Succeeded);
}

const UNREADABLE: &str = r#"{"headers": [{"name": "a", "type": "RegularExpression", "value": "("}]}"#;

fn unreadable() -> serde_json::Value {
    json!({"matches": [serde_json::from_str::<serde_json::Value>(UNREADABLE).unwrap()], "hold": "1m"})
}

#[test]
fn a_release_stops_before_a_step_whose_matches_cannot_be_read() {
    for (steps, at) in [(json!([unreadable()]), None), (json!([{"hold": "1s"}, unreadable(), {"weight": 5}]), Some(0))]
    {
        let mut world = World::managed();
        world.set_steps(steps);
        world.change("v2");
        world.run(300);
        let (status, reason, message) = world.condition("Accepted");
        assert_eq!((status, reason), ("False", "Invalid"));
        assert!(message.starts_with("steps[") && message.contains("].matches: "), "{message}");
        assert!(world.deployment().paused, "nothing of it is released unjudged");
        assert_eq!(world.index(), at);
        world.set_steps(json!([{"weight": 50}]));
        world.until_phase(Phase::Succeeded);
    }
}

#[test]
fn a_step_that_becomes_unreadable_leaves_the_split_as_it_is() {
    let mut world = World::managed();
    world.set_steps(json!([{"matches": [{"headers": [{"name": "a", "value": "b"}]}], "hold": "1h"}]));
    world.change("v2");
    world.until(World::splits);
    let split = world.status.step.clone().unwrap();
    world.set_steps(json!([unreadable()]));
    world.run(300);
    let step = world.status.step.clone().unwrap();
    assert_eq!((&step.matches, step.since), (&split.matches, split.since));
    assert_eq!(world.condition("Accepted").1, "Invalid");
    assert!(world.deployment().paused && world.deployment().managed_by.is_some());
}

#[test]
fn steps_that_are_cut_off_do_not_make_a_verdict_of_the_present_one() {
    let mut world = World::managed();
    world.spec.analysis.errors.margin = Percent::try_from(0.05).unwrap();
    world.change("v2");
    world.until(|world| world.index() == Some(3));
    world.clone.as_mut().unwrap().rollout.done = false;
    world.unready = true;
    world.spec.steps.truncate(2);
    world.run(600);
    assert_eq!((world.status.phase, world.deployment().paused), (Some(Phase::Progressing), true));
}

#[test]
fn more_weight_in_the_present_step_waits_for_more_pods() {
    let mut world = World::managed();
    world.deployment.as_mut().unwrap().replicas = 10;
    world.spec.rollout.replicas = fairlead_crds::Replicas::ByWeight;
    world.set_steps(json!([{"weight": 5, "hold": "1h"}]));
    world.change("v2");
    world.until(World::splits);
    world.unready = true;
    world.spec.steps[0].weight = Some(Percent::try_from(90.0).unwrap());
    world.run(60);
    assert_eq!(world.clone.as_ref().unwrap().replicas, 9);
    assert_eq!(world.status.step.as_ref().unwrap().weight.to_string(), "5", "one pod does not get the traffic of nine");
    world.unready = false;
    world.until(|world| world.status.step.as_ref().unwrap().weight.value() > 89.0);
}

#[test]
fn a_hold_that_outlasts_the_deadline_is_no_failure() {
    let mut world = World::managed();
    world.set_steps(json!([{"weight": 50, "hold": "2h"}]));
    world.spec.checks = serde_json::from_value(json!([{"phase": "Step", "url": "http://checks.shop/x"}])).unwrap();
    world.spec.analysis.on_inconclusive = fairlead_crds::OnInconclusive::Rollback;
    world.change("v2");
    world.until_phase(Phase::Holding);
    world.run(7_000);
    assert_eq!(world.status.phase, Some(Phase::Holding));
    // Asked for the first time, and not answered yet.
    world.run(300);
    assert_eq!((world.status.phase, world.index()), (Some(Phase::Progressing), Some(0)));
    world.answers.insert(CheckPhase::Step, CheckAnswer::Pending(Some("no answer".to_owned())));
    world.run(1_000);
    assert_eq!(world.index(), Some(0), "it has a time of its own");
    world.until_phase(Phase::Failed);
}

#[test]
fn a_promotion_that_gets_no_room_goes_on_after_a_while_and_may_be_aborted_until_then() {
    let promoting = || {
        let mut world = World::managed();
        let deployment = world.deployment.as_mut().unwrap();
        (deployment.replicas, deployment.unavailable) = (4, 2);
        world.set_steps(json!([{"weight": 10, "replicas": 1, "hold": "30s"}]));
        world.change("v2");
        world.until_phase(Phase::Holding);
        world.unready = true;
        world.until_phase(Phase::Promoting);
        world
    };
    let mut world = promoting();
    let began = world.now;
    world.until(|world| !world.deployment().paused);
    assert!((600..620).contains(&(world.now - began)), "it took {} s", world.now - began);
    let mut world = promoting();
    world.run(10);
    world.request = Some("abort".to_owned());
    world.until_phase(Phase::Failed);
    assert!(world.deployment().paused);
}

#[test]
fn a_template_that_goes_back_in_mid_rollout_keeps_the_new_versions_pods_until_the_old_ones_are_back() {
    let mut world = World::releasing();
    world.stalled = true;
    world.until_phase(Phase::Promoting);
    world.run(5);
    world.change("v1");
    world.run(60);
    assert!(!world.deployment().paused && world.clone.is_some() && world.splits());
    world.stalled = false;
    world.until_phase(Phase::Initialized);
    assert!(world.clone.is_none());
    assert_eq!(world.status.history[0].outcome, Outcome::Superseded);
}

#[test]
fn scaled_to_zero_people_and_programs_are_asked_all_the_same() {
    let mut world = World::managed();
    world.set_steps(json!([{"weight": 5, "approval": {}}]));
    world.deployment.as_mut().unwrap().replicas = 0;
    world.change("v2");
    world.run(100);
    assert_eq!(world.status.phase, Some(Phase::Progressing));
    assert!(world.reason().ends_with("scale it up, or promote it"), "{}", world.reason());
    // And in the middle of a step it says why nothing happens.
    let mut world = World::releasing();
    world.deployment.as_mut().unwrap().replicas = 0;
    world.run(4_000);
    assert_eq!(world.reason(), "the Deployment is scaled to zero: nothing runs that could be judged");
    assert!(!world.told.contains(&"Undecided"));
}

#[test]
fn another_patience_with_pods_reaches_those_that_start() {
    let mut world = World::managed();
    world.unready = true;
    world.change("v2");
    world.run(5);
    let applied = world.writes;
    world.spec.rollout.progress_deadline = Some("1h".parse().unwrap());
    world.reconcile();
    assert!(world.writes > applied, "the clone is applied again");
}
