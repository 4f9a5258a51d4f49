//! What the operator says about arriving traffic, compiled.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use arc_swap::{ArcSwap, Guard};
use fairlead_authz::{Caller, Decision, Effect, Policy, Request};
use fairlead_proxy_api::v1;
use tokio::sync::Notify;

use super::authorization::{self, Asked};
use super::limits::{self, Limit};
use super::tokens::{Claimed, Tokens};
use crate::{
    balance::set::EndpointSet,
    http::Fields,
    identity::SpiffeId,
    jwt::Refusal,
    news,
    route::{self, Protocol},
};

/// Whether callers must prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtls {
    /// Authenticated callers alone. Also what holds before the operator has spoken: a proxy that knows nothing must not open what
    /// policy may have closed.
    #[default]
    Strict,
    /// Plain callers too.
    Permissive,
    /// Peers are told to send plain. One that has not heard of it yet is still served: refusing it would only lose requests.
    Disabled,
}

/// How this proxy treats what arrives at its pod.
#[derive(Debug)]
pub struct Workload {
    admission: Admission,
    rehearsal: Option<Admission>,
    tokens: Tokens,
    /// Our own identity, and from where it hands over whom rules let in there.
    handovers: Option<(SpiffeId, HashSet<IpAddr>)>,
    port_protocols: HashMap<u16, Protocol>,
    limits: HashMap<u16, Vec<Limit>>,
    handover: Option<HashMap<u16, Arc<EndpointSet>>>,
}

/// Who may come in and do what.
#[derive(Debug)]
pub(super) struct Admission {
    mtls: Mtls,
    port_mtls: HashMap<u16, Mtls>,
    policy: Policy,
}

