//! How many requests the application gets: token buckets by caller and header.
//!
//! [`Limiter`] outlives configurations, so that a change of policy gives nobody a fresh start. A bucket is one number, the time at which
//! it will be full again (GCRA), and one that is full is the same as none, so those are what makes room.
//!
//! Whoever writes a new header value into each request would fill any table, so its size is fixed, and of each part one caller may hold a
//! quarter. What a caller sends beyond that counts together in one of some shared buckets, at the rate of a single key: the flood limits
//! itself, and the buckets of others stay. Keys are kept as hashes under a secret of this process, which nobody can aim at.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use fairlead_authz::Caller;
use fairlead_proxy_api::v1;
use http::HeaderName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    identity::SpiffeId,
    route::{self, Match, RequestHead},
};

/// Parts of the table, so that threads seldom meet.
const SHARDS: usize = 16;
/// Buckets in a part: 16,384 in all, which with their callers take 1.5 MB at most.
const BUCKETS: usize = 1024;
/// Buckets in a part that one caller may have made.
const QUOTA: u16 = 256;
/// Buckets in a part for what found no room.
const SHARED: usize = 32;
/// How often a part that is full is searched for buckets that are not needed any more; a search takes some microseconds.
const SWEEP: u64 = 10_000_000;

/// One limit of a port.
#[derive(Debug)]
pub struct Limit {
    name: String,
    /// Nanoseconds for one request.
    interval: u64,
    /// Nanoseconds for a full bucket.
    depth: u64,
    key: Vec<Key>,
    matches: Vec<Match>,
}

#[derive(Debug)]
enum Key {
    Identity,
    Header(HeaderName),
}

/// A request that is over a limit.
#[derive(Debug, PartialEq, Eq)]
pub struct Limited {
    /// Of the limit.
    pub name: String,
    /// When the next one will be taken.
    pub retry_after: Duration,
}

/// Compiles one limit and the port that it is for. The error is a sentence.
pub fn compile(message: v1::RateLimit) -> Result<(u32, Limit), String> {
    let refuse = |why: &str| Err(format!("rate limit {}: {why}", message.name));
    if message.requests == 0 || message.burst == 0 || message.per_ms == 0 {
        return refuse("requests, burst and time are at least 1");
    }
    let Some(per) = message.per_ms.checked_mul(1_000_000) else {
        return refuse("the time is too long");
    };
    let interval = (per / u64::from(message.requests)).max(1);
    let Some(depth) = interval.checked_mul(u64::from(message.burst)) else {
        return refuse("the burst is too large for its rate");
    };
    let mut key = Vec::with_capacity(message.key.len());
    for part in message.key {
        key.push(match part.kind {
            Some(v1::rate_limit_key::Kind::Identity(_)) => Key::Identity,
            Some(v1::rate_limit_key::Kind::Header(name)) => Key::Header(
                HeaderName::try_from(name).map_err(|error| format!("rate limit {}: {error}", message.name))?,
            ),
            None => return Err(format!("rate limit {}: a key that this proxy does not know", message.name)),
        });
    }
    let matches = message
        .matches
        .into_iter()
        .map(|entry| route::match_of(entry).map(Match::protecting))
        .collect::<Result<_, _>>()?;
    Ok((message.port, Limit { name: message.name, interval, depth, key, matches }))
}

impl Limit {
    /// For people: the Service and the limit.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn concerns(&self, head: &RequestHead<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| m.protects(head))
    }
}

/// The buckets of all limits of this proxy.
#[derive(Debug)]
pub struct Limiter {
    start: Instant,
    secret: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Limiter {
    fn default() -> Self {
        Self { start: Instant::now(), secret: RandomState::new(), shards: Default::default() }
    }
}

#[derive(Debug)]
struct Shard {
    buckets: HashMap<u64, Bucket>,
    /// How many each caller made.
    owners: HashMap<u64, u16>,
    /// When each is full again.
    shared: [u64; SHARED],
    swept: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self { buckets: HashMap::new(), owners: HashMap::new(), shared: [0; SHARED], swept: 0 }
    }
}

#[derive(Debug)]
struct Bucket {
    full_at: u64,
    owner: u64,
}

