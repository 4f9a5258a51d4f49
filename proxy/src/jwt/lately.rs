//! Tokens that were verified lately.
//!
//! A caller shows the same token with each request, and verifying it costs more than the request does otherwise (decision 40). Only what was
//! vouched for is kept, so junk takes no place; times are looked at again each time; and the set of issuers owns what was verified by it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::Claims;

/// So that the workers of a proxy seldom wait for each other.
const SHARDS: usize = 16;
/// Tokens of each: 512 of the usual kilobyte are about a megabyte.
const IN_SHARD: usize = 32;
/// Longer ones, in bytes, are verified each time: few issuers make them, and a few hundred would fill a proxy.
const LONGEST: usize = 4 * 1024;
/// What claims more is verified each time as well: short values in a long list take thirty times the room that they are written in.
const MOST_VALUES: usize = 256;

type Shard = Mutex<HashMap<[u8; SHA256_OUTPUT_LEN], Arc<Claims>>>;

/// What was verified, bounded.
#[derive(Debug, Default)]
pub(super) struct Lately([Shard; SHARDS]);

/// What a token is found by. Not the token itself: it is a secret, and a comparison that ends at the first other byte would tell of it.
pub(super) struct Place([u8; SHA256_OUTPUT_LEN]);

impl Place {
    /// `None`: one like this is not kept.
    pub(super) fn of(token: &[u8]) -> Option<Self> {
        if token.len() > LONGEST {
            return None;
        }
        let mut place = [0; SHA256_OUTPUT_LEN];
        place.copy_from_slice(digest(&SHA256, token).as_ref());
        Some(Self(place))
    }
}

impl Lately {
    fn shard(&self, place: &Place) -> &Shard {
        &self.0[usize::from(place.0[0]) % SHARDS]
    }

    pub(super) fn get(&self, place: &Place) -> Option<Arc<Claims>> {
        self.shard(place).lock().get(&place.0).cloned()
    }

    /// Where there is no room those go that are not valid any more, or else any.
    pub(super) fn keep(&self, place: &Place, claims: &Arc<Claims>, now: u64) {
        if claims.values() > MOST_VALUES {
            return;
        }
        let mut shard = self.shard(place).lock();
        if shard.len() >= IN_SHARD {
            shard.retain(|_, claims| claims.valid_at(now).is_ok());
        }
        if shard.len() >= IN_SHARD
            && let Some(any) = shard.keys().next().copied()
        {
            shard.remove(&any);
        }
        shard.insert(place.0, Arc::clone(claims));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
pub(super) const MOST: usize = SHARDS * IN_SHARD;
