//! Rules as their authors wrote them: plain data.

use ipnet::IpNet;

use crate::{
    header::ValuePattern,
    pattern::{HostPattern, IdentityPattern, TextPattern},
};

/// One rule: who, what, and under which conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For people: `bookinfo/ratings/reviews-read`, the object and the rule.
    pub name: String,
    /// What it does where it holds.
    pub action: Action,
    /// Any of these; none: every caller.
    pub from: Vec<Source>,
    /// Any of these; none: everything.
    pub to: Vec<Operation>,
    /// All of them.
    pub when: Vec<Claim>,
}

/// What a rule does where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets in what no Deny refuses.
    Allow,
    /// Refuses, whatever else holds.
    Deny,
    /// Changes nothing; that it held is recorded.
    Audit,
}

/// What becomes of a connection or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is served.
    Allow,
    /// It is refused.
    Deny,
}

/// Callers: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Any of these of the mesh's own trust domain; none: every namespace.
    pub namespaces: Vec<String>,
    /// Any of these of the mesh's own trust domain, each `namespace/name`; none: every account.
    pub service_accounts: Vec<String>,
    /// Any of these, of any trust domain; none: every identity.
    pub identities: Vec<IdentityPattern>,
    /// The address that the connection comes from lies in any of these; none: every address.
    pub cidrs: Vec<IpNet>,
    /// Only callers that proved nothing. They have no namespace, account or identity.
    pub unauthenticated: bool,
}

/// What is asked for: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Of the pod, any of them; none: every port.
    pub ports: Vec<u16>,
    /// Any of them; none: every method.
    pub methods: Vec<String>,
    /// Any of them; none: every path.
    pub paths: Vec<TextPattern>,
    /// Any of them; none: every host.
    pub hosts: Vec<HostPattern>,
    /// All of them.
    pub headers: Vec<Header>,
    /// Calls of gRPC.
    pub grpc: Option<Grpc>,
}

impl Operation {
    /// Whether it asks for more than a port, which only HTTP can answer.
    pub fn needs_http(&self) -> bool {
        let Self { ports: _, methods, paths, hosts, headers, grpc } = self;
        !(methods.is_empty() && paths.is_empty() && hosts.is_empty() && headers.is_empty() && grpc.is_none())
    }
}

/// A header of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// In lower case.
    pub name: String,
    /// What it must be.
    pub value: ValuePattern,
    /// Holds where the value does not match, so also where the header is absent.
    pub not: bool,
}

/// Calls of gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grpc {
    /// With its package; empty: every service.
    pub service: String,
    /// Empty: every method.
    pub method: String,
}

/// What a verified token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// At the top of the token.
    pub name: String,
    /// Any of them.
    pub values: Vec<String>,
}

impl Rule {
    /// Whether it asks for something that only HTTP can answer.
    pub fn needs_http(&self) -> bool {
        !self.when.is_empty() || self.to.iter().any(Operation::needs_http)
    }
}
