//! What people and other programs have a say in: requests, approvals, checks, metrics.

use super::*;

fn request(world: &mut World, what: &str) {
    world.request = Some(what.to_owned());
    world.until(|world| world.request.is_none() && world.status.request.is_none());
}

fn with_approval() -> World {
    let mut world = World::managed();
    world.set_steps(json!([{"weight": 10, "approval": {}}, {"approval": {}}, {"weight": 50}]));
    world.change("v2");
    world
}

#[test]
fn a_step_waits_until_it_is_approved_and_each_for_itself() {
    let mut world = with_approval();
    world.until_phase(Phase::WaitingApproval);
    assert!(
        world.reason().ends_with("; waits for approval: fairlead canary approve -n shop reviews"),
        "{}",
        world.reason()
    );
    world.run(10_000);
    assert_eq!((world.status.phase, world.index()), (Some(Phase::WaitingApproval), Some(0)), "people have no deadline");
    request(&mut world, "approve");
    world.until(|world| world.index() == Some(1));
    world.until_phase(Phase::WaitingApproval);
    world.run(100);
    assert_eq!(world.index(), Some(1));
    request(&mut world, "approve");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.told.iter().filter(|reason| **reason == "WaitingApproval").count(), 2);
}

#[test]
fn a_version_that_turns_bad_while_a_person_is_waited_for_is_rolled_back() {
    let mut world = with_approval();
    world.until_phase(Phase::WaitingApproval);
    world.failing = (0.5, 0.0);
    world.until_phase(Phase::Failed);
}

#[test]
fn an_approval_ahead_of_the_evidence_counts_for_its_step() {
    let mut world = with_approval();
    world.spec.steps[0].hold = "30s".parse().unwrap();
    world.until(World::splits);
    request(&mut world, "approve");
    world.until(|world| world.index() == Some(1));
    let place = |what: &str, nth: usize| {
        world.story.iter().enumerate().filter(|(_, told)| *told == what).nth(nth).map_or(usize::MAX, |(place, _)| place)
    };
    assert!(
        place("10 %", 1) < place("WaitingApproval", 0),
        "nobody was waited for in the first step: {:?}",
        world.story
    );
}

#[test]
fn aborted_it_is_rolled_back_and_not_tried_again_until_that_is_asked_for() {
    let mut world = World::releasing();
    request(&mut world, "abort");
    world.until_phase(Phase::Failed);
    assert_eq!((world.status.history[0].outcome, world.reason()), (Outcome::Aborted, "aborted as asked"));
    assert!(world.deployment().paused && world.deployment().refused && world.clone.is_none());
    world.assert_at_rest();
    request(&mut world, "retry");
    world.until(World::splits);
    assert!(!world.deployment().refused);
    world.until_phase(Phase::Succeeded);
    let outcomes: Vec<_> = world.status.history.iter().map(|release| release.outcome).collect();
    assert_eq!(outcomes, [Outcome::Succeeded, Outcome::Aborted]);
}

#[test]
fn promoted_now_it_needs_no_further_evidence() {
    let mut world = World::releasing();
    request(&mut world, "promote");
    world.until_phase(Phase::Succeeded);
    assert!(!world.story.contains(&"5 %".to_owned()), "{:?}", world.story);
    // And before it has pods.
    world.unready = true;
    world.change("v3");
    world.run(3);
    request(&mut world, "promote");
    world.until_phase(Phase::Succeeded);
}

#[test]
fn what_makes_no_sense_is_refused_and_told() {
    for (what, bring) in [
        ("approve", Phase::Initialized),
        ("abort", Phase::Initialized),
        ("promote", Phase::Initialized),
        ("retry", Phase::Initialized),
        ("approve", Phase::Progressing),
        ("retry", Phase::Progressing),
        ("abort", Phase::Promoting),
        ("promote", Phase::Failed),
        ("Abort", Phase::Progressing),
        ("nonsense", Phase::Progressing),
    ] {
        let mut world = World::managed();
        world.stalled = bring == Phase::Promoting;
        if bring == Phase::Failed {
            world.failing = (0.5, 0.0);
        }
        if bring == Phase::Progressing {
            world.spec.analysis.errors.margin = Percent::try_from(0.01).unwrap();
        }
        if bring != Phase::Initialized {
            world.change("v2");
            world.until_phase(bring);
        }
        world.run(5);
        let before = (world.status.phase, world.index());
        request(&mut world, what);
        world.run(3);
        assert_eq!((world.status.phase, world.index()), before, "{what} in {bring:?}");
        assert_eq!(world.told.iter().filter(|reason| **reason == "RequestRefused").count(), 1, "{what} in {bring:?}");
    }
}

