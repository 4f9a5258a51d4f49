//! What names a version: a digest of its pod template.
//!
//! Made here rather than taken from a ReplicaSet's `pod-template-hash`, because a held template has no ReplicaSet yet, and because the
//! template that a clone runs must be told to be the one that its Deployment holds.

use std::fmt::Write as _;

use ring::digest::{Context, SHA256};
use serde_json::Value;

/// Bytes of the digest that are kept: enough that no two of a Deployment's templates share a name, short enough to read.
const KEPT: usize = 5;

/// The revision of a pod template: ten hexadecimal digits that do not depend on the order of keys. Fields that are null count as
/// absent, as they do for the API server.
pub fn revision(template: &Value) -> String {
    let mut context = Context::new(&SHA256);
    feed(&mut context, template);
    let digest = context.finish();
    digest.as_ref().iter().take(KEPT).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn feed(context: &mut Context, value: &Value) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_unstable_by_key(|(key, _)| key.as_str());
            context.update(b"{");
            for (key, value) in fields {
                scalar(context, &Value::from(key.as_str()));
                feed(context, value);
            }
            context.update(b"}");
        }
        Value::Array(items) => {
            context.update(b"[");
            for item in items {
                feed(context, item);
            }
            context.update(b"]");
        }
        other => scalar(context, other),
    }
}

/// As JSON, which marks its type and, for strings, its end.
fn scalar(context: &mut Context, value: &Value) {
    context.update(value.to_string().as_bytes());
    context.update(b",");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_nulls_do_not_matter_and_everything_else_does() {
        let template = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "x"}]}});
        let same: Value = serde_json::from_str(
            r#"{"spec": {"containers": [{"name": "x"}]}, "metadata": {"creationTimestamp": null, "labels": {"b": "2", "a": "1"}}}"#,
        )
        .unwrap();
        assert_eq!(revision(&template), revision(&same));
        assert_eq!(revision(&template).len(), 2 * KEPT);
        for other in [
            json!({"metadata": {"labels": {"a": "1", "b": "3"}}, "spec": {"containers": [{"name": "x"}]}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "x"}, {}]}}),
            json!({"metadata": {"labels": {"a": 1, "b": "2"}}, "spec": {"containers": [{"name": "x"}]}}),
        ] {
            assert_ne!(revision(&template), revision(&other), "{other}");
        }
    }

    #[test]
    fn neighbours_do_not_run_together() {
        assert_ne!(revision(&json!(["ab", "c"])), revision(&json!(["a", "bc"])));
        assert_ne!(revision(&json!([["a"], "b"])), revision(&json!(["a", ["b"]])));
    }
}
