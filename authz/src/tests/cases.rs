//! What a reader of the API would try.

use super::{Fake, TRUST_DOMAIN, allowed, caller, denied, of, paths, plain, policy, rule};
use crate::{
    Action::{Allow, Audit, Deny},
    Caller, Claim, Effect, Grpc, Header, Operation, Policy, Rule, Source, ValuePattern,
};

fn reviews() -> Caller {
    caller("bookinfo/reviews")
}

fn decide<'p>(policy: &'p Policy, caller: &Caller, request: &Fake) -> crate::Decision<'p> {
    policy.decide(caller, 9080, Some(request))
}

/// Whether a rule of this action and operation decides about the request.
fn holds(action: crate::Action, to: &Operation, request: &Fake) -> bool {
    policy([rule("r", action, None, Some(to.clone()))]).decide(&plain(), 9080, Some(request)).rule.is_some()
}

#[test]
fn without_rules_everybody_is_let_in() {
    assert!(Policy::default().is_empty());
    assert_eq!(decide(&Policy::default(), &plain(), &Fake::get("/")), allowed(None));
    assert_eq!(policy([]).decide(&plain(), 1, None::<&Fake>), allowed(None));
}

#[test]
fn who_lists_who_may_shuts_out_the_others() {
    let policy = policy([rule("reviews-read", Allow, Some(of(&["bookinfo/reviews"])), Some(paths(&["/ratings/*"])))]);
    assert_eq!(decide(&policy, &reviews(), &Fake::get("/ratings/1")), allowed(Some("reviews-read")));
    assert_eq!(decide(&policy, &reviews(), &Fake::get("/admin")), denied(None));
    assert_eq!(decide(&policy, &caller("bookinfo/details"), &Fake::get("/ratings/1")), denied(None));
    assert_eq!(decide(&policy, &caller("web/reviews"), &Fake::get("/ratings/1")), denied(None));
    assert_eq!(decide(&policy, &plain(), &Fake::get("/ratings/1")), denied(None));
}

#[test]
fn a_deny_holds_whatever_else_does() {
    let rules = || {
        [
            rule("all", Allow, None, None),
            rule("not-admin", Deny, None, Some(paths(&["/admin*"]))),
            rule("seen", Audit, None, None),
        ]
    };
    for default in [None, Some(Effect::Allow), Some(Effect::Deny)] {
        let policy = Policy::compile(TRUST_DOMAIN, rules(), default).unwrap();
        assert_eq!(decide(&policy, &reviews(), &Fake::get("/admin/x")), denied(Some("not-admin")));
        assert_eq!(decide(&policy, &reviews(), &Fake::get("/x")).effect, Effect::Allow);
        assert_eq!(policy.audits(&reviews(), 9080, Some(&Fake::get("/x"))), Some("seen"));
    }
}

#[test]
fn the_default_is_what_no_rule_decides() {
    let deny_all = Policy::compile(TRUST_DOMAIN, [], Some(Effect::Deny)).unwrap();
    assert_eq!(decide(&deny_all, &reviews(), &Fake::get("/")), denied(None));
    let open = Policy::compile(TRUST_DOMAIN, [rule("r", Allow, Some(of(&["a/b"])), None)], Some(Effect::Allow));
    assert_eq!(decide(&open.unwrap(), &plain(), &Fake::get("/")), allowed(None));
    let denies = policy([rule("d", Deny, Some(of(&["a/b"])), None)]);
    assert_eq!(decide(&denies, &plain(), &Fake::get("/")), allowed(None), "without Allow rules the default is Allow");
    let audits = policy([rule("a", Audit, None, None)]);
    assert!(audits.allows_all() && !audits.is_empty());
}

