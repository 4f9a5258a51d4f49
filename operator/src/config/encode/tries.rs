//! Tries of requests in the words of the wire contract.

use fairlead_proxy_api::v1;

use crate::model::{Retry, RetryBudget};

pub(super) fn retry(r: &Retry) -> v1::Retry {
    v1::Retry {
        attempts: r.attempts,
        gateway_errors: r.gateway_errors,
        server_errors: r.server_errors,
        grpc: r.grpc,
        methods: r.methods.clone(),
        backoff_base_ms: r.backoff_base_ms,
        backoff_max_ms: r.backoff_max_ms,
    }
}

pub(super) fn budget(b: RetryBudget) -> v1::RetryBudget {
    v1::RetryBudget { share: b.share, min_per_second: b.min_per_second }
}
