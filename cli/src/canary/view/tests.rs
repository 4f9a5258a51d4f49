use serde_json::{Value, from_value, json};

use super::*;

const SIZE: Size = Size { width: 100, height: 40 };

fn now() -> Timestamp {
    "2026-11-20T10:08:42.5Z".parse().unwrap()
}

/// On the step of `index`, which has so much weight.
fn canary(phase: &str, index: u8, weight: u8) -> Canary {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-20T10:00:00Z"});
    let version = |revision: &str, requests: u32, errors: u32, p50: f64, p99: f64| json!({"revision": revision, "requests": requests, "errors": errors, "p50": p50, "p99": p99});
    from_value(json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "Canary",
        "metadata": {"name": "reviews", "namespace": "bookinfo", "generation": 3},
        "spec": {
            "workloadRef": {"kind": "Deployment", "name": "reviews"},
            "steps": [
                {"mirror": {}},
                {"matches": [{"headers": [{"name": "end-user", "value": "jason"}]}], "hold": "10m"},
                {"weight": 1},
                {"weight": 25, "hold": "2m", "replicas": 2},
                {"approval": {}},
                {"weight": 100},
            ],
        },
        "status": {
            "observedGeneration": 3,
            "phase": phase,
            "step": {"index": index, "weight": weight, "since": "2026-11-20T10:05:30Z"},
            "stable": version("0a1b2c3d4e", 4985, 6, 4.76, 22.63),
            "canary": version("5f6a7b8c9d", 553, 0, 5.66, 128.0),
            "verdict": {
                "result": "Inconclusive",
                "evidence": "canary 0–0.83 %, stable 0.03–0.31 %",
                "reason": "0 of 553 requests failed; stable 6 of 4,985: about 540 requests more are needed",
            },
            "history": [
                {"revision": "0a1b2c3d4e", "outcome": "Succeeded", "reason": "revision 0a1b2c3d4e is rolled out", "finished": "2026-11-19T08:00:00Z"},
            ],
            "conditions": [
                condition("Accepted", "True", "Accepted", "Changes of the Deployment are released step by step"),
                condition("Programmed", "False", "Pending", "11/12 proxies"),
            ],
        },
    }))
    .unwrap()
}

fn changed(canary: &Canary, change: impl FnOnce(&mut Value)) -> Canary {
    let mut value = serde_json::to_value(canary).unwrap();
    change(&mut value);
    from_value(value).unwrap()
}

fn scene(canary: &Canary) -> Scene<'_> {
    Scene {
        name: "bookinfo/reviews",
        canary: Some(canary),
        workload: None,
        trouble: None,
        program: "fairlead",
        now: now(),
    }
}

fn drawn(scene: &Scene<'_>) -> String {
    frame(scene, SIZE).join("\n")
}

#[test]
fn a_release_under_way() {
    insta::assert_snapshot!(drawn(&scene(&canary("Progressing", 3, 25))));
}

#[test]
fn one_that_waits_for_a_person() {
    let waiting = changed(&canary("WaitingApproval", 4, 25), |canary| {
        canary["status"]["verdict"] =
            json!({"result": "NonInferior", "reason": "0 of 1,204 requests failed; stable 6 of 4,985"});
        canary["status"]["conditions"] = json!([]);
    });
    insta::assert_snapshot!(drawn(&scene(&waiting)));
    let asked = changed(&waiting, |canary| canary["status"]["request"] = json!("approve"));
    let text = drawn(&scene(&asked));
    assert!(text.contains("asked     approve, not answered yet") && !text.contains("next"), "{text}");
}

#[test]
fn one_that_failed() {
    let failed = changed(&canary("Failed", 3, 0), |canary| {
        let end = |revision: &str, at: &str| json!({"revision": revision, "outcome": "Failed", "reason": "why", "finished": at});
        canary["status"]["history"] =
            json!([end("5f6a7b8c9d", "2026-11-20T10:05:31Z"), end("0a1b2c3d4e", "2026-11-19T08:00:00Z")]);
        canary["status"]["verdict"] =
            json!({"result": "Regressed", "reason": "9 of 41 requests failed; stable 0 of 770"});
        canary["status"]["conditions"] = json!([]);
    });
    insta::assert_snapshot!(drawn(&scene(&failed)));
}

