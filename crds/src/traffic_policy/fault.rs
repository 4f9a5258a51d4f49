//! Faults made on purpose.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::percent::Percent;

/// Faults made on purpose, to see what callers do: first the delay, then the abort. Each is drawn by itself.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.delay) || has(self.abort)")
    .message("fault: needs delay or abort"))]
pub struct Fault {
    /// Has requests wait before they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Has requests fail instead of being sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A wait.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.duration) > duration('0s') && duration(self.duration) <= duration('1h')")
    .message("fault.delay.duration: write more than 0s and at most 1h"))]
pub struct FaultDelay {
    /// How many requests, in percent.
    pub percent: Percent,
    /// How long. It counts for timeouts as if the endpoint took it.
    pub duration: Duration,
}

/// A failure.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// How many requests, in percent.
    pub percent: Percent,
    /// What callers get, 400–599.
    #[serde(default = "unavailable")]
    #[schemars(range(min = 400, max = 599))]
    pub status: i32,
    /// What callers of gRPC get. Absent: the code that stands for status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<GrpcStatus>,
}

/// The failure that callers have to live with most.
const fn unavailable() -> i32 {
    503
}

/// Codes of gRPC that are failures.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum GrpcStatus {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}
