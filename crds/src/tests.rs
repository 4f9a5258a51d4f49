//! What the schemas promise, checked on the definitions as the API server gets them.

use super::*;
use serde_json::Value;

/// Where the definitions are kept, and how they are made.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds.yaml");
const REGENERATE: &str = "cargo run -p fairlead-crds > manifests/crds.yaml";

fn schemas() -> Vec<(String, Value)> {
    definitions()
        .unwrap()
        .into_iter()
        .map(|crd| {
            let crd = serde_json::to_value(crd).unwrap();
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            (kind, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

/// Calls `visit` with the path and schema of every field below `schema`.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{suffix}"), &schema[key], visit);
        }
    }
}

fn violations(mut check: impl FnMut(&Value) -> Option<&'static str>) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, schema) in schemas() {
        for part in ["spec", "status"] {
            walk(&format!("{kind}.{part}"), &schema["properties"][part], &mut |path, field| {
                found.extend(check(field).map(|what| format!("{path}: {what}")));
            });
        }
    }
    found
}

#[test]
fn the_kept_yaml_is_what_the_types_say() {
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        std::fs::write(KEPT, to_yaml().unwrap()).unwrap();
    }
    let kept = std::fs::read_to_string(KEPT).unwrap_or_default();
    assert!(kept == to_yaml().unwrap(), "manifests/crds.yaml differs from the types; run: {REGENERATE}");
}

#[test]
fn everything_that_can_grow_has_a_maximum() {
    let unbounded = violations(|field| match field["type"].as_str()? {
        "string" if field["enum"].is_array() || field["format"] == "date-time" => None,
        "string" if field["maxLength"].is_u64() => None,
        "string" => Some("a string without maxLength"),
        "array" if field["maxItems"].is_u64() => None,
        "array" => Some("a list without maxItems"),
        "object" if field["properties"].is_object() || field["maxProperties"].is_u64() => None,
        "object" => Some("a map without maxProperties"),
        _ => None,
    });
    assert!(unbounded.is_empty(), "{unbounded:#?}");
}

#[test]
fn every_field_says_its_type_and_what_it_is_for() {
    let silent = violations(|field| {
        if !field["type"].is_string() {
            return Some("no type");
        }
        ["$ref", "anyOf", "oneOf", "allOf", "x-kubernetes-preserve-unknown-fields"]
            .iter()
            .any(|key| !field[*key].is_null())
            .then_some("not structural")
    });
    assert!(silent.is_empty(), "{silent:#?}");
    let mut undescribed = Vec::new();
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, field| {
            for (name, property) in field["properties"].as_object().into_iter().flatten() {
                if path != kind && property["description"].as_str().is_none_or(str::is_empty) {
                    undescribed.push(format!("{path}.{name}"));
                }
            }
        });
    }
    assert!(undescribed.is_empty(), "{undescribed:#?}");
}

