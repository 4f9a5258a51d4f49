//! The kinds that the index holds: how an object of each becomes the small struct that is kept.

use std::collections::{BTreeMap, HashMap};

use fairlead_crds::{Canary, PeerAuth, PeerAuthStatus, TrafficPolicy};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DeserializeGuard, PartialObjectMeta};

use super::state::State;
use super::{authorities, canary, peer_auth, pod, service, traffic_policy};
use crate::model::{ObjectName, Place};

/// A kind that the index holds.
pub trait Kind {
    /// Puts the object in place of what was kept of it.
    fn apply(self, state: &mut State);
    /// Forgets what was kept of an object.
    fn delete(name: &ObjectName, state: &mut State);
    /// The objects of this kind.
    fn names(state: &State) -> Vec<ObjectName>;
}

fn name_of(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

impl Kind for Service {
    fn apply(self, state: &mut State) {
        let name = name_of(&self.metadata);
        state.set_service(&name, Some(service::Service::parse(self)));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_service(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        state.services.keys().cloned().collect()
    }
}

impl Kind for EndpointSlice {
    fn apply(self, state: &mut State) {
        let name = name_of(&self.metadata);
        state.set_slice(&name, service::Slice::parse(self));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_slice(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        state.slices.keys().cloned().collect()
    }
}

impl Kind for Pod {
    fn apply(self, state: &mut State) {
        let name = name_of(&self.metadata);
        state.set_pod(&name, Some(pod::Pod::parse(self)));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_pod(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        state.pods.keys().cloned().collect()
    }
}

impl Kind for ConfigMap {
    fn apply(self, state: &mut State) {
        let name = name_of(&self.metadata);
        state.set_authorities(&name, Some(authorities::Authorities::parse(self)));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_authorities(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        state.authorities.keys().cloned().collect()
    }
}

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";

// Its labels are all that is wanted of a node, and its status changes all the time.
impl Kind for PartialObjectMeta<Node> {
    fn apply(self, state: &mut State) {
        let name = name_of(&self.metadata).name;
        let mut labels = self.metadata.labels.unwrap_or_default();
        let mut label = |key| labels.remove(key).unwrap_or_default();
        state.set_node(&name, Some(Place { zone: label(ZONE_LABEL), region: label(REGION_LABEL) }));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_node(&name.name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        state.nodes.keys().map(|name| ObjectName::new("", name)).collect()
    }
}

// Our own kinds come in a guard: an object that cannot be read (written under another version of the schema, say) must not keep
// the rest of its kind from being seen.

impl Kind for DeserializeGuard<TrafficPolicy> {
    fn apply(self, state: &mut State) {
        let (metadata, spec, conditions) = match self.0 {
            Ok(policy) => {
                let conditions = policy.status.map(|s| s.conditions).unwrap_or_default();
                (policy.metadata, Ok(policy.spec), conditions)
            }
            Err(invalid) => (invalid.metadata, Err(invalid.error), Vec::new()),
        };
        let name = name_of(&metadata);
        let before = state.policies.get(&name);
        let policy = traffic_policy::TrafficPolicy::parse(metadata, spec, conditions, before);
        state.set_policy(&name, Some(policy));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_policy(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        state.policies.keys().cloned().collect()
    }
}

impl Kind for DeserializeGuard<PeerAuth> {
    fn apply(self, state: &mut State) {
        let (metadata, spec, status) = match self.0 {
            Ok(auth) => {
                let status = auth.status.unwrap_or_default();
                (auth.metadata, Ok(auth.spec), status)
            }
            Err(invalid) => (invalid.metadata, Err(invalid.error), PeerAuthStatus::default()),
        };
        let name = name_of(&metadata);
        let of_namespace = state.peer_auths.get(&name.namespace);
        let before = of_namespace.and_then(|table| table.get(&name.name));
        let auth = peer_auth::PeerAuth::parse(&name.name, metadata, spec, status, before);
        state.set_peer_auth(&name, Some(auth));
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_peer_auth(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        names_in(&state.peer_auths)
    }
}

impl Kind for DeserializeGuard<Canary> {
    fn apply(self, state: &mut State) {
        match self.0 {
            // One that another controller's finalizer still keeps splits nothing any more.
            Ok(object) if object.metadata.deletion_timestamp.is_some() => {
                state.set_canary(&name_of(&object.metadata), None);
            }
            Ok(object) => {
                let name = name_of(&object.metadata);
                let uid = object.metadata.uid.unwrap_or_default();
                let status = object.status.unwrap_or_default();
                let canary = canary::Canary::parse(&name, &uid, &object.spec, &status);
                let before = state.canaries.get(&name.namespace).and_then(|of| of.get(&name.name));
                // Its status is written all the time.
                if let Some(why) = &canary.invalid
                    && before.is_none_or(|before| before.invalid != canary.invalid)
                {
                    tracing::warn!(canary = %name, why, "no request goes to this canary, because its step cannot be used");
                }
                state.set_canary(&name, Some(canary));
            }
            Err(invalid) => {
                let name = name_of(&invalid.metadata);
                tracing::warn!(canary = %name, error = %invalid.error, "unreadable Canary: its traffic stays split as it was");
            }
        }
    }
    fn delete(name: &ObjectName, state: &mut State) {
        state.set_canary(name, None);
    }
    fn names(state: &State) -> Vec<ObjectName> {
        names_in(&state.canaries)
    }
}

fn names_in<V>(table: &HashMap<String, BTreeMap<String, V>>) -> Vec<ObjectName> {
    table
        .iter()
        .flat_map(|(namespace, objects)| objects.keys().map(move |name| ObjectName::new(namespace, name)))
        .collect()
}
