//! Holds a changed template at admission, so that the cluster does not roll out what has not been judged.
//!
//! [`review`] is the one call that enters: the webhook hands it every UPDATE of a Deployment that carries, or carried, the label
//! [`CANARY_LABEL`].
//!
//! # Guarantees
//! It decides from the request alone, so the answer is the same under dry run and the second time. The Deployment is paused in the
//! very write that changes its template: there is no moment in which the cluster could begin the rollout.

use fairlead_crds::CANARY_LABEL;
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use super::revision::revision;

pub use fairlead_crds::{HELD_ANNOTATION as HELD, REFUSED_ANNOTATION as REFUSED};

/// What must be added to the object of an `AdmissionRequest` (as JSON); `None` where it may pass as it is.
pub fn review(request: &Value) -> Option<Patch> {
    let (old, new) = (&request["oldObject"], &request["object"]);
    let managed = |object: &Value| object["metadata"]["labels"][CANARY_LABEL].is_string();
    let held_already = new["spec"]["paused"] == json!(true) && new["metadata"]["annotations"][HELD].is_string();
    if request["operation"] != "UPDATE"
        || request["kind"]["kind"] != "Deployment"
        || request["subResource"].as_str().is_some_and(|name| !name.is_empty())
        || !(managed(old) || managed(new))
        || new["metadata"]["deletionTimestamp"].is_string()
        || held_already
        || revision(&old["spec"]["template"]) == revision(&new["spec"]["template"])
    {
        return None;
    }
    let mut operations = vec![add(["spec", "paused"], json!(true))];
    if new["metadata"]["annotations"].is_object() {
        operations.push(add(["metadata", "annotations", HELD], json!("true")));
    } else {
        operations.push(add(["metadata", "annotations"], json!({HELD: "true"})));
    }
    Some(Patch(operations))
}

fn add<const N: usize>(path: [&str; N], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(image: &str) -> Value {
        json!({
            "metadata": {"name": "reviews", "labels": {CANARY_LABEL: "reviews"}},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "reviews", "image": image}]}}},
        })
    }

    fn update(old: &Value, new: &Value) -> Value {
        json!({"operation": "UPDATE", "kind": {"group": "apps", "version": "v1", "kind": "Deployment"}, "oldObject": old, "object": new})
    }

    fn patched(request: &Value) -> Value {
        let mut object = request["object"].clone();
        json_patch::patch(&mut object, &review(request).expect("it is held")).unwrap();
        object
    }

    #[test]
    fn a_changed_template_is_paused_and_marked() {
        let object = patched(&update(&deployment("v1"), &deployment("v2")));
        assert_eq!(object["spec"]["paused"], json!(true));
        assert_eq!(object["metadata"]["annotations"][HELD], json!("true"));
    }

    #[test]
    fn annotations_that_are_there_stay() {
        let mut new = deployment("v2");
        new["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "3"});
        let object = patched(&update(&deployment("v1"), &new));
        assert_eq!(object["metadata"]["annotations"], json!({"deployment.kubernetes.io/revision": "3", HELD: "true"}));
    }

    #[test]
    fn a_restart_is_a_changed_template() {
        let mut new = deployment("v1");
        new["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
            json!("2026-11-20T10:00:00Z");
        assert!(review(&update(&deployment("v1"), &new)).is_some());
    }

    #[test]
    fn the_second_time_there_is_nothing_to_do() {
        let request = update(&deployment("v1"), &deployment("v2"));
        assert!(review(&update(&deployment("v1"), &patched(&request))).is_none());
    }

    #[test]
    fn dry_run_makes_no_difference() {
        let mut request = update(&deployment("v1"), &deployment("v2"));
        let patch = review(&request);
        request["dryRun"] = json!(true);
        assert_eq!(review(&request), patch);
    }

    #[test]
    fn a_write_that_drops_the_label_is_held_as_well() {
        let mut new = deployment("v2");
        new["metadata"]["labels"] = json!({"app": "reviews"});
        assert!(review(&update(&deployment("v1"), &new)).is_some());
    }

    #[test]
    fn a_pause_of_the_users_own_is_marked_when_the_template_changes() {
        let mut new = deployment("v2");
        new["spec"]["paused"] = json!(true);
        assert_eq!(patched(&update(&deployment("v1"), &new))["metadata"]["annotations"][HELD], json!("true"));
    }

    #[test]
    fn everything_else_passes() {
        let mut scaled = deployment("v1");
        scaled["spec"]["replicas"] = json!(5);
        let mut unmanaged = deployment("v1");
        unmanaged["metadata"]["labels"] = json!({});
        let mut unmanaged_new = deployment("v2");
        unmanaged_new["metadata"]["labels"] = json!({});
        let mut terminating = deployment("v2");
        terminating["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
        let create = json!({"operation": "CREATE", "kind": {"kind": "Deployment"}, "oldObject": null, "object": deployment("v2")});
        let mut stateful = update(&deployment("v1"), &deployment("v2"));
        stateful["kind"]["kind"] = json!("StatefulSet");
        let mut status = update(&deployment("v1"), &deployment("v2"));
        status["subResource"] = json!("status");
        for (what, request) in [
            ("scaling", update(&deployment("v1"), &scaled)),
            ("no Canary", update(&unmanaged, &unmanaged_new)),
            ("being deleted", update(&deployment("v1"), &terminating)),
            ("the first release", create),
            ("another kind", stateful),
            ("status", status),
            ("nothing at all", json!(null)),
        ] {
            assert!(review(&request).is_none(), "{what} was held");
        }
    }
}