/// What is recorded of one that is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded<'a> {
    /// This rule asks for it.
    Audit(&'a str),
    /// It would be refused, because it came in plain.
    WouldRefusePlain,
    /// It would be refused, by this rule or by default.
    WouldDeny(Option<&'a str>),
}

/// How it is treated now, and news of when that changes.
#[derive(Debug, Default)]
pub struct Current {
    workload: ArcSwap<Workload>,
    changed: Notify,
}

impl Current {
    /// For one decision.
    pub fn load(&self) -> Guard<Arc<Workload>> {
        self.workload.load()
    }

    /// For several that have to agree.
    pub fn load_full(&self) -> Arc<Workload> {
        self.workload.load_full()
    }

    /// From now on it is treated so.
    pub fn store(&self, workload: Arc<Workload>) {
        self.workload.store(workload);
        self.changed.notify_waiters();
    }

    /// Ready as soon as `refuses` is true of how it is treated.
    pub(super) async fn until(&self, refuses: impl Fn(&Workload) -> bool) {
        news::until(&self.changed, || refuses(&self.load()).then_some(())).await;
    }
}

/// What becomes of a caller that came without proving who it is.
#[derive(Debug)]
pub enum Plain<'a> {
    /// It is served.
    Accept,
    /// Policy demands authentication.
    Refuse,
    /// This pod is a canary, which answers nobody that the release cannot count: these endpoints of the stable version do.
    /// `None`: there is nobody to answer.
    HandOver(Option<&'a Arc<EndpointSet>>),
}

impl Default for Workload {
    /// What holds before the operator has spoken: a proxy that knows nothing must not open what policy may have closed.
    fn default() -> Self {
        let policy = Policy::closed();
        Self {
            admission: Admission { mtls: Mtls::default(), port_mtls: HashMap::new(), policy },
            rehearsal: None,
            tokens: Tokens::default(),
            handovers: None,
            port_protocols: HashMap::new(),
            limits: HashMap::new(),
            handover: None,
        }
    }
}

impl Admission {
    fn compile(
        trust_domain: &str,
        mode: v1::MtlsMode,
        ports: &[v1::PortMtls],
        authorization: Option<v1::Authorization>,
    ) -> Result<Self, String> {
        let port_mtls =
            ports.iter().map(|entry| Ok((port(entry.port)?, mtls(entry.mode())?))).collect::<Result<_, String>>()?;
        Ok(Self { mtls: mtls(mode)?, port_mtls, policy: authorization::compile(trust_domain, authorization)? })
    }

    fn mtls(&self, port: u16) -> Mtls {
        self.port_mtls.get(&port).copied().unwrap_or(self.mtls)
    }
}

impl Workload {
    /// Whether rules have anything to say.
    pub(super) fn decides(&self) -> bool {
        !self.admission.policy.is_empty() || self.rehearsal.is_some()
    }

    /// What becomes of a request, or of a connection that is not HTTP.
    pub fn decide<R: Request>(&self, caller: &Caller, port: u16, asked: Option<&R>) -> Decision<'_> {
        if asked.is_none() && self.is_handover(caller) {
            return Decision { effect: Effect::Allow, rule: None };
        }
        self.admission.policy.decide(caller, port, asked)
    }

    /// Whether bytes of this caller are those of a plain one whom the rules at a canary's pod have let in.
    fn is_handover(&self, caller: &Caller) -> bool {
        let handed = |(own, from): &(SpiffeId, HashSet<IpAddr>)| {
            caller.identity.as_ref() == Some(own) && from.contains(&caller.address)
        };
        self.handovers.as_ref().is_some_and(handed)
    }

    /// Whether rules let in what is not HTTP.
    pub(super) fn allows_bytes(&self, caller: &Caller, port: u16) -> bool {
        self.decide(caller, port, None::<&Asked<'_>>).effect == Effect::Allow
    }

    /// What the token among `headers` claims, or why it is refused.
    pub(super) fn claims(&self, headers: &mut Fields) -> Result<Claimed, Refusal> {
        self.tokens.read(headers)
    }

    /// What is to be recorded of what is let in.
    pub(super) fn recorded(
        &self,
        caller: &Caller,
        port: u16,
        asked: Option<&Asked<'_>>,
    ) -> impl Iterator<Item = Recorded<'_>> {
        let rehearsed = self.rehearsal.as_ref().and_then(|rehearsal| {
            if caller.identity.is_none() && rehearsal.mtls(port) == Mtls::Strict {
                return Some(Recorded::WouldRefusePlain);
            }
            let asked = asked.map(Asked::rehearsed);
            let Decision { effect, rule } = rehearsal.policy.decide(caller, port, asked.as_ref());
            (effect == Effect::Deny).then_some(Recorded::WouldDeny(rule))
        });
        self.admission.policy.audits(caller, port, asked).map(Recorded::Audit).into_iter().chain(rehearsed)
    }

    /// What becomes of plain callers of `port`.
    pub fn plain(&self, port: u16) -> Plain<'_> {
        match (&self.handover, self.admission.mtls(port)) {
            (_, Mtls::Strict) => Plain::Refuse,
            (Some(ports), _) => Plain::HandOver(ports.get(&port)),
            (None, Mtls::Permissive | Mtls::Disabled) => Plain::Accept,
        }
    }

    /// How many requests `port` takes.
    pub fn limits(&self, port: u16) -> &[Limit] {
        self.limits.get(&port).map_or(&[], Vec::as_slice)
    }

    /// All limits, by port.
    pub fn limited(&self) -> impl Iterator<Item = (u16, &Limit)> {
        let mut ports: Vec<_> = self.limits.iter().collect();
        ports.sort_unstable_by_key(|(port, _)| **port);
        ports.into_iter().flat_map(|(port, limits)| limits.iter().map(move |limit| (*port, limit)))
    }

    /// What `port` is stated to speak.
    pub fn protocol(&self, port: u16) -> Protocol {
        self.port_protocols.get(&port).copied().unwrap_or_default()
    }
}

/// Compiles one version of the proxy's own workload. Endpoints that were in `previous` keep what was learned about them. The error is a
/// sentence; the previous version then stays in use.
pub fn compile(previous: Option<&Workload>, mut message: v1::Workload) -> Result<Workload, String> {
    let (mode, trust_domain) = (message.mtls(), std::mem::take(&mut message.trust_domain));
    let authorization = message.authorization.take();
    let admission = Admission::compile(&trust_domain, mode, &message.port_mtls, authorization)?;
    let rehearsal = message.rehearsal.take().map(|mut rehearsal| {
        let authorization = rehearsal.authorization.take();
        Admission::compile(&trust_domain, rehearsal.mtls(), &rehearsal.port_mtls, authorization)
    });
    let rehearsal = rehearsal.transpose()?;
    let port_protocols = message
        .port_protocols
        .iter()
        .map(|entry| Ok((port(entry.port)?, entry.protocol().into())))
        .collect::<Result<_, String>>()?;
    let mut limits: HashMap<u16, Vec<Limit>> = HashMap::new();
    for limit in std::mem::take(&mut message.rate_limits) {
        let (number, limit) = limits::compile(limit)?;
        limits.entry(port(number)?).or_default().push(limit);
    }
    let tokens = Tokens::compile(previous.map(|workload| &workload.tokens), std::mem::take(&mut message.jwt_issuers))?;
    let handovers = handovers(&message)?;
    let before = previous.and_then(|workload| workload.handover.as_ref());
    let handover = message.handover.map(|handover| {
        let ports = handover.ports.into_iter().map(|entry| {
            let number = port(entry.port)?;
            let before = before.and_then(|ports| ports.get(&number)).map(Arc::as_ref);
            Ok((number, Arc::new(stable(before, entry)?)))
        });
        ports.collect::<Result<_, String>>()
    });
    let handover = handover.transpose()?;
    Ok(Workload { admission, rehearsal, tokens, handovers, port_protocols, limits, handover })
}

