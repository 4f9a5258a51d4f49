//! How endpoints are used, in the words of the wire contract.

use fairlead_proxy_api::v1;

use crate::model::{Algorithm, Balancing, HashKey, HealthCheck, Limits, Outliers};

pub(super) fn balancing(b: &Balancing) -> v1::LoadBalancing {
    use v1::load_balancing::Algorithm as Wire;
    let (algorithm, hash) = match &b.algorithm {
        Algorithm::PeakEwma => (Wire::PeakEwma, None),
        Algorithm::LeastRequest => (Wire::LeastRequest, None),
        Algorithm::RoundRobin => (Wire::RoundRobin, None),
        Algorithm::Random => (Wire::Random, None),
        Algorithm::ConsistentHash(key) => (Wire::ConsistentHash, Some(key)),
    };
    let hash_key = hash.map(|key| match key.clone() {
        HashKey::Header(name) => v1::load_balancing::HashKey::Header(name),
        HashKey::Cookie(name) => v1::load_balancing::HashKey::Cookie(name),
        HashKey::QueryParam(name) => v1::load_balancing::HashKey::QueryParam(name),
        HashKey::SourceIp => v1::load_balancing::HashKey::SourceIp(true),
    });
    let min_healthy = b.locality.as_ref().map_or(0, |locality| locality.min_healthy);
    v1::LoadBalancing { algorithm: algorithm.into(), slow_start_ms: b.slow_start_ms, hash_key, min_healthy }
}

pub(super) fn health_check(c: &HealthCheck) -> v1::HealthCheck {
    v1::HealthCheck {
        path: c.path.clone(),
        interval_ms: c.interval_ms,
        timeout_ms: c.timeout_ms,
        unhealthy: c.unhealthy,
        healthy: c.healthy,
    }
}

pub(super) fn limits(l: &Limits) -> v1::Limits {
    v1::Limits {
        connections: l.connections,
        pending_requests: l.pending_requests,
        requests: l.requests,
        connect_timeout_ms: l.connect_timeout_ms,
        idle_timeout_ms: l.idle_timeout_ms,
    }
}

pub(super) fn outliers(o: &Outliers) -> v1::OutlierDetection {
    v1::OutlierDetection {
        consecutive_errors: o.consecutive,
        error_share: o.error_share,
        min_requests: o.min_requests,
        ejection_base_ms: o.base_ms,
        ejection_max_ms: o.max_ms,
        max_ejected: o.max_ejected,
        probe_path: o.probe_path.clone(),
    }
}
