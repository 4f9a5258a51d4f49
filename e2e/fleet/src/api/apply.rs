//! How a write changes an object: merge patches, server-side apply as far as one manager of each field goes, and what a subresource leaves alone.

use serde_json::{Value, json};

/// RFC 7396.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        object.clone_from(patch);
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(fields) = object.as_object_mut() {
                fields.remove(key);
            }
        } else {
            merge(&mut object[key], value);
        }
    }
}

/// Takes away what a manager applied last and does not any more. Lists are taken whole, as atomic ones are.
pub(super) fn prune(object: &mut Value, last: &Value, now: &Value) {
    let (Some(fields), Some(last)) = (object.as_object_mut(), last.as_object()) else { return };
    for (key, last) in last {
        match (fields.get_mut(key), now.get(key)) {
            (Some(field), Some(now)) => prune(field, last, now),
            // Others may have fields below one that is an object.
            (Some(field), None) if last.is_object() => {
                prune(field, last, &Value::Null);
                if field.as_object().is_some_and(serde_json::Map::is_empty) {
                    fields.remove(key);
                }
            }
            (Some(_), None) => {
                fields.remove(key);
            }
            (None, _) => {}
        }
    }
}

/// What is stored of a write: through the subresource the status alone, through the object all but the status. The API server itself keeps the UID and
/// numbers what was asked for.
pub(super) fn settle(before: &Value, mut after: Value, is_status: bool) -> Value {
    if is_status {
        let status = after["status"].take();
        after = before.clone();
        after["status"] = status;
    } else if let Some(fields) = after.as_object_mut() {
        match before.get("status") {
            Some(status) => fields.insert("status".to_owned(), status.clone()),
            None => fields.remove("status"),
        };
    }
    let generation = before["metadata"]["generation"].as_i64().unwrap_or(1);
    let changed = before["spec"] != after["spec"];
    let metadata = &mut after["metadata"];
    metadata["generation"] = json!(generation + i64::from(changed));
    metadata["uid"] = before["metadata"]["uid"].clone();
    metadata["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_takes_away_and_the_rest_stays() {
        let mut object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"paused": true, "replicas": 2}});
        merge(&mut object, &json!({"metadata": {"labels": {"a": null}}, "spec": {"paused": null}}));
        assert_eq!(object, json!({"metadata": {"labels": {"b": "2"}}, "spec": {"replicas": 2}}));
    }

    #[test]
    fn what_a_manager_applies_no_more_goes_and_what_is_others_stays() {
        let mut object = json!({"status": {"verdict": {"result": "x"}, "phase": "Failed", "list": [1, 2]}, "metadata": {"labels": {"ours": "1", "theirs": "2"}}});
        let last = json!({"status": {"verdict": {"result": "x"}, "phase": "Failed", "list": [1, 2]}, "metadata": {"labels": {"ours": "1"}}});
        let now = json!({"status": {"phase": "Initialized"}});
        prune(&mut object, &last, &now);
        merge(&mut object, &now);
        assert_eq!(object, json!({"status": {"phase": "Initialized"}, "metadata": {"labels": {"theirs": "2"}}}));
    }

    #[test]
    fn the_status_has_its_own_door_and_generations_count_what_was_asked_for() {
        let before = json!({
            "metadata": {"uid": "u", "generation": 3, "resourceVersion": "9"}, "spec": {"a": 1}, "status": {"seen": 1},
        });
        let written = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"a": 2}, "status": {"seen": 2}});
        let through_status = settle(&before, written.clone(), true);
        assert_eq!((&through_status["spec"], &through_status["status"]), (&json!({"a": 1}), &json!({"seen": 2})));
        assert_eq!(through_status["metadata"], before["metadata"]);
        let through_object = settle(&before, written, false);
        assert_eq!((&through_object["spec"], &through_object["status"]), (&json!({"a": 2}), &json!({"seen": 1})));
        assert_eq!(
            (&through_object["metadata"]["generation"], &through_object["metadata"]["uid"]),
            (&json!(4), &json!("u"))
        );
    }
}
