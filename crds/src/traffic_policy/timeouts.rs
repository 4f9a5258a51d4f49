//! How long requests may take.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// How long a request may take.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || duration(self.backendRequest) <= duration(self.request)")
    .message("timeouts: backendRequest is one try's part of request and cannot be longer"))]
pub struct Timeouts {
    /// From the first byte of the request to the last of the response's head, all tries and the pauses between them included; then the
    /// caller gets 504. It is a deadline: the next pod is told what is left of it (for gRPC in grpc-timeout), and no hop extends it; an
    /// application that copies the header fairlead-deadline to what it calls passes it on. 0s or absent: no limit, because the
    /// mesh cannot know how long an application may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// The same for each try: one that takes longer is given up, and, where retry allows it, made again. 0s or absent: no limit but
    /// request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
    /// How long nothing may move: no byte of the request's body, and none of the response. Then the caller gets 504, or, if the
    /// response has begun, its end is cut off. 0s or absent: no limit, because a stream may rest for hours; peers that vanish are
    /// noticed without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}
