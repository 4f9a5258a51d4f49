//! The decision against one that is as simple as can be: it asks every rule in turn, knows only requests that are read in one way, and
//! shares no line with the code that it checks. Of requests that are read in several ways, properties say what must hold.

use proptest::prelude::*;

use super::{Fake, TRUST_DOMAIN, caller, plain};
use crate::{Action, Caller, Claim, Decision, Effect, Grpc, Header, Operation, Policy, Rule, Source, ValuePattern};

/// Whether `text` is what `pattern` says, where one `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((front, end)) => text.len() >= front.len() + end.len() && text.starts_with(front) && text.ends_with(end),
    }
}

fn source_holds(source: &Source, caller: &Caller) -> bool {
    let id = caller.identity.as_ref().map(ToString::to_string);
    let own = |namespace: &str, account: &str| format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}");
    let is = |patterns: Vec<String>| {
        patterns.is_empty() || id.as_ref().is_some_and(|id| patterns.iter().any(|pattern| elements(pattern, id)))
    };
    let accounts = source.service_accounts.iter().map(|name| {
        let (namespace, account) = name.split_once('/').unwrap();
        own(namespace, account)
    });
    is(source.namespaces.iter().map(|namespace| own(namespace, "*")).collect())
        && is(accounts.collect())
        && is(source.identities.iter().map(ToString::to_string).collect())
        && (source.cidrs.is_empty() || source.cidrs.iter().any(|cidr| cidr.contains(&caller.address)))
        && !(source.unauthenticated && id.is_some())
}

/// Whether each element is the same, or `*`.
fn elements(pattern: &str, text: &str) -> bool {
    pattern.split('/').count() == text.split('/').count()
        && pattern.split('/').zip(text.split('/')).all(|(pattern, text)| pattern == "*" || pattern == text)
}

fn operation_holds(to: &Operation, port: u16, request: Option<&Fake>, unknown: bool) -> bool {
    if !to.ports.is_empty() && !to.ports.contains(&port) {
        return false;
    }
    let Some(request) = request else { return unknown || !to.needs_http() };
    let host = request.hosts[0].as_str();
    let call: Vec<&str> = request.path.splitn(3, '/').collect();
    (to.methods.is_empty() || to.methods.contains(&request.method))
        && (to.paths.is_empty() || to.paths.iter().any(|pattern| glob(&pattern.to_string(), &request.path)))
        && (to.hosts.is_empty() || to.hosts.iter().any(|pattern| glob(&pattern.to_string(), host)))
        && to.headers.iter().all(|header| {
            let value = request.headers.iter().find(|(name, _)| *name == header.name).map(|(_, value)| value);
            let matches = value.is_some_and(|value| match &header.value {
                ValuePattern::Exact(exact) => value == exact,
                ValuePattern::Prefix(prefix) => value.starts_with(prefix),
                ValuePattern::Regex(_) | ValuePattern::Present => true,
            });
            matches != header.not
        })
        && to.grpc.as_ref().is_none_or(|grpc| {
            if unknown && *grpc == Grpc::default() {
                return request.grpc;
            }
            let [_, service, method] = call[..] else { return false };
            // A Deny does not believe what a caller says of its content.
            (request.grpc || unknown)
                && (grpc.service.is_empty() || grpc.service == service)
                && (grpc.method.is_empty() || grpc.method == method)
        })
}

fn rule_holds(rule: &Rule, caller: &Caller, port: u16, request: Option<&Fake>, unknown: bool) -> bool {
    (rule.from.is_empty() || rule.from.iter().any(|source| source_holds(source, caller)))
        && (rule.to.is_empty() || rule.to.iter().any(|to| operation_holds(to, port, request, unknown)))
        && rule.when.iter().all(|claim| match request {
            None => unknown,
            Some(request) => {
                let says = |(name, value): &(String, String)| *name == claim.name && claim.values.contains(value);
                request.claims.iter().any(says)
            }
        })
}

fn reference(rules: &[Rule], default: Option<Effect>, caller: &Caller, port: u16, request: Option<&Fake>) -> Effect {
    let any = |action: Action, unknown: bool| {
        rules.iter().any(|rule| rule.action == action && rule_holds(rule, caller, port, request, unknown))
    };
    let lists = rules.iter().any(|rule| rule.action == Action::Allow);
    let default = default.unwrap_or(if lists { Effect::Deny } else { Effect::Allow });
    if any(Action::Deny, true) {
        Effect::Deny
    } else if any(Action::Allow, false) {
        Effect::Allow
    } else {
        default
    }
}

