//! What became of copies of requests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::family::Family;

label! {
    /// What became of a copy.
    MirrorOutcome {
        /// It was answered, whatever the answer.
        Answered = "answered",
        /// It was not, or not in time.
        Failed = "failed",
        /// There was nobody to send it to.
        NoEndpoints = "no-endpoints",
        /// Too many were on their way.
        Dropped = "dropped",
        /// The request's body was too long to be kept, or had not ended when the caller was answered.
        Body = "body",
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
}

pub(super) const MIRRORED: Family<MirrorOutcome> = Family {
    name: "mirrored",
    help: "Copies of requests, by what became of them",
    fixed: &[],
    label: "outcome",
    values: MirrorOutcome::ALL,
    value: MirrorOutcome::as_str,
    counts: |requests| &requests.mirrored.0,
};
