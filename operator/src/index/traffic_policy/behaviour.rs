//! What a policy says of how endpoints are used.

use fairlead_crds::{ConsistentHash, LoadBalancing, LocalityPreference, OutlierDetection, Percent};

use super::tries::millis;
use crate::index::scope::Policies;
use crate::model::{Algorithm, Balancing, Behaviour, HashKey, HealthCheck, Limits, Locality, Outliers};

/// What holds, field by field, with what the API documents as defaults. TLS is not among it: its authorities are elsewhere.
pub(in crate::index) fn behaviour(policies: &Policies<'_>) -> Behaviour {
    Behaviour {
        balancing: policies.first(|rules| rules.balancing.clone()).unwrap_or_default(),
        outliers: policies
            .first(|rules| rules.outliers.clone())
            .unwrap_or_else(|| outliers(OutlierDetection::default())),
        health_check: policies.first(|rules| rules.health_check.clone()),
        limits: policies.first(|rules| rules.limits).unwrap_or_else(|| limits(&fairlead_crds::Limits::default())),
        origination: None,
    }
}

/// Where no policy applies.
pub(in crate::index) fn default_behaviour() -> Behaviour {
    Behaviour {
        balancing: Balancing::default(),
        outliers: outliers(OutlierDetection::default()),
        limits: limits(&fairlead_crds::Limits::default()),
        origination: None,
        health_check: None,
    }
}

pub(super) fn balancing(mut balancing: LoadBalancing) -> Result<Balancing, String> {
    let locality = balancing.locality.take().map(|locality| Locality {
        prefer_zone: locality.prefer == Some(LocalityPreference::Zone),
        failover: locality.failover.into_iter().map(|failover| (failover.from, failover.to)).collect(),
        min_healthy: millionths(locality.min_healthy),
    });
    Ok(Balancing { slow_start_ms: millis(balancing.slow_start), algorithm: algorithm(balancing)?, locality })
}

fn algorithm(balancing: LoadBalancing) -> Result<Algorithm, String> {
    Ok(match balancing.algorithm {
        fairlead_crds::Algorithm::PeakEwma => Algorithm::PeakEwma,
        fairlead_crds::Algorithm::LeastRequest => Algorithm::LeastRequest,
        fairlead_crds::Algorithm::RoundRobin => Algorithm::RoundRobin,
        fairlead_crds::Algorithm::Random => Algorithm::Random,
        fairlead_crds::Algorithm::ConsistentHash => {
            let hash = balancing.consistent_hash.unwrap_or_default();
            Algorithm::ConsistentHash(
                key(hash).ok_or("loadBalancing: ConsistentHash needs consistentHash with one key")?,
            )
        }
    })
}

fn key(hash: ConsistentHash) -> Option<HashKey> {
    match (hash.header, hash.cookie, hash.query_param, hash.source_ip) {
        (Some(header), None, None, None) => Some(HashKey::Header(header.to_ascii_lowercase())),
        (None, Some(cookie), None, None) => Some(HashKey::Cookie(cookie)),
        (None, None, Some(param), None) => Some(HashKey::QueryParam(param)),
        (None, None, None, Some(_)) => Some(HashKey::SourceIp),
        _ => None,
    }
}

pub(super) fn outliers(detection: OutlierDetection) -> Outliers {
    Outliers {
        consecutive: count(detection.consecutive_errors),
        error_share: millionths(detection.error_rate.percent),
        min_requests: count(detection.error_rate.min_requests),
        base_ms: millis(detection.ejection.base),
        max_ms: millis(detection.ejection.max),
        max_ejected: millionths(detection.max_ejected),
        probe_path: detection.probe.map(|probe| probe.path).unwrap_or_default(),
    }
}

pub(super) fn health_check(check: fairlead_crds::HealthCheck) -> HealthCheck {
    HealthCheck {
        path: check.path,
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        unhealthy: count(check.unhealthy),
        healthy: count(check.healthy),
    }
}

pub(super) fn limits(limits: &fairlead_crds::Limits) -> Limits {
    Limits {
        connections: count(limits.connections),
        pending_requests: count(limits.pending_requests),
        requests: count(limits.requests),
        connect_timeout_ms: millis(limits.connect_timeout),
        idle_timeout_ms: millis(limits.idle_timeout),
    }
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn millionths(percent: Percent) -> u32 {
    (percent.fraction() * 1e6).round() as u32
}
