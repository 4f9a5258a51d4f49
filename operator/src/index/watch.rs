//! Feeds the index from the API server.
//!
//! # Expected flow
//! [`run`] lists and watches seven kinds. Once each has been listed the index is ready. Changes are applied as they come, and their
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

use fairlead_crds::{CA_LABEL, Canary, PeerAuth, TrafficPolicy};
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{DeserializeGuard, PartialObjectMeta};
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
    let all = watcher::Config::default().timeout(WATCH_TIMEOUT).page_size(PAGE);
    // The others of a cluster are none of our business, and could be many megabytes.
    let authorities = all.clone().labels(&format!("{CA_LABEL}=true"));
    steps.push(feed::<Service>(&client, &index, all.clone()));
    steps.push(feed::<EndpointSlice>(&client, &index, all.clone()));
    steps.push(feed::<Pod>(&client, &index, all.clone()));
    steps.push(feed::<PartialObjectMeta<Node>>(&client, &index, all.clone()));
    steps.push(feed::<ConfigMap>(&client, &index, authorities));
    steps.push(feed::<DeserializeGuard<TrafficPolicy>>(&client, &index, all.clone()));
    steps.push(feed::<DeserializeGuard<PeerAuth>>(&client, &index, all.clone()));
    steps.push(feed::<DeserializeGuard<Canary>>(&client, &index, all));
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
fn feed<K>(client: &Client, index: &Arc<Index>, config: watcher::Config) -> BoxStream<'static, Step>
where
    K: Kind + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
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

#[cfg(test)]
mod tests {
    use futures::stream;
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::index::tests::build::*;
    use crate::model::Destination;

    #[test]
    fn a_listing_that_is_complete_removes_what_it_lacks_and_not_before() {
        let index = index();
        let mut listing = Listing::default();
        let mut take = |event| listing.take(&index, event).is_some_and(|s| s.first_listing);
        let mut first = vec![take(Event::Init)];
        first.push(take(Event::InitApply(pod("a-1-a", "10.0.0.1").build())));
        first.push(take(Event::InitApply(pod("b-1-a", "10.0.0.2").build())));
        first.push(take(Event::InitDone));
        assert_eq!(first, [false, false, false, true]);
        take(Event::Init);
        take(Event::InitApply(pod("b-1-a", "10.0.0.2").build()));
        assert!(index.pod(&name("a-1-a")).is_some(), "it may still be listed");
        assert!(!take(Event::InitDone), "that was the second listing");
        assert!(index.pod(&name("a-1-a")).is_none());
        take(Event::Delete(pod("b-1-a", "10.0.0.2").build()));
        assert!(index.pod(&name("b-1-a")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn ready_after_all_first_listings_and_effects_come_in_bursts() {
        let index = Arc::new(index());
        let (events, received) = tokio::sync::mpsc::unbounded_channel();
        let received = tokio_stream::wrappers::UnboundedReceiverStream::new(received);
        let mut listing = Listing::default();
        let fed = Arc::clone(&index);
        let steps = received.filter_map(move |event: Event<Pod>| std::future::ready(listing.take(&fed, event)));
        let mut all = SelectAll::new();
        all.push(steps.boxed());
        all.push(stream::iter([Step { first_listing: true }]).chain(stream::pending()).boxed());
        let driven = Arc::clone(&index);
        let driver = tokio::spawn(async move { drive(&driven, all, std::future::pending()).await });

        let mut listener = index.subscribe(at("10.0.0.1:80")).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!index.is_ready(), "one kind is not listed yet");
        events.send(Event::InitDone).unwrap();
        index.ready().await;

        events.send(Event::Apply(pod("a-1-a", "10.0.0.1").build())).unwrap();
        tokio::time::sleep(DEBOUNCE / 2).await;
        events.send(Event::Apply(pod("a-1-a", "10.0.0.1").account("other").build())).unwrap();
        assert!(!listener.has_changed().unwrap(), "a burst is waited for");
        listener.changed().await.unwrap();
        let leads_to = destination(&index, "10.0.0.1:80");
        let Destination::Pod(endpoint) = leads_to else {
            panic!("not a pod");
        };
        assert!(endpoint.identity.ends_with("/sa/other"));
        driver.abort();
    }
}