impl Limiter {
    /// Counts a request to `port` against each limit that concerns it. One that is over any of them counts against none: otherwise a caller
    /// that is far over its own limit would use up the one that it shares with others.
    pub fn take(&self, port: u16, limits: &[Limit], head: &RequestHead<'_>, caller: &Caller) -> Result<(), Limited> {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let owner = self.owner(caller);
        let mut taken = Vec::new();
        for limit in limits.iter().filter(|limit| limit.concerns(head)) {
            let bucket = self.bucket(port, limit, head, caller);
            let mut shard = self.shards[bucket as usize % SHARDS].lock();
            let full_at = shard.full_at(bucket, owner, now);
            let after = (*full_at).max(now).saturating_add(limit.interval);
            let over = after.saturating_sub(now.saturating_add(limit.depth));
            if over == 0 {
                *full_at = after;
                taken.push((bucket, limit.interval));
                continue;
            }
            drop(shard);
            for (bucket, interval) in taken {
                let mut shard = self.shards[bucket as usize % SHARDS].lock();
                let full_at = shard.full_at(bucket, owner, now);
                *full_at = full_at.saturating_sub(interval);
            }
            return Err(Limited { name: limit.name.clone(), retry_after: Duration::from_nanos(over) });
        }
        Ok(())
    }

    fn bucket(&self, port: u16, limit: &Limit, head: &RequestHead<'_>, caller: &Caller) -> u64 {
        let mut hasher = self.secret.build_hasher();
        port.hash(&mut hasher);
        limit.name.hash(&mut hasher);
        for part in &limit.key {
            match part {
                Key::Identity => caller.identity.as_ref().map(SpiffeId::as_str).hash(&mut hasher),
                Key::Header(name) => {
                    for line in head.header(name) {
                        line.hash(&mut hasher);
                    }
                    // So that two headers cannot be told as one.
                    hasher.write_u8(0xff);
                }
            }
        }
        hasher.finish()
    }

    /// Whoever can make up headers at will: an identity, or a plain caller's network.
    fn owner(&self, caller: &Caller) -> u64 {
        match (&caller.identity, caller.address) {
            (Some(identity), _) => self.secret.hash_one(identity.as_str()),
            (None, IpAddr::V4(ip)) => self.secret.hash_one(ip),
            // A host has all the addresses of its /64.
            (None, IpAddr::V6(ip)) => self.secret.hash_one(&ip.octets()[..8]),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().buckets.len()).sum()
    }
}

impl Shard {
    /// When the bucket of this key is full again.
    fn full_at(&mut self, key: u64, owner: u64, now: u64) -> &mut u64 {
        if !self.buckets.contains_key(&key) {
            if !self.has_room(owner) {
                self.sweep(now);
            }
            if !self.has_room(owner) {
                return &mut self.shared[owner as usize % SHARED];
            }
            *self.owners.entry(owner).or_default() += 1;
        }
        &mut self.buckets.entry(key).or_insert(Bucket { full_at: now, owner }).full_at
    }

    fn has_room(&self, owner: u64) -> bool {
        self.buckets.len() < BUCKETS && self.owners.get(&owner).is_none_or(|made| *made < QUOTA)
    }

    fn sweep(&mut self, now: u64) {
        if now.saturating_sub(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        self.owners.clear();
        for bucket in self.buckets.values() {
            *self.owners.entry(bucket.owner).or_default() += 1;
        }
        self.buckets.shrink_to(2 * self.buckets.len());
        self.owners.shrink_to(2 * self.owners.len());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, Uri};
    use tokio::time::advance;

    use super::*;

    fn limit(requests: u32, burst: u32, key: &[&str]) -> Limit {
        let kind = |part: &&str| match *part {
            "identity" => v1::rate_limit_key::Kind::Identity(true),
            header => v1::rate_limit_key::Kind::Header(header.into()),
        };
        let key = key.iter().map(|part| v1::RateLimitKey { kind: Some(kind(part)) }).collect();
        let name = format!("{requests}-{burst}");
        compile(v1::RateLimit { name, port: 80, requests, per_ms: 1000, burst, key, matches: vec![] }).unwrap().1
    }

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
    }