#[test]
fn an_operator_that_stops_after_any_write_does_what_is_asked_once() {
    survives_every_stop(|world| {
        world.run(5);
        world.set_steps(json!([{"weight": 10, "approval": {}}, {"approval": {}}, {"hold": "1m"}]));
        world.change("v2");
        world.until_phase(Phase::WaitingApproval);
        request(world, "approve");
        world.until(|world| world.index() == Some(1) && world.status.phase == Some(Phase::WaitingApproval));
        world.run(20);
        assert_eq!(world.index(), Some(1), "one approval is for one step");
        request(world, "abort");
        world.until_phase(Phase::Failed);
        request(world, "retry");
        world.until_phase(Phase::WaitingApproval);
        request(world, "promote");
        world.until_phase(Phase::Succeeded);
    });
}

fn with_check(phase: &str) -> World {
    let mut world = World::managed();
    world.spec.checks = serde_json::from_value(json!([{"phase": phase, "url": "http://checks.shop/x"}])).unwrap();
    world
}

#[test]
fn before_a_check_has_answered_nothing_goes_on() {
    for (phase, key, before) in [
        ("BeforeStart", CheckPhase::BeforeStart, "no clone"),
        ("Step", CheckPhase::Step, "first step"),
        ("BeforePromote", CheckPhase::BeforePromote, "last step"),
        ("AfterPromote", CheckPhase::AfterPromote, "promoting"),
    ] {
        let mut world = with_check(phase);
        world.change("v2");
        world.run(200);
        assert!(world.asked.iter().all(|asked| *asked == key) && world.asked.len() > 20, "{phase}");
        match before {
            "no clone" => assert!(world.clone.is_none(), "{phase}"),
            "first step" => assert_eq!(world.index(), Some(0), "{phase}"),
            "last step" => assert_eq!((world.index(), world.deployment().paused), (Some(4), true), "{phase}"),
            _ => {
                assert_eq!((world.status.phase, world.deployment().paused), (Some(Phase::Promoting), false), "{phase}");
            }
        }
        world.answers.insert(key, CheckAnswer::Pending(Some("check http://checks.shop answered 503".to_owned())));
        world.run(10);
        if before != "promoting" {
            assert!(
                world.reason().contains("check http://checks.shop answered 503, which is tried again"),
                "{}",
                world.reason()
            );
        }
        world.answers.insert(key, CheckAnswer::Passed);
        world.until_phase(Phase::Succeeded);
    }
}

#[test]
fn a_check_that_refuses_rolls_back_or_is_told() {
    let no = || CheckAnswer::Refused("check http://checks.shop answered 403".to_owned());
    for (phase, key) in [
        ("BeforeStart", CheckPhase::BeforeStart),
        ("Step", CheckPhase::Step),
        ("BeforePromote", CheckPhase::BeforePromote),
    ] {
        let mut world = with_check(phase);
        world.answers.insert(key, no());
        world.change("v2");
        world.until_phase(Phase::Failed);
        assert_eq!(world.reason(), "check http://checks.shop answered 403", "{phase}");
        assert!(world.clone.is_none() && world.deployment().refused);
    }
    let mut world = with_check("AfterPromote");
    world.answers.insert(CheckPhase::AfterPromote, no());
    world.change("v2");
    world.until_phase(Phase::Succeeded);
    assert!(world.reason().ends_with(" is rolled out; check http://checks.shop answered 403"), "{}", world.reason());

    let mut world = with_check("AfterRollback");
    world.answers.insert(CheckPhase::AfterRollback, no());
    world.failing = (0.5, 0.0);
    world.change("v2");
    world.until_phase(Phase::Failed);
    assert!(world.status.history[0].reason.ends_with("; check http://checks.shop answered 403"));
}

#[test]
fn a_check_that_never_answers_is_a_verdict_that_never_comes() {
    let mut world = with_check("Step");
    world.spec.analysis.on_inconclusive = fairlead_crds::OnInconclusive::Rollback;
    world.spec.analysis.step_deadline = "2m".parse().unwrap();
    world.answers.insert(CheckPhase::Step, CheckAnswer::Pending(Some("no answer".to_owned())));
    world.change("v2");
    world.until_phase(Phase::Failed);
    assert_eq!(world.reason(), "not passed in 2m: no answer, which is tried again");
}

