//! How one root takes the place of another without anybody noticing: the phases, what each waits for, and the next write, as a pure function.
//!
//! # Expected flow
//!
//! | phase | trusted | signs | ends when |
//! | --- | --- | --- | --- |
//! | `Settled` | A | A | a rotation is asked for or due: B is made, in a Secret of its own |
//! | `Publishing` | A, B | A | every proxy and every replica trusts both, and so do webhooks and `ConfigMap`s |
//! | `Signing` | A, B | B | every proxy and every replica shows a leaf under B |
//! | `Dropping` | B | B | every proxy trusts B alone; A, and its key, are gone already |
//! | `Aborting` | A, B | A | every proxy and every replica shows a leaf under A again |
//!
//! # Guarantees
//!
//! No leaf is signed under a root that somebody does not trust yet, and no root is dropped under which somebody shows a leaf. The [`Record`] lies in
//! the same object as root A and is replaced with it at the version that was read, so that of two leaders one acts. After a crash between any two
//! writes [`decide`] finds the next one.
//!
//! # Caveats
//!
//! A proxy that is away holds its phase for as long as its pod exists.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::material::RootId;

/// Each phase lasts at least so many seconds: an API server takes a new `caBundle`, and a replica that just started its first look at the Secrets, a
/// moment after they were written.
pub const MIN_PHASE: i64 = 10;

/// Where a rotation is. See the head of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// One root, no rotation.
    #[default]
    Settled,
    /// Both are to be trusted.
    Publishing,
    /// The new one signs.
    Signing,
    /// The old one signs again.
    Aborting,
    /// The new one is alone.
    Dropping,
}

impl Phase {
    /// All, in the order in which they come.
    pub const ALL: [Self; 5] = [Self::Settled, Self::Publishing, Self::Signing, Self::Dropping, Self::Aborting];

    /// As the record spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settled => "Settled",
            Self::Publishing => "Publishing",
            Self::Signing => "Signing",
            Self::Aborting => "Aborting",
            Self::Dropping => "Dropping",
        }
    }

    /// Whether the root that comes is trusted beside the one that goes.
    pub(super) fn trusts_both(self) -> bool {
        matches!(self, Self::Publishing | Self::Signing | Self::Aborting)
    }
}

/// What is kept of a rotation, as an annotation of the Secret of the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) phase: Phase,
    /// Since when, unix seconds.
    pub(super) since: i64,
    /// Of the trust bundle.
    pub(super) sequence: u64,
    /// The root beside the first one that `sequence` numbers, in hexadecimal.
    pub(super) next: Option<String>,
    /// The request to rotate that was acted on last, or refused.
    pub(super) request: String,
    /// Why it was refused; empty: it was not.
    pub(super) refused: String,
    /// The request to abort that was acted on last.
    pub(super) abort: String,
    /// The last rotation was aborted: the next one waits for a request, or for a root to be offered that is another than the one given up.
    pub(super) aborted: bool,
    /// The root that was given up, in hexadecimal.
    pub(super) given_up: Option<String>,
    /// The request for new leaves that was acted on last, where another authority signs.
    pub(super) leaves: String,
    /// Leaves of such an authority that begin before this are renewed, unix seconds.
    pub(super) renewed_since: i64,
}

impl Record {
    /// The bundle changes with this write. The clock as a floor has a mesh that was installed anew count on where its predecessor ended.
    pub(super) fn numbered(self, now: i64) -> Self {
        let sequence = (self.sequence + 1).max(u64::try_from(now).unwrap_or_default());
        Self { sequence, ..self }
    }

    fn enter(&self, phase: Phase, now: i64) -> Self {
        Self { phase, since: now, ..self.clone() }
    }
}

/// Whom somebody trusts, and what it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Of the bundle in use.
    pub sequence: u64,
    /// The roots to which the present leaf leads.
    pub leaf_roots: Vec<RootId>,
    /// When the leaf begins, unix seconds.
    pub leaf_not_before: i64,
}

/// Everybody on whom a rotation depends, by name; `None`: nothing was heard of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Everyone {
    /// Pods with a sidecar that run.
    pub proxies: BTreeMap<String, Option<Trust>>,
    /// Pods of the operator.
    pub replicas: BTreeMap<String, Option<Trust>>,
    /// The newest bundle that lies in every `ConfigMap` of it.
    pub config_maps: u64,
    /// The newest bundle that webhooks trust.
    pub webhooks: u64,
}

