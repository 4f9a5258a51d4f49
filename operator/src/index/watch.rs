//! Feeds the index from the API server.
//!
//! # Expected flow
//! [`run`] lists and watches six kinds. Once each has been listed the index is ready. Changes are applied as they come, and their
//! effects computed [`DEBOUNCE`] after the first of a burst.
//!
//! # Caveats
//! A watch can end or fall behind at any time; `kube` then lists again, and what the listing lacks is deleted. Until then the
//! index keeps what it has: an API server that is away takes nothing from proxies.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::{Canary, PeerAuth, TrafficPolicy};
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Index, Kind};
use crate::model::ObjectName;

/// How long changes are gathered before their effects are computed. A rollout changes a pod, its slice and a policy's status within
/// milliseconds; a person does not notice the wait.
pub const DEBOUNCE: Duration = Duration::from_millis(10);
/// Ends each watch after this many seconds, because one that died silently is otherwise never noticed.
const WATCH_TIMEOUT: u32 = 200;
/// How often resources without listeners are forgotten.
const SWEEP: Duration = Duration::from_secs(10);
/// Objects of a listing that are in memory at once, per kind.
const PAGE: u32 = 250;

/// What a watch did to the index.
struct Step {
    /// The first listing of its kind is complete.
    first_listing: bool,
}

/// Feeds the index until `shutdown` is done.
pub async fn run(client: Client, index: Arc<Index>, shutdown: impl Future<Output = ()>) {
    let mut steps = SelectAll::new();
    steps.push(feed::<Service>(&client, &index));
    steps.push(feed::<EndpointSlice>(&client, &index));
    steps.push(feed::<Pod>(&client, &index));
    steps.push(feed::<DeserializeGuard<TrafficPolicy>>(&client, &index));
    steps.push(feed::<DeserializeGuard<PeerAuth>>(&client, &index));
    steps.push(feed::<DeserializeGuard<Canary>>(&client, &index));
    drive(&index, steps, shutdown).await;
}

async fn drive(index: &Index, mut steps: SelectAll<BoxStream<'static, Step>>, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
    let mut to_list = steps.len();
    let mut flush_at: Option<Instant> = None;
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            // Before further changes, so that an endless burst cannot put it off.
            () = async { tokio::time::sleep_until(flush_at.unwrap_or_else(Instant::now)).await }, if flush_at.is_some() => {
                index.flush();
                flush_at = None;
            }
            Some(step) = steps.next() => {
                if step.first_listing {
                    to_list -= 1;
                    if to_list == 0 {
                        index.set_ready();
                        tracing::info!("the cluster has been listed");
                    }
                }
                if flush_at.is_none() && index.is_dirty() {
                    flush_at = Some(Instant::now() + DEBOUNCE);
                }
            }
            _ = sweep.tick() => index.sweep(),
        }
    }
}

/// Watches one kind and applies it. `kube` restarts what fails, with growing pauses, so that the stream never ends.
fn feed<K>(client: &Client, index: &Arc<Index>) -> BoxStream<'static, Step>
where
    K: Kind + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let config = watcher::Config::default().timeout(WATCH_TIMEOUT).page_size(PAGE);
    let events = watcher(api, config).default_backoff();
    let index = Arc::clone(index);
    let mut listing = Listing::default();
    let steps = events.filter_map(move |event| {
        let step = match event {
            Ok(event) => listing.take(&index, event),
            Err(error) => {
                let kind = K::kind(&());
                tracing::warn!(%kind, %error, "watch failed: what is known stays in force, the watch is begun again");
                None
            }
        };
        std::future::ready(step)
    });
    steps.boxed()
}

/// Where a kind's watch stands.
#[derive(Default)]
struct Listing {
    names: HashSet<ObjectName>,
    listed_before: bool,
}

impl Listing {
    fn take<K: Kind + Resource>(&mut self, index: &Index, event: watcher::Event<K>) -> Option<Step> {
        let mut first_listing = false;
        match event {
            watcher::Event::Apply(object) => index.apply(object),
            watcher::Event::Delete(object) => index.delete::<K>(&name_of(&object)),
            watcher::Event::Init => {
                self.names.clear();
                return None;
            }
            watcher::Event::InitApply(object) => {
                self.names.insert(name_of(&object));
                index.apply(object);
            }
            watcher::Event::InitDone => {
                index.retain::<K>(&std::mem::take(&mut self.names));
                first_listing = !std::mem::replace(&mut self.listed_before, true);
            }
        }
        Some(Step { first_listing })
    }
}

fn name_of(object: &impl Resource) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}
