//! Single tries of a request, and when there is another.

/// What a route says of the tries that a request is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// How long each may take until the last byte of the response's head, milliseconds; 0: as long as the request.
    pub timeout_ms: u64,
    /// How long nothing of request or response may move, milliseconds; 0: for ever.
    pub idle_timeout_ms: u64,
    /// `None`: only what certainly did nothing is tried elsewhere.
    pub retry: Option<Retry>,
}

/// When a request is made again after it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many times more at most.
    pub attempts: u32,
    /// After an answer of 502, 503 or 504, or none.
    pub gateway_errors: bool,
    /// After any answer of 5xx, or none.
    pub server_errors: bool,
    /// After a gRPC status that says "try again", calls of any method.
    pub grpc: bool,
    /// Methods that may be made again besides the idempotent ones; upper case.
    pub methods: Vec<String>,
    /// The pause before the second try, doubled for each further one; milliseconds.
    pub backoff_base_ms: u64,
    /// Where doubling ends; milliseconds.
    pub backoff_max_ms: u64,
}

/// How much of a target's traffic may be tries after the first, per proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests of the last ten seconds; millionths.
    pub share: u32,
    /// Besides, for every second.
    pub min_per_second: u32,
}