fn with_metric() -> World {
    let mut world = World::managed();
    let prometheus = json!({"url": "http://prometheus", "query": "up"});
    world.spec.analysis.metrics =
        serde_json::from_value(json!([{"name": "orders", "prometheus": prometheus, "min": 1, "max": 10}])).unwrap();
    world.change("v2");
    world
}

fn look(value: Option<f64>, error: Option<&str>, outside_in_a_row: u32) -> Vec<Look> {
    vec![Look { name: "orders".to_owned(), value, error: error.map(str::to_owned), outside_in_a_row }]
}

#[test]
fn a_metric_within_its_limits_lets_a_step_pass() {
    for (looks, why) in [
        (Vec::new(), "metric orders was not looked at yet"),
        (look(None, None, 0), "metric orders was not looked at yet"),
        (look(None, Some("no answer in 5 s"), 0), "metric orders: no answer in 5 s"),
        (look(Some(0.5), None, 2), "metric orders is 0.5, below 1"),
    ] {
        let mut world = with_metric();
        world.looks = looks;
        world.run(60);
        assert_eq!((world.index(), world.status.phase), (Some(0), Some(Phase::Progressing)), "{why}");
        assert!(world.reason().ends_with(&format!("; {why}")), "{}", world.reason());
        world.looks = look(Some(10.0), None, 0);
        world.until_phase(Phase::Succeeded);
    }
}

#[test]
fn a_metric_that_stays_outside_its_limits_rolls_back() {
    let mut world = with_metric();
    world.looks = look(Some(11.0), None, 3);
    world.until_phase(Phase::Failed);
    assert_eq!(world.reason(), "metric orders is 11, above 10, in 3 looks in a row");
    assert_eq!(world.status.verdict.as_ref().unwrap().result, VerdictResult::Regressed);
}

#[test]
fn a_look_that_is_missing_or_outside_once_ends_nothing_however_long_a_step_lasts() {
    for then in [fairlead_crds::OnInconclusive::Rollback, fairlead_crds::OnInconclusive::Advance] {
        let mut world = with_metric();
        world.spec.analysis.on_inconclusive = then;
        world.set_steps(json!([{"weight": 50, "hold": "3h"}]));
        world.looks = look(Some(5.0), None, 0);
        world.until_phase(Phase::Holding);
        world.run(3_000);
        for looks in [Vec::new(), look(Some(0.5), None, 1), look(None, Some("no answer"), 0)] {
            world.looks = looks;
            world.run(60);
            assert_eq!((world.status.phase, world.index()), (Some(Phase::Progressing), Some(0)), "{then:?}");
            assert!(world.deployment().paused);
        }
        world.looks = look(Some(5.0), None, 0);
        world.run(5);
        assert_eq!(world.status.phase, Some(Phase::Holding));
    }
}

#[test]
fn what_is_outside_is_not_passed_for_want_of_a_verdict() {
    let mut world = with_metric();
    world.spec.analysis.on_inconclusive = fairlead_crds::OnInconclusive::Advance;
    world.looks = look(Some(0.5), None, 2);
    world.run(4_000);
    assert_eq!((world.index(), world.deployment().paused), (Some(0), true));
}

#[test]
fn approved_while_it_is_suspended_it_stays_approved() {
    let mut world = with_approval();
    world.until_phase(Phase::WaitingApproval);
    world.spec.suspend = true;
    world.until_phase(Phase::Suspended);
    request(&mut world, "approve");
    world.spec.suspend = false;
    world.until(|world| world.index() == Some(1));
    assert_eq!(
        world.told.iter().filter(|reason| **reason == "WaitingApproval").count(),
        2,
        "of the first and the second step"
    );
}

#[test]
fn a_retry_asks_its_checks_anew() {
    let mut world = with_check("BeforeStart");
    world.answers.insert(CheckPhase::BeforeStart, CheckAnswer::Refused("no".to_owned()));
    world.change("v2");
    world.run(1);
    let first = generation(&world.status);
    world.until_phase(Phase::Failed);
    world.answers.clear();
    request(&mut world, "retry");
    assert!(generation(&world.status) > first, "what it is asked about has another number");
    world.answers.insert(CheckPhase::BeforeStart, CheckAnswer::Passed);
    world.until_phase(Phase::Succeeded);
}
