use serde_json::{from_value, json};

use super::*;

const EARLY: &str = "2026-11-20T10:00:00Z";
const LATE: &str = "2026-11-20T10:30:00Z";

/// A Canary whose running version is `v1`.
fn canary(phase: &str, revision: Option<&str>, history: &[Value]) -> Canary {
    let canary = revision.map(|revision| json!({"revision": revision}));
    let verdict = json!({"result": "Inconclusive", "reason": "because"});
    let status = json!({
        "observedGeneration": 1, "phase": phase, "stable": {"revision": "v1"}, "canary": canary, "verdict": verdict, "history": history,
    });
    object(1, &status)
}

fn object(generation: i64, status: &Value) -> Canary {
    from_value(json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "Canary",
        "metadata": {"name": "reviews", "namespace": "bookinfo", "uid": "one", "generation": generation},
        "spec": {"workloadRef": {"kind": "Deployment", "name": "reviews"}},
        "status": status,
    }))
    .unwrap()
}

fn ended(revision: &str, outcome: &str, at: &str) -> Value {
    json!({"revision": revision, "outcome": outcome, "reason": "why", "finished": at})
}

fn with(mut canary: Canary, change: impl FnOnce(&mut Canary)) -> Canary {
    change(&mut canary);
    canary
}

fn stable(canary: Canary, revision: &str) -> Canary {
    with(canary, |canary| {
        let status = canary.status.as_mut().unwrap();
        status.stable.as_mut().unwrap().revision = revision.to_owned();
    })
}

fn objected(canary: Canary) -> Canary {
    let condition = json!({
        "type": "Accepted", "status": "False", "reason": "NotInjected", "message": "no sidecar", "lastTransitionTime": EARLY,
    });
    with(canary, |canary| canary.status.as_mut().unwrap().conditions = vec![from_value(condition).unwrap()])
}

#[allow(clippy::unnecessary_wraps, reason = "a moment may have none")]
fn workload(image: &str, held: bool) -> Option<Workload> {
    Some(Workload { held, refused: false, template: json!({"spec": {"containers": [{"image": image}]}}) })
}

/// One look: what there is, and how many seconds it has been waited.
type Moment = (Option<Canary>, Option<Workload>, u64);

/// What all but the last of these mean must be to wait; the answer is what the last one means.
fn shown(follow: &mut Follow, moments: &[Moment]) -> Look {
    let mut last = Look::Waiting("nothing was seen".to_owned());
    for (canary, workload, seconds) in moments {
        assert!(matches!(last, Look::Waiting(_)), "too soon: {last:?}");
        let elapsed = Duration::from_secs(*seconds);
        last = follow.look(&Seen { canary: canary.as_ref(), workload: workload.as_ref(), elapsed });
    }
    last
}

/// As a script does it: what is first is what there is when it begins to wait.
fn waited(moments: &[Moment]) -> Look {
    let (first, workload, _) = &moments[0];
    let mut follow = Follow::applied(first.as_ref().unwrap(), workload.as_ref());
    shown(&mut follow, moments)
}

fn assert_ends(look: Look, promoted: bool, says: &str) {
    let Look::Ended(ending) = look else { panic!("{look:?} instead of {says:?}") };
    assert_eq!(ending.promoted, promoted, "{}", ending.sentence);
    assert!(ending.sentence.contains(says), "{:?} does not say {says:?}", ending.sentence);
}

fn assert_waits(look: Look, says: &str) {
    let Look::Waiting(what) = look else { panic!("{look:?} instead of {says:?}") };
    assert!(what.contains(says), "{what:?} does not say {says:?}");
}

#[test]
fn a_release_under_way_is_followed_to_its_end() {
    let v2 = || workload("v2", true);
    let running = || (Some(canary("Progressing", Some("v2"), &[])), v2(), 0);
    for phase in ["Progressing", "Holding", "WaitingApproval", "Suspended", "Promoting", "RollingBack"] {
        assert_waits(waited(&[(Some(canary(phase, Some("v2"), &[])), v2(), 0)]), "revision v2 is being released");
    }
    let after = |phase, revision, outcome| canary(phase, revision, &[ended("v2", outcome, LATE)]);
    for (end, workload, promoted, says) in [
        (
            stable(after("Succeeded", None, "Succeeded"), "v2"),
            workload("v2", false),
            true,
            "revision v2 was promoted: why",
        ),
        (
            after("Failed", Some("v2"), "Failed"),
            v2(),
            false,
            "revision v2 was rolled back: why; revision v1 is the running",
        ),
        (after("Failed", Some("v2"), "Aborted"), v2(), false, "revision v2 was aborted: why"),
        (
            after("Progressing", Some("v3"), "Superseded"),
            workload("v3", true),
            false,
            "revision v3 is being released now",
        ),
        (after("Initialized", None, "Superseded"), workload("v1", false), false, "revision v1 is the running version"),
        // The history was cut, or an operator does not write it.
        (stable(canary("Succeeded", None, &[]), "v2"), workload("v2", false), true, "v2 is the running version"),
        (canary("Failed", Some("v2"), &[]), v2(), false, "v2 was rolled back: because"),
        (canary("Progressing", Some("v3"), &[]), workload("v3", true), false, "v3 is being released now"),
        (canary("Initialized", None, &[]), workload("v1", false), false, "v2 was not promoted"),
    ] {
        assert_ends(waited(&[running(), (Some(end), workload, 60)]), promoted, says);
    }
}

