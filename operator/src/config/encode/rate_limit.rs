//! Rate limits in the words of the wire contract.

use fairlead_proxy_api::v1;

use super::route::request_match;
use crate::model::{RateLimit, RateLimitKey};

pub(super) fn rate_limit(l: &RateLimit) -> v1::RateLimit {
    let key = l.key.iter().map(|part| v1::RateLimitKey {
        kind: Some(match part {
            RateLimitKey::Identity => v1::rate_limit_key::Kind::Identity(true),
            RateLimitKey::Header(name) => v1::rate_limit_key::Kind::Header(name.clone()),
        }),
    });
    v1::RateLimit {
        name: l.name.clone(),
        port: l.port.into(),
        requests: l.requests,
        per_ms: l.per_ms,
        burst: l.burst,
        key: key.collect(),
        matches: l.matches.iter().map(request_match).collect(),
    }
}
