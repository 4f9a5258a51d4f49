//! Which `PeerAuth` says what holds for a pod: for people who ask why.

use std::collections::BTreeMap;

use fairlead_authz::Effect;

use super::merge::{Concerned, Scope, View, seen, states_mtls};
use crate::index::state::State;
use crate::model::ObjectName;

/// A `PeerAuth` that concerns a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub object: ObjectName,
    /// Whom it is about.
    pub scope: Scope,
    /// Whether it is only rehearsed.
    pub rehearsed: bool,
    /// Why its newest generation is not in force.
    pub invalid: Option<String>,
}

/// Who has the last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// On mutual TLS of the port; `None`: nobody speaks of it.
    pub mtls: Option<ObjectName>,
    /// On what becomes of that for which no rule holds; `None`: nobody speaks of it.
    pub default: Option<ObjectName>,
}

impl State {
    /// The `PeerAuth`s that concern such a pod, the widest first, and who of them has the last word on a port of it: among those that hold, and
    /// among those that are rehearsed as well.
    pub(in crate::index) fn credit(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        port: u16,
    ) -> (Vec<Part>, [Credit; 2]) {
        let concerned = self.concerned(namespace, labels);
        let part = |c: &Concerned<'_>| Part {
            object: c.object.clone(),
            scope: c.scope,
            rehearsed: c.terms().audit,
            invalid: c.auth.invalid.clone(),
        };
        let credit = [View::Enforced, View::Rehearsed]
            .map(|view| Credit { mtls: mtls(&concerned, view, port), default: default(&concerned, view) });
        (concerned.iter().map(part).collect(), credit)
    }
}

/// A narrower one that states a mode replaces the wider ones' ports.
fn mtls(concerned: &[Concerned<'_>], view: View, port: u16) -> Option<ObjectName> {
    let speaks = |c: &&Concerned<'_>| c.terms().mode.is_some() || c.terms().ports.contains_key(&port);
    states_mtls(concerned, view).rev().find(speaks).map(|c| c.object.clone())
}

/// Of the narrowest scope in which anybody speaks of it; there a Deny wins.
fn default(concerned: &[Concerned<'_>], view: View) -> Option<ObjectName> {
    let said = concerned.iter().filter(|c| seen(c.terms(), view) && c.terms().default.is_some());
    let winner = said.max_by_key(|c| (c.scope, c.terms().default == Some(Effect::Deny)));
    winner.map(|c| c.object.clone())
}