#[test]
fn formats_are_ones_that_the_api_server_knows() {
    let unknown = violations(|field| match field["format"].as_str()? {
        "int32" | "int64" | "double" | "date-time" => None,
        _ => Some("a format that the API server warns about"),
    });
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_rule_says_the_field_and_the_fix() {
    let mut rules = 0;
    let mute = violations(|field| {
        let all = field["x-kubernetes-validations"].as_array()?;
        rules += all.len();
        all.iter()
            .any(|rule| rule["message"].as_str().is_none_or(|m| !m.contains(':')))
            .then_some("a rule without a message")
    });
    assert!(mute.is_empty(), "{mute:#?}");
    assert!(rules >= 7, "only {rules} rules were found");
}

/// What the examples in the API's description look like is read, and written back the same.
#[test]
fn the_kinds_round_trip() {
    let policy: Value = serde_json::json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "reviews", "namespace": "bookinfo"},
        "spec": {
            "targetRef": {"kind": "Service", "name": "reviews", "namespace": "shop", "sectionName": "http"},
            "subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}],
            "routes": [{
                "name": "testers",
                "matches": [{
                    "headers": [{"name": "end-user", "type": "Exact", "value": "jason", "not": false}],
                    "path": {"type": "PathPrefix", "value": "/reviews"},
                    "methods": ["GET"],
                    "queryParams": [{"name": "beta", "type": "Exact", "value": "1", "not": false}],
                    "cookies": [{"name": "group", "type": "Present", "not": true}],
                    "source": {"namespaces": ["web"], "serviceAccounts": ["web/front"], "labels": {"env": "staging"}},
                    "grpc": {"service": "bookinfo.Reviews", "method": "Get"},
                }],
                "backends": [
                    {"subset": "v2", "fallback": "v1", "weight": 100},
                    {"service": {"name": "old", "namespace": "bookinfo", "port": 9080}, "weight": 0},
                ],
                "timeouts": {"request": "5s", "backendRequest": "1s", "idle": "1m"},
                "retry": {
                    "attempts": 1,
                    "on": ["ConnectFailure", "ServerError"],
                    "methods": ["POST"],
                    "backoff": {"base": "50ms", "max": "1s"},
                },
                "rewrite": {"path": {"prefix": "/v2"}, "host": "reviews.internal"},
                "headers": {
                    "request": {"set": [{"name": "x-env", "value": "staging"}], "remove": ["x-debug"]},
                    "response": {"add": [{"name": "x-tag", "value": "a"}]},
                },
                "mirror": [{"subset": "v2", "percent": 12.5, "copies": 5}],
                "fault": {
                    "delay": {"percent": 10, "duration": "2s"},
                    "abort": {"percent": 0.5, "status": 503, "grpcStatus": "UNAVAILABLE"},
                },
                "cors": {
                    "allowOrigins": ["https://shop.example"],
                    "allowMethods": ["GET"],
                    "allowHeaders": ["x-token"],
                    "exposeHeaders": ["x-count"],
                    "maxAge": "1h",
                    "allowCredentials": false,
                },
                "stickiness": {"cookie": {"name": "fl-sticky", "maxAge": "1h"}},
            }, {
                "name": "moved",
                "redirect": {"scheme": "https", "host": "example.org", "port": 8443, "path": {"full": "/new"}, "status": 308},
            }, {
                "name": "teapot",
                "respond": {"status": 418, "body": "short and stout"},
            }],
            "rateLimits": [{
                "name": "per-caller", "requests": 100, "per": "1s", "burst": 50, "scope": "Endpoint",
                "key": [{"identity": true}, {"identity": false, "header": "x-tenant"}],
            }],
            "protocol": "HTTP",
            "retryBudget": {"percent": 12.5, "minPerSecond": 0},
            "loadBalancing": {
                "algorithm": "ConsistentHash",
                "consistentHash": {"sourceIp": {}},
                "slowStart": "30s",
            },
            "outlierDetection": {
                "consecutiveErrors": 3,
                "errorRate": {"percent": 20, "minRequests": 100},
                "ejection": {"base": "5s", "max": "1m"},
                "maxEjected": 10,
                "probe": {"path": "/healthz"},
            },
            "tls": {"mode": "Originate", "sni": "api.example.com", "caRef": {"name": "example"}},
        },
    });
    let parsed: TrafficPolicy = serde_json::from_value(policy.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), policy);

    let auth: Value = serde_json::json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "PeerAuth",
        "metadata": {"name": "ratings", "namespace": "bookinfo"},
        "spec": {
            "selector": {"matchLabels": {"app": "ratings"}},
            "mtls": {"mode": "Strict", "ports": [{"port": 9080, "mode": "Permissive"}]},
            "default": "Deny",
            "rules": [{
                "name": "reviews-read",
                "action": "Allow",
                "from": [
                    {"serviceAccounts": ["bookinfo/reviews"]},
                    {"namespaces": ["web"]},
                    {"identities": ["spiffe://cluster.local/ns/*/sa/probe"]},
                    {"cidrs": ["10.0.0.0/8"]},
                    {"unauthenticated": true},
                ],
                "to": [{
                    "ports": [9080],
                    "methods": ["GET"],
                    "paths": ["/ratings/*"],
                    "hosts": ["ratings"],
                    "headers": [{"name": "x", "value": "y", "type": "Exact", "not": false}],
                    "grpc": {"service": "bookinfo.Ratings", "method": "Get"},
                }],
                "when": [{"claim": "groups", "values": ["dev"]}],
            }],
            "jwt": [{
                "issuer": "https://issuer",
                "audiences": ["a"],
                "jwks": {"url": "https://issuer/keys"},
                "forward": true,
            }],
            "audit": true,
        },
        "status": {
            "observedGeneration": 1,
            "readiness": [{"workload": "bookinfo/ratings", "plaintextCallers": 1, "callers": ["web/cron"]}],
        },
    });
    let parsed: PeerAuth = serde_json::from_value(auth.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), auth);

    let canary: Value = serde_json::json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "Canary",
        "metadata": {"name": "reviews", "namespace": "bookinfo"},
        "spec": {
            "workloadRef": {"kind": "Deployment", "name": "reviews"},
            "steps": [
                {"mirror": {"percent": 50, "copies": 2}, "hold": "2m"},
                {"matches": [{"headers": [{"name": "end-user", "type": "Exact", "value": "jason", "not": false}]}], "hold": "0s"},
                {"weight": 12.5, "hold": "0s", "approval": {}, "replicas": 2},
            ],
            "stickiness": {"cookie": {"name": "fl-canary", "maxAge": "1h"}},
            "analysis": {
                "confidence": 99.9,
                "errors": {"margin": 0.5, "max": 5},
                "latency": {
                    "threshold": "250ms", "margin": 1, "max": 10,
                    "quantiles": [{"quantile": 99, "atMost": "1s"}],
                },
                "metrics": [{
                    "name": "orders", "min": 1.5, "max": 10.0,
                    "prometheus": {
                        "url": "http://prometheus.monitoring:9090", "query": "up", "timeout": "5s",
                        "token": {"name": "prometheus", "key": "token"},
                    },
                }],
                "stepDeadline": "30m",
                "onInconclusive": "Rollback",
            },
            "checks": [{"phase": "BeforeStart", "url": "http://checks.shop/start", "timeout": "10s"}],
            "notify": [{"urlFrom": {"name": "slack", "key": "url"}, "format": "Slack"}],
            "rollout": {"progressDeadline": "10m", "replicas": "ByWeight"},
            "skipAnalysis": false,
            "suspend": false,
        },
        "status": {
            "phase": "WaitingApproval",
            "step": {
                "index": 1, "weight": 12.5, "mirror": {"percent": 50, "copies": 2}, "approved": true, "overdue": true,
                "since": "2026-11-20T10:00:00Z",
            },
            "stable": {"revision": "a", "requests": 10, "errors": 1, "p50": 1.5, "p99": 4.0},
            "verdict": {"result": "Inconclusive", "reason": "too few requests"},
            "request": "approve",
            "ending": "Aborted",
            "history": [{"revision": "b", "outcome": "Failed", "reason": "it crashed", "finished": "2026-11-20T09:00:00Z"}],
        },
    });
    let parsed: Canary = serde_json::from_value(canary.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), canary);
}

