//! How a proxy treats what arrives at its own pod.

use super::{Caller, Endpoint, Outliers, Protocol, RateLimit};

/// How a proxy treats what arrives at its own pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Of the pod, so that a pod made anew under the same name is told from this one.
    pub uid: String,
    /// The SPIFFE ID under which the pod runs.
    pub identity: String,
    /// The same and its labels, as matches on the source of its own requests look at them.
    pub caller: Caller,
    /// Of ports without a mode of their own.
    pub mtls: MtlsMode,
    /// Ports with a mode of their own, ascending.
    pub port_mtls: Vec<(u16, MtlsMode)>,
    /// Ports whose protocol a Service states, ascending.
    pub port_protocols: Vec<(u16, Protocol)>,
    /// How many requests the application gets, by port.
    pub rate_limits: Vec<RateLimit>,
    /// Set on the pods of a canary: where callers that come without a sidecar are handed to. Ascending by port.
    pub handover: Option<Vec<HandoverPort>>,
}

impl Workload {
    /// The mode of a port.
    pub fn mtls_of(&self, port: u16) -> MtlsMode {
        self.port_mtls.iter().find(|(p, _)| *p == port).map_or(self.mtls, |(_, mode)| *mode)
    }
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
