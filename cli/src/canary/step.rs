//! The steps of a release in words.

use std::fmt::Write as _;

use fairlead_crds::{CanaryStep, RouteMatch, ValueMatchType};

/// One step, as its author wrote it.
pub(super) fn describe(step: &CanaryStep) -> String {
    let mut parts = Vec::new();
    if let Some(weight) = step.weight {
        parts.push(format!("weight {weight} %"));
    }
    if let Some(mirror) = step.mirror {
        parts.push(format!("mirror {} % ×{}", mirror.percent, mirror.copies));
    }
    if !step.matches.is_empty() {
        let matches: Vec<String> = step.matches.iter().map(matched).collect();
        parts.push(format!("matches {}", matches.join(" or ")));
    }
    if !step.hold.as_std().is_zero() {
        parts.push(format!("hold {}", step.hold));
    }
    if step.approval.is_some() {
        parts.push("approval".to_owned());
    }
    if let Some(replicas) = step.replicas {
        parts.push(format!("replicas {replicas}"));
    }
    parts.join(", ")
}

/// What must be true of a request, all of it.
fn matched(request: &RouteMatch) -> String {
    let mut parts = Vec::new();
    if !request.methods.is_empty() {
        let methods: Vec<&str> = request.methods.iter().map(|method| method.as_str()).collect();
        parts.push(methods.join("|"));
    }
    if let Some(path) = &request.path {
        parts.push(format!("path {}", path.value));
    }
    for header in &request.headers {
        parts.push(valued("header", &header.name, header.type_, header.value.as_deref(), header.not));
    }
    for parameter in &request.query_params {
        parts.push(valued("query", &parameter.name, parameter.type_, parameter.value.as_deref(), parameter.not));
    }
    for cookie in &request.cookies {
        parts.push(valued("cookie", &cookie.name, cookie.type_, cookie.value.as_deref(), cookie.not));
    }
    if let Some(source) = &request.source {
        let labels = source.labels.iter().map(|(name, value)| format!("{name}={value}"));
        let callers: Vec<String> =
            source.namespaces.iter().chain(&source.service_accounts).cloned().chain(labels).collect();
        parts.push(format!("from {}", callers.join("|")));
    }
    if let Some(grpc) = &request.grpc {
        let any = || "*".to_owned();
        let (service, method) = (grpc.service.clone().unwrap_or_else(any), grpc.method.clone().unwrap_or_else(any));
        parts.push(format!("grpc {service}/{method}"));
    }
    parts.join(" and ")
}

fn valued(what: &str, name: &str, type_: ValueMatchType, value: Option<&str>, not: bool) -> String {
    let mut text = format!("{}{what} {name}", if not { "not " } else { "" });
    let (sign, end) = match type_ {
        ValueMatchType::Present => return text,
        ValueMatchType::Exact => ("=", ""),
        ValueMatchType::Prefix => ("=", "*"),
        ValueMatchType::RegularExpression => ("~", ""),
    };
    let _ = write!(text, "{sign}{}{end}", value.unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn each_kind_of_step_has_words() {
        for (step, text) in [
            (json!({"weight": 25, "hold": "10m", "replicas": 2}), "weight 25 %, hold 10m, replicas 2"),
            (json!({"weight": 0.5}), "weight 0.5 %"),
            (json!({"mirror": {}}), "mirror 100 % ×1"),
            (json!({"mirror": {"percent": 20, "copies": 5}}), "mirror 20 % ×5"),
            (json!({"approval": {}}), "approval"),
            (
                json!({"matches": [{"headers": [{"name": "end-user", "value": "jason"}]}], "hold": "1m"}),
                "matches header end-user=jason, hold 1m",
            ),
            (
                json!({"matches": [
                    {"methods": ["GET", "HEAD"], "path": {"value": "/x"}, "cookies": [{"name": "g", "type": "Present", "not": true}]},
                    {"source": {"namespaces": ["web"], "labels": {"env": "dev"}}, "grpc": {"service": "a.B"}},
                    {"queryParams": [{"name": "q", "type": "Prefix", "value": "v"}], "headers": [{"name": "h", "type": "RegularExpression", "value": "a.*"}]},
                ]}),
                "matches GET|HEAD and path /x and not cookie g or from web|env=dev and grpc a.B/* or header h~a.* and query q=v*",
            ),
        ] {
            assert_eq!(describe(&from_value(step).unwrap()), text);
        }
    }
}
