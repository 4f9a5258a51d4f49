//! What pages of other origins may ask.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::schema::TOKEN;

/// What pages of other origins may ask. What the application itself says of it is replaced.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Origins: * for all, https://shop.example for one, https://*.example for the hosts below one.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 270), regex(pattern = "^([*]|https?://([*][.])?[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?)$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow_origins: Vec<String>,
    /// Methods; * for all. Absent: GET, HEAD and POST.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 32), regex(pattern = TOKEN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow_methods: Vec<String>,
    /// Headers of requests, beyond those that need no permission; * for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 256), regex(pattern = TOKEN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow_headers: Vec<String>,
    /// Headers of answers that the page may read, beyond those that need no permission; * for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 256), regex(pattern = TOKEN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub expose_headers: Vec<String>,
    /// How long a browser may keep what it was told. Absent: what browsers do by themselves, 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Whether the page may send cookies and read the answer. The origin, and what was asked for, are then named instead of *.
    #[serde(default)]
    pub allow_credentials: bool,
}
