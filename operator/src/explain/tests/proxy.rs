//! The answer against what a proxy makes of the message that it is sent: the two must never differ.

use std::net::IpAddr;

use fairlead_authz::Effect;
use fairlead_identity::SpiffeId;
use fairlead_operator_api::Verdict;
use fairlead_proxy::inbound::policy::{self, Plain, Workload};
use fairlead_proxy_api::v1;
use http::HeaderName;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::config::resource_to_wire;
use crate::model::{self, ResourceName};

/// A request as the proxy would show it to rules.
#[derive(Debug)]
struct Arrived<'a>(&'a Request);

impl fairlead_authz::Request for Arrived<'_> {
    fn method(&self) -> &str {
        &self.0.method
    }

    fn path(&self) -> &str {
        self.0.path.split('?').next().unwrap()
    }

    fn is_grpc(&self) -> bool {
        self.0.grpc
    }

    fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.host.iter().map(String::as_bytes)
    }

    fn header(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.0.headers.iter().filter(move |pair| pair.name == name.as_str()).map(|pair| pair.value.as_bytes())
    }

    // Nobody is believed here.
    fn has_claim(&self, _: &str, _: &str) -> bool {
        false
    }
}

/// As the proxy of a pod has it after the message went over the wire.
fn at_the_proxy(index: &Index, pod: &str) -> Workload {
    let own = ResourceName::Workload(name(pod));
    let sent = resource_to_wire(&own, &index.get(&own), &model::Caller::default()).unwrap().encode_to_vec();
    let Some(v1::resource::Body::Workload(workload)) = v1::Resource::decode(&sent[..]).unwrap().body else {
        panic!("no workload")
    };
    policy::compile(None, workload).unwrap()
}

fn one(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(of).prop_map(str::to_owned)
}

fn few(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(one(of), 0..3)
}

fn sources() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"unauthenticated": true})),
        few(&["shop", "web"]).prop_map(|names| json!({"namespaces": names})),
        few(&["shop/front", "web/front", "shop/back"]).prop_map(|names| json!({"serviceAccounts": names})),
        one(&["spiffe://cluster.local/ns/*/sa/front", "spiffe://other.example/ns/shop/sa/*"])
            .prop_map(|identity| json!({"identities": [identity]})),
        few(&["10.0.0.0/8", "10.0.0.1/32", "fd00::/8"]).prop_map(|blocks| json!({"cidrs": blocks})),
    ]
    // A source that asks for nothing is refused by the schema.
    .prop_map(|source| {
        let asks = source.as_object().unwrap().values().all(|value| value != &json!([]));
        if asks { source } else { json!({"namespaces": ["shop"]}) }
    })
}

fn operations() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"ports": [9080]})),
        Just(json!({"ports": [1]})),
        one(&["GET", "POST"]).prop_map(|method| json!({"methods": [method]})),
        one(&["/a", "/a/*", "*/b", "/a/b", "*"]).prop_map(|path| json!({"paths": [path]})),
        one(&["web", "*.web"]).prop_map(|host| json!({"hosts": [host]})),
        (one(&["Exact", "Prefix", "RegularExpression"]), any::<bool>())
            .prop_map(|(kind, not)| json!({"headers": [{"name": "X-A", "type": kind, "value": "on", "not": not}]})),
        Just(json!({"headers": [{"name": "x-a", "type": "Present"}]})),
        one(&["a", "b"]).prop_map(|service| json!({"grpc": {"service": service}})),
        Just(json!({"methods": ["GET"], "paths": ["/a*"], "ports": [9080]})),
    ]
}

