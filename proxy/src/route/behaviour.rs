//! How a set of endpoints is used: from the operator's message to what decides.

use std::{sync::Arc, time::Duration};

use fairlead_proxy_api::v1;

use crate::balance::{
    Endpoint,
    health::{Check, Outliers},
    key::KeySource,
    limits::{Limits, Used},
    ring::Ring,
    set::{Algorithm, Behaviour, Spill},
};

pub(super) fn behaviour(
    endpoints: &[Arc<Endpoint>],
    balancing: Option<v1::LoadBalancing>,
    unready: Vec<u32>,
    detection: Option<&v1::OutlierDetection>,
    health_check: Option<v1::HealthCheck>,
) -> Result<Behaviour, String> {
    let balancing = balancing.unwrap_or_default();
    let min_healthy = balancing.min_healthy;
    let slow_start = Duration::from_millis(balancing.slow_start_ms);
    Ok(Behaviour {
        algorithm: algorithm(endpoints, balancing)?,
        slow_start,
        spill: (min_healthy > 0).then_some(Spill { min_healthy, unready }),
        outliers: detection.map(outliers).transpose()?.filter(|outliers| outliers.max_ejected > 0),
        check: health_check.map(check).transpose()?,
    })
}

fn check(message: v1::HealthCheck) -> Result<Check, String> {
    let v1::HealthCheck { path, interval_ms, timeout_ms, unhealthy, healthy } = message;
    if interval_ms == 0 || unhealthy == 0 || healthy == 0 {
        return Err("a health check has no interval, or needs no answers".into());
    }
    Ok(Check {
        path: path.parse().map_err(|_| format!("{path:?} is not a path to check"))?,
        interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(timeout_ms),
        unhealthy,
        healthy,
    })
}

/// `used` is what the version before counts.
pub(super) fn limits(message: Option<v1::Limits>, used: Arc<Used>) -> Result<Limits, String> {
    let Some(message) = message else { return Ok(Limits { used, ..Limits::default() }) };
    let v1::Limits { connections, pending_requests, requests, connect_timeout_ms, idle_timeout_ms } = message;
    if [connections, pending_requests, requests].contains(&0) || connect_timeout_ms == 0 {
        return Err("limits of 0 would let nothing through".into());
    }
    Ok(Limits {
        connections,
        pending_requests,
        requests,
        connect_timeout: Duration::from_millis(connect_timeout_ms),
        idle_timeout: Duration::from_millis(idle_timeout_ms),
        used,
    })
}

fn algorithm(endpoints: &[Arc<Endpoint>], balancing: v1::LoadBalancing) -> Result<Algorithm, String> {
    use v1::load_balancing::{Algorithm as Wire, HashKey};
    let algorithm = Wire::try_from(balancing.algorithm)
        .map_err(|_| "the load balancing has an algorithm that this proxy does not know".to_owned())?;
    Ok(match algorithm {
        Wire::PeakEwma => Algorithm::PeakEwma,
        Wire::LeastRequest => Algorithm::LeastRequest,
        Wire::RoundRobin => Algorithm::RoundRobin,
        Wire::Random => Algorithm::Random,
        Wire::ConsistentHash => {
            let source = match balancing.hash_key {
                Some(HashKey::Header(name)) => {
                    KeySource::Header(name.parse().map_err(|_| format!("{name:?} is not a header name"))?)
                }
                Some(HashKey::Cookie(name)) => KeySource::Cookie(name),
                Some(HashKey::QueryParam(name)) => KeySource::QueryParam(name),
                Some(HashKey::SourceIp(_)) => KeySource::SourceIp,
                None => return Err("consistent hashing has no key that this proxy knows".into()),
            };
            Algorithm::Hash(source, Ring::new(endpoints.iter().map(|endpoint| endpoint.address)))
        }
    })
}

fn outliers(message: &v1::OutlierDetection) -> Result<Outliers, String> {
    let probe = match message.probe_path.as_str() {
        "" => None,
        path => Some(path.parse().map_err(|_| format!("{path:?} is not a path to probe"))?),
    };
    Ok(Outliers {
        consecutive: message.consecutive_errors,
        error_share: message.error_share,
        min_requests: message.min_requests,
        base: Duration::from_millis(message.ejection_base_ms),
        max: Duration::from_millis(message.ejection_max_ms),
        max_ejected: message.max_ejected,
        probe,
    })
}
