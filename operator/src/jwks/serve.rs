//! Between the index, which says what is wanted, and those who fetch it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Fetcher, KeySets, Source};
use crate::index::Index;
use crate::model::FetchedKeys;

/// Fetches what policies name, and tells the index, until stopped.
pub async fn serve(index: Arc<Index>, sets: KeySets, stop: CancellationToken) {
    // Before that, what is wanted is not known.
    index.ready().await;
    let fetcher = Fetcher::default();
    let fetch = |source: Source| {
        let fetcher = fetcher.clone();
        async move { fetcher.fetch(&source).await }
    };
    let mut policies = index.reports_changed();
    let mut published = sets.follow();
    let running = sets.run(fetch, rand::random::<f64>, stop);
    let mut running = std::pin::pin!(running);
    loop {
        // Public authorities vouch for the servers.
        sets.want(index.wanted_keys().into_iter().map(|url| Source { url, roots: None }).collect());
        tokio::select! {
            () = &mut running => return,
            changed = policies.changed() => if changed.is_err() { return },
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
                let sets = Arc::clone(&published.borrow_and_update());
                let keys = sets.iter().map(|(source, set)| {
                    let keys = set.fetched.as_ref().map(|fetched| Arc::clone(&fetched.keys));
                    (source.url.clone(), FetchedKeys { keys, error: set.error.clone() })
                });
                index.set_keys(keys.collect());
            }
        }
    }
}
