//! Counts of tries after the first.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::family::Family;

label! {
    /// What a try failed by.
    TryFailed {
        /// There was no connection, or the endpoint did not take the request: certainly nothing was done.
        Refused = "refused",
        /// The connection ended before the answer.
        Broke = "broke",
        /// The time for one try did.
        Late = "late",
        /// The answer says so.
        Answered = "answered",
    }
}

label! {
    /// Why a try that could have followed did not.
    NoTry {
        /// The target's budget was spent.
        Budget = "budget",
        /// The body is too long to be kept.
        Body = "body",
        /// The deadline would pass before.
        Deadline = "deadline",
    }
}

/// Of one Service.
#[derive(Debug, Default)]
pub struct Tries {
    made: [AtomicU64; TryFailed::ALL.len()],
    refused: [AtomicU64; NoTry::ALL.len()],
}

impl Tries {
    /// Another try follows one that failed so.
    pub fn again(&self, failed: TryFailed) {
        self.made[failed as usize].fetch_add(1, Relaxed);
    }

    /// None does.
    pub fn no_more(&self, why: NoTry) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }
}

pub(super) const RETRIES: Family<TryFailed> = Family {
    name: "retries",
    help: "Tries after the first, by what the one before failed by",
    fixed: &[],
    label: "cause",
    values: TryFailed::ALL,
    value: TryFailed::as_str,
    counts: |requests| &requests.tries.made,
};

pub(super) const RETRIES_REFUSED: Family<NoTry> = Family {
    name: "retries_refused",
    help: "Tries that the route allows and that were not made",
    fixed: &[],
    label: "reason",
    values: NoTry::ALL,
    value: NoTry::as_str,
    counts: |requests| &requests.tries.refused,
};
