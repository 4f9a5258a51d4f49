//! Answers that need no endpoint.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// An answer.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.status in [204, 205, 304]) || !has(self.body)")
    .message("respond.body: answers of status 204, 205 and 304 have none; take it away or choose another status"))]
pub struct Respond {
    /// 200–599. Callers of gRPC get the code that stands for it, with the body as the message.
    #[schemars(range(min = 200, max = 599))]
    pub status: i32,
    /// As text/plain; headers.response can set another Content-Type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub body: Option<String>,
}
