//! What was counted of both sides over the same time.

use serde::{Deserialize, Serialize};

/// Requests of one side, and how many of them went badly: failed, or took longer than a threshold. Real numbers, so that expected
/// counts can be judged as well; whole ones are exact up to 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// All of them.
    pub requests: f64,
    /// Of these.
    pub bad: f64,
}

impl Side {
    /// From counters. What contradicts itself (more bad ones than there are) is read as all of them.
    pub fn counted(requests: u64, bad: u64) -> Self {
        Self { requests: requests as f64, bad: bad.min(requests) as f64 }
    }

    /// The others.
    pub fn good(&self) -> f64 {
        self.requests - self.bad
    }

    /// The share of bad ones, drawn to a half by one request, so that it is never quite 0 or 1.
    pub(crate) fn rate(&self) -> f64 {
        (self.bad + 0.5) / (self.requests + 1.0)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bad += other.bad;
    }

    /// Finite, not negative, and no more bad ones than there are.
    pub(crate) fn sound(self) -> Self {
        let requests = if self.requests.is_finite() { self.requests.max(0.0) } else { 0.0 };
        let bad = if self.bad.is_finite() { self.bad.clamp(0.0, requests) } else { requests };
        Self { requests, bad }
    }
}

/// What was counted of both versions over the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The new version.
    pub canary: Side,
    /// The running version.
    pub stable: Side,
}

impl Block {
    /// Both together.
    pub(crate) fn add(&mut self, other: &Self) {
        self.canary.add(other.canary);
        self.stable.add(other.stable);
    }

    pub(crate) fn sound(&self) -> Self {
        Self { canary: self.canary.sound(), stable: self.stable.sound() }
    }

    /// The smaller number of requests.
    pub(crate) fn smaller(&self) -> f64 {
        self.canary.requests.min(self.stable.requests)
    }

    /// What this many blocks like it would have.
    pub(crate) fn times(&self, factor: f64) -> Self {
        let scaled = |side: Side| Side { requests: side.requests * factor, bad: side.bad * factor };
        Self { canary: scaled(self.canary), stable: scaled(self.stable) }
    }
}
