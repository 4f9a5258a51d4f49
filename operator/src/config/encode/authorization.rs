//! Who may do what, in the words of the wire contract.

use fairlead_authz::{Action, Claim, Effect, Operation, Rule, Source};
use fairlead_proxy_api::v1;

use super::route::{grpc_match, header_match};
use crate::model::{Admission, Issuer};

pub(super) fn authorization(admission: &Admission) -> v1::Authorization {
    let unmatched = match admission.default {
        None => v1::AuthorizationEffect::Unspecified,
        Some(Effect::Allow) => v1::AuthorizationEffect::Allow,
        Some(Effect::Deny) => v1::AuthorizationEffect::Deny,
    };
    v1::Authorization { rules: admission.rules.iter().map(rule).collect(), unmatched: unmatched.into() }
}

pub(super) fn issuer(issuer: &Issuer) -> v1::JwtIssuer {
    let Issuer { issuer, audiences, keys, forward, rehearsed } = issuer;
    v1::JwtIssuer {
        issuer: issuer.clone(),
        audiences: audiences.clone(),
        jwks: keys.to_string(),
        forward: *forward,
        rehearsed: *rehearsed,
    }
}

fn rule(rule: &Rule) -> v1::AuthorizationRule {
    let Rule { name, action, from, to, when } = rule;
    let action = match action {
        Action::Allow => v1::AuthorizationAction::Allow,
        Action::Deny => v1::AuthorizationAction::Deny,
        Action::Audit => v1::AuthorizationAction::Audit,
    };
    v1::AuthorizationRule {
        name: name.clone(),
        action: action.into(),
        from: from.iter().map(source).collect(),
        to: to.iter().map(operation).collect(),
        when: when
            .iter()
            .map(|Claim { name, values }| v1::AuthorizationClaim { name: name.clone(), values: values.clone() })
            .collect(),
    }
}

fn source(source: &Source) -> v1::AuthorizationSource {
    let Source { namespaces, service_accounts, identities, cidrs, unauthenticated } = source;
    v1::AuthorizationSource {
        namespaces: namespaces.clone(),
        service_accounts: service_accounts.clone(),
        identities: identities.iter().map(ToString::to_string).collect(),
        cidrs: cidrs.iter().map(ToString::to_string).collect(),
        unauthenticated: *unauthenticated,
    }
}

fn operation(operation: &Operation) -> v1::AuthorizationOperation {
    let Operation { ports, methods, paths, hosts, headers, grpc } = operation;
    v1::AuthorizationOperation {
        ports: ports.iter().copied().map(u32::from).collect(),
        methods: methods.clone(),
        paths: paths.iter().map(ToString::to_string).collect(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        headers: headers.iter().map(header_match).collect(),
        grpc: grpc.as_ref().map(grpc_match),
    }
}
