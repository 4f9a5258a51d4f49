//! What a policy is about.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::DNS_LABEL;

/// What a policy is about, and by that for whom it holds.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind == 'Service' || (!has(self.namespace) && !has(self.sectionName))")
    .message("targetRef: namespace and sectionName are of a Service; kind Namespace takes a name alone"))]
pub struct TargetRef {
    /// Service: one Service. Namespace: defaults for the Services of a namespace, for what no policy for the Service says.
    pub kind: TargetKind,
    /// Of the Service, or of the namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// Of the Service; absent: the policy's own. A policy for a Service of its own namespace holds for all callers. One for a
    /// Service of another namespace holds for callers from the policy's namespace alone, and there wins over the Service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub namespace: Option<String>,
    /// The name of a port of the Service: the policy holds for that port alone, and there wins over one for the whole Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub section_name: Option<String>,
}

/// What kinds of object a policy can be about.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum TargetKind {
    /// A Service of the core group.
    Service,
    /// All Services of a namespace.
    Namespace,
}
