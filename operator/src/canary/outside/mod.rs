//! What releases ask and tell programs outside the mesh: HTTP checks, numbers of Prometheus, notifications.
//!
//! The controller calls [`World`] in each reconciliation and never waits: it says what it wants to know, and reads what is known so far. What is wanted is
//! asked for in the background as long as somebody calls about it at least once a minute.
//!
//! # Guarantees
//! - Where a URL leads is bounded by [`crate::outbound`]. Sentences name a URL without its query and repeat of an answer its status alone; logs of
//!   notifications name the host alone, because the rest may be a secret.
//! - One namespace does not keep out the others: it has [`turns::PER_KEY`] of [`turns::IN_ALL`] requests of a kind at once, and where too many
//!   notifications wait, the namespace that has most of them loses its oldest.
//! - A Secret is read only if its owner labelled it for that ([`secrets`]).
//!
//! # Caveats
//! Nothing is persisted. A check that was answered is asked again by an operator that starts anew, so a gate must bear being asked twice; what waits to be
//! told is lost with the process. The Canary's status and events are the truth.

mod about;
mod checks;
mod form;
mod letters;
mod looks;
mod metrics;
mod prometheus;
mod secrets;
mod standing;
mod turns;

use std::sync::Arc;

use bytes::Bytes;
use fairlead_crds::{Check, CheckPhase, Metric, Notify};
use http::{Request, header};

pub use self::about::{ApiVersion, Asked, CheckAnswer, CheckBody, Look, Names, Told};
use self::checks::Checks;
use self::letters::Letters;
use self::looks::Looks;
pub use self::metrics::Metrics;
use self::secrets::Secrets;
use crate::outbound::{Error, Outbound};

/// Characters of a URL in a sentence.
const MAX_SHOWN: usize = 256;

/// What releases ask and tell. Nothing here waits.
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

/// The world as it is.
#[derive(Clone)]
pub struct Outside {
    checks: Arc<Checks>,
    looks: Arc<Looks>,
    letters: Arc<Letters>,
}

impl Outside {
    /// `client` reads the Secrets that Canaries name.
    pub fn new(client: kube::Client, outbound: Outbound, metrics: Metrics) -> Self {
        let secrets = Arc::new(Secrets::new(client));
        Self {
            checks: Checks::new(outbound.clone(), metrics.clone()),
            looks: Looks::new(outbound.clone(), Arc::clone(&secrets), metrics.clone()),
            letters: Letters::new(outbound, secrets, metrics),
        }
    }
}

impl World for Outside {
    fn check(&self, asked: &Asked, phase: CheckPhase, checks: &[Check], body: &CheckBody) {
        self.checks.ask(asked, phase, checks, body);
    }

    fn answer(&self, asked: &Asked, phase: CheckPhase) -> Option<CheckAnswer> {
        self.checks.answer(asked, phase)
    }

    fn look(&self, asked: &Asked, metrics: &[Metric], names: &Names) {
        self.looks.begin(asked, metrics, names);
    }

    fn seen(&self, asked: &Asked) -> Vec<Look> {
        self.looks.seen(asked)
    }

    fn tell(&self, to: &[Notify], told: &Told) {
        self.letters.post(to, told);
    }
}

/// A URL as sentences name it: what stands behind a question mark is often a key, and a status has room for a sentence and no more.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", url.split_at(end).0),
        None => url.to_owned(),
    }
}

fn post(content_type: &'static str, body: impl Into<Bytes>) -> Result<Request<Bytes>, Error> {
    let request = Request::post("/").header(header::CONTENT_TYPE, content_type).body(body.into());
    request.map_err(|_| Error::Url("is malformed"))
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_named_without_what_may_be_a_key() {
        for (url, expected) in
            [("https://a/b?key=c", "https://a/b"), ("https://a?b", "https://a"), ("https://a/b", "https://a/b")]
        {
            assert_eq!(shown(url), expected);
        }
        let long = shown(&format!("https://ä/{}", "b".repeat(2000)));
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
        assert!(long.ends_with("b…"));
    }
}