#[test]
fn all_that_a_source_names_must_hold() {
    let ours = |namespaces: &[&str], cidrs: &[&str]| Source {
        namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ..Source::default()
    };
    let lets_in = |source: Source, caller: &Caller| {
        decide(&policy([rule("r", Allow, Some(source), None)]), caller, &Fake::get("/")).rule.is_some()
    };
    assert!(lets_in(ours(&["web", "bookinfo"], &[]), &reviews()));
    assert!(!lets_in(ours(&["web"], &[]), &reviews()));
    assert!(lets_in(ours(&["bookinfo"], &["10.0.0.0/8"]), &reviews()));
    assert!(!lets_in(ours(&["bookinfo"], &["192.168.0.0/16", "fd00::/8"]), &reviews()));
    assert!(lets_in(ours(&[], &["10.0.0.1/32"]), &plain()));
    assert!(!lets_in(ours(&["bookinfo"], &["10.0.0.0/8"]), &plain()));
    let both = Source { namespaces: vec!["web".into()], ..of(&["bookinfo/reviews"]) };
    assert!(!lets_in(both, &reviews()), "nobody is of both");
    let identities = |text: &str| Source { identities: vec![text.parse().unwrap()], ..Source::default() };
    assert!(lets_in(identities("spiffe://cluster.local/ns/*/sa/reviews"), &reviews()));
    assert!(lets_in(identities("spiffe://cluster.local/ns/bookinfo/sa/*"), &reviews()));
    assert!(!lets_in(identities("spiffe://other.example/ns/bookinfo/sa/reviews"), &reviews()));
    let unauthenticated = || Source { unauthenticated: true, ..Source::default() };
    assert!(lets_in(unauthenticated(), &plain()));
    assert!(!lets_in(unauthenticated(), &reviews()));
}

#[test]
fn accounts_and_namespaces_are_those_of_the_own_mesh() {
    let identity = "spiffe://other.example/ns/bookinfo/sa/reviews".parse().unwrap();
    let stranger = Caller { identity: Some(identity), ..plain() };
    let namespace = Source { namespaces: vec!["bookinfo".into()], ..Source::default() };
    for source in [of(&["bookinfo/reviews"]), namespace] {
        let policy = policy([rule("r", Allow, Some(source), None)]);
        assert_eq!(decide(&policy, &stranger, &Fake::get("/")), denied(None));
        assert_eq!(decide(&policy, &reviews(), &Fake::get("/")), allowed(Some("r")));
    }
    let named =
        Source { identities: vec!["spiffe://other.example/ns/*/sa/reviews".parse().unwrap()], ..Source::default() };
    assert_eq!(decide(&policy([rule("r", Allow, Some(named), None)]), &stranger, &Fake::get("/")), allowed(Some("r")));
}

#[test]
fn of_bytes_an_allow_that_needs_http_allows_nothing_and_a_deny_denies() {
    let tcp = |rules: Vec<Rule>| policy(rules).decide(&reviews(), 9080, None::<&Fake>).effect;
    let on = |port: u16, to: Operation| Some(Operation { ports: vec![port], ..to });
    let http: Vec<Operation> = vec![
        paths(&["/x"]),
        paths(&["*"]),
        Operation { methods: vec!["GET".into()], ..Operation::default() },
        Operation { hosts: vec!["a".parse().unwrap()], ..Operation::default() },
        Operation { grpc: Some(Grpc::default()), ..Operation::default() },
        Operation {
            headers: vec![Header { name: "x".into(), value: ValuePattern::Present, not: true }],
            ..Operation::default()
        },
    ];
    for to in http {
        assert!(to.needs_http());
        assert_eq!(tcp(vec![rule("a", Allow, None, Some(to.clone()))]), Effect::Deny, "{to:?}");
        assert_eq!(tcp(vec![rule("d", Deny, None, Some(to.clone()))]), Effect::Deny, "{to:?}");
        assert_eq!(tcp(vec![rule("d", Deny, None, on(1, to))]), Effect::Allow, "another port's");
    }
    assert_eq!(tcp(vec![rule("a", Allow, None, on(9080, Operation::default()))]), Effect::Allow);
    assert_eq!(tcp(vec![rule("a", Allow, None, on(1, Operation::default()))]), Effect::Deny);
    let claim = vec![Claim { name: "groups".into(), values: vec!["dev".into()] }];
    for (action, effect) in [(Allow, Effect::Deny), (Deny, Effect::Deny)] {
        assert_eq!(tcp(vec![Rule { when: claim.clone(), ..rule("w", action, None, None) }]), effect);
    }
}

