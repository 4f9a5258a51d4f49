//! How a proxy treats what arrives at its own pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_authz::{Effect, Rule};

use super::{Caller, Endpoint, Outliers, Protocol, RateLimit};

/// How a proxy treats what arrives at its own pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Of the pod, so that a pod made anew under the same name is told from this one.
    pub uid: String,
    /// The SPIFFE ID under which the pod runs.
    pub identity: String,
    /// Of the mesh: whose namespaces and accounts rules speak of.
    pub trust_domain: String,
    /// The same and its labels, as matches on the source of its own requests look at them.
    pub caller: Caller,
    /// Who may come in and do what.
    pub admission: Admission,
    /// What would hold if policies that are only rehearsed held as well; `None`: there are none.
    pub rehearsal: Option<Admission>,
    /// Whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// Ports whose protocol a Service states, ascending.
    pub port_protocols: Vec<(u16, Protocol)>,
    /// How many requests the application gets, by port.
    pub rate_limits: Vec<RateLimit>,
    /// Addresses of the pods of a canary of its Deployment, which hand plain callers over to it; sorted.
    pub handovers_from: Vec<IpAddr>,
    /// Set on the pods of a canary: where callers that come without a sidecar are handed to. Ascending by port.
    pub handover: Option<Vec<HandoverPort>>,
}

/// Who may come in and do what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// Of ports without a mode of their own.
    pub mtls: MtlsMode,
    /// Ports with a mode of their own.
    pub ports: BTreeMap<u16, MtlsMode>,
    /// Of all policies that concern the pod.
    pub rules: Vec<Rule>,
    /// What becomes of that for which no rule holds; `None`: nobody said.
    pub default: Option<Effect>,
}

impl Admission {
    /// The mode of a port.
    pub fn mtls_of(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mtls)
    }
}

/// Whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// As tokens say it.
    pub issuer: String,
    /// Any of these; none: any will do.
    pub audiences: Vec<String>,
    /// A JSON Web Key Set; empty: there is none yet.
    pub keys: Arc<str>,
    /// Whether the token goes on to the application.
    pub forward: bool,
    /// Whether a policy names it that is only rehearsed.
    pub rehearsed: bool,
}

/// What became of a key set that has to be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchedKeys {
    /// The last that could be used, a JSON Web Key Set; `None`: there was none yet.
    pub keys: Option<Arc<str>>,
    /// Why there is none, or why it was not renewed: a sentence. `None` with no keys: nobody has asked yet.
    pub error: Option<String>,
}

/// Which callers a port takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Plain and authenticated callers: the default, so that labelling a namespace cuts nobody off.
    #[default]
    Permissive,
    /// Authenticated callers alone.
    Strict,
    /// Authentication is not offered: peers send plain.
    Disabled,
}

/// Where plain callers of one port of a canary's pod are handed to.
#[derive(Clone, Debug, PartialEq)]
pub struct HandoverPort {
    /// The port of the canary's pod.
    pub port: u16,
    /// Ready pods of the stable version; none: such callers are refused.
    pub endpoints: Vec<Endpoint>,
    /// Who of them is left out.
    pub outliers: Outliers,
}
