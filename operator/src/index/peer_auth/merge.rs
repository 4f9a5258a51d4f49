//! How `PeerAuth`s of mesh, namespace and workload join to what holds for one pod.

use std::collections::BTreeMap;

use fairlead_authz::Effect;
use kube::core::{Selector, SelectorExt as _};

use super::{PeerAuth, Terms};
use crate::index::state::State;
use crate::model::{Admission, Issuer, MtlsMode, ObjectName, Source, SourceKind, SourceRef};

/// Whom a `PeerAuth` is about: the narrower wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every pod.
    Mesh,
    /// Those of its namespace.
    Namespace,
    /// Those of its namespace that it selects.
    Workload,
}

/// Which `PeerAuth`s are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Those that hold.
    Enforced,
    /// Those that are only rehearsed as well, in place of one of the same scope.
    Rehearsed,
}

/// What callers of a pod's ports are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::index) struct Modes {
    pub mode: MtlsMode,
    pub ports: BTreeMap<u16, MtlsMode>,
    /// What was merged.
    pub sources: Vec<SourceRef>,
}

impl Modes {
    pub(in crate::index) fn of_port(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

/// What holds for one pod.
pub(in crate::index) struct Effective {
    pub admission: Admission,
    /// The same if what is only rehearsed held as well; `None`: nothing is.
    pub rehearsal: Option<Admission>,
    /// Whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// What was merged.
    pub sources: Vec<SourceRef>,
}

/// One of those that concern a pod.
pub(super) struct Concerned<'a> {
    pub scope: Scope,
    pub object: ObjectName,
    pub auth: &'a PeerAuth,
}

impl Concerned<'_> {
    pub(super) fn terms(&self) -> &Terms {
        &self.auth.in_force
    }

    fn source(&self) -> SourceRef {
        SourceRef {
            source: Source { kind: SourceKind::PeerAuth, object: self.object.clone() },
            generation: self.terms().generation,
        }
    }
}