#[test]
fn a_spelling_gets_round_no_deny_and_into_no_allow() {
    let admin = paths(&["/admin", "/admin/*"]);
    for path in
        ["//admin", "/%61dmin", "/x/../admin", "/admin;a=b", "/x/..%2fadmin", "/\\admin", "/%2561dmin", "/;/admin"]
    {
        assert!(holds(Deny, &admin, &Fake::get(path)), "{path}");
    }
    for path in
        ["//admin", "/x/../admin", "/admin;a=b", "/x/..%2fadmin", "/\\admin", "/%2561dmin", "/admin/.", "/admin/%00"]
    {
        assert!(!holds(Allow, &admin, &Fake::get(path)), "{path}");
    }
    // Which everybody reads alike.
    assert!(holds(Allow, &admin, &Fake::get("/%61dmin/x")));
    assert!(holds(Allow, &paths(&["*"]), &Fake::get("/a/b")));
    assert!(!holds(Allow, &paths(&["*"]), &Fake::get("/a/../b")), "nobody knows what it asks for");
    assert!(holds(Allow, &Operation::default(), &Fake::get("/a/../b")), "a rule without paths does not care");
}

#[test]
fn hosts_are_those_that_any_server_may_see() {
    let to = Operation { hosts: vec!["shop.example".parse().unwrap()], ..Operation::default() };
    let asks = |hosts: &[&str]| Fake { hosts: hosts.iter().map(|&h| h.to_owned()).collect(), ..Fake::get("/") };
    for host in ["shop.example", "SHOP.example:8080", "shop.example."] {
        assert!(holds(Deny, &to, &asks(&[host])) && holds(Allow, &to, &asks(&[host])), "{host}");
    }
    let two = asks(&["shop.example", "other.example"]);
    assert!(holds(Deny, &to, &two) && !holds(Allow, &to, &two));
    assert!(!holds(Deny, &to, &asks(&[])) && !holds(Allow, &to, &asks(&[])));
}

#[test]
fn lists_in_headers_are_read_in_every_way() {
    let entry = |value: ValuePattern, not: bool| Operation {
        headers: vec![Header { name: "x-role".into(), value, not }],
        ..Operation::default()
    };
    let exact = |not| entry(ValuePattern::Exact("admin".into()), not);
    let sends = |lines: &[&str]| Fake {
        headers: lines.iter().map(|&line| ("x-role".to_owned(), line.to_owned())).collect(),
        ..Fake::get("/")
    };
    for (lines, deny, allow) in [
        (&["admin"][..], true, true),
        (&["user"], false, false),
        (&[], false, false),
        (&["user", "admin"], true, false),
        (&["admin", "user"], true, false),
        (&["user, admin"], true, false),
        (&["user,admin ,x"], true, false),
        (&["administrator"], false, false),
    ] {
        assert_eq!(holds(Deny, &exact(false), &sends(lines)), deny, "{lines:?}");
        assert_eq!(holds(Allow, &exact(false), &sends(lines)), allow, "{lines:?}");
        assert_eq!(holds(Deny, &exact(true), &sends(lines)), !allow, "not {lines:?}");
        assert_eq!(holds(Allow, &exact(true), &sends(lines)), !deny, "not {lines:?}");
    }
    assert!(holds(Deny, &entry(ValuePattern::Exact("a, b".into()), false), &sends(&["a", "b"])));
    assert!(holds(Allow, &entry(ValuePattern::Regex("adm.*".into()), false), &sends(&["admin"])));
    assert!(!holds(Allow, &entry(ValuePattern::Regex("adm".into()), false), &sends(&["admin"])), "the whole value");
    assert!(holds(Deny, &entry(ValuePattern::Present, false), &sends(&["a", "b"])));
    assert!(!holds(Allow, &entry(ValuePattern::Prefix("adm".into()), false), &sends(&["admin", "x"])));
}

