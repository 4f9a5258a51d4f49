//! Whether the new version of a release is worse than the running one, told from what proxies counted of both.
//!
//! [`Evidence`] is the one type that enters: it takes counters after every report, says a [`Verdict`] as often as it is asked, and is plain data
//! that outlives its process. What it promises is derived in `docs/canary.md`:
//!
//! - A canary that is good by every criterion is rolled back with probability at most `α`, one that is bad by any is promoted with probability
//!   at most `α`: over the whole release, however often it is looked at.
//! - Rates may change while that goes on (a day's swing, bursts of errors), for both versions alike or not: what is tested is whether the canary is worse
//!   than the running version *at the same time*.
//!
//! Pure and deterministic: no clock, no randomness, no I/O. From below:
//! `block` (what was counted) ← `ratio` (the evidence in one block, and why it is fair), `rates` (what to expect of the next) ← `comparison`, `limit`
//! (the e-processes of one criterion) ← `release` (criteria and steps together). Beside them what people are shown: `interval`, `quantile`.

mod block;
mod capital;
mod comparison;
mod interval;
mod limit;
mod quantile;
mod rates;
mod ratio;
mod release;
#[cfg(test)]
mod tests;

pub use self::block::{Block, Side};
pub use self::comparison::Comparison;
pub use self::interval::{Interval, interval};
pub use self::limit::Limit;
pub use self::quantile::{Band, band, slower};
pub use self::ratio::{Null, nearest};
pub use self::release::{By, Criterion, Evidence, FORM, Tally, Verdict};