/// Answers with everybody; only the leader's answer is whole.
pub trait Fleet: Send + Sync + 'static {
    /// `None`: the cluster was not listed yet.
    fn everyone(&self) -> Option<Everyone>;
}

/// What a rotation waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `namespace/pod` of the first proxies, by name.
    pub proxies: Vec<String>,
    /// How many proxies there are to wait for.
    pub proxy_count: usize,
    /// Pods of the operator.
    pub replicas: Vec<String>,
    /// Anything else, in words that fit after "waits for".
    pub others: Vec<&'static str>,
}

/// Names that are told; people read the first.
const MAX_NAMES: usize = 20;

impl Waiting {
    fn for_other(other: &'static str) -> Self {
        Self { others: vec![other], ..Self::default() }
    }

    fn is_over(&self) -> bool {
        self.proxy_count == 0 && self.replicas.is_empty() && self.others.is_empty()
    }
}

/// What the Secrets say, and the time.
#[derive(Clone, Debug)]
pub(super) struct Sight<'a> {
    pub(super) record: &'a Record,
    /// Of Secret `fairlead-root`.
    pub(super) root: RootId,
    /// Half of its life is over, and a successor can be made here.
    pub(super) due: bool,
    /// Whether intermediates can be signed under it: with its key, or because the user offers one.
    pub(super) root_signs: bool,
    /// Of Secret `fairlead-root-next`.
    pub(super) next: Option<RootId>,
    /// As `root_signs`.
    pub(super) next_signs: bool,
    /// The root that the user wants: that of Secret `fairlead-ca`, or of the issuer that is asked to sign.
    pub(super) offered: Option<RootId>,
    /// Why there can be no other root now: the present one is the user's, or what the user wants cannot be read.
    pub(super) refusal: Option<&'a str>,
    /// The root above the present intermediate; `None`: there is none.
    pub(super) signing: Option<RootId>,
    /// Annotation `fairlead.dev/rotate-root`; empty: none.
    pub(super) rotate: &'a str,
    /// Annotation `fairlead.dev/abort-rotation`; empty: none.
    pub(super) abort: &'a str,
    /// Unix seconds.
    pub(super) now: i64,
}

/// The next write, or what stands in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing is to be done.
    Rest,
    /// Not yet.
    Wait(Waiting),
    /// Make the root that comes, in its own Secret; one that is there is replaced.
    Make,
    /// Delete that Secret.
    Discard,
    /// Replace the record.
    Record(Record),
    /// The root that comes becomes the root, with this record, in one write.
    Adopt(Record),
    /// Have the intermediate signed by the root that comes (`true`), or by the present one.
    Sign { by_next: bool },
}

/// See the head of this file.
pub(super) fn decide(sight: &Sight<'_>, everyone: Option<&Everyone>) -> Step {
    let Sight { record, now, .. } = *sight;
    let abort = !sight.abort.is_empty() && sight.abort != record.abort;
    if abort {
        let heard = Record { abort: sight.abort.to_owned(), ..record.clone() };
        return Step::Record(match record.phase {
            // Nobody has a leaf under B: it can go at once.
            Phase::Publishing => {
                let given_up = heard.next.clone();
                Record { next: None, aborted: true, given_up, ..heard.enter(Phase::Settled, now).numbered(now) }
            }
            Phase::Signing => {
                Record { aborted: true, given_up: heard.next.clone(), ..heard.enter(Phase::Aborting, now) }
            }
            // A is gone, or there is nothing to abort.
            Phase::Settled | Phase::Dropping | Phase::Aborting => heard,
        });
    }
    match record.phase {
        Phase::Settled => settled(sight),
        Phase::Publishing => match sight.next {
            // Not a root of our own in place of one that cannot be read.
            None if sight.offered.is_none() && sight.refusal.is_some() => {
                Step::Wait(Waiting::for_other("the root that the user wants, which cannot be read"))
            }
            None => Step::Make,
            Some(next) if sight.offered.is_some_and(|offered| offered != next) => Step::Make,
            Some(next) if record.next.as_deref() != Some(&next.to_string()) => publish(sight, next),
            Some(_) => wait(sight, everyone, |trust| trust.sequence >= record.sequence)
                .unwrap_or_else(|| Step::Record(record.enter(Phase::Signing, now))),
        },
        Phase::Signing => match sight.next {
            // The keeper does not come here without it.
            None => Step::Rest,
            Some(next) => {
                sign(sight, true, next, sight.next_signs).or_else(|| shown(sight, everyone, next)).unwrap_or_else(
                    || Step::Adopt(Record { next: None, ..record.enter(Phase::Dropping, now).numbered(now) }),
                )
            }
        },
        Phase::Aborting => sign(sight, false, sight.root, sight.root_signs)
            .or_else(|| shown(sight, everyone, sight.root))
            .unwrap_or_else(|| Step::Record(Record { next: None, ..record.enter(Phase::Settled, now).numbered(now) })),
        Phase::Dropping => wait(sight, everyone, |trust| trust.sequence >= record.sequence)
            .unwrap_or_else(|| Step::Record(record.enter(Phase::Settled, now))),
    }
}

