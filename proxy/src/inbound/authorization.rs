//! Who may do what at this pod: the operator's rules compiled, and a request as they look at it.

use fairlead_authz::{Action, Claim, Effect, Grpc, Operation, Policy, Request, Rule, Source};
use fairlead_proxy_api::v1;
use http::{HeaderName, header};

use super::{policy::port, tokens::Claimed};
use crate::{
    http::{Head, is_grpc_type},
    jwt::Claims,
    route::{RequestHead, header_from_wire},
};

/// A request whose caller policy asks about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    head: RequestHead<'a>,
    claims: Option<&'a Claims>,
    rehearsed: Option<&'a Claims>,
}

impl<'a> Asked<'a> {
    /// Of its head, and what its token claims.
    pub(super) fn new(head: &'a Head, claimed: &'a Claimed) -> Self {
        let Claimed { enforced, rehearsed } = claimed;
        Self {
            head: RequestHead::new(&head.method, &head.uri, &head.headers),
            claims: enforced.as_deref(),
            rehearsed: rehearsed.as_deref(),
        }
    }

    /// As if all were believed who are only rehearsed.
    pub(super) fn rehearsed(&self) -> Self {
        Self { claims: self.claims.or(self.rehearsed), ..*self }
    }
}

impl Request for Asked<'_> {
    fn method(&self) -> &str {
        self.head.method()
    }

    fn path(&self) -> &str {
        self.head.path()
    }

    fn is_grpc(&self) -> bool {
        self.head.header(&header::CONTENT_TYPE).any(is_grpc_type)
    }

    fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        self.head.authority().map(str::as_bytes).into_iter().chain(self.head.header(&header::HOST))
    }

    fn header(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.head.header(name)
    }

    fn has_claim(&self, name: &str, value: &str) -> bool {
        self.claims.is_some_and(|claims| claims.has(name, value))
    }
}

/// The error is a sentence.
pub(super) fn compile(trust_domain: &str, message: Option<v1::Authorization>) -> Result<Policy, String> {
    let Some(message) = message else { return Ok(Policy::default()) };
    let default = match message.unmatched() {
        v1::AuthorizationEffect::Unspecified => None,
        v1::AuthorizationEffect::Allow => Some(Effect::Allow),
        v1::AuthorizationEffect::Deny => Some(Effect::Deny),
    };
    let rules: Vec<Rule> = message.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    Policy::compile(trust_domain, rules, default)
}

fn rule(message: v1::AuthorizationRule) -> Result<Rule, String> {
    let action = match message.action() {
        v1::AuthorizationAction::Unspecified => {
            let name = message.name;
            return Err(format!("rule {name} has no action that this proxy knows; is it older than the operator?"));
        }
        v1::AuthorizationAction::Allow => Action::Allow,
        v1::AuthorizationAction::Deny => Action::Deny,
        v1::AuthorizationAction::Audit => Action::Audit,
    };
    let v1::AuthorizationRule { name, action: _, from, to, when } = message;
    let at = |why: String| format!("rule {name}: {why}");
    let from = from.into_iter().map(source).collect::<Result<_, _>>().map_err(at)?;
    let to = to.into_iter().map(operation).collect::<Result<_, _>>().map_err(at)?;
    let when = when.into_iter().map(|claim| Claim { name: claim.name, values: claim.values }).collect();
    Ok(Rule { name, action, from, to, when })
}

fn source(message: v1::AuthorizationSource) -> Result<Source, String> {
    let v1::AuthorizationSource { namespaces, service_accounts, identities, cidrs, unauthenticated } = message;
    let cidr = |cidr: String| cidr.parse().map_err(|_| format!("{cidr:?} is no block of addresses"));
    let source = Source {
        namespaces,
        service_accounts,
        identities: identities.iter().map(|identity| identity.parse()).collect::<Result<_, String>>()?,
        cidrs: cidrs.into_iter().map(cidr).collect::<Result<_, _>>()?,
        unauthenticated,
    };
    // It would stand for every caller, which is said by no source at all.
    if source == Source::default() { Err("a source asks for nothing that this proxy knows".into()) } else { Ok(source) }
}

fn operation(message: v1::AuthorizationOperation) -> Result<Operation, String> {
    let v1::AuthorizationOperation { ports, methods, paths, hosts, headers, grpc } = message;
    let operation = Operation {
        ports: ports.into_iter().map(port).collect::<Result<_, _>>()?,
        methods,
        paths: paths.iter().map(|path| path.parse()).collect::<Result<_, String>>()?,
        hosts: hosts.iter().map(|host| host.parse()).collect::<Result<_, String>>()?,
        headers: headers.into_iter().map(header_from_wire).collect::<Result<_, _>>()?,
        grpc: grpc.map(|v1::GrpcMatch { service, method }| Grpc { service, method }),
    };
    if operation == Operation::default() {
        return Err("an operation asks for nothing that this proxy knows".into());
    }
    Ok(operation)
}
