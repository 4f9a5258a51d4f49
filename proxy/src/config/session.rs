//! One stream's worth of conversation with the operator, without the stream: what arrives goes in, what is to be said comes out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_proxy_api::v1::{self, operator_message, proxy_message, resource_name};
use prost::Message;
use tokio::time::Instant;

use super::{
    Destinations, Metrics, OwnWorkload, destination_name,
    destinations::{Slot, Slots},
    from_proto,
    persist::{Entry, StateDir},
    workload_name,
};
use crate::{
    identity::{Identity, TrustBundle},
    telemetry::{Groups, groups::Reported},
};

/// The operator forgets plain callers after an hour, and another one has to hear of them at all.
const AGAIN: Duration = Duration::from_secs(600);

/// Everything that a stream updates, and that outlives it.
#[derive(Clone)]
pub struct Store {
    /// Who we are; its bundle is pushed on the stream.
    pub identity: Arc<Identity>,
    /// How arriving traffic is treated.
    pub workload: Arc<OwnWorkload>,
    /// What leaving traffic is routed by.
    pub destinations: Arc<Destinations>,
    /// What is reported.
    pub telemetry: Arc<crate::telemetry::Telemetry>,
    /// What is counted about all this.
    pub metrics: Metrics,
}

impl Store {
    fn groups(&self) -> &Groups {
        &self.telemetry.groups
    }

    /// Puts back what was saved before a restart. What does not compile any more (a newer proxy is stricter) is left out.
    pub fn restore(&self, workload: Option<v1::Resource>, destinations: Vec<v1::Resource>) {
        if let Some(resource) = workload
            && let Some(v1::resource::Body::Workload(workload)) = resource.body
            && let Err(reason) = self.workload.apply(&resource.version, workload)
        {
            tracing::warn!(reason, "ignoring the saved workload");
        }
        for resource in destinations {
            let address = super::persist::address_of(&resource);
            let (Some(address), Some(v1::resource::Body::Destination(body))) = (address, resource.body) else {
                continue;
            };
            if let Err(reason) = self.destinations.restore(address, &resource.version, body) {
                tracing::warn!(%address, reason, "ignoring a saved destination");
            }
        }
    }
}

/// What is to be written to the state directory: the last state of each entry, so that it is bounded and quick changes cost one write.
#[derive(Debug, Default)]
pub(super) struct Unsaved(BTreeMap<Entry, Option<Vec<u8>>>);

impl Unsaved {
    /// Writes it all out. A full or missing volume costs the restart's comfort, not the traffic.
    pub(super) fn flush(&mut self, state: &StateDir) {
        for (entry, body) in std::mem::take(&mut self.0) {
            let result = match body {
                Some(body) => state.write(entry, &body),
                None => state.remove(entry),
            };
            if let Err(error) = result {
                tracing::warn!(?entry, %error, "cannot save configuration: a restart without the operator would miss it");
            }
        }
    }
}

/// The conversation.
pub(super) struct Session<'a> {
    store: &'a Store,
    subscribed: HashMap<SocketAddr, Arc<Slot>>,
    reported: Reported,
    /// When those are told again who are connected in plain.
    again: Instant,
    /// To be sent, in order.
    pub(super) outbox: VecDeque<v1::ProxyMessage>,
}

fn message(kind: proxy_message::Kind) -> v1::ProxyMessage {
    v1::ProxyMessage { kind: Some(kind) }
}

fn subscribe(name: v1::ResourceName, have_version: String) -> v1::ProxyMessage {
    message(proxy_message::Kind::Subscribe(v1::Subscribe { name: Some(name), have_version }))
}

impl<'a> Session<'a> {
    /// Introduces the proxy and subscribes to what it has, by the versions it has, so that nothing is sent twice.
    pub(super) fn begin(store: &'a Store, hello: v1::Hello) -> Self {
        let mut session = Self {
            store,
            subscribed: HashMap::new(),
            reported: Reported::default(),
            again: Instant::now(),
            outbox: VecDeque::new(),
        };
        let workload = store.workload.programmed().version;
        session.outbox.push_back(message(proxy_message::Kind::Hello(hello)));
        session.outbox.push_back(subscribe(workload_name(), workload));
        session.follow(&mut Unsaved::default());
        session.trust();
        session
    }

    /// Says whom this proxy trusts and what it shows.
    fn trust(&mut self) {
        let trust = self.store.identity.trust(SystemTime::now());
        self.outbox.push_back(message(proxy_message::Kind::Trust(trust)));
    }

