//! The common rule: promote if the success rate is at least 99 % in each of ten windows of a minute, else roll back.

use crate::fixed::Binomial;
use crate::traffic::{Setting, Traffic};

const WINDOWS: usize = 10;
const SECONDS: f64 = 60.0;
const MAY_FAIL: f64 = 0.01;
/// How many times of day and bursts are tried; outcomes given these are summed exactly.
const TRIALS: u64 = 500;

/// Requests of the canary that it looks at.
pub(crate) fn requests(setting: &Setting) -> f64 {
    WINDOWS as f64 * SECONDS * setting.traffic * setting.weight
}

/// The chance that a canary passes. A window without requests passes: nothing failed.
pub(crate) fn passes(setting: &Setting) -> f64 {
    let trials = if setting.varies { TRIALS } else { 1 };
    let mean = requests(setting) / WINDOWS as f64;
    let window = |requests: f64, rate: f64| {
        if requests < 1.0 { 1.0 } else { Binomial::new(requests, rate).up_to(requests * MAY_FAIL) }
    };
    let trial = |seed| -> f64 {
        let mut traffic = Traffic::new(*setting, seed);
        let one = |_| {
            let rate = traffic.window(SECONDS) + setting.worse;
            // Between the two whole numbers of requests about the mean one.
            let (few, part) = (mean.floor(), mean.fract());
            (1.0 - part) * window(few, rate) + part * window(few + 1.0, rate)
        };
        (0..WINDOWS).map(one).product()
    };
    (0..trials).map(trial).sum::<f64>() / trials as f64
}