impl State {
    /// What callers of a pod with these labels are asked for: what its own `PeerAuth` says over its namespace's over the mesh's, and of each
    /// the oldest that says something. A narrower one that states a mode replaces the wider one's ports as well, so that `Strict` for a
    /// workload means all of it.
    pub(in crate::index) fn mtls(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Modes {
        modes(&self.concerned(namespace, labels), View::Enforced)
    }

    /// What holds for such a pod.
    pub(in crate::index) fn effective(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Effective {
        let concerned = self.concerned(namespace, labels);
        let is_rehearsed = concerned.iter().any(|c| c.terms().audit);
        Effective {
            admission: admission(&concerned, View::Enforced),
            rehearsal: is_rehearsed.then(|| admission(&concerned, View::Rehearsed)),
            issuers: self.issuers(&concerned),
            sources: concerned.iter().map(Concerned::source).collect(),
        }
    }

    /// Each once, and once more where it is rehearsed; the narrower and older one's word holds.
    fn issuers(&self, concerned: &[Concerned<'_>]) -> Vec<Issuer> {
        let mut issuers = BTreeMap::new();
        for terms in concerned.iter().rev().map(Concerned::terms) {
            for issuer in &terms.issuers {
                issuers.entry((terms.audit, issuer.issuer.as_str())).or_insert(issuer);
            }
        }
        let issuers = issuers.into_iter().map(|((rehearsed, name), rule)| Issuer {
            issuer: name.to_owned(),
            audiences: rule.audiences.clone(),
            keys: self.keys_of(&rule.keys),
            forward: rule.forward,
            rehearsed,
        });
        issuers.collect()
    }

    /// The `PeerAuth` that states mutual TLS for the same pods and is older.
    pub(in crate::index) fn older_peer_auth(&self, namespace: &str, name: &str) -> Option<ObjectName> {
        let table = self.peer_auths.get(namespace)?;
        let own = table.get(name).filter(|own| own.in_force.states_mtls())?;
        let same = |other: &PeerAuth| {
            let (own, other) = (&own.in_force, &other.in_force);
            // Selectors that merely overlap are no conflict: for the pods in both the older one holds.
            other.states_mtls() && other.audit == own.audit && other.selector == own.selector
        };
        let oldest = table.iter().filter(|(_, other)| same(other)).min_by_key(|(name, auth)| (auth.created, *name));
        oldest.filter(|(oldest, _)| *oldest != name).map(|(oldest, _)| ObjectName::new(namespace, oldest))
    }

    /// From the widest to the narrowest, and of each scope from the youngest to the oldest: who comes later has the last word.
    pub(super) fn concerned(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Concerned<'_>> {
        let operator = self.settings.operator_namespace.as_str();
        let of = |namespace: &str, scope: fn(Option<&Selector>, &BTreeMap<String, String>) -> Option<Scope>| {
            let table = self.peer_auths.get(namespace).into_iter().flatten();
            let concerned = table.filter_map(|(name, auth)| {
                let scope = scope(auth.in_force.selector.as_ref(), labels)?;
                Some(Concerned { scope, object: ObjectName::new(namespace, name), auth })
            });
            concerned.collect::<Vec<_>>()
        };
        let mesh = of(operator, |selector, _| selector.is_none().then_some(Scope::Mesh));
        let own = of(namespace, |selector, labels| match selector {
            None => Some(Scope::Namespace),
            Some(selector) => selector.matches(labels).then_some(Scope::Workload),
        });
        // In the operator's own namespace, what has no selector is the mesh's.
        let own = own.into_iter().filter(|c| namespace != operator || c.scope == Scope::Workload);
        let mut concerned: Vec<Concerned<'_>> = mesh.into_iter().chain(own).collect();
        concerned.sort_by(|a, b| {
            let age = |c: &Concerned<'_>| (c.auth.created, c.object.clone());
            a.scope.cmp(&b.scope).then_with(|| age(b).cmp(&age(a)))
        });
        concerned
    }
}

pub(super) fn seen(terms: &Terms, view: View) -> bool {
    view == View::Rehearsed || !terms.audit
}

/// Of each scope, the widest first, the one that states mutual TLS.
pub(super) fn states_mtls<'a, 'b>(
    concerned: &'b [Concerned<'a>],
    view: View,
) -> impl DoubleEndedIterator<Item = &'b Concerned<'a>> {
    [Scope::Mesh, Scope::Namespace, Scope::Workload].into_iter().filter_map(move |scope| {
        let stated = concerned.iter().filter(|c| c.scope == scope && c.terms().states_mtls());
        // What is rehearsed is to come in place of what holds now. Among equals the last one is the oldest.
        stated.filter(|c| seen(c.terms(), view)).max_by_key(|c| c.terms().audit)
    })
}

fn modes(concerned: &[Concerned<'_>], view: View) -> Modes {
    let mut modes = Modes::default();
    for winner in states_mtls(concerned, view) {
        let terms = winner.terms();
        if let Some(mode) = terms.mode {
            modes.mode = mode;
            modes.ports.clear();
        }
        modes.ports.extend(&terms.ports);
        modes.sources.push(winner.source());
    }
    modes
}

fn admission(concerned: &[Concerned<'_>], view: View) -> Admission {
    let Modes { mode, ports, sources: _ } = modes(concerned, view);
    let seen = || concerned.iter().filter(|c| seen(c.terms(), view));
    let default = [Scope::Workload, Scope::Namespace, Scope::Mesh].into_iter().find_map(|scope| {
        let said: Vec<Effect> = seen().filter(|c| c.scope == scope).filter_map(|c| c.terms().default).collect();
        let denies = said.contains(&Effect::Deny);
        said.first().map(|_| if denies { Effect::Deny } else { Effect::Allow })
    });
    Admission { mtls: mode, ports, rules: seen().flat_map(|c| c.terms().rules.clone()).collect(), default }
}
