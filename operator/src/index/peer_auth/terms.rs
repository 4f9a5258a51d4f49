//! What one `PeerAuth` asks, ready to be joined with others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairlead_authz::{Action, Claim, Effect, Grpc, Header, Operation, Policy, Rule, Source, ValuePattern};
use fairlead_crds as crd;
use fairlead_identity::jwk::KeySet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

use crate::model::MtlsMode;

/// Whom a `PeerAuth` is about and what it asks.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct Terms {
    pub generation: i64,
    /// None: every pod of the namespace or mesh.
    pub selector: Option<Selector>,
    /// Whether it is only rehearsed.
    pub audit: bool,
    pub mode: Option<MtlsMode>,
    pub ports: BTreeMap<u16, MtlsMode>,
    pub rules: Vec<Rule>,
    pub default: Option<Effect>,
    pub issuers: Vec<IssuerRule>,
}

/// Whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::index) struct IssuerRule {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub keys: Keys,
    pub forward: bool,
}

/// The keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::index) enum Keys {
    Inline(Arc<str>),
    /// Where they are fetched from.
    Url(String),
}

impl Terms {
    /// What holds in place of something that cannot be read: a fault must not open what policy may have closed.
    pub(super) fn closed(generation: i64, selector: Option<LabelSelector>) -> Self {
        Self {
            generation,
            selector: selector.and_then(|selector| Selector::try_from(selector).ok()),
            audit: false,
            mode: None,
            ports: BTreeMap::new(),
            rules: Vec::new(),
            default: Some(Effect::Deny),
            issuers: Vec::new(),
        }
    }

    /// Whether it says anything about mutual TLS.
    pub(super) fn states_mtls(&self) -> bool {
        self.mode.is_some() || !self.ports.is_empty()
    }
}

/// `object` is `namespace/name`. The error is a sentence.
pub(super) fn parse(object: &str, generation: i64, spec: crd::PeerAuthSpec) -> Result<Terms, String> {
    let selector = spec.selector.map(Selector::try_from).transpose().map_err(|error| format!("selector: {error}"))?;
    let mtls = spec.mtls.unwrap_or_default();
    let mut ports = BTreeMap::new();
    for p in mtls.ports {
        ports.insert(port("mtls.ports", p.port)?, mode(p.mode));
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for r in spec.rules {
        if !names.insert(r.name.clone()) {
            return Err(format!("rules: the name {} stands twice", r.name));
        }
        let at = r.name.clone();
        rules.push(rule(object, r).map_err(|why| format!("rule {at}: {why}"))?);
    }
    // As proxies do it, so that none has to refuse what it is sent.
    Policy::compile("cluster.local", rules.clone(), None)?;
    let default = spec.default.map(|default| match default {
        crd::DefaultAction::Allow => Effect::Allow,
        crd::DefaultAction::Deny => Effect::Deny,
    });
    let issuers = spec.jwt.into_iter().map(issuer).collect::<Result<_, _>>()?;
    Ok(Terms { generation, selector, audit: spec.audit, mode: mtls.mode.map(mode), ports, rules, default, issuers })
}

fn port(at: &str, port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("{at}: {port} is no port"))
}

fn mode(mode: crd::MtlsMode) -> MtlsMode {
    match mode {
        crd::MtlsMode::Strict => MtlsMode::Strict,
        crd::MtlsMode::Permissive => MtlsMode::Permissive,
        crd::MtlsMode::Disabled => MtlsMode::Disabled,
    }
}

fn rule(object: &str, rule: crd::AuthRule) -> Result<Rule, String> {
    Ok(Rule {
        name: format!("{object}/{}", rule.name),
        action: match rule.action {
            crd::AuthAction::Allow => Action::Allow,
            crd::AuthAction::Deny => Action::Deny,
            crd::AuthAction::Audit => Action::Audit,
        },
        from: rule.from.into_iter().map(source).collect::<Result<_, _>>()?,
        to: rule.to.into_iter().map(operation).collect::<Result<_, _>>()?,
        when: rule.when.into_iter().map(|when| Claim { name: when.claim, values: when.values }).collect(),
    })
}

fn source(peer: crd::Peer) -> Result<Source, String> {
    let crd::Peer { namespaces, service_accounts, identities, cidrs, unauthenticated } = peer;
    let cidr = |cidr: String| cidr.parse().map_err(|_| format!("{cidr:?} is no block of addresses: write 10.0.0.0/8"));
    Ok(Source {
        namespaces,
        service_accounts,
        identities: identities.iter().map(|identity| identity.parse()).collect::<Result<_, String>>()?,
        cidrs: cidrs.into_iter().map(cidr).collect::<Result<_, _>>()?,
        unauthenticated,
    })
}

fn operation(operation: crd::Operation) -> Result<Operation, String> {
    let crd::Operation { ports, methods, paths, hosts, headers, grpc } = operation;
    Ok(Operation {
        ports: ports.into_iter().map(|p| port("ports", p)).collect::<Result<_, _>>()?,
        methods: methods.into_iter().map(|method| method.as_str().to_owned()).collect(),
        paths: paths.iter().map(|path| path.parse()).collect::<Result<_, String>>()?,
        hosts: hosts.iter().map(|host| host.parse()).collect::<Result<_, String>>()?,
        headers: headers.into_iter().map(header).collect::<Result<_, _>>()?,
        grpc: grpc
            .map(|grpc| Grpc { service: grpc.service.unwrap_or_default(), method: grpc.method.unwrap_or_default() }),
    })
}

fn header(header: crd::HeaderMatch) -> Result<Header, String> {
    let crd::HeaderMatch { name, type_, value, not } = header;
    let needed = || value.clone().ok_or_else(|| format!("header {name}: type {type_:?} needs a value"));
    let value = match type_ {
        crd::ValueMatchType::Exact => ValuePattern::Exact(needed()?),
        crd::ValueMatchType::Prefix => ValuePattern::Prefix(needed()?),
        crd::ValueMatchType::RegularExpression => ValuePattern::Regex(needed()?),
        crd::ValueMatchType::Present => ValuePattern::Present,
    };
    Ok(Header { name: name.to_ascii_lowercase(), value, not })
}

fn issuer(jwt: crd::Jwt) -> Result<IssuerRule, String> {
    let crd::Jwt { issuer, audiences, jwks, forward } = jwt;
    let keys = match (jwks.inline, jwks.url) {
        (Some(keys), None) => {
            // As proxies do it, so that none has to refuse what it is sent.
            KeySet::parse(&keys).map_err(|why| format!("jwt {issuer}: the key set {why}"))?;
            Keys::Inline(keys.into())
        }
        (None, Some(url)) => Keys::Url(url),
        _ => return Err(format!("jwt {issuer}: jwks has either inline or url")),
    };
    Ok(IssuerRule { issuer, audiences, keys, forward })
}