fn handovers(message: &v1::Workload) -> Result<Option<(SpiffeId, HashSet<IpAddr>)>, String> {
    if message.handovers_from.is_empty() {
        return Ok(None);
    }
    let own = message.identity.parse().map_err(|error| format!("our identity: {error}"))?;
    Ok(Some((own, message.handovers_from.iter().map(|ip| route::ip(ip)).collect::<Result<_, _>>()?)))
}

/// Where plain callers of a canary's port are handed to.
fn stable(before: Option<&EndpointSet>, entry: v1::HandoverPort) -> Result<EndpointSet, String> {
    let name = format!("handover of port {}", entry.port);
    let v1::HandoverPort { endpoints, outlier_detection, .. } = entry;
    let set = v1::EndpointSet { name: name.clone(), endpoints, outlier_detection, ..v1::EndpointSet::default() };
    route::endpoint_set(before, set).map_err(|error| format!("{name}: {error}"))
}

fn mtls(mode: v1::MtlsMode) -> Result<Mtls, String> {
    match mode {
        v1::MtlsMode::Unspecified => {
            Err("the workload has no mTLS mode that this proxy knows; is it older than the operator?".into())
        }
        v1::MtlsMode::Permissive => Ok(Mtls::Permissive),
        v1::MtlsMode::Strict => Ok(Mtls::Strict),
        v1::MtlsMode::Disabled => Ok(Mtls::Disabled),
    }
}

pub(super) fn port(port: u32) -> Result<u16, String> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{port} is not a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(mode: v1::MtlsMode) -> v1::Workload {
        v1::Workload { mtls: mode.into(), ..v1::Workload::default() }
    }

    #[test]
    fn before_the_operator_has_spoken_plain_callers_are_refused() {
        assert!(matches!(Workload::default().plain(80), Plain::Refuse));
    }

    #[test]
    fn a_port_may_differ_from_its_workload() {
        let mut message = workload(v1::MtlsMode::Strict);
        message.port_mtls.push(v1::PortMtls { port: 9080, mode: v1::MtlsMode::Permissive.into() });
        let workload = compile(None, message).unwrap();
        assert!(matches!(workload.plain(9080), Plain::Accept));
        assert!(matches!(workload.plain(9081), Plain::Refuse));
    }

    #[test]
    fn a_canary_hands_plain_callers_over_but_never_around_strict() {
        let handover = v1::Handover {
            ports: vec![v1::HandoverPort {
                port: 9080,
                endpoints: vec![v1::Endpoint { ip: vec![10, 0, 0, 1], port: 9080, ..v1::Endpoint::default() }],
                outlier_detection: Some(v1::OutlierDetection {
                    consecutive_errors: 1,
                    max_ejected: 1_000_000,
                    ..v1::OutlierDetection::default()
                }),
            }],
        };
        let mut message = workload(v1::MtlsMode::Permissive);
        message.handover = Some(handover.clone());
        let permissive = compile(None, message.clone()).unwrap();
        let Plain::HandOver(Some(set)) = permissive.plain(9080) else { panic!("nobody to hand over to") };
        assert!(matches!(permissive.plain(9081), Plain::HandOver(None)));

        // Who fails is still left out when the next version comes.
        set.record(&set.endpoints[0], false, true, tokio::time::Instant::now());
        let next = compile(Some(&permissive), message).unwrap();
        let Plain::HandOver(Some(set)) = next.plain(9080) else { panic!("nobody to hand over to") };
        assert_eq!(set.ejected().count(), 1);

        let mut message = workload(v1::MtlsMode::Strict);
        message.handover = Some(handover);
        assert!(matches!(compile(None, message).unwrap().plain(9080), Plain::Refuse));
    }

    #[test]
    fn a_mode_that_is_not_known_is_refused() {
        assert!(compile(None, workload(v1::MtlsMode::Unspecified)).is_err());
        let mut port = workload(v1::MtlsMode::Strict);
        port.port_mtls.push(v1::PortMtls { port: 70_000, mode: v1::MtlsMode::Strict.into() });
        assert!(compile(None, port).unwrap_err().contains("70000"));
    }
}