/// A few names, so that rules and requests often meet.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn few<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(of, 0..3)
}

fn sources() -> impl Strategy<Value = Source> {
    let account = (name(), name()).prop_map(|(namespace, account)| format!("{namespace}/{account}"));
    let any = || prop_oneof![Just("*".to_owned()), name()];
    let domain = prop::sample::select(vec![TRUST_DOMAIN, "other.example"]);
    let identity = (domain, any(), any()).prop_map(|(domain, namespace, account)| {
        format!("spiffe://{domain}/ns/{namespace}/sa/{account}").parse().unwrap()
    });
    let cidr = prop::sample::select(vec!["10.0.0.0/8", "10.0.0.1/32", "192.168.0.0/16", "::/0"]);
    let cidr = cidr.prop_map(|cidr| cidr.parse().unwrap());
    (few(name()), few(account), few(identity), few(cidr), prop::bool::weighted(0.1)).prop_map(
        |(namespaces, service_accounts, identities, cidrs, unauthenticated)| Source {
            namespaces,
            service_accounts,
            identities,
            cidrs,
            unauthenticated,
        },
    )
}

fn clean_path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 0..4).prop_map(|elements| format!("/{}", elements.join("/")))
}

fn operations() -> impl Strategy<Value = Operation> {
    let pattern = (clean_path(), 0..4_u8).prop_map(|(path, kind)| match kind {
        0 => format!("{path}*"),
        1 => format!("{path}/*"),
        2 => format!("*{path}"),
        _ => path,
    });
    let host = prop::sample::select(vec!["a.example", "*.example", "b.a.example"]);
    let value = prop_oneof![
        name().prop_map(ValuePattern::Exact),
        name().prop_map(ValuePattern::Prefix),
        Just(ValuePattern::Present)
    ];
    let header = (name(), value, any::<bool>()).prop_map(|(name, value, not)| Header { name, value, not });
    let call = || prop_oneof![Just(String::new()), name()];
    let grpc = (call(), call()).prop_map(|(service, method)| Grpc { service, method });
    (
        few(1..4_u16),
        few(prop::sample::select(vec!["GET".to_owned(), "POST".to_owned()])),
        few(pattern.prop_map(|pattern| pattern.parse().unwrap())),
        few(host.prop_map(|host| host.parse().unwrap())),
        few(header),
        prop::option::weighted(0.3, grpc),
    )
        .prop_map(|(ports, methods, paths, hosts, headers, grpc)| Operation {
            ports,
            methods,
            paths,
            hosts,
            headers,
            grpc,
        })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop::sample::select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Audit]);
    let claim = (name(), few(name())).prop_map(|(name, values)| Claim { name, values });
    let rule = (action, few(sources()), few(operations()), prop::collection::vec(claim, 0..2))
        .prop_map(|(action, from, to, when)| Rule { name: String::new(), action, from, to, when });
    let numbered =
        |rules: Vec<Rule>| (0..).zip(rules).map(|(number, rule)| Rule { name: format!("{number}"), ..rule }).collect();
    prop::collection::vec(rule, 0..8).prop_map(numbered)
}

fn callers() -> impl Strategy<Value = Caller> {
    let stranger = |account: &str| Caller {
        identity: Some(format!("spiffe://other.example/ns/{}", account.replace('/', "/sa/")).parse().unwrap()),
        ..plain()
    };
    (name(), name(), 0..6_u8).prop_map(move |(namespace, account, kind)| match kind {
        0 => plain(),
        1 => stranger(&format!("{namespace}/{account}")),
        _ => caller(&format!("{namespace}/{account}")),
    })
}

fn requests(paths: impl Strategy<Value = String>) -> impl Strategy<Value = Fake> {
    let host = prop::sample::select(vec!["a.example", "b.a.example", "c"]).prop_map(|host| vec![host.to_owned()]);
    let headers = prop::collection::btree_map(name(), name(), 0..3).prop_map(|map| map.into_iter().collect());
    let method = prop::sample::select(vec!["GET".to_owned(), "POST".to_owned(), "PUT".to_owned()]);
    (method, paths, any::<bool>(), host, headers, few((name(), name())))
        .prop_map(|(method, path, grpc, hosts, headers, claims)| Fake { method, path, grpc, hosts, headers, claims })
}