#[test]
fn a_retry_that_says_nothing_more_is_a_careful_one() {
    let retry: Retry = serde_json::from_value(serde_json::json!({})).unwrap();
    assert_eq!(retry, Retry::default());
    assert_eq!(retry.attempts, 2);
    assert!(retry.methods.is_empty() && !retry.on.contains(&RetryOn::ServerError));
    let (_, schema) = schemas().remove(0);
    let route = &schema["properties"]["spec"]["properties"]["routes"]["items"]["properties"];
    let defaults = serde_json::to_value(&retry).unwrap();
    for field in ["attempts", "on", "backoff"] {
        assert_eq!(route["retry"]["properties"][field]["default"], defaults[field], "{field}");
    }
}

#[test]
fn what_is_left_out_gets_its_default_in_the_schema_and_in_rust_alike() {
    let canary: CanarySpec =
        serde_json::from_value(serde_json::json!({"workloadRef": {"kind": "Deployment", "name": "reviews"}})).unwrap();
    let weights: Vec<f64> = canary.steps.iter().map(|step| step.weight.unwrap().value()).collect();
    assert_eq!(weights, [1.0, 5.0, 10.0, 25.0, 50.0]);
    assert_eq!(canary.analysis.errors.margin.to_string(), "0.5");
    assert_eq!(canary.analysis.confidence.to_string(), "99");

    let (_, schema) = schemas().pop().unwrap();
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["steps"]["default"], serde_json::to_value(&canary.steps).unwrap());
    assert_eq!(spec["analysis"]["default"], serde_json::to_value(&canary.analysis).unwrap());
    assert_eq!(spec["rollout"]["default"], serde_json::to_value(canary.rollout).unwrap());
    for switch in ["suspend", "skipAnalysis"] {
        assert_eq!(spec[switch]["default"], serde_json::json!(false));
    }
    assert_eq!(canary.analysis.step_deadline.to_string(), "30m");
    for request in ["approve", "abort", "promote", "retry"] {
        let parsed: crate::Request = request.parse().unwrap();
        assert_eq!(parsed.to_string(), request);
        assert_eq!(serde_json::to_value(parsed).unwrap(), request);
    }
    assert!("Approve".parse::<crate::Request>().is_err());
}

