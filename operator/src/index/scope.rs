//! Whose policy holds for what.
//!
//! A policy is attached to a port of a Service, to a Service, or to a namespace (as defaults of its Services). It holds for all
//! callers if it lies in the namespace of what it is attached to (the producer's policy), and otherwise for the callers of its own
//! namespace alone (a consumer's). For one caller and one port up to six policies hold at once, the more specific first:
//!
//! 1. the consumer's for the port, 2. the consumer's for the Service,
//! 3. the producer's for the port, 4. the producer's for the Service,
//! 5. the consumer's defaults for the namespace, 6. the producer's defaults for the namespace.
//!
//! Each field of the specification comes from the first of them that sets it. Of several policies with one [`Attachment`] the oldest
//! holds, then the first by name.

use std::collections::BTreeSet;

use super::compile::Shared;
use super::service::ServicePort;
use super::state::State;
use super::traffic_policy::{RateLimitRule, Rules};
use crate::model::{ObjectName, Protocol, ResourceName};

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attachment {
    /// The policy's own namespace.
    pub from: String,
    pub target: Target,
}

/// What a policy is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A Service, or its port of this name alone.
    Service { service: ObjectName, section: Option<String> },
    /// The Services of a namespace.
    Namespace(String),
}

impl Target {
    fn namespace(&self) -> &str {
        match self {
            Self::Service { service, .. } => &service.namespace,
            Self::Namespace(name) => name,
        }
    }
}

impl Attachment {
    fn service(from: &str, service: &ObjectName, section: Option<&str>) -> Self {
        let section = section.map(str::to_owned);
        Self { from: from.to_owned(), target: Target::Service { service: service.clone(), section } }
    }

    fn namespace(from: &str, namespace: &str) -> Self {
        Self { from: from.to_owned(), target: Target::Namespace(namespace.to_owned()) }
    }

    /// Whether it holds for callers of its own namespace alone.
    pub(super) fn is_consumers(&self) -> bool {
        self.from != self.target.namespace()
    }
}

/// The policies that hold for a port of a Service, the more specific first.
pub(super) struct Policies<'a>(Vec<(&'a ObjectName, &'a Rules)>);

impl<'a> Policies<'a> {
    /// Each that takes part.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a ObjectName, &'a Rules)> {
        self.0.iter().copied()
    }

    /// A field, from the first policy that sets it.
    pub(super) fn first<T>(&self, field: impl Fn(&'a Rules) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|(_, rules)| field(rules))
    }

    /// The policy whose routes hold: they come with the subsets that they name.
    pub(super) fn routes(&self) -> Option<&'a Rules> {
        self.first(|rules| (!rules.routes.is_empty()).then_some(rules))
    }

    /// What a port's bytes are: what a policy says, or what the Service says.
    pub(super) fn protocol(&self, port: &ServicePort) -> Protocol {
        let stated = self.first(|rules| rules.protocol).unwrap_or(port.protocol);
        // Who is limited must not get round it by looking like something else for a while.
        let limited = stated == Protocol::Detect && self.rate_limits().is_some();
        if limited { Protocol::Http1 } else { stated }
    }

    /// How many requests the pods take.
    pub(super) fn rate_limits(&self) -> Option<&'a [RateLimitRule]> {
        self.first(|rules| (!rules.rate_limits.is_empty()).then_some(rules.rate_limits.as_slice()))
    }
}

impl State {
    /// The policies that hold where `caller` (a namespace; `None`: one without policies for others' Services) reaches a port of a
    /// Service. A port without a name is met by no section.
    pub(super) fn policies_on(&self, service: &ObjectName, port: &str, caller: Option<&str>) -> Policies<'_> {
        let producer = service.namespace.as_str();
        let consumer = caller.filter(|caller| *caller != producer);
        let section = Some(port).filter(|port| !port.is_empty());
        let mut attachments = Vec::with_capacity(6);
        for from in consumer.into_iter().chain([producer]) {
            attachments.extend(section.map(|port| Attachment::service(from, service, Some(port))));
            attachments.push(Attachment::service(from, service, None));
        }
        attachments.extend(consumer.into_iter().chain([producer]).map(|from| Attachment::namespace(from, producer)));
        Policies(attachments.iter().filter_map(|attachment| self.holder(attachment)).collect())
    }

    /// The policy that holds of those with this attachment: the oldest that can be used, then the first by name.
    pub(super) fn holder(&self, attachment: &Attachment) -> Option<(&ObjectName, &Rules)> {
        let names = self.attached.get(attachment)?;
        let usable = names.iter().filter_map(|name| {
            let policy = self.policies.get(name)?;
            let rules = policy.in_force.as_ref().filter(|rules| rules.attachment == *attachment)?;
            Some((policy.created, name, rules))
        });
        usable.min_by_key(|(created, name, _)| (*created, *name)).map(|(_, name, rules)| (name, rules))
    }

    /// What of the caller matters to what it is told: nothing, if no policy of its namespace is about others' Services.
    pub(super) fn scope<'a>(&self, caller: &'a str) -> Option<&'a str> {
        self.consumers.contains_key(caller).then_some(caller)
    }

    /// What is known already of an address for callers without policies of their own.
    pub(super) fn shared_with(&self, name: &ResourceName) -> Shared {
        let ResourceName::Destination { address, .. } = name else {
            return Shared::new();
        };
        let known = self.subscriptions.of_address(*address, |caller| self.scope(caller).is_none());
        known.map(|compiled| (*address, compiled)).into_iter().collect()
    }

    /// Notes, or forgets, what a policy is attached to.
    pub(super) fn attach(&mut self, name: &ObjectName, attachment: &Attachment, attached: bool) {
        let members = self.attached.entry(attachment.clone()).or_default();
        let consumers = self.consumers.entry(attachment.from.clone()).or_default();
        if attached {
            members.insert(name.clone());
            if attachment.is_consumers() {
                consumers.insert(name.name.clone());
            }
        } else {
            members.remove(name);
            consumers.remove(&name.name);
        }
        if members.is_empty() {
            self.attached.remove(attachment);
        }
        if consumers.is_empty() {
            self.consumers.remove(&attachment.from);
        }
    }
}

/// The names of a namespace's policies for others' Services.
pub(super) type Consumers = std::collections::HashMap<String, BTreeSet<String>>;
