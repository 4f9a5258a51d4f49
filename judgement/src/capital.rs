//! Capitals are kept as logarithms: they grow and fall by many orders of magnitude.

/// Who has less (logarithm) than this stops for good: it cannot decide anything any more. That is a bet on nothing, so it is fair.
pub(crate) const BROKE: f64 = -40.0;

/// Which part of the capital against a good canary is bet from the first step of several on. The rest is for later steps, since who
/// bet on a bad canary has little left after a good step.
pub(crate) const FIRST_STEP: f64 = 0.5;

pub(crate) fn add_in_logs(a: f64, b: f64) -> f64 {
    sum_of_logs(&[a, b])
}

/// The logarithm of the sum of what these are logarithms of.
pub(crate) fn sum_of_logs(logs: &[f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + logs.iter().map(|log| (log - largest).exp()).sum::<f64>().ln()
}