#[test]
fn rules_know_what_frames_a_message_and_what_the_mesh_says() {
    let (_, schema) = schemas().swap_remove(0);
    let changes = &schema["properties"]["spec"]["properties"]["routes"]["items"]["properties"]["headers"]["properties"]
        ["request"];
    let field = &changes["properties"]["set"]["items"];
    for rules in [&changes["x-kubernetes-validations"], &field["x-kubernetes-validations"]] {
        let rules = rules.to_string();
        for name in ["'host'", "'content-length'", "'transfer-encoding'", "'connection'", "'upgrade'", "'fairlead-'"] {
            assert!(rules.contains(name), "{name} may be changed: {rules}");
        }
    }
}

#[test]
fn tls_is_of_one_service_and_names_whom_to_believe() {
    let (_, schema) = schemas().swap_remove(0);
    let spec = &schema["properties"]["spec"];
    let rules = spec["x-kubernetes-validations"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["message"].as_str().unwrap().starts_with("tls:")).unwrap();
    assert_eq!(rule["rule"], "self.targetRef.kind == 'Service' || !has(self.tls)");
    let tls = &spec["properties"]["tls"];
    assert_eq!(tls["required"], serde_json::json!(["caRef", "sni"]), "there is nobody whom every proxy believes");
    assert_eq!(tls["properties"]["mode"]["default"], "Originate");
    assert_eq!(tls["properties"]["caRef"]["required"], serde_json::json!(["name"]));
}

#[test]
fn a_name_of_a_server_is_one_that_a_certificate_can_bear() {
    let (_, schema) = schemas().swap_remove(0);
    let sni = &schema["properties"]["spec"]["properties"]["tls"]["properties"]["sni"];
    let pattern = regex::Regex::new(sni["pattern"].as_str().unwrap()).unwrap();
    let longest = "a".repeat(63);
    for good in ["api.example.com", "legacy", "a-1.b", "1.example.com", "xn--bcher-kva.example", &longest] {
        assert!(pattern.is_match(good), "{good}");
    }
    let too_long = "a".repeat(64);
    let addresses = ["10.0.0.1", "fd00::1", "[fd00::1]"];
    let others = [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-.b",
        "*.example.com",
        "API.example.com",
        "a_b.c",
        "a:443",
        "a b",
        &too_long,
    ];
    for bad in addresses.into_iter().chain(others) {
        assert!(!pattern.is_match(bad), "{bad}");
    }
}
