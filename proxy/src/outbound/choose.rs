//! Where one attempt goes: route, part of the Service, endpoint.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use super::http::{Own, Session};
use crate::{
    balance::{
        self, Endpoint,
        budget::Budget,
        set::{EndpointSet, Picked},
    },
    http::Reason,
    route::{Destination, RequestHead, Route, Service, Target},
};

impl Session {
    /// Where the next attempt goes. `set`: the part of the Service that an earlier attempt went to; as long as it exists no other part
    /// answers in its place.
    pub(super) fn choose<'a>(
        &self,
        destination: &'a Destination,
        head: &RequestHead<'_>,
        set: Option<&str>,
        failed: &[SocketAddr],
    ) -> Result<Choice<'a>, Own> {
        let service = match destination {
            Destination::Service(service) => service,
            Destination::Pod(endpoint) => return Ok(Choice::of(endpoint.clone())),
            Destination::PassThrough => {
                let endpoint = Endpoint::new(self.original, None, "", "", Arc::default());
                return Ok(Choice::of(Arc::new(endpoint)));
            }
        };
        let Some(route) = service.route(head) else {
            return Err(Own::new(Reason::UnresolvedBackend, format!("no route of {} matches", service.name)));
        };
        let chosen = match set.and_then(|name| service.sets.iter().find(|set| set.name == name)) {
            Some(set) => set,
            None => set_of(service, route, balance::random())?,
        };
        let key = chosen.key().and_then(|source| source.key(head, self.worker.mesh.own_addresses.first().copied()));
        let Picked { endpoint, trial } = chosen
            .pick(failed, key, balance::random(), Instant::now())
            .ok_or_else(|| Own::new(Reason::NoEndpoints, format!("{} has no ready endpoint", chosen.name)))?;
        let budget = service.budget.as_ref();
        Ok(Choice { endpoint: endpoint.clone(), set: Some(chosen), trial, route: Some(route), budget })
    }
}

/// An endpoint, and what the route says of the request.
pub(super) struct Choice<'a> {
    pub(super) endpoint: Arc<Endpoint>,
    /// The part of the Service that it was chosen from.
    pub(super) set: Option<&'a Arc<EndpointSet>>,
    /// Its answer decides whether the endpoint, which was left out, returns.
    pub(super) trial: bool,
    /// What it says of the request's tries.
    pub(super) route: Option<&'a Route>,
    /// Of the target.
    pub(super) budget: Option<&'a Budget>,
}

impl Choice<'_> {
    fn of(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, set: None, trial: false, route: None, budget: None }
    }
}

fn set_of<'a>(service: &'a Service, route: &Route, random: u64) -> Result<&'a Arc<EndpointSet>, Own> {
    let unresolved = |why: &str| Own::new(Reason::UnresolvedBackend, why);
    match route.split.choose(random) {
        None => Err(Own::new(Reason::NoEndpoints, format!("all backends of {} have weight 0", service.name))),
        Some(Target::Unresolved(why)) => Err(unresolved(why)),
        Some(Target::Set(index)) => {
            service.sets.get(*index).ok_or_else(|| unresolved("the backend's endpoint set is missing"))
        }
    }
}
