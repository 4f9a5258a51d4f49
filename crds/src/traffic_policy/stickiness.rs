//! Users who stay where they were.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::schema::TOKEN;

/// Keeps a user with the backend that answered first, whatever becomes of its endpoints.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Stickiness {
    /// What the user is known by.
    pub cookie: StickyCookie,
}

/// A cookie that the proxy gives out. Its value says nothing to anybody but the proxies; one that they did not give is ignored.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StickyCookie {
    /// Not one that the application uses itself.
    #[schemars(length(min = 1, max = 128), regex(pattern = TOKEN))]
    pub name: String,
    /// How long it lasts. Absent: until the browser is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
}
