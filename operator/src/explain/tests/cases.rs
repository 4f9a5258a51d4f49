use fairlead_operator_api::Verdict;
use k8s_openapi::api::core::v1::Service;

use super::*;

/// The example of RFC 8037, appendix A.
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn shop() -> Index {
    let index = index();
    web(&index);
    index
}

#[test]
fn the_rule_that_decides_is_named_and_so_is_the_default() {
    let index = shop();
    let open = only(&index, &question("/items/1"));
    assert_eq!(said(&open), ("Allowed".into(), None, "no rule denies it, and none says who may"));
    assert_eq!((open.mtls.mode.as_str(), &open.mtls.from, open.policies.len()), ("Permissive", &None, 0));

    index.apply(peer_auth(NS, "web", readers()));
    let read = only(&index, &question("/items/1?page=2"));
    assert_eq!(said(&read), ("Allowed".into(), Some("shop/web/readers"), "rule shop/web/readers allows it"));
    assert_eq!((read.pods.as_slice(), read.port), (&["web-1-a".to_owned(), "web-1-b".to_owned()][..], 9080));
    let other = only(&index, &question("/orders"));
    assert_eq!(said(&other), ("Denied".into(), None, "Allow rules say who may, and none of them holds"));
    // Nobody knows what bytes ask for.
    let bytes = only(&index, &Question { request: None, ..question("/") });
    assert_eq!(bytes.outcome.verdict, Verdict::Denied);

    index.apply(peer_auth("fairlead-system", "mesh", json!({"default": "Allow"})));
    let other = only(&index, &question("/orders"));
    let because = "no rule decides it, and the default of PeerAuth fairlead-system/mesh is Allow";
    assert_eq!(said(&other), ("Allowed".into(), None, because));
    let deny = json!([{"name": "no", "action": "Deny", "to": [{"paths": ["/orders"]}]}]);
    index.apply(peer_auth(NS, "closed", json!({"rules": deny, "default": "Deny"})));
    let other = only(&index, &question("//orders"));
    assert_eq!(said(&other), ("Denied".into(), Some("shop/closed/no"), "rule shop/closed/no denies it"));
    let scopes: Vec<_> = other.policies.iter().map(|policy| (policy.name.as_str(), policy.scope.as_str())).collect();
    assert_eq!(scopes, [("fairlead-system/mesh", "Mesh"), ("shop/closed", "Namespace"), ("shop/web", "Workload")]);
}

#[test]
fn mutual_tls_comes_first_and_its_source_is_named() {
    let index = shop();
    index.apply(peer_auth("fairlead-system", "mesh", json!({"mtls": {"mode": "Strict"}})));
    let plain = Question { from: Caller::Plain, ..question("/") };
    let refused = only(&index, &plain);
    let because = "the caller comes in plain, and mTLS is Strict";
    assert_eq!(said(&refused), ("PlaintextRefused".into(), None, because));
    assert_eq!(refused.mtls.from.as_deref(), Some("fairlead-system/mesh"));
    assert_eq!(only(&index, &question("/")).outcome.verdict, Verdict::Allowed);

    index.apply(peer_auth(NS, "port", json!({"mtls": {"ports": [{"port": 9080, "mode": "Permissive"}]}})));
    let open = only(&index, &plain);
    assert_eq!((open.outcome.verdict, open.mtls.from.as_deref()), (Verdict::Allowed, Some("shop/port")));
    let mut other = plain.clone();
    other.to = Target { name: "web-1-a".into(), port: Some(8080), ..to("web") };
    let other = only(&index, &other);
    assert_eq!((other.mtls.mode.as_str(), other.mtls.from.as_deref()), ("Strict", Some("fairlead-system/mesh")));

    // Without authentication there are no accounts that a rule could let in.
    index.apply(peer_auth(
        NS,
        "off",
        json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "Disabled"}}),
    ));
    index.apply(peer_auth(NS, "web", readers()));
    let off = only(&index, &question("/items/1"));
    assert_eq!(off.outcome.verdict, Verdict::Denied);
    assert!(off.notes[0].starts_with("mTLS is Disabled"), "{:?}", off.notes);
}

#[test]
fn what_is_rehearsed_is_told_apart() {
    let index = shop();
    let soon = json!({"audit": true, "mtls": {"mode": "Strict"}, "default": "Deny"});
    index.apply(peer_auth(NS, "soon", soon));
    let audit = json!([{"name": "seen", "action": "Audit", "to": [{"methods": ["GET"]}]}]);
    index.apply(peer_auth(NS, "watch", json!({"rules": audit})));
    let group = only(&index, &question("/"));
    assert_eq!(group.outcome.verdict, Verdict::Allowed);
    assert_eq!(group.audited_by.as_deref(), Some("shop/watch/seen"));
    assert!(group.policies.iter().any(|policy| policy.name == "shop/soon" && policy.rehearsed));
    let rehearsed = group.rehearsed.unwrap();
    let because = "no rule decides it, and the default of PeerAuth shop/soon is Deny";
    assert_eq!((rehearsed.outcome.verdict, rehearsed.outcome.because.as_str()), (Verdict::Denied, because));
    assert_eq!((rehearsed.mtls.mode.as_str(), rehearsed.mtls.from.as_deref()), ("Strict", Some("shop/soon")));
    let plain = only(&index, &Question { from: Caller::Plain, ..question("/") });
    assert_eq!(plain.rehearsed.unwrap().outcome.verdict, Verdict::PlaintextRefused);
}

