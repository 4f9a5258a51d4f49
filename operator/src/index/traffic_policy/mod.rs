//! What the index keeps of a `TrafficPolicy`: its rules, ready to be joined with Services, or why they cannot be used.

use std::collections::BTreeMap;

use fairlead_crds::{PolicyProtocol, TargetKind, TargetRef, TrafficPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

mod behaviour;
mod matches;
mod rate_limits;
mod routes;
mod rules;
mod tls;
mod tries;

pub(super) use behaviour::{behaviour, default_behaviour};
pub(super) use matches::parse as parse_match;
pub(super) use rate_limits::RateLimitRule;
pub(super) use routes::{BackendRule, Reference, RouteRule};
pub(super) use rules::{share, stickiness, sticky_value};
pub(super) use tls::OriginationRule;
pub(super) use tries::default_budget;

use super::scope::{Attachment, Target};
use crate::model::{Balancing, HealthCheck, Limits, ObjectName, Outliers, Protocol, RetryBudget};

/// What the index keeps of a `TrafficPolicy`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TrafficPolicy {
    pub uid: String,
    pub generation: i64,
    pub created: Option<Timestamp>,
    /// What the newest generation is attached to; `None` if it cannot even be read.
    pub named: Option<Attachment>,
    /// Why the newest generation cannot be used.
    pub invalid: Option<String>,
    /// The newest generation that could be used: a mistake in a later one does not disturb it.
    pub in_force: Option<Rules>,
    /// As last written to its status.
    pub conditions: Vec<Condition>,
}

/// The rules of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    pub generation: i64,
    pub attachment: Attachment,
    pub subsets: BTreeMap<String, BTreeMap<String, String>>,
    pub routes: Vec<RouteRule>,
    pub retry_budget: Option<RetryBudget>,
    pub balancing: Option<Balancing>,
    pub outliers: Option<Outliers>,
    pub limits: Option<Limits>,
    pub health_check: Option<HealthCheck>,
    pub rate_limits: Vec<RateLimitRule>,
    /// What the bytes are, whatever the Service says.
    pub protocol: Option<Protocol>,
    pub origination: Option<OriginationRule>,
}

impl Rules {
    /// Whether it says something to the proxies of the Service's pods.
    pub(super) fn concerns_pods(&self) -> bool {
        self.protocol.is_some() || !self.rate_limits.is_empty()
    }
}

impl TrafficPolicy {
    /// `before` is what was kept of the same policy.
    pub(super) fn parse(
        metadata: ObjectMeta,
        spec: Result<TrafficPolicySpec, String>,
        conditions: Vec<Condition>,
        before: Option<&Self>,
    ) -> Self {
        let generation = metadata.generation.unwrap_or_default();
        let uid = metadata.uid.unwrap_or_default();
        let namespace = metadata.namespace.unwrap_or_default();
        let named = spec.as_ref().ok().map(|s| attachment(&namespace, &s.target_ref));
        let tls_alone = spec.as_ref().ok().and_then(tls_alone);
        let (in_force, invalid) = match spec.and_then(|s| rules(&namespace, &uid, generation, s)) {
            Ok(rules) => (Some(rules), None),
            Err(why) => {
                // One made anew under the same name is another policy.
                let kept = before.filter(|b| b.uid == uid).and_then(|b| b.in_force.clone());
                // Nobody may remember what was in force, and what was meant to be encrypted must not go in plain until the mistake is mended.
                let kept = kept.or_else(|| rules(&namespace, &uid, generation, tls_alone?).ok());
                (kept, Some(why))
            }
        };
        Self {
            uid,
            generation,
            created: metadata.creation_timestamp.map(|t| t.0),
            named,
            invalid,
            in_force,
            conditions,
        }
    }

    /// What it has to do with: what it names, and what its rules in force are about.
    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.in_force.iter().map(|r| &r.attachment).chain(&self.named)
    }
}

/// What a policy says of TLS and nothing else, if it does.
fn tls_alone(spec: &TrafficPolicySpec) -> Option<TrafficPolicySpec> {
    Some(TrafficPolicySpec {
        target_ref: spec.target_ref.clone(),
        tls: Some(spec.tls.clone()?),
        subsets: Vec::new(),
        routes: Vec::new(),
        retry_budget: None,
        load_balancing: None,
        outlier_detection: None,
        health_check: None,
        limits: None,
        rate_limits: Vec::new(),
        protocol: None,
    })
}

fn attachment(namespace: &str, target: &TargetRef) -> Attachment {
    let from = namespace.to_owned();
    let target = match target.kind {
        TargetKind::Service => Target::Service {
            service: ObjectName::new(target.namespace.as_deref().unwrap_or(namespace), &target.name),
            section: target.section_name.clone(),
        },
        TargetKind::Namespace => Target::Namespace(target.name.clone()),
    };
    Attachment { from, target }
}

