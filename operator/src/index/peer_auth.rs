//! What the index keeps of a `PeerAuth`, and how those of mesh, namespace and workload merge.

use std::collections::BTreeMap;

use fairlead_crds::PeerAuthSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::core::{Selector, SelectorExt as _};

use super::state::State;
use crate::model::{MtlsMode, ObjectName, Source, SourceKind, SourceRef};

/// What the index keeps of a `PeerAuth`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeerAuth {
    pub uid: String,
    pub generation: i64,
    pub created: Option<Timestamp>,
    /// Why the newest generation cannot be used.
    pub invalid: Option<String>,
    /// The newest generation that could be used.
    pub in_force: Option<Rules>,
    /// As last written to its status.
    pub conditions: Vec<Condition>,
}

/// Whom a `PeerAuth` is about and what it asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    pub generation: i64,
    /// None: every pod of the namespace or mesh.
    pub selector: Option<Selector>,
    pub mode: Option<MtlsMode>,
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl PeerAuth {
    /// `before` is what was kept of the same object.
    pub(super) fn parse(
        metadata: ObjectMeta,
        spec: Result<PeerAuthSpec, String>,
        conditions: Vec<Condition>,
        before: Option<&Self>,
    ) -> Self {
        let generation = metadata.generation.unwrap_or_default();
        let uid = metadata.uid.unwrap_or_default();
        let (in_force, invalid) = match spec.and_then(|s| rules(generation, s)) {
            Ok(rules) => (Some(rules), None),
            Err(why) => {
                let kept = before.filter(|b| b.uid == uid).and_then(|b| b.in_force.clone());
                (kept, Some(why))
            }
        };
        Self { uid, generation, created: metadata.creation_timestamp.map(|t| t.0), invalid, in_force, conditions }
    }
}

fn rules(generation: i64, spec: PeerAuthSpec) -> Result<Rules, String> {
    let selector = spec.selector.map(Selector::try_from).transpose().map_err(|error| format!("selector: {error}"))?;
    let mut ports = BTreeMap::new();
    for p in spec.mtls.ports {
        let port = u16::try_from(p.port).map_err(|_| format!("mtls.ports: {} is no port", p.port))?;
        ports.insert(port, mode(p.mode));
    }
    Ok(Rules { generation, selector, mode: spec.mtls.mode.map(mode), ports })
}

fn mode(mode: fairlead_crds::MtlsMode) -> MtlsMode {
    match mode {
        fairlead_crds::MtlsMode::Strict => MtlsMode::Strict,
        fairlead_crds::MtlsMode::Permissive => MtlsMode::Permissive,
        fairlead_crds::MtlsMode::Disabled => MtlsMode::Disabled,
    }
}

/// What holds for one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Effective {
    pub mode: MtlsMode,
    pub ports: BTreeMap<u16, MtlsMode>,
    /// What was merged.
    pub sources: Vec<SourceRef>,
}

impl Effective {
    pub(super) fn of_port(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

impl State {
    /// What holds for a pod with these labels: the workload's over the namespace's over the mesh's, and of each the oldest. A
    /// narrower one that states a mode replaces the wider one's ports as well, so that `Strict` for a workload means all of it.
    pub(super) fn mtls(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Effective {
        let mut effective = Effective::default();
        let operator = self.settings.operator_namespace.as_str();
        let mesh = self.oldest_peer_auth(operator, |s| s.is_none());
        let of_namespace = (namespace != operator).then(|| self.oldest_peer_auth(namespace, |s| s.is_none())).flatten();
        let of_workload = self.oldest_peer_auth(namespace, |s| s.is_some_and(|s| s.matches(labels)));
        for (name, rules) in [mesh, of_namespace, of_workload].into_iter().flatten() {
            if let Some(mode) = rules.mode {
                effective.mode = mode;
                effective.ports.clear();
            }
            effective.ports.extend(&rules.ports);
            effective.sources.push(SourceRef {
                source: Source { kind: SourceKind::PeerAuth, object: name },
                generation: rules.generation,
            });
        }
        effective
    }

    /// Of a namespace's `PeerAuth`s with such a selector the one that holds.
    pub(super) fn oldest_peer_auth(
        &self,
        namespace: &str,
        with: impl Fn(Option<&Selector>) -> bool,
    ) -> Option<(ObjectName, &Rules)> {
        self.peer_auths
            .get(namespace)?
            .iter()
            .filter_map(|(name, p)| Some((p.created, name, p.in_force.as_ref()?)))
            .filter(|(_, _, rules)| with(rules.selector.as_ref()))
            .min_by_key(|(created, name, _)| (*created, *name))
            .map(|(_, name, rules)| (ObjectName::new(namespace, name), rules))
    }
}
