//! What a policy says of single tries.

use fairlead_crds::{Duration, RetryOn, Timeouts};

use crate::model::{Retry, RetryBudget, Tries};

/// Of Services whose policy says nothing of it.
pub(in crate::index) fn default_budget() -> RetryBudget {
    budget(&fairlead_crds::RetryBudget::default())
}

pub(super) fn budget(budget: &fairlead_crds::RetryBudget) -> RetryBudget {
    RetryBudget {
        share: (budget.percent.fraction() * 1e6).round() as u32,
        min_per_second: u32::try_from(budget.min_per_second).unwrap_or_default(),
    }
}

pub(super) fn parse(timeouts: &Timeouts, retry: Option<fairlead_crds::Retry>) -> Tries {
    Tries {
        timeout_ms: millis(timeouts.backend_request.unwrap_or_default()),
        idle_timeout_ms: millis(timeouts.idle.unwrap_or_default()),
        retry: retry.map(|retry| Retry {
            attempts: u32::try_from(retry.attempts).unwrap_or_default(),
            gateway_errors: retry.on.contains(&RetryOn::GatewayError) || retry.on.contains(&RetryOn::ServerError),
            server_errors: retry.on.contains(&RetryOn::ServerError),
            grpc: retry.on.contains(&RetryOn::RetriableGrpc),
            methods: retry.methods.into_iter().map(|method| method.as_str().to_owned()).collect(),
            backoff_base_ms: millis(retry.backoff.base),
            backoff_max_ms: millis(retry.backoff.max),
        }),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_std().as_millis()).unwrap_or(u64::MAX)
}
