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

#[cfg(test)]
mod tests {
    use v1::rate_limit_key::Kind::{Header, Identity};

    use super::*;
    use crate::model::{Match, PathMatch};

    #[test]
    fn a_limit_is_said_whole() {
        let limit = RateLimit {
            port: 9080,
            name: "shop/web/l".into(),
            requests: 100,
            per_ms: 60_000,
            burst: 50,
            key: vec![RateLimitKey::Identity, RateLimitKey::Header("x-tenant".into())],
            matches: vec![Match { path: Some(PathMatch::Exact("/a".into())), ..Match::default() }],
        };
        let said = rate_limit(&limit);
        assert_eq!((said.port, said.requests, said.per_ms, said.burst), (9080, 100, 60_000, 50));
        assert_eq!(said.name, "shop/web/l");
        let kinds: Vec<_> = said.key.into_iter().filter_map(|key| key.kind).collect();
        assert_eq!(kinds, [Identity(true), Header("x-tenant".into())]);
        assert_eq!(said.matches.len(), 1);
    }
}
