//! What names a version: a digest of its pod template and, where that names `ConfigMaps` or Secrets, of what they hold.
//!
//! Made here rather than taken from a ReplicaSet's `pod-template-hash`, because a held template has no ReplicaSet yet, and because the
//! template that a clone runs must be told to be the one that its Deployment holds.

use std::fmt::Write as _;

use fairlead_crds::CONFIG_ANNOTATION;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::config::Kind;

/// Bytes of the digest that are kept: enough that no two of a Deployment's templates share a name, short enough to read.
const KEPT: usize = 5;

/// Between the digest of a template and that of its configuration.
const AND: char = '-';
/// What the digests of `ConfigMaps` begin with, and those of Secrets.
const MAPS: char = 'c';
const SECRETS: char = 's';

/// The revision of a pod template: ten hexadecimal digits that do not depend on the order of keys. Fields that are null count as
/// absent, as they do for the API server. Our own note of its configuration is no part of it.
pub fn revision(template: &Value) -> String {
    let noted = template["metadata"]["annotations"].as_object().filter(|all| all.contains_key(CONFIG_ANNOTATION));
    let Some(annotations) = noted else { return digest(template) };
    let mut annotations = annotations.clone();
    annotations.remove(CONFIG_ANNOTATION);
    let mut bare = template.clone();
    // As if there had never been any: who writes an annotation first makes the object for it.
    bare["metadata"]["annotations"] = if annotations.is_empty() { Value::Null } else { annotations.into() };
    digest(&bare)
}

/// The name of a version: of its template, and of its configuration if it names any.
pub fn version(template: &str, config: Option<&str>) -> String {
    config.map_or_else(|| template.to_owned(), |config| format!("{template}{AND}{config}"))
}

/// What of a version's name is its template.
pub fn template_of(version: &str) -> &str {
    version.split_once(AND).map_or(version, |(template, _)| template)
}

/// What of a version's name is its configuration.
pub fn config_of(version: &str) -> Option<&str> {
    version.split_once(AND).map(|(_, config)| config)
}

/// Whether nothing that both names speak of differs: the one may be of a time when the other's configuration could not be read.
pub fn agree(one: &str, other: &str) -> bool {
    let part = |version: &str, marker: char| {
        config_of(version)
            .into_iter()
            .flat_map(|config| config.split(AND))
            .find(|part| part.starts_with(marker))
            .map(str::to_owned)
    };
    template_of(one) == template_of(other)
        && [MAPS, SECRETS].into_iter().all(|marker| match (part(one, marker), part(other, marker)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        })
}

/// The digests of what a template's `ConfigMaps` and Secrets hold, in their order: `c0123456789-s0123456789`, each only if there are any. `None` where
/// there are none.
///
/// Revisions are shown in statuses and metrics, so what a Secret holds is digested with its UID, which only those know who may read it: nobody
/// else can find a short secret by trying.
pub fn config(objects: &[(Kind, Option<Value>)]) -> Option<String> {
    let held = |kind: Kind| {
        let of_kind = objects.iter().filter(|(other, _)| *other == kind);
        let held: Vec<_> = of_kind
            .map(|(_, object)| {
                let object = object.as_ref()?;
                let salt = (kind == Kind::Secret).then(|| &object["metadata"]["uid"]);
                Some(json!([object["metadata"]["name"], object["data"], object["binaryData"], salt]))
            })
            .collect();
        (!held.is_empty()).then(|| digest(&json!(held)))
    };
    let parts = [(MAPS, Kind::ConfigMap), (SECRETS, Kind::Secret)];
    let parts: Vec<_> =
        parts.into_iter().filter_map(|(marker, kind)| Some(format!("{marker}{}", held(kind)?))).collect();
    (!parts.is_empty()).then(|| parts.join(&AND.to_string()))
}

fn digest(value: &Value) -> String {
    let mut context = Context::new(&SHA256);
    feed(&mut context, value);
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
    fn our_own_note_is_no_part_of_it() {
        let bare = json!({"spec": {"containers": []}});
        let noted = json!({"metadata": {"annotations": {CONFIG_ANNOTATION: "x"}}, "spec": {"containers": []}});
        let other =
            json!({"metadata": {"annotations": {CONFIG_ANNOTATION: "x", "a": "b"}}, "spec": {"containers": []}});
        let another = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"containers": []}});
        // The same to whoever writes the annotation into metadata that was empty, and into one that was absent.
        assert_eq!(revision(&noted), revision(&json!({"metadata": {}, "spec": {"containers": []}})));
        assert_eq!(revision(&other), revision(&another));
        assert_ne!(revision(&bare), revision(&other));
    }

    #[test]
    fn a_version_is_its_template_and_what_its_configuration_holds() {
        assert_eq!(config(&[]), None);
        let map = |data: &str, uid: &str| {
            (Kind::ConfigMap, Some(json!({"metadata": {"name": "c", "uid": uid}, "data": {"a": data}})))
        };
        let secret =
            |uid: &str| (Kind::Secret, Some(json!({"metadata": {"name": "s", "uid": uid}, "data": {"a": "eA=="}})));
        let of = |object| config(&[object]).unwrap();
        assert_eq!(of(map("1", "a")), of(map("1", "b")), "one that was made anew with the same in it");
        assert_ne!(of(map("1", "a")), of(map("2", "a")));
        assert_ne!(of(map("1", "a")), of((Kind::ConfigMap, None)), "one that is missing");
        assert_ne!(of(secret("1")), of(secret("2")), "the same digest would tell what it holds");
        let version = version("aa", Some("cb-sb"));
        assert_eq!((template_of(&version), config_of(&version)), ("aa", Some("cb-sb")));
        assert_eq!((template_of("aa"), config_of("aa")), ("aa", None));
        let both = config(&[map("1", "a"), secret("1")]).unwrap();
        assert!(both.starts_with(&of(map("1", "a"))) && both.ends_with(&of(secret("1"))), "{both}");
        for (one, other, expected) in [
            ("a-cb-sb", "a-cb", true),
            ("a-cb-sb", "a", true),
            ("a-cb-sb", "a-cb-sc", false),
            ("a-cb-sb", "a-cc", false),
            ("a-cb", "a-sb", true),
            ("a", "b", false),
        ] {
            assert_eq!(agree(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn neighbours_do_not_run_together() {
        assert_ne!(revision(&json!(["ab", "c"])), revision(&json!(["a", "bc"])));
        assert_ne!(revision(&json!([["a"], "b"])), revision(&json!(["a", ["b"]])));
    }
}