fn settled(sight: &Sight<'_>) -> Step {
    let Sight { record, root, .. } = *sight;
    let asked = !sight.rotate.is_empty() && sight.rotate != record.request;
    let other_offered = sight.offered.is_some_and(|offered| offered != root);
    if let (true, Some(why)) = (asked, sight.refusal) {
        return Step::Record(Record { request: sight.rotate.to_owned(), refused: why.to_owned(), ..record.clone() });
    }
    let due = sight.due && sight.offered.is_none() && sight.refusal.is_none();
    // Who aborts the way to one root and then offers another wants to go there.
    let is_new = |given_up: &String| sight.offered.is_some_and(|offered| offered.to_string() != *given_up);
    let is_free = !record.aborted || record.given_up.as_ref().is_some_and(is_new);
    let wanted = asked || (is_free && (other_offered || due));
    match sight.next {
        // Left over: it became the root, or its rotation was aborted.
        Some(next) if next == root || !wanted => Step::Discard,
        None if !wanted => Step::Rest,
        Some(next) if sight.offered.is_none_or(|offered| offered == next) => publish(sight, next),
        _ => Step::Make,
    }
}

/// Numbers the bundle with both roots.
fn publish(sight: &Sight<'_>, next: RootId) -> Step {
    let record = sight.record.enter(Phase::Publishing, sight.now).numbered(sight.now);
    Step::Record(Record {
        next: Some(next.to_string()),
        request: sight.rotate.to_owned(),
        refused: String::new(),
        aborted: false,
        given_up: None,
        ..record
    })
}

fn sign(sight: &Sight<'_>, by_next: bool, root: RootId, possible: bool) -> Option<Step> {
    if sight.signing == Some(root) {
        return None;
    }
    Some(if possible {
        Step::Sign { by_next }
    } else {
        Step::Wait(Waiting::for_other("an intermediate in Secret fairlead-ca, whose root key is not here"))
    })
}

fn shown(sight: &Sight<'_>, everyone: Option<&Everyone>, root: RootId) -> Option<Step> {
    wait(sight, everyone, |trust| trust.sequence >= sight.record.sequence && trust.leaf_roots.contains(&root))
}

/// `None`: everybody has come so far.
fn wait(sight: &Sight<'_>, everyone: Option<&Everyone>, there: impl Fn(&Trust) -> bool) -> Option<Step> {
    let Some(everyone) = everyone else {
        return Some(Step::Wait(Waiting::for_other("the first listing of the cluster")));
    };
    let missing = |all: &BTreeMap<String, Option<Trust>>| -> Vec<String> {
        let not_there = all.iter().filter(|(_, trust)| !trust.as_ref().is_some_and(&there));
        not_there.map(|(name, _)| name.clone()).collect()
    };
    let mut waiting =
        Waiting { proxies: missing(&everyone.proxies), replicas: missing(&everyone.replicas), ..Waiting::default() };
    waiting.proxy_count = waiting.proxies.len();
    waiting.proxies.truncate(MAX_NAMES);
    let sequence = sight.record.sequence;
    if everyone.config_maps < sequence {
        waiting.others.push("the trust bundle in every ConfigMap fairlead-trust-bundle");
    }
    if everyone.webhooks < sequence {
        waiting.others.push("caBundle of the webhooks");
    }
    if sight.now < sight.record.since + MIN_PHASE {
        waiting.others.push("the first seconds of the phase");
    }
    (!waiting.is_over()).then_some(Step::Wait(waiting))
}

#[cfg(test)]
mod tests;