    /// Subscribes to what is wanted now and unsubscribes from what is not any more.
    pub(super) fn follow(&mut self, unsaved: &mut Unsaved) {
        let wanted: &Slots = &self.store.destinations.wanted();
        self.store.metrics.destinations.set(wanted.len().try_into().unwrap_or(i64::MAX));
        let outbox = &mut self.outbox;
        self.subscribed.retain(|address, slot| {
            // A slot that was forgotten and asked for anew is another one, which has nothing.
            let same = wanted.get(address).is_some_and(|now| Arc::ptr_eq(now, slot));
            if !same {
                let name = destination_name(*address);
                outbox.push_back(message(proxy_message::Kind::Unsubscribe(name)));
                unsaved.0.insert(Entry::Destination(*address), None);
            }
            same
        });
        for (address, slot) in wanted {
            if !self.subscribed.contains_key(address) {
                let version = slot.programmed().version;
                outbox.push_back(subscribe(destination_name(*address), version));
                self.subscribed.insert(*address, slot.clone());
            }
        }
    }

    /// Applies what the operator says.
    pub(super) fn receive(&mut self, message: v1::OperatorMessage, unsaved: &mut Unsaved) {
        match message.kind {
            Some(operator_message::Kind::Resource(resource)) => self.resource(resource, unsaved),
            Some(operator_message::Kind::TrustBundle(bundle)) => self.bundle(bundle),
            Some(operator_message::Kind::Renew(renew)) => {
                self.store.identity.renew_within(Duration::from_secs(renew.within_seconds.into()));
            }
            // Of a newer operator.
            None => {}
        }
    }

    fn resource(&mut self, resource: v1::Resource, unsaved: &mut Unsaved) {
        let encoded = resource.encode_to_vec();
        let v1::Resource { name, version, body } = resource;
        let wrong = || Err("the body is not of the kind that the name says".to_owned());
        let (entry, applied) = match name.as_ref().and_then(|name| name.kind.as_ref()) {
            Some(resource_name::Kind::Workload(_)) => {
                let applied = match body {
                    Some(v1::resource::Body::Workload(workload)) => self.store.workload.apply(&version, workload),
                    _ => wrong(),
                };
                (Entry::Workload, applied)
            }
            Some(resource_name::Kind::Destination(address)) => {
                let Some(address) = from_proto(address) else {
                    return;
                };
                // Else sent before the operator read that it is not wanted any more.
                let Some(slot) = self.subscribed.get(&address) else {
                    return;
                };
                let applied = match body {
                    Some(v1::resource::Body::Destination(destination)) => slot.apply(&version, destination),
                    _ => wrong(),
                };
                (Entry::Destination(address), applied)
            }
            None => return,
        };
        let answer = match applied {
            Ok(()) => {
                self.store.metrics.applied.inc();
                unsaved.0.insert(entry, Some(encoded));
                proxy_message::Kind::Acknowledge(v1::Acknowledge { name, version })
            }
            Err(reason) => {
                tracing::warn!(?entry, version, reason, "configuration refused");
                self.store.metrics.refused.inc();
                proxy_message::Kind::Refuse(v1::Refuse { name, version, reason })
            }
        };
        self.outbox.push_back(message(answer));
    }

    fn bundle(&mut self, bundle: v1::TrustBundle) {
        let sequence = bundle.sequence;
        let installed = TrustBundle::from_proto(bundle).map_err(|error| error.to_string()).and_then(|bundle| {
            let installed = self.store.identity.install_bundle(bundle);
            installed.map_err(|error| error.to_string())
        });
        match installed {
            Ok(true) => {
                tracing::info!(sequence, "trust bundle replaced");
                self.trust();
            }
            // It came with a certificate before: the operator heard of it at the begin of the stream.
            Ok(false) => {}
            Err(reason) => tracing::error!(
                sequence,
                reason,
                "the operator sent an unusable trust bundle: keeping the previous one"
            ),
        }
    }

    /// Reports the counters that changed, and who came in plain.
    pub(super) fn report(&mut self) {
        let groups = self.store.groups().changed(&mut self.reported);
        let again = Instant::now() >= self.again;
        if again {
            self.again = Instant::now() + AGAIN;
        }
        let callers = self.store.telemetry.plain_callers.take(again);
        if !(groups.is_empty() && callers.is_empty()) {
            let plain_callers = callers.into_iter().map(fairlead_proxy_api::octets).collect();
            let report = v1::Report { groups, plain_callers };
            self.outbox.push_back(message(proxy_message::Kind::Report(report)));
        }
    }
}
