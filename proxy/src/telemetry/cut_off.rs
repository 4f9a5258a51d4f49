//! Counts of answers that were not sent to their end, because nothing moved.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::family::Family;
use crate::http::Reason;

label! {
    /// What was waited for.
    CutOff {
        /// Anything at all of the request or the answer.
        Silence = "silence",
        /// That the caller takes what there is of the answer.
        Unread = "unread",
    }
}

/// Of one Service.
#[derive(Debug, Default)]
pub struct CutOffs([AtomicU64; CutOff::ALL.len()]);

impl CutOffs {
    /// An answer was cut off.
    pub fn count(&self, cause: CutOff) {
        self.0[cause as usize].fetch_add(1, Relaxed);
    }
}

pub(super) const CUT_OFF: Family<CutOff> = Family {
    name: "cut_off",
    help: "Answers that had begun and were cut off, because nothing moved for too long",
    fixed: &[("reason", Reason::IdleTimeout.as_str())],
    label: "cause",
    values: CutOff::ALL,
    value: CutOff::as_str,
    counts: |requests| &requests.cut_off.0,
};
