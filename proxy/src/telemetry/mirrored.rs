//! What became of copies of requests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorOutcome {
    /// It was answered, whatever the answer.
    Answered,
    /// It was not, or not in time.
    Failed,
    /// There was nobody to send it to.
    NoEndpoints,
    /// Too many were on their way.
    Dropped,
    /// The request's body was too long to be kept, or had not ended when the caller was answered.
    Body,
}

impl MirrorOutcome {
    /// All of them, in the order of their discriminants.
    pub(super) const ALL: [Self; 5] = [Self::Answered, Self::Failed, Self::NoEndpoints, Self::Dropped, Self::Body];

    /// The label's value.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NoEndpoints => "no-endpoints",
            Self::Dropped => "dropped",
            Self::Body => "body",
        }
    }
}

/// Copies by what became of them.
#[derive(Debug, Default)]
pub struct Mirrored([AtomicU64; MirrorOutcome::ALL.len()]);

impl Mirrored {
    /// One copy.
    pub fn count(&self, outcome: MirrorOutcome) {
        self.add(outcome, 1);
    }

    /// So many copies.
    pub fn add(&self, outcome: MirrorOutcome, copies: usize) {
        self.0[outcome as usize].fetch_add(copies as u64, Relaxed);
    }

    /// How many there were of each.
    pub(super) fn counts(&self) -> impl Iterator<Item = (MirrorOutcome, u64)> {
        MirrorOutcome::ALL.into_iter().zip(&self.0).map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }
}
