//! What the proxy of a pod would do, step by step.

use fairlead_authz::{Caller, Decision, Effect, Policy};
use fairlead_operator_api::{Outcome, Pair, Verdict};

use super::request::{Asked, Request};
use crate::index::{Alike, Credit};
use crate::model::{Admission, MtlsMode, Protocol};

const OPAQUE: &str = "the port is stated to carry bytes, so proxies look at no request: an Allow that asks for one allows nothing, a Deny denies";
const DISABLED: &str = "mTLS is Disabled, so callers with a sidecar send plain as well, and nobody has an identity";
const HANDOVER: &str =
    "these pods are a canary's: a plain caller who is let in is handed over to the stable version, as bytes";

/// The rules of pods that are treated alike, ready to decide.
pub(super) struct Admitted<'a> {
    alike: &'a Alike,
    enforced: Rules<'a>,
    rehearsed: Option<Rules<'a>>,
}

/// What becomes of one caller and request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub outcome: Outcome,
    pub rehearsed: Option<Outcome>,
    pub audited_by: Option<String>,
    pub notes: Vec<&'static str>,
}

/// Who may come in and do what, and who says so.
struct Rules<'a> {
    admission: &'a Admission,
    policy: Policy,
    credit: &'a Credit,
}

/// What is believed of what a token claims.
#[derive(Clone, Copy, Default)]
struct Believed<'a> {
    enforced: &'a [Pair],
    /// With those who are only rehearsed.
    rehearsed: &'a [Pair],
}

impl<'a> Admitted<'a> {
    /// The error is a sentence.
    pub(super) fn new(alike: &'a Alike) -> Result<Self, String> {
        let rules = |admission: &'a Admission, credit: &'a Credit| {
            let rules = admission.rules.iter().cloned();
            let policy = Policy::compile(&alike.workload.trust_domain, rules, admission.default)?;
            Ok::<_, String>(Rules { admission, policy, credit })
        };
        let rehearsal = alike.workload.rehearsal.as_ref();
        Ok(Self {
            alike,
            enforced: rules(&alike.workload.admission, &alike.enforced)?,
            rehearsed: rehearsal.map(|admission| rules(admission, &alike.rehearsed)).transpose()?,
        })
    }

    /// In the order in which a proxy asks: mutual TLS, then the token, then rules, then the default.
    pub(super) fn decide(&self, caller: Caller, request: Option<&Request>, host: Option<&str>) -> Decided {
        let Alike { port, workload, .. } = self.alike;
        let (mut caller, mut request, mut notes) = (caller, request, Vec::new());
        if let Some(because) = self.out_of_reach() {
            let outcome = Outcome { verdict: Verdict::Allowed, rule: None, because };
            return Decided { outcome, rehearsed: None, audited_by: None, notes };
        }
        let mode = workload.admission.mtls_of(*port);
        if mode == MtlsMode::Disabled && caller.identity.take().is_some() {
            notes.push(DISABLED);
        }
        if request.is_some() && workload.port_protocols.contains(&(*port, Protocol::Opaque)) {
            notes.push(OPAQUE);
            request = None;
        }
        if caller.identity.is_none() && mode != MtlsMode::Strict && workload.handover.is_some() {
            notes.push(HANDOVER);
            request = None;
        }
        let claims = request.map_or(Ok(Believed::default()), |request| self.believed(request));
        let Believed { enforced, rehearsed } = claims.clone().unwrap_or_default();
        let asked = |claims| request.map(|request| Asked { request, host, claims });
        let outcome = match (self.enforced.plaintext(&caller, *port), claims) {
            (Some(refused), _) => refused,
            (None, Err(because)) => Outcome { verdict: Verdict::Denied, rule: None, because },
            (None, Ok(_)) => self.enforced.outcome(&caller, *port, asked(enforced).as_ref()),
        };
        let audited_by = if outcome.verdict == Verdict::Allowed {
            self.enforced.policy.audits(&caller, *port, asked(enforced).as_ref()).map(str::to_owned)
        } else {
            None
        };
        let rehearse = |rules: &Rules<'_>| {
            let refused = rules.plaintext(&caller, *port);
            refused.unwrap_or_else(|| rules.outcome(&caller, *port, asked(rehearsed).as_ref()))
        };
        Decided { outcome, rehearsed: self.rehearsed.as_ref().map(rehearse), audited_by, notes }
    }

    /// Why no proxy looks at what comes to the port.
    fn out_of_reach(&self) -> Option<String> {
        let Alike { port, meshed, captured, .. } = self.alike;
        match (meshed, captured) {
            (false, _) => Some("the pods have no sidecar, so no policy is enforced there".to_owned()),
            (true, false) => Some(format!("port {port} is not captured, so no policy is enforced there")),
            (true, true) => None,
        }
    }

    /// Where anybody is believed, a token of nobody who is gets 401.
    fn believed<'r>(&self, request: &'r Request) -> Result<Believed<'r>, String> {
        let claims = request.claims.as_slice();
        if claims.is_empty() {
            return Ok(Believed::default());
        }
        let issuers = &self.alike.workload.issuers;
        // Nobody can tell who signed a token before there are keys.
        let vouched = |rehearsed: bool| {
            let of = issuers.iter().filter(|issuer| issuer.rehearsed == rehearsed && !issuer.keys.is_empty());
            of.into_iter().any(|issuer| request.issuer().is_none_or(|name| name == issuer.issuer))
        };
        let enforced: &[Pair] = match (issuers.iter().any(|issuer| !issuer.rehearsed), vouched(false)) {
            (true, false) => {
                return Err(
                    "no issuer that a PeerAuth names vouches for such a token, or its keys are not there yet (401)"
                        .to_owned(),
                );
            }
            (true, true) => claims,
            (false, _) => &[],
        };
        let rehearsed = if !enforced.is_empty() || vouched(true) { claims } else { &[] };
        Ok(Believed { enforced, rehearsed })
    }
}

impl Rules<'_> {
    fn plaintext(&self, caller: &Caller, port: u16) -> Option<Outcome> {
        let refused = caller.identity.is_none() && self.admission.mtls_of(port) == MtlsMode::Strict;
        refused.then(|| Outcome {
            verdict: Verdict::PlaintextRefused,
            rule: None,
            because: "the caller comes in plain, and mTLS is Strict".to_owned(),
        })
    }

    fn outcome(&self, caller: &Caller, port: u16, asked: Option<&Asked<'_>>) -> Outcome {
        let Decision { effect, rule } = self.policy.decide(caller, port, asked);
        let (verdict, does, default) = match effect {
            Effect::Allow => (Verdict::Allowed, "allows", "Allow"),
            Effect::Deny => (Verdict::Denied, "denies", "Deny"),
        };
        let because = match (rule, effect, &self.credit.default) {
            (Some(rule), ..) => format!("rule {rule} {does} it"),
            (None, _, Some(auth)) => format!("no rule decides it, and the default of PeerAuth {auth} is {default}"),
            (None, Effect::Deny, None) => "Allow rules say who may, and none of them holds".to_owned(),
            (None, Effect::Allow, None) => "no rule denies it, and none says who may".to_owned(),
        };
        Outcome { verdict, rule: rule.map(str::to_owned), because }
    }
}