fn defaults() -> impl Strategy<Value = Option<Effect>> {
    prop::sample::select(vec![None, Some(Effect::Allow), Some(Effect::Deny)])
}

fn compiled(rules: &[Rule], default: Option<Effect>) -> Policy {
    Policy::compile(TRUST_DOMAIN, rules.to_vec(), default).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn a_clear_request_is_decided_as_by_the_reference(
        rules in rules(), default in defaults(), caller in callers(), port in 1..4_u16, request in requests(clean_path()),
    ) {
        let policy = compiled(&rules, default);
        let Decision { effect, rule } = policy.decide(&caller, port, Some(&request));
        prop_assert_eq!(effect, reference(&rules, default, &caller, port, Some(&request)));
        if let Some(rule) = rule {
            let named = &rules[rule.parse::<usize>().unwrap()];
            prop_assert!(rule_holds(named, &caller, port, Some(&request), true));
            prop_assert_eq!(named.action == Action::Deny, effect == Effect::Deny);
        }
        let audits = |rule: &Rule| rule.action == Action::Audit && rule_holds(rule, &caller, port, Some(&request), true);
        prop_assert_eq!(policy.audits(&caller, port, Some(&request)).is_some(), rules.iter().any(audits));
    }

    #[test]
    fn bytes_are_decided_as_by_the_reference(
        rules in rules(), default in defaults(), caller in callers(), port in 1..4_u16,
    ) {
        let effect = compiled(&rules, default).decide(&caller, port, None::<&Fake>).effect;
        prop_assert_eq!(effect, reference(&rules, default, &caller, port, None));
    }

    /// Whatever is written into a path, and however a server reads it, nobody gets what the clear spelling would not get.
    #[test]
    fn no_spelling_of_a_path_gets_more(
        rules in rules(), default in defaults(), caller in callers(), request in requests("/[abc/.;%2f\\\\]{0,12}"),
    ) {
        let policy = compiled(&rules, default);
        let spelled = policy.decide(&caller, 1, Some(&request)).effect;
        let Some(clear) = crate::path::plain(&request.path) else {
            // Nobody knows what it asks for: no rule with a path may open it, and every one closes it.
            let any_path = |rule: &&Rule| {
                rule.to.is_empty() || rule.to.iter().any(|to| to.paths.is_empty() && to.grpc.is_none())
            };
            let (open, shut): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.action == Action::Allow);
            let open = open.into_iter().filter(any_path);
            let left: Vec<Rule> = open.chain(shut).cloned().collect();
            let lists = rules.iter().any(|rule| rule.action == Action::Allow);
            let default = default.unwrap_or(if lists { Effect::Deny } else { Effect::Allow });
            if spelled == Effect::Allow {
                prop_assert_eq!(compiled(&left, Some(default)).decide(&caller, 1, Some(&request)).effect, Effect::Allow);
            }
            return Ok(());
        };
        let Ok(clear) = String::from_utf8(clear.into_owned()) else { return Ok(()) };
        // Escapes that are decoded once must not be decoded again.
        prop_assume!(!clear.contains('%'));
        let meant = Fake { path: clear, ..request };
        let meant = policy.decide(&caller, 1, Some(&meant)).effect;
        prop_assert!(!(spelled == Effect::Allow && meant == Effect::Deny));
    }

    /// Indexes only choose: what a rule decides alone, it decides among thousands.
    #[test]
    fn a_rule_is_found_among_many(
        rule in rules().prop_filter_map("one", |rules| rules.into_iter().next()),
        caller in callers(), request in requests("/[abc/.;%2f]{0,12}"),
    ) {
        let alone = compiled(std::slice::from_ref(&rule), Some(Effect::Deny));
        let others = (0..200).map(|number| Rule {
            name: format!("other-{number}"),
            action: rule.action,
            from: vec![Source { service_accounts: vec![format!("other/account-{number}")], ..Source::default() }],
            to: vec![Operation { paths: vec![format!("/other/{number}/*").parse().unwrap()], ..Operation::default() }],
            when: Vec::new(),
        });
        let among = Policy::compile(TRUST_DOMAIN, others.chain([rule.clone()]), Some(Effect::Deny)).unwrap();
        prop_assert_eq!(alone.decide(&caller, 1, Some(&request)), among.decide(&caller, 1, Some(&request)));
        prop_assert_eq!(alone.decide(&caller, 1, None::<&Fake>), among.decide(&caller, 1, None::<&Fake>));
    }
}
