//! How long requests may take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// How long a request may take.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// From the first byte of the request to the last of the response's head; then the caller gets 504. 0s or absent: no limit,
    /// because the mesh cannot know how long an application may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
}