#[test]
fn a_promotion_counts_although_the_next_release_has_begun() {
    let next = stable(canary("Progressing", Some("v3"), &[ended("v2", "Succeeded", LATE)]), "v2");
    let moments = [
        (Some(canary("Promoting", Some("v2"), &[])), workload("v2", false), 0),
        (Some(next), workload("v3", true), 60),
    ];
    assert_ends(waited(&moments), true, "v2 was promoted");
}

#[test]
fn an_earlier_release_of_the_same_revision_is_not_this_one() {
    let before = ended("v2", "Failed", EARLY);
    let again = || (Some(canary("Progressing", Some("v2"), std::slice::from_ref(&before))), workload("v2", true), 0);
    assert_waits(waited(&[again()]), "is being released");
    let end = stable(canary("Succeeded", None, &[ended("v2", "Succeeded", LATE), before.clone()]), "v2");
    assert_ends(waited(&[again(), (Some(end), workload("v2", false), 60)]), true, "promoted");
}

#[test]
fn a_change_that_the_operator_has_not_seen_is_waited_for() {
    for phase in ["Initialized", "Succeeded"] {
        let before = || (Some(canary(phase, None, &[])), workload("v2", true), 0);
        assert_waits(waited(&[before()]), "is held; its release is about to begin");
        let begun = (Some(canary("Progressing", Some("v2"), &[])), workload("v2", true), 40);
        let end = stable(canary("Succeeded", None, &[ended("v2", "Succeeded", LATE)]), "v2");
        assert_ends(waited(&[before(), begun, (Some(end), workload("v2", false), 90)]), true, "v2 was promoted");
    }
    assert_waits(waited(&[(Some(object(1, &Value::Null)), workload("v1", false), 60)]), "has not looked at the Canary");
    let stale = with(canary("Initialized", None, &[]), |canary| canary.metadata.generation = Some(2));
    assert_waits(waited(&[(Some(stale), workload("v1", false), 60)]), "has not looked at the Canary");
}

#[test]
fn where_nothing_is_released_the_running_version_is_the_answer() {
    for (canary, says) in [
        (
            canary("Succeeded", None, &[ended("v1", "Succeeded", EARLY)]),
            "nothing is being released; revision v1 is the running",
        ),
        (canary("Initialized", None, &[]), "revision v1 is the running version"),
        // Who applies the running version's template again has what was asked for.
        (canary("Initialized", None, &[ended("v2", "Failed", EARLY)]), "revision v1 is the running version"),
    ] {
        assert_ends(waited(&[(Some(canary), workload("v1", false), 0)]), true, says);
    }
    assert_ends(waited(&[(Some(canary("Initialized", None, &[])), None, 0)]), false, "there is no Deployment reviews");
}

#[test]
fn a_failed_release_is_the_answer_unless_a_newer_template_is_held() {
    let failed =
        |seconds| (Some(canary("Failed", Some("v2"), &[ended("v2", "Failed", EARLY)])), workload("v3", true), seconds);
    assert_waits(waited(&[failed(0)]), "if the Deployment holds a newer template");
    assert_ends(
        waited(&[failed(0), failed(15)]),
        false,
        "nothing is being released; revision v2 was rolled back: because",
    );
    let begun = (Some(canary("Progressing", Some("v3"), &[ended("v2", "Failed", EARLY)])), workload("v3", true), 2);
    assert_waits(waited(&[failed(0), begun]), "revision v3 is being released");
    let retried = with(canary("Failed", Some("v2"), &[]), |canary| {
        canary.status.as_mut().unwrap().request = Some(Request::Retry);
    });
    assert_waits(waited(&[(Some(retried), workload("v2", true), 60)]), "to retry");
}

