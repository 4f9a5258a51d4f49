//! Key sets of issuers, fetched from where they publish them. Proxies never fetch: they get the keys with their configuration.
//!
//! The index says which are wanted ([`KeySets::want`]), [`KeySets::run`] fetches and renews them, and [`KeySets::follow`] shows what became of each.
//!
//! # Guarantees
//!
//! - A fetch that fails takes nothing away: the last good keys stay for as long as somebody wants the set, with the reason beside them.
//! - A set is replaced only by one that proxies can use: it is read here by the code that reads it there ([`fairlead_identity::jwk`]).
//! - URLs come from users: they are asked as [`crate::outbound`] does, with bounds on size, time and number.
//!
//! # Caveats
//!
//! Nothing is persisted, and each replica fetches for itself: an operator that starts fetches all of them anew. Proxies keep the keys that they have
//! until then, so an issuer that is away in that moment keeps out only pods that start.

mod fetch;
mod keep;
mod metrics;
mod schedule;
mod serve;
mod source;

use std::sync::Arc;
use std::time::SystemTime;

pub use self::fetch::{FetchError, Fetcher};
pub use self::keep::{KeySets, KeySetsNow};
pub use self::metrics::Metrics;
pub use self::serve::serve;
pub use self::source::Source;

/// What became of a wanted set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// The last that was fetched and could be used.
    pub fetched: Option<Fetched>,
    /// Why there is none, or why it was not renewed: a sentence for a status. `None` with nothing fetched: not asked yet.
    pub error: Option<String>,
}

/// Keys as an issuer published them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// A JSON Web Key Set with a usable key, at most [`fairlead_identity::jwk::MAX_SET`] bytes.
    pub keys: Arc<str>,
    /// When the issuer last said so.
    pub at: SystemTime,
}
