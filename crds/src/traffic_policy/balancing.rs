//! Which endpoint gets a request.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, percent::Percent};

/// Which endpoint gets a request.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.algorithm == 'ConsistentHash') == has(self.consistentHash)")
    .message("loadBalancing: algorithm ConsistentHash needs consistentHash, the others take none"))]
pub struct LoadBalancing {
    /// PeakEwma: of two endpoints at random, the one whose answers come sooner, with what waits for it taken into account; it
    /// notices a slow pod within a request. LeastRequest: of two at random, the one with fewer requests in flight. RoundRobin: one
    /// after the other. Random: any. ConsistentHash: by a key of the request, so that the same key reaches the same endpoint from every
    /// caller; when one endpoint of n comes or goes about one key of n moves, and an endpoint with more than 1.25 times its part
    /// of the load passes keys on.
    #[serde(default)]
    #[schemars(extend("default" = "PeakEwma"))]
    pub algorithm: Algorithm,
    /// The key of ConsistentHash. Requests without it go to any endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// How long an endpoint that comes, or comes back, takes from a tenth of its share to all of it: time to fill caches and
    /// compile code. 0s, the default: none, because PeakEwma sends little to an endpoint that answers slowly anyway.
    #[serde(default)]
    #[schemars(extend("default" = "0s"))]
    pub slow_start: Duration,
    /// Which endpoints are near. Absent: all are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// Which endpoints are near to a caller, by the labels topology.kubernetes.io/zone and topology.kubernetes.io/region of the nodes: those of
/// its zone (with prefer), then those of its region, then those of the regions that failover names for it, in that order, then all others. The
/// nearest get all requests while enough of them are well; of what they cannot take the next get as much as they can. A caller on a node
/// without these labels finds all alike.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.prefer) || (has(self.failover) && size(self.failover) > 0)")
    .message("locality: needs prefer: Zone, failover, or both"))]
pub struct Locality {
    /// Zone: endpoints of the caller's zone come before others of its region. Absent: a region's zones are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<LocalityPreference>,
    /// Which regions come next, by the caller's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["from"])
    )]
    pub failover: Vec<Failover>,
    /// While at least this share of the near endpoints is well, they get all requests; with half as many well they get half, and the rest
    /// goes on. 70: up to three of ten may be missing before others have to help, and those that are left carry 1.43 times their part.
    #[serde(default = "min_healthy")]
    #[schemars(range(min = 1, max = 100))]
    pub min_healthy: Percent,
}

const fn min_healthy() -> Percent {
    Percent::whole(70)
}

/// What is near within a region.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum LocalityPreference {
    /// The zone.
    Zone,
}

/// Where the requests of a region go when its own endpoints cannot take them.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.from in self.to)").message("failover: a region does not fail over to itself"))]
pub struct Failover {
    /// The caller's region.
    #[schemars(length(min = 1, max = 63), regex(pattern = REGION))]
    pub from: String,
    /// Regions in the order in which they help.
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 63), regex(pattern = REGION)), extend("x-kubernetes-list-type" = "atomic"))]
    pub to: Vec<String>,
}

/// The value of a label.
const REGION: &str = "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";

/// How an endpoint is chosen.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Algorithm {
    /// By latency and what waits.
    #[default]
    PeakEwma,
    /// By requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// By a key of the request.
    ConsistentHash,
}

/// What the key of a request is.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.header), has(self.cookie), has(self.queryParam), has(self.sourceIp)].filter(x, x).size() == 1")
    .message("consistentHash: needs exactly one of header, cookie, queryParam and sourceIp"))]
pub struct ConsistentHash {
    /// The value of this header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$"))]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$"))]
    pub cookie: Option<String>,
    /// The value of this query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub query_param: Option<String>,
    /// The address of the calling pod: each pod keeps to one endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 1))]
    pub source_ip: Option<SourceIp>,
}

/// The address of the calling pod.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct SourceIp {}