#[test]
fn a_second_change_that_was_there_before_is_the_one_that_is_followed() {
    // The operator learns of v3, which was applied before the wait began, while v2 is in whichever phase.
    let v3 = |held| workload("v3", held);
    let superseded = || canary("Progressing", Some("v3"), &[ended("v2", "Superseded", LATE)]);
    for phase in ["Progressing", "WaitingApproval", "Promoting"] {
        let before = || (Some(canary(phase, Some("v2"), &[])), v3(true), 0);
        assert_waits(waited(&[before(), (Some(superseded()), v3(true), 2)]), "revision v3 is being released");
        // A change of what the template names, long after: the release that was watched was not promoted.
        assert_ends(
            waited(&[before(), (Some(superseded()), v3(true), 60)]),
            false,
            "revision v3 is being released now",
        );
    }
    // Back to the running version.
    let back = canary("Initialized", None, &[ended("v2", "Superseded", LATE)]);
    let moments = [
        (Some(canary("Progressing", Some("v2"), &[])), workload("v1", true), 0),
        (Some(back), workload("v1", false), 5),
    ];
    assert_ends(waited(&moments), true, "nothing is being released; revision v1 is the running version");
    // The same, where proxies take their time.
    let moments = [
        (Some(canary("Progressing", Some("v2"), &[])), workload("v1", true), 0),
        (Some(canary("RollingBack", Some("v2"), &[])), workload("v1", true), 2),
        (Some(canary("Initialized", None, &[ended("v2", "Superseded", LATE)])), workload("v1", false), 40),
    ];
    assert_ends(waited(&moments), true, "nothing is being released; revision v1 is the running version");
    // v2 was just being promoted.
    let promoted = stable(canary("Succeeded", None, &[ended("v2", "Succeeded", LATE)]), "v2");
    let moments = [(Some(canary("Promoting", Some("v2"), &[])), v3(true), 0), (Some(promoted), v3(true), 40)];
    assert_waits(waited(&moments), "its release is about to begin");
    // v2 was just being taken away, which takes as long as it takes.
    let gone = canary("Initialized", None, &[ended("v2", "Failed", LATE)]);
    let moments = [(Some(canary("RollingBack", Some("v2"), &[])), v3(true), 0), (Some(gone), v3(true), 40)];
    assert_waits(waited(&moments), "its release is about to begin");
}

#[test]
fn a_release_that_ends_because_of_an_objection_was_not_promoted() {
    let end = objected(canary("Initialized", None, &[ended("v2", "Superseded", LATE)]));
    let moments = [
        (Some(canary("Progressing", Some("v2"), &[])), workload("v2", true), 0),
        (Some(end), workload("v2", false), 5),
    ];
    assert_ends(waited(&moments), false, "v2 was superseded");
    let idle = || Some(objected(canary("Initialized", None, &[])));
    assert_waits(waited(&[(idle(), workload("v1", false), 0)]), "not in force: no sidecar");
    let moments = [(idle(), workload("v1", false), 0), (idle(), workload("v1", false), 20)];
    assert_ends(waited(&moments), false, "not in force: no sidecar");
}

#[test]
fn a_canary_that_goes_takes_the_answer_with_it() {
    let running = || (Some(canary("Progressing", Some("v2"), &[])), workload("v2", true), 0);
    assert_ends(waited(&[running(), (None, workload("v2", false), 9)]), false, "was deleted");
    let other = with(canary("Initialized", None, &[]), |canary| canary.metadata.uid = Some("two".to_owned()));
    assert_ends(waited(&[running(), (Some(other), workload("v2", false), 9)]), false, "made anew");
}

#[test]
fn what_an_earlier_canary_refused_is_not_waited_for_without_end() {
    let refused = |seconds| {
        let workload = workload("v2", true).map(|workload| Workload { refused: true, ..workload });
        (Some(canary("Initialized", None, &[])), workload, seconds)
    };
    assert_waits(waited(&[refused(0)]), "is held");
    assert_ends(waited(&[refused(0), refused(20)]), false, "kubectl rollout resume");
}

#[test]
fn who_asked_something_of_a_release_follows_that_one() {
    let failed = canary("Failed", Some("v2"), &[ended("v2", "Failed", EARLY)]);
    let mut follow = Follow::release(&failed);
    let end = stable(canary("Succeeded", None, &[ended("v2", "Succeeded", LATE), ended("v2", "Failed", EARLY)]), "v2");
    let moments = [
        (Some(canary("Progressing", Some("v2"), &[ended("v2", "Failed", EARLY)])), workload("v2", true), 1),
        (Some(end), workload("v2", false), 60),
    ];
    assert_ends(shown(&mut follow, &moments), true, "v2 was promoted");
    let mut follow = Follow::release(&canary("WaitingApproval", Some("v2"), &[]));
    let superseded = canary("Progressing", Some("v3"), &[ended("v2", "Superseded", LATE)]);
    assert_ends(shown(&mut follow, &[(Some(superseded), workload("v3", true), 1)]), false, "v3 is being released now");
}

#[test]
fn a_deployment_is_held_where_the_webhook_paused_it() {
    let read = |value: Value| Workload::read(&from_value(value).unwrap());
    let deployment = |annotations: Value, paused: bool, template: Value| {
        read(json!({"metadata": {"annotations": annotations}, "spec": {"paused": paused, "template": template}}))
    };
    let template = || json!({"metadata": {"labels": {"a": "b"}}, "spec": {}});
    assert!(deployment(json!({fairlead_crds::HELD_ANNOTATION: "true"}), true, template()).held);
    assert!(!deployment(json!({fairlead_crds::HELD_ANNOTATION: "true"}), false, template()).held);
    assert!(!deployment(json!({}), true, template()).held, "the user's own pause");
    let mut promoted = template();
    promoted["metadata"]["annotations"] = json!({CONFIG_ANNOTATION: "digest"});
    assert_eq!(deployment(json!({}), false, promoted), deployment(json!({}), false, template()));
}
