//! Changes of headers.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::schema::TOKEN;

/// A name that a rule may speak of: not one that says where a message ends, whom it is for or what its connection does, and none that the
/// mesh alone writes.
const OF_FIELD: &str = "!(self.name.lowerAscii() in ['connection', 'content-length', 'expect', 'host', 'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']) && !self.name.lowerAscii().startsWith('fairlead-')";

/// The same of a list of names.
const OF_LIST: &str = "!has(self.remove) || self.remove.all(name, !(name.lowerAscii() in ['connection', 'content-length', 'expect', 'host', 'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']) && !name.lowerAscii().startsWith('fairlead-'))";

/// Changes of headers on the way to the endpoint and back.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.request) || has(self.response)")
    .message("headers: needs request or response; leave headers out to change none"))]
pub struct HeaderRules {
    /// Of the request, before it is sent. Matches look at what the caller sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderChanges>,
    /// Of the answer, an endpoint's as well as that of respond or redirect. Answers that say why there is none stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderChanges>,
}

/// Changes of one message's headers, in this order: remove, set, add.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.set) || has(self.add) || has(self.remove)")
    .message("headers: request and response need set, add or remove"))]
#[x_kube(validation = Rule::new(OF_LIST)
    .message("headers.remove: names a header that frames the message or its connection, or that the mesh alone writes; remove another, and for the host use rewrite.host"))]
pub struct HeaderChanges {
    /// Headers that have this value afterwards and no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub set: Vec<HeaderField>,
    /// Lines that are added to those that there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub add: Vec<HeaderField>,
    /// Names of headers that go. Case does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 256), regex(pattern = TOKEN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub remove: Vec<String>,
}

/// A header.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(OF_FIELD)
    .message("headers.name: names a header that frames the message or its connection, or that the mesh alone writes; use another, and for the host use rewrite.host"))]
pub struct HeaderField {
    /// Case does not count.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
    /// As it is sent: printable ASCII.
    #[schemars(length(max = 1024), regex(pattern = "^([!-~]([ -~]*[!-~])?)?$"))]
    pub value: String,
}