    fn take(limiter: &Limiter, limits: &[Limit], caller: &SpiffeId, tenant: &str) -> Result<(), Limited> {
        let mut headers = HeaderMap::new();
        if !tenant.is_empty() {
            headers.insert("x-tenant", HeaderValue::from_str(tenant).unwrap());
        }
        let (method, uri) = (Method::GET, Uri::from_static("/a"));
        let headers = headers.into();
        let head = RequestHead::new(&method, &uri, &headers);
        let caller = Caller { identity: Some(caller.clone()), address: IpAddr::from([10, 0, 0, 1]) };
        limiter.take(80, limits, &head, &caller)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_the_rate() {
        let (limiter, limits, a) = (Limiter::default(), [limit(10, 3, &[])], id("a"));
        for _ in 0..3 {
            take(&limiter, &limits, &a, "").unwrap();
        }
        let limited = take(&limiter, &limits, &a, "").unwrap_err();
        assert_eq!(limited, Limited { name: "10-3".into(), retry_after: Duration::from_millis(100) });
        advance(Duration::from_millis(100)).await;
        take(&limiter, &limits, &a, "").unwrap();
        assert!(take(&limiter, &limits, &a, "").is_err());
        // A long pause is no more than a full bucket.
        advance(Duration::from_secs(3600)).await;
        let taken = (0..10).filter(|_| take(&limiter, &limits, &a, "").is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn over_a_minute_no_more_than_the_rate_and_one_burst() {
        let (limiter, limits, a) = (Limiter::default(), [limit(7, 5, &["identity"])], id("a"));
        let mut taken = 0;
        for _ in 0..60_000 {
            advance(Duration::from_millis(1)).await;
            taken += u32::from(take(&limiter, &limits, &a, "").is_ok());
        }
        assert!((420..=425).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_combination_counts_by_itself() {
        let (limiter, limits) = (Limiter::default(), [limit(1, 1, &["identity", "x-tenant"])]);
        for (caller, tenant) in [("a", "x"), ("a", "y"), ("b", "x"), ("a", "")] {
            take(&limiter, &limits, &id(caller), tenant).unwrap();
            assert!(take(&limiter, &limits, &id(caller), tenant).is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_over_its_own_limit_leaves_what_is_shared_to_others() {
        let (limiter, limits) = (Limiter::default(), [limit(10, 10, &[]), limit(2, 2, &["identity"])]);
        let greedy = (0..1000).filter(|_| take(&limiter, &limits, &id("greedy"), "").is_ok()).count();
        assert_eq!(greedy, 2);
        for other in 0..4 {
            for _ in 0..2 {
                take(&limiter, &limits, &id(&format!("modest-{other}")), "").unwrap();
            }
        }
        assert!(take(&limiter, &limits, &id("one-more"), "").is_err(), "ten in all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_header_values_takes_nobodys_bucket_and_no_memory() {
        let (limiter, limits) = (Limiter::default(), [limit(1, 1, &["x-tenant"])]);
        take(&limiter, &limits, &id("good"), "acme").unwrap();
        let mut passed = 0;
        for n in 0..100_000 {
            passed += usize::from(take(&limiter, &limits, &id("evil"), &format!("t{n}")).is_ok());
        }
        let most = SHARDS * (usize::from(QUOTA) + 1);
        assert!(passed <= most && limiter.len() <= most + 1, "{passed} passed, {} kept", limiter.len());
        assert!(take(&limiter, &limits, &id("good"), "acme").is_err(), "its bucket was not reset");
        take(&limiter, &limits, &id("good"), "other").unwrap();
        // What the flood left behind goes when it is not needed any more.
        advance(Duration::from_secs(2)).await;
        for n in 0..2000 {
            let _ = take(&limiter, &limits, &id("evil"), &format!("u{n}"));
        }
        assert!(limiter.len() <= 2000 + SHARDS * usize::from(QUOTA) / 4, "{}", limiter.len());
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_together_stay_within_the_table() {
        let (limiter, limits) = (Limiter::default(), [limit(1, 1, &["identity", "x-tenant"])]);
        for caller in 0..40 {
            for n in 0..2000 {
                let _ = take(&limiter, &limits, &id(&format!("c{caller}")), &format!("t{n}"));
            }
        }
        assert!(limiter.len() <= SHARDS * BUCKETS, "{}", limiter.len());
        let owners: usize = limiter.shards.iter().map(|shard| shard.lock().owners.len()).sum();
        assert!(owners <= SHARDS * BUCKETS, "{owners}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_policy_is_no_fresh_start() {
        let (limiter, a) = (Limiter::default(), id("a"));
        take(&limiter, &[limit(1, 1, &[])], &a, "").unwrap();
        assert!(take(&limiter, &[limit(1, 1, &[])], &a, "").is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        let message = |requests, per_ms, burst| v1::RateLimit {
            name: "l".into(),
            requests,
            per_ms,
            burst,
            ..v1::RateLimit::default()
        };
        for bad in [
            message(0, 1, 1),
            message(1, 0, 1),
            message(1, 1, 0),
            message(1, u64::MAX, 1),
            message(1, u64::MAX / 1_000_000, 99),
        ] {
            assert!(compile(bad).is_err());
        }
        let mut unknown = message(1, 1, 1);
        unknown.key.push(v1::RateLimitKey { kind: None });
        assert!(compile(unknown).unwrap_err().contains("does not know"));
    }
}