#[test]
fn what_does_not_compile_names_its_rule() {
    let header = |name: &str, value| Operation {
        headers: vec![Header { name: name.into(), value, not: false }],
        ..Operation::default()
    };
    for (to, why) in [
        (header("x", ValuePattern::Regex("(".into())), "rule r: the pattern"),
        (header("x", ValuePattern::Regex("a)|(b".into())), "rule r: the pattern"),
        (header("a b", ValuePattern::Present), "rule r: \"a b\" is no header"),
        (header("Host", ValuePattern::Present), "use hosts"),
    ] {
        let error = Policy::compile(TRUST_DOMAIN, [rule("r", Deny, None, Some(to))], None).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn calls_of_grpc_are_known_by_their_path() {
    let to = |service: &str, method: &str| Operation {
        grpc: Some(Grpc { service: service.into(), method: method.into() }),
        ..Operation::default()
    };
    let call = |path: &str, grpc| Fake { grpc, method: "POST".into(), ..Fake::get(path) };
    assert!(holds(Allow, &to("bookinfo.Reviews", "Get"), &call("/bookinfo.Reviews/Get", true)));
    assert!(holds(Allow, &to("bookinfo.Reviews", ""), &call("/bookinfo.Reviews/Put", true)));
    assert!(holds(Allow, &to("", "Get"), &call("/any.Service/Get", true)));
    assert!(!holds(Allow, &to("bookinfo.Reviews", "Get"), &call("/bookinfo.Reviews/Get", false)));
    assert!(!holds(Allow, &to("bookinfo.Reviews", "Get"), &call("/bookinfo.Reviews/Put", true)));
    assert!(!holds(Allow, &to("bookinfo.Reviews", ""), &call("/bookinfo.Reviews", true)));
    // What a caller says of its content does not get round a Deny.
    assert!(holds(Deny, &to("bookinfo.Reviews", "Get"), &call("/bookinfo.Reviews/Get", false)));
    assert!(holds(Deny, &to("bookinfo.Reviews", "Get"), &call("//bookinfo.Reviews/Get", true)));
    assert!(!holds(Deny, &to("", ""), &call("/ratings/1", false)), "not every request is a call");
}

#[test]
fn claims_are_those_of_a_verified_token() {
    let groups = |values: &[&str]| Claim {
        name: "groups".into(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
    };
    let team = Claim { name: "team".into(), values: vec!["a".into()] };
    let policy = policy([Rule { when: vec![groups(&["dev", "ops"]), team], ..rule("w", Allow, None, None) }]);
    let says = |claims: &[(&str, &str)]| Fake {
        claims: claims.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Fake::get("/")
    };
    assert_eq!(decide(&policy, &plain(), &says(&[("groups", "ops"), ("team", "a")])), allowed(Some("w")));
    assert_eq!(decide(&policy, &plain(), &says(&[("groups", "ops")])), denied(None));
    assert_eq!(decide(&policy, &plain(), &says(&[])), denied(None));
}

#[test]
fn methods_count_as_they_are_written_where_they_open() {
    let get = Operation { methods: vec!["GET".into()], ..Operation::default() };
    let asks = |method: &str| Fake { method: method.into(), ..Fake::get("/") };
    assert!(holds(Allow, &get, &asks("GET")) && holds(Deny, &get, &asks("GET")));
    assert!(!holds(Allow, &get, &asks("get")) && holds(Deny, &get, &asks("get")));
    assert!(!holds(Allow, &get, &asks("POST")) && !holds(Deny, &get, &asks("POST")));
}