#[test]
fn pods_that_differ_are_told_apart_and_the_others_are_one_answer() {
    let index = index();
    index.apply(service("web", &["10.96.0.1"]));
    let names: Vec<(String, String)> =
        (0..30).map(|n| (format!("web-{}-{n:02}", n % 3), format!("10.0.0.{n}"))).collect();
    let pods: Vec<(&str, &str)> = names.iter().map(|(name, ip)| (name.as_str(), ip.as_str())).collect();
    index.apply(slice("web", &pods));
    for (n, (name, ip)) in pods.iter().enumerate() {
        let pod = pod(name, ip).label("version", if n % 3 == 2 { "v2" } else { "v1" });
        index.apply(if n == 5 { pod.unmeshed().build() } else { pod.build() });
    }
    let shown = |index: &Index| -> Vec<(usize, usize, Verdict)> {
        let groups = answer(index, &question("/")).groups;
        groups.iter().map(|group| (group.pod_count, group.pods.len(), group.outcome.verdict)).collect()
    };
    // The one without a sidecar apart; labels that make no difference do not count.
    assert_eq!(shown(&index), [(1, 1, Verdict::Allowed), (29, 8, Verdict::Allowed)]);
    let v2 = json!({"selector": {"matchLabels": {"version": "v2"}}, "default": "Deny"});
    index.apply(peer_auth(NS, "v2", v2));
    let apart = [(1, 1, Verdict::Allowed), (20, 8, Verdict::Allowed), (9, 8, Verdict::Denied)];
    assert_eq!(shown(&index), apart);
}

#[test]
fn what_a_question_leaves_open_is_asked_for_only_where_it_decides() {
    let index = shop();
    let near =
        json!({"name": "near", "action": "Deny", "from": [{"cidrs": ["10.0.0.0/8"]}], "to": [{"paths": ["/admin"]}]});
    let host = json!({"name": "host", "action": "Deny", "to": [{"paths": ["/host"], "hosts": ["*.example.com"]}]});
    index.apply(peer_auth(NS, "web", rules(json!([near, host]))));
    assert_eq!(only(&index, &question("/")).outcome.verdict, Verdict::Allowed);
    let mut admin = question("/admin");
    assert!(unanswered(&index, &admin).contains("--from-address"));
    for (address, verdict) in
        [("10.1.2.3", Verdict::Denied), ("11.0.0.0", Verdict::Allowed), ("::ffff:10.0.0.1", Verdict::Denied)]
    {
        admin.address = Some(address.parse().unwrap());
        assert_eq!(only(&index, &admin).outcome.verdict, verdict, "{address}");
    }
    let mut hosted = question("/host");
    assert!(unanswered(&index, &hosted).contains("--host"));
    for (host, verdict) in [("web", Verdict::Allowed), ("A.example.com:80", Verdict::Denied)] {
        hosted.request.as_mut().unwrap().host = Some(host.into());
        assert_eq!(only(&index, &hosted).outcome.verdict, verdict, "{host}");
    }
}

#[test]
fn claims_count_where_somebody_is_believed() {
    let index = shop();
    let when = json!([{"name": "dev", "action": "Allow", "when": [{"claim": "groups", "values": ["dev"]}]}]);
    index.apply(peer_auth(NS, "web", rules(when)));
    let mut claiming = question("/");
    claiming.request.as_mut().unwrap().claims = vec![pair("groups", "ops"), pair("groups", "dev")];
    assert_eq!(only(&index, &claiming).outcome.verdict, Verdict::Denied, "nobody is believed");
    let jwt = |audit| json!({"audit": audit, "jwt": [{"issuer": "https://i", "jwks": {"inline": KEYS}}]});
    index.apply(peer_auth(NS, "jwt", jwt(true)));
    let rehearsed = only(&index, &claiming);
    assert_eq!(rehearsed.outcome.verdict, Verdict::Denied);
    assert_eq!(rehearsed.rehearsed.unwrap().outcome.verdict, Verdict::Allowed);
    index.apply(peer_auth(NS, "jwt", jwt(false)));
    assert_eq!(only(&index, &claiming).outcome.rule.as_deref(), Some("shop/web/dev"));
    claiming.request.as_mut().unwrap().claims.push(pair("iss", "https://other"));
    let foreign = only(&index, &claiming);
    assert_eq!(foreign.outcome.verdict, Verdict::Denied);
    assert!(foreign.outcome.because.contains("401"), "{}", foreign.outcome.because);
}

