//! Dark traffic: copies of requests whose answers nobody waits for.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::route::ServiceRef;
use crate::percent::Percent;
use crate::schema::DNS_LABEL;

/// Sends copies of requests somewhere else. The caller gets the answer of the request alone, as soon as without copies.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.subset) != has(self.service)")
    .message("mirror: an entry needs either subset or service, not both"))]
pub struct Mirror {
    /// A subset of this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub subset: Option<String>,
    /// Another Service, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// Of how many requests, in percent. Absent: all.
    #[serde(default = "all")]
    pub percent: Percent,
    /// How many copies of each. More than one is a load drill.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 20))]
    pub copies: i32,
}

/// Whoever wants less says so.
const fn all() -> Percent {
    Percent::whole(100)
}

/// As many as there are requests.
const fn one() -> i32 {
    1
}