fn rules(namespace: &str, uid: &str, generation: i64, spec: TrafficPolicySpec) -> Result<Rules, String> {
    let routes: Vec<_> =
        spec.routes.into_iter().map(|route| routes::parse(namespace, uid, route)).collect::<Result<_, _>>()?;
    let attachment = attachment(namespace, &spec.target_ref);
    if matches!(attachment.target, Target::Namespace(_)) && !(routes.is_empty() && spec.subsets.is_empty()) {
        return Err("targetRef: routes and subsets are of one Service, so a policy for a Namespace has none".into());
    }
    if matches!(attachment.target, Target::Namespace(_)) && spec.tls.is_some() {
        return Err("tls: sni is the name of one Service's servers, so a policy for a Namespace has none".into());
    }
    if attachment.is_consumers() && !spec.rate_limits.is_empty() {
        let why = "rateLimits: they hold at the pods, so only a policy in the namespace of the Service can set them";
        return Err(why.into());
    }
    let rate_limits = spec.rate_limits.into_iter().map(rate_limits::parse).collect::<Result<_, _>>()?;
    let protocol = spec.protocol.map(|protocol| match protocol {
        PolicyProtocol::Http => Protocol::Http1,
        PolicyProtocol::Http1 => Protocol::Http1Only,
        PolicyProtocol::Http2 | PolicyProtocol::Grpc => Protocol::Http2,
        PolicyProtocol::Tcp => Protocol::Opaque,
    });
    let subsets = spec.subsets.into_iter().map(|s| (s.name, s.labels)).collect();
    let balancing = spec.load_balancing.map(behaviour::balancing).transpose()?;
    let outliers = spec.outlier_detection.map(behaviour::outliers);
    let health_check = spec.health_check.map(behaviour::health_check);
    let limits = spec.limits.as_ref().map(behaviour::limits);
    let retry_budget = spec.retry_budget.map(|budget| tries::budget(&budget));
    let origination = spec.tls.map(|tls| tls::parse(namespace, tls)).transpose()?;
    Ok(Rules {
        generation,
        attachment,
        subsets,
        routes,
        retry_budget,
        balancing,
        outliers,
        limits,
        health_check,
        rate_limits,
        protocol,
        origination,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(generation: i64, spec: Value, before: Option<&TrafficPolicy>) -> TrafficPolicy {
        let metadata = ObjectMeta {
            namespace: Some("shop".into()),
            uid: Some("u".into()),
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        let spec = serde_json::from_value(spec).map_err(|e| e.to_string());
        TrafficPolicy::parse(metadata, spec, Vec::new(), before)
    }

    fn header(value: &str) -> Value {
        json!({
            "targetRef": {"kind": "Service", "name": "cart"},
            "routes": [{"name": "r", "matches": [{"headers": [{"name": "X-A", "type": "RegularExpression", "value": value}]}]}],
        })
    }

    #[test]
    fn header_names_are_compared_in_lower_case() {
        let policy = parse(1, header("a+"), None);
        let rules = policy.in_force.unwrap();
        assert_eq!(rules.routes[0].matches[0].headers[0].name, "x-a");
    }

    #[test]
    fn a_mistake_leaves_the_previous_generation_in_force() {
        let good = parse(1, header("a+"), None);
        let bad = parse(2, header("a("), Some(&good));
        assert_eq!(bad.in_force.as_ref().unwrap().generation, 1);
        let why = bad.invalid.unwrap();
        assert!(
            why.starts_with("route r, matches[0]: header x-a: \"a(\" is no regular expression that can be used: "),
            "{why}"
        );
        assert!(!why.contains('\n'));
    }

    #[test]
    fn a_mistake_elsewhere_does_not_take_tls_away() {
        let mut spec = header("a(");
        spec["tls"] = json!({"mode": "Originate", "sni": "a.example", "caRef": {"name": "ca"}});
        let rules = parse(1, spec, None).in_force.unwrap();
        assert_eq!(rules.origination.unwrap().server_name, "a.example");
        assert!(rules.routes.is_empty());
    }

    #[test]
    fn a_mistake_in_a_new_policy_of_the_same_name_keeps_nothing() {
        let mut good = parse(1, header("a+"), None);
        good.uid = "other".into();
        assert_eq!(parse(1, header("a("), Some(&good)).in_force, None);
    }

    #[test]
    fn an_expression_that_explodes_or_breaks_out_is_refused() {
        for expression in [r"(\w{100}){100}", "a)(b", "(?x)a # to the end"] {
            let policy = parse(1, header(expression), None);
            assert!(policy.invalid.is_some() && policy.in_force.is_none(), "{expression}");
        }
    }
}