#[test]
fn nothing_to_release_yet() {
    let idle = changed(&canary("Succeeded", 5, 0), |canary| {
        let status = canary["status"].as_object_mut().unwrap();
        status.retain(|field, _| !["canary", "verdict", "conditions", "step"].contains(&field.as_str()));
        status["stable"] = json!({"revision": "0a1b2c3d4e"});
    });
    let deployment = json!({"metadata": {"annotations": {"fairlead.dev/held": "true"}}, "spec": {"paused": true}});
    let workload = Workload::read(&from_value(deployment).unwrap());
    let scene = Scene { workload: Some(&workload), trouble: Some("connection refused"), ..scene(&idle) };
    insta::assert_snapshot!(drawn(&scene));
    assert!(drawn(&Scene { canary: None, ..scene }).contains("deleted"));
}

#[test]
fn a_low_terminal_shows_the_steps_around_the_present_one() {
    let many = changed(&canary("Progressing", 9, 10), |canary| {
        canary["spec"]["steps"] = (1..=20).map(|weight| json!({"weight": weight})).collect();
        canary["status"]["verdict"]["reason"] = json!("very long words ".repeat(60));
    });
    let lines = frame(&scene(&many), Size { width: 60, height: 24 });
    let text = lines.join("\n");
    assert!(text.contains("… 8 more") && text.contains("▶ 10  weight 10 %") && text.contains("… 9 more"), "{text}");
    assert!(text.contains(" …\n"), "a sentence is cut: {text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 62), "{text}");
    for (eye, room) in [(0, 5), (10, 5), (19, 5), (19, 7)] {
        let steps: Vec<_> = (0..20).map(|at| (at == eye, at.to_string())).collect();
        let shown = window(&steps, room);
        assert_eq!(shown.len(), room);
        assert!(shown.contains(&eye.to_string()), "{shown:?}");
    }
}

#[test]
fn a_log_has_a_line_for_each_change_and_for_long_silence() {
    let mut log = Log::default();
    let mut text = String::new();
    let first = canary("Progressing", 3, 25);
    let counted = changed(&first, |canary| canary["status"]["verdict"]["reason"] = json!("0 of 600 requests failed"));
    let held = changed(&counted, |canary| {
        canary["status"]["phase"] = json!("Holding");
        canary["status"]["verdict"] = json!({"result": "NonInferior", "reason": "0 of 1,093\nrequests failed"});
        canary["status"]["conditions"] = json!([]);
    });
    let waits = changed(&held, |canary| {
        canary["status"]["phase"] = json!("WaitingApproval");
        canary["status"]["step"]["index"] = json!(4);
    });
    for (after, canary, is_told) in [
        (0, Some(&first), true),
        (1, Some(&first), false),
        (2, Some(&counted), false),
        (29, Some(&counted), false),
        (31, Some(&counted), true),
        (70, Some(&counted), false),
        (90, Some(&held), true),
        (92, Some(&waits), true),
        (99, None, true),
    ] {
        let now = now() + k8s_openapi::jiff::SignedDuration::from_secs(after);
        let line = log.line(&Scene { canary, now, ..scene(&first) });
        assert_eq!(line.is_some(), is_told, "after {after} s: {line:?}");
        text.extend(line.map(|line| line + "\n"));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn bars_and_latencies() {
    for (percent, filled) in [(0.0, 0), (0.01, 1), (50.0, 20), (100.0, 40), (f64::NAN, 0)] {
        assert_eq!(bar(percent).matches('█').count(), filled, "{percent}");
        assert_eq!(bar(percent).chars().count(), BAR);
    }
    for (milliseconds, text) in
        [(None, "-"), (Some(4.76), "4.8 ms"), (Some(362.04), "362 ms"), (Some(1448.2), "1.45 s")]
    {
        assert_eq!(latency(milliseconds), text);
    }
}
