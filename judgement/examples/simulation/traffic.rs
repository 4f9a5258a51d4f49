//! Simulated requests to a stable version and its canary.

use fairlead_judgement::Side;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

use crate::release::MARGIN;

/// Seconds of a swing.
const DAY: f64 = 86_400.0;
/// How far the rate swings about its mean.
const SWING: f64 = 0.8;
/// Mean seconds without and with a burst, and the share of requests that fail in one, of both versions.
const CALM: f64 = 1_800.0;
const BURST: f64 = 30.0;
const IN_BURST: f64 = 0.1;

/// What the requests of a release are like.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Setting {
    /// Mean share of requests to the stable version that fail.
    pub(crate) rate: f64,
    /// By so much more of the canary's fail.
    pub(crate) worse: f64,
    /// The canary's share of requests.
    pub(crate) weight: f64,
    /// Requests a second, of both.
    pub(crate) traffic: f64,
    /// Whether the rate swings with the time of day and errors come in bursts, for both versions alike.
    pub(crate) varies: bool,
}

impl Setting {
    /// What fails on the running version over a long time.
    pub(crate) fn mean_rate(&self) -> f64 {
        let bursts = if self.varies { BURST / (CALM + BURST) } else { 0.0 };
        self.rate * (1.0 - bursts) + bursts * IN_BURST
    }
}

/// The requests of one release.
pub(crate) struct Traffic {
    random: SmallRng,
    setting: Setting,
    /// Seconds since the release began.
    now: f64,
    /// Where in the day it began.
    phase: f64,
    bursting: bool,
    /// When that changes.
    until: f64,
    /// Hazard that is left before the next failure of the stable version.
    hazard: f64,
    ln_stable: f64,
    ln_at_margin: f64,
    present: Present,
}

/// What follows from the present rate, which is kept for some seconds: a swing hardly moves in them.
#[derive(Clone, Copy)]
struct Present {
    until: f64,
    stable: f64,
    /// Of one request to the stable version.
    hazard: f64,
    canary: f64,
    /// How much likelier a bad and a good request of the canary is if it is worse by just the margin; logarithms.
    at_margin: (f64, f64),
}

/// Seconds.
const KEPT: f64 = 30.0;

impl Traffic {
    pub(crate) fn new(setting: Setting, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let phase = random.random::<f64>() * DAY;
        let hazard = exponential(&mut random);
        let until = if setting.varies { CALM * exponential(&mut random) } else { f64::INFINITY };
        Self {
            random,
            setting,
            now: 0.0,
            phase,
            bursting: false,
            until,
            hazard,
            ln_stable: (-setting.weight).ln_1p(),
            ln_at_margin: 0.0,
            present: Present { until: f64::NEG_INFINITY, stable: 0.0, hazard: 0.0, canary: 0.0, at_margin: (0.0, 0.0) },
        }
    }

    /// Seconds since the release began.
    pub(crate) fn now(&self) -> f64 {
        self.now
    }

    /// The logarithm of how much likelier all that happened were if the canary were worse by just the margin.
    pub(crate) fn ln_at_margin(&self) -> f64 {
        self.ln_at_margin
    }

    /// The requests to the stable version until the next to the canary, and that one.
    pub(crate) fn run(&mut self) -> (Side, Side) {
        let uniform: f64 = self.random.random();
        let requests = ((1.0 - uniform).ln() / self.ln_stable).floor();
        let stable = Side { requests, bad: self.failures(requests) };
        self.pass(1.0);
        let present = self.present();
        let bad = self.random.random::<f64>() < present.canary;
        self.ln_at_margin += if bad { present.at_margin.0 } else { present.at_margin.1 };
        (stable, Side { requests: 1.0, bad: f64::from(u8::from(bad)) })
    }

    /// The stable version's mean rate over the next so many seconds.
    pub(crate) fn window(&mut self, seconds: f64) -> f64 {
        let end = self.now + seconds;
        let mut sum = 0.0;
        while self.now < end {
            // A swing hardly moves within a window.
            let (rate, until) = (self.present().stable, self.until.min(end));
            sum += rate * (until - self.now);
            self.now = until;
            self.pass(0.0);
        }
        sum / seconds
    }

    /// How many of so many requests to the stable version fail: exact, with one random number for each failure.
    fn failures(&mut self, mut requests: f64) -> f64 {
        let mut failed = 0.0;
        while requests > 0.0 {
            let here = ((self.until - self.now) * self.setting.traffic).ceil().clamp(1.0, requests);
            let each = self.present().hazard;
            let mut left = here;
            while self.hazard <= left * each {
                left -= (self.hazard / each).ceil().max(1.0);
                failed += 1.0;
                self.hazard = exponential(&mut self.random);
            }
            self.hazard -= left.max(0.0) * each;
            self.pass(here);
            requests -= here;
        }
        failed
    }

    fn present(&mut self) -> Present {
        if self.now >= self.present.until {
            let stable = self.rate();
            let (canary, at_margin) = (stable + self.setting.worse, stable + MARGIN);
            self.present = Present {
                until: if self.setting.varies { self.now + KEPT } else { f64::INFINITY },
                stable,
                hazard: -(-stable).ln_1p(),
                canary,
                at_margin: ((at_margin / canary).ln(), (-at_margin).ln_1p() - (-canary).ln_1p()),
            };
        }
        self.present
    }

    /// The stable version's rate at present.
    fn rate(&self) -> f64 {
        let Setting { rate, varies, .. } = self.setting;
        if self.bursting {
            IN_BURST
        } else if varies {
            rate * (1.0 + SWING * ((self.now + self.phase) * (std::f64::consts::TAU / DAY)).sin())
        } else {
            rate
        }
    }

    fn pass(&mut self, requests: f64) {
        self.now += requests / self.setting.traffic;
        while self.now >= self.until {
            self.bursting = !self.bursting;
            self.present.until = f64::NEG_INFINITY;
            self.until += if self.bursting { BURST } else { CALM } * exponential(&mut self.random);
        }
    }
}

fn exponential(random: &mut SmallRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}
