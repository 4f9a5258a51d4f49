//! Stub.
mod about;
pub use self::about::*;
use fairlead_crds::{Check, CheckPhase, Metric, Notify};

/// The world.
pub trait World: Send + Sync {
    /// Begins to ask those of `checks` that are of this phase, all at the same time, each again five seconds after an answer that is neither 2xx nor
    /// 4xx. Goes on with what has begun if the checks are the same, and begins anew if they are others.
    fn check(&self, asked: &Asked, phase: CheckPhase, checks: &[Check], body: &CheckBody);

    /// What the checks of this phase say so far; `None`: nobody called [`World::check`] for a minute.
    fn answer(&self, asked: &Asked, phase: CheckPhase) -> Option<CheckAnswer>;

    /// Begins to look at these every ten seconds. Goes on with what has begun if they are the same, and begins anew if they are others.
    fn look(&self, asked: &Asked, metrics: &[Metric], names: &Names);

    /// What was seen last, in the order of the metrics; empty: nobody called [`World::look`] for a minute.
    fn seen(&self, asked: &Asked) -> Vec<Look>;

    /// Tells each of these, in the order of the calls for one Canary and one receiver.
    fn tell(&self, to: &[Notify], told: &Told);
}