fn auths() -> impl Strategy<Value = Vec<Value>> {
    let claim = prop::option::weighted(0.1, Just(json!([{"claim": "a", "values": ["b"]}])));
    let rule = (
        one(&["Allow", "Allow", "Deny", "Audit"]),
        prop::collection::vec(sources(), 0..3),
        prop::collection::vec(operations(), 0..3),
        claim,
    )
        .prop_map(|(action, from, to, when)| {
            let mut rule = json!({"action": action, "when": when.unwrap_or_else(|| json!([]))});
            rule["from"] = json!(from);
            rule["to"] = json!(to);
            rule
        });
    let rules = prop::collection::vec(rule, 0..4).prop_map(|rules| {
        let named = rules.into_iter().enumerate().map(|(number, mut rule)| {
            rule["name"] = json!(format!("r{number}"));
            rule
        });
        named.collect::<Vec<_>>()
    });
    let mode = prop::option::of(one(&["Strict", "Permissive"]));
    let default = prop::option::weighted(0.3, one(&["Allow", "Deny"]));
    let auth = (rules, mode, default, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(rules, mode, default, selected, audit)| {
            let mut spec = json!({"rules": rules, "audit": audit});
            if let Some(mode) = mode {
                spec["mtls"] = json!({"mode": mode});
            }
            if let Some(default) = default {
                spec["default"] = json!(default);
            }
            if selected {
                spec["selector"] = json!({"matchLabels": {"app": "web"}});
            }
            spec
        },
    );
    prop::collection::vec(auth, 0..4)
}

fn requests() -> impl Strategy<Value = Option<Request>> {
    let headers = few(&["on", "off", "on, off"])
        .prop_map(|values| values.into_iter().map(|value| Pair { name: "x-a".into(), value }).collect::<Vec<_>>());
    let paths = one(&["/a", "/a/b", "/a/b?q=1", "//a/b", "/%61", "/a/../b", "/b;x/a", "/"]);
    let request = (one(&["GET", "POST", "get"]), paths, one(&["web", "a.web", "WEB:80"]), headers, any::<bool>())
        .prop_map(|(method, path, host, mut headers, grpc)| {
            if grpc {
                headers.push(pair("content-type", "application/grpc"));
            }
            Request { method, path, host: Some(host), headers, claims: Vec::new(), grpc }
        });
    prop::option::weighted(0.85, request)
}

fn callers() -> impl Strategy<Value = Caller> {
    prop_oneof![
        1 => Just(Caller::Plain),
        1 => Just(Caller::Identity("spiffe://other.example/ns/shop/sa/front".into())),
        4 => one(&["front", "back"]).prop_map(|name| account(&name)),
    ]
}

fn identity(caller: &Caller) -> Option<SpiffeId> {
    match caller {
        Caller::Plain => None,
        Caller::Identity(identity) => Some(identity.parse().unwrap()),
        Caller::ServiceAccount { namespace, name } => Some(SpiffeId::new("cluster.local", namespace, name).unwrap()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_answer_is_what_the_proxy_does(
        auths in auths(), from in callers(), address in one(&["10.0.0.1", "10.9.9.9", "fd00::1", "192.0.2.1"]), request in requests(),
    ) {
        let index = index();
        web(&index);
        for (number, spec) in auths.into_iter().enumerate() {
            let namespace = if number == 3 { "fairlead-system" } else { NS };
            index.apply(peer_auth(namespace, &format!("p{number}"), spec));
        }
        prop_assert!(index.reports().iter().all(|report| !matches!(report.problem, Some(crate::index::Problem::Invalid(_)))));
        let address: IpAddr = address.parse().unwrap();
        let question = Question { from, address: Some(address), to: to("web"), request };
        let explained = only(&index, &question).outcome;

        let proxy = at_the_proxy(&index, "web-1-a");
        let caller = fairlead_authz::Caller { identity: identity(&question.from), address };
        let refused = caller.identity.is_none() && matches!(proxy.plain(9080), Plain::Refuse);
        let arrived = question.request.as_ref().map(Arrived);
        let decision = proxy.decide(&caller, 9080, arrived.as_ref());
        let expected = match (refused, decision.effect) {
            (true, _) => (Verdict::PlaintextRefused, None),
            (false, Effect::Allow) => (Verdict::Allowed, decision.rule),
            (false, Effect::Deny) => (Verdict::Denied, decision.rule),
        };
        prop_assert_eq!((explained.verdict, explained.rule.as_deref()), expected);
    }
}
