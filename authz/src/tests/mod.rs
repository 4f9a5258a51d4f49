//! The decision, case by case ([`cases`]) and against a simple reference ([`reference`]).

mod cases;
mod reference;

use std::net::IpAddr;

use http::HeaderName;

use crate::{Action, Caller, Decision, Effect, Operation, Policy, Request, Rule, Source, TextPattern};

pub(super) const TRUST_DOMAIN: &str = "cluster.local";

/// A request as a test wants it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fake {
    pub method: String,
    pub path: String,
    pub grpc: bool,
    pub hosts: Vec<String>,
    pub headers: Vec<(String, String)>,
    pub claims: Vec<(String, String)>,
}

impl Fake {
    pub(super) fn get(path: &str) -> Self {
        Self { method: "GET".to_owned(), path: path.to_owned(), ..Self::default() }
    }
}

impl Request for Fake {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn is_grpc(&self) -> bool {
        self.grpc
    }

    fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        self.hosts.iter().map(String::as_bytes)
    }

    fn header(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().filter(move |(own, _)| own == name.as_str()).map(|(_, value)| value.as_bytes())
    }

    fn has_claim(&self, name: &str, value: &str) -> bool {
        self.claims.iter().any(|(own, said)| own == name && said == value)
    }
}

pub(super) fn caller(account: &str) -> Caller {
    let (namespace, name) = account.split_once('/').unwrap();
    let identity = fairlead_identity::SpiffeId::new(TRUST_DOMAIN, namespace, name).unwrap();
    Caller { identity: Some(identity), address: IpAddr::from([10, 0, 0, 1]) }
}

pub(super) fn plain() -> Caller {
    Caller { identity: None, address: IpAddr::from([10, 0, 0, 1]) }
}

pub(super) fn rule(name: &str, action: Action, from: Option<Source>, to: Option<Operation>) -> Rule {
    Rule {
        name: name.to_owned(),
        action,
        from: from.into_iter().collect(),
        to: to.into_iter().collect(),
        when: Vec::new(),
    }
}

pub(super) fn of(accounts: &[&str]) -> Source {
    Source { service_accounts: accounts.iter().map(|&name| name.to_owned()).collect(), ..Source::default() }
}

pub(super) fn paths(patterns: &[&str]) -> Operation {
    let paths = patterns.iter().map(|pattern| pattern.parse::<TextPattern>().unwrap()).collect();
    Operation { paths, ..Operation::default() }
}

pub(super) fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
    Policy::compile(TRUST_DOMAIN, rules, None).unwrap()
}

pub(super) fn allowed(rule: Option<&str>) -> Decision<'_> {
    Decision { effect: Effect::Allow, rule }
}

pub(super) fn denied(rule: Option<&str>) -> Decision<'_> {
    Decision { effect: Effect::Deny, rule }
}
