//! Counts of answers that were not sent to their end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::family::Family;

label! {
    /// Why.
    CutOff {
        /// Nothing of the request or the answer moved for too long.
        Silence = "silence",
        /// The caller did not take what there was of the answer for too long.
        Unread = "unread",
        /// Policy does not allow the request any more.
        Policy = "policy",
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
    help: "Answers that had begun and were cut off",
    fixed: &[],
    label: "cause",
    values: CutOff::ALL,
    value: CutOff::as_str,
    counts: |requests| &requests.cut_off.0,
};
