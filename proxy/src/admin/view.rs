//! `/config`: what is programmed, as JSON. Never keys, never tokens.

use std::time::SystemTime;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Admin;
use crate::{
    balance::Endpoint,
    config::{Programmed, stream::Connection},
    identity::SpiffeId,
    route::Destination,
};

pub(super) fn config(admin: &Admin) -> Value {
    let (connected, reason) = match &*admin.connection.borrow() {
        Connection::Connected => (true, None),
        Connection::Away { reason } => (false, Some(reason.clone())),
    };
    let identity = admin.identity.borrow().clone();
    let certificate = identity.as_ref().map(|identity| {
        let leaf = identity.leaf();
        json!({
            "notBefore": timestamp(leaf.claims().not_before),
            "notAfter": timestamp(leaf.claims().not_after),
        })
    });
    let bundle = identity.as_ref().map(|identity| {
        let bundle = identity.bundle();
        json!({"sequence": bundle.sequence(), "roots": bundle.anchors().len()})
    });
    let destinations: Vec<Value> = admin
        .destinations
        .list()
        .iter()
        .map(|(address, programmed, destination)| {
            let mut entry = versions(programmed);
            entry["address"] = json!(address);
            entry["leadsTo"] = leads_to(destination);
            entry
        })
        .collect();
    json!({
        "phase": admin.phase.borrow().describe(),
        "identity": identity.as_ref().map(|identity| identity.own().as_str()),
        "certificate": certificate,
        "trustBundle": bundle,
        "operator": {"address": admin.operator, "connected": connected, "reason": reason},
        "workload": workload(admin),
        "destinations": destinations,
        "unconfiguredConnections": admin.destinations.overflowed(),
    })
}

fn workload(admin: &Admin) -> Value {
    let mut entry = versions(&admin.workload.programmed());
    let handle = admin.workload.handle();
    let limits: Vec<Value> =
        handle.load().limited().map(|(port, limit)| json!({"port": port, "name": limit.name()})).collect();
    entry["rateLimits"] = json!(limits);
    entry
}

fn versions(programmed: &Programmed) -> Value {
    let refused =
        programmed.refused.as_ref().map(|refused| json!({"version": refused.version, "reason": refused.reason}));
    json!({"version": programmed.version, "refused": refused})
}

fn leads_to(destination: &Destination) -> Value {
    match destination {
        Destination::PassThrough => json!({"passThrough": {}}),
        Destination::Pod(pod) => json!({"pod": endpoint(pod)}),
        Destination::Service(service) => {
            let sets: Vec<Value> = service
                .sets
                .iter()
                .map(|set| {
                    let endpoints: Vec<Value> = set.endpoints.iter().map(|some| endpoint(some)).collect();
                    json!({"name": set.name, "endpoints": endpoints})
                })
                .collect();
            let routes: Vec<&str> = service.routes.iter().map(|route| &*route.name).collect();
            json!({"service": {
                "name": &*service.name,
                "protocol": format!("{:?}", service.protocol),
                "routes": routes,
                "endpointSets": sets,
            }})
        }
    }
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "address": endpoint.address,
        "identity": endpoint.identity.as_ref().map(SpiffeId::as_str),
        "tls": endpoint.origination.as_ref().map(|tls| json!({"sni": tls.server_name(), "unusable": tls.client().err()})),
        "zone": &*endpoint.zone,
    })
}

fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}