#[test]
fn where_nothing_is_enforced_it_says_so() {
    let index = index();
    index.apply(peer_auth(NS, "closed", json!({"default": "Deny", "mtls": {"mode": "Strict"}})));
    index.apply(pod("bare-1-a", "10.0.0.1").unmeshed().build());
    index.apply(pod("skip-1-a", "10.0.0.2").annotation("fairlead.dev/skip-inbound-ports", "9000-9100").build());
    for (name, why) in [("bare", "no sidecar"), ("skip", "port 9080 is not captured")] {
        let group = only(&index, &Question { from: Caller::Plain, to: to(name), ..question("/") });
        assert_eq!(group.outcome.verdict, Verdict::Allowed);
        assert!(group.outcome.because.contains(why), "{}", group.outcome.because);
    }
}

#[test]
fn a_port_of_bytes_and_a_canarys_pod_look_at_no_request() {
    let index = shop();
    index.apply(peer_auth(NS, "web", readers()));
    let mut service = service("web", &["10.96.0.1"]);
    let opaque: Service = {
        let ports = service.spec.as_mut().and_then(|spec| spec.ports.as_mut()).unwrap();
        ports[0].app_protocol = Some("tcp".into());
        service
    };
    index.apply(opaque);
    let group = only(&index, &question("/items/1"));
    assert_eq!(group.outcome.verdict, Verdict::Denied);
    assert!(group.notes[0].contains("bytes"), "{:?}", group.notes);

    let index = shop();
    let plain = rules(json!([{"name": "plain", "action": "Allow", "to": [{"methods": ["GET"]}]}]));
    index.apply(peer_auth(NS, "web", plain));
    index.apply(pod("web-1-b", "10.0.0.2").label(fairlead_crds::CLONE_OF_LABEL, "web").build());
    let answer = answer(&index, &Question { from: Caller::Plain, ..question("/") });
    let verdicts: Vec<_> = answer.groups.iter().map(|group| (group.pods[0].as_str(), group.outcome.verdict)).collect();
    assert_eq!(verdicts, [("web-1-a", Verdict::Allowed), ("web-1-b", Verdict::Denied)]);
    assert!(!answer.is_allowed() && answer.groups[1].notes[0].contains("canary"));
}

#[test]
fn who_is_not_found_is_said_with_what_to_do() {
    let index = shop();
    let asked = |name: &str, port| Question { to: Target { port, ..to(name) }, ..question("/") };
    assert!(unanswered(&index, &asked("nobody", None)).contains("kubectl get services,deployments,pods -n shop"));
    assert_eq!(unanswered(&index, &asked("web", Some(81))), "Service shop/web has the port 80, but not 81");
    index.apply(service("idle", &["10.96.0.2"]));
    assert!(unanswered(&index, &asked("idle", None)).contains("Service shop/idle has no pod yet"));
    index.delete::<Service>(&name("web"));
    assert_eq!(answer(&index, &asked("web", None)).target, "Deployment shop/web");
    assert_eq!(answer(&index, &asked("web-1-a", Some(1))).target, "Pod shop/web-1-a");
    let mut two = pod("two-1-a", "10.0.0.9");
    two.0["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}, {"containerPort": 81}]);
    index.apply(two.build());
    assert!(
        unanswered(&index, &asked("two", None))
            .contains("the ports 80, 81: say which port is meant, as in shop/two:80")
    );
    index.apply(pod("two-1-a", "10.0.0.9").terminating().build());
    assert!(unanswered(&index, &asked("two", Some(80))).contains("Deployment shop/two has no pod yet"));
}

#[test]
fn what_no_caller_could_be_or_send_is_refused_and_a_doubt_is_told() {
    let index = shop();
    for (path, why) in [("items", "begins with a slash"), ("/a#b", "no path"), ("/a b", "no path")] {
        assert!(unanswered(&index, &question(path)).contains(why), "{path}");
    }
    let with = |change: fn(&mut Request)| {
        let mut question = question("/");
        change(question.request.as_mut().unwrap());
        unanswered(&index, &question)
    };
    assert!(with(|request| request.method = "G ET".into()).contains("no method"));
    assert!(with(|request| request.headers = vec![pair("Host", "a")]).contains("--host"));
    assert!(with(|request| request.headers = vec![pair("a", "b"); 200]).contains("more than 100"));
    let from = |from| unanswered(&index, &Question { from, ..question("/") });
    assert!(from(Caller::Identity("spiffe://x/y".into())).starts_with("from: "));
    assert!(from(account("a/b")).starts_with("from: "));
    let notes = |name| answer(&index, &Question { from: account(name), ..question("/") }).notes;
    assert!(notes("frnt")[0].contains("is the name right?"));
    assert!(notes("web").is_empty());
    index.apply(pod("job-1-a", "10.0.0.7").unmeshed().build());
    assert!(notes("job")[0].contains("in plain"));
}
