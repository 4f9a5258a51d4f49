//! Rate limits, checked.

use std::time::Duration;

use fairlead_crds::RateLimit;

use super::matches;
use crate::model::{Match, ObjectName, RateLimit as PortLimit, RateLimitKey};

/// Shorter than a millisecond a proxy does not count, and longer than an hour it would forget at its restart what matters.
const PER: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

/// A rate limit whose port is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct RateLimitRule {
    pub name: String,
    pub requests: u32,
    pub per_ms: u64,
    pub burst: u32,
    pub key: Vec<RateLimitKey>,
    pub matches: Vec<Match>,
}

impl RateLimitRule {
    /// As it holds at a port of a Service's pods.
    pub(in crate::index) fn of_port(&self, service: &ObjectName, port: u16) -> PortLimit {
        PortLimit {
            port,
            name: format!("{service}/{}", self.name),
            requests: self.requests,
            per_ms: self.per_ms,
            burst: self.burst,
            key: self.key.clone(),
            matches: self.matches.clone(),
        }
    }
}

pub(super) fn parse(limit: RateLimit) -> Result<RateLimitRule, String> {
    let at = |why: &str| format!("rateLimits {}: {why}", limit.name);
    let count = |field: &str, n: i32| match u32::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(at(&format!("{field} is at least 1"))),
    };
    let per = limit.per.as_std();
    if !PER.contains(&per) {
        return Err(at("per is from 1ms to 1h"));
    }
    let requests = count("requests", limit.requests)?;
    let burst = limit.burst.map_or(Ok(requests), |burst| count("burst", burst))?;
    let key = limit.key.iter().map(|part| match (part.identity, &part.header) {
        (true, None) => Ok(RateLimitKey::Identity),
        (false, Some(header)) => Ok(RateLimitKey::Header(header.to_ascii_lowercase())),
        _ => Err(at("an entry of key is either identity: true or a header")),
    });
    let key = key.collect::<Result<_, _>>()?;
    let mut parsed = Vec::with_capacity(limit.matches.len());
    for (i, m) in limit.matches.into_iter().enumerate() {
        if m.source.is_some() {
            return Err(at("matches has no source here: use key with identity"));
        }
        parsed.push(matches::parse(m).map_err(|why| format!("rateLimits {}, matches[{i}]: {why}", limit.name))?);
    }
    let per_ms = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
    Ok(RateLimitRule { name: limit.name, requests, per_ms, burst, key, matches: parsed })
}
