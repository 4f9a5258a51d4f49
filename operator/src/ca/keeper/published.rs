//! What follows from the state for those who serve.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::State;
use crate::ca::TrustBundle;
use crate::ca::authority::Leaves;

/// Whom to trust, and what leaves should be. A state that breaks later leaves both as they are.
pub async fn published(mut state: watch::Receiver<State>, stop: CancellationToken) -> Option<Published> {
    let first = loop {
        if let State::Ready(authority) = &*state.borrow_and_update() {
            break Arc::clone(authority);
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            changed = state.changed() => changed.ok()?,
        }
    };
    let (bundle, bundles) = watch::channel(Arc::new(first.trust_bundle().clone()));
    let (required, leaves) = watch::channel(first.leaves().clone());
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            if let State::Ready(authority) = &*state.borrow_and_update() {
                bundle.send_if_modified(|bundle| {
                    let changed = **bundle != *authority.trust_bundle();
                    if changed {
                        *bundle = Arc::new(authority.trust_bundle().clone());
                    }
                    changed
                });
                let next = authority.leaves();
                required.send_if_modified(|leaves| std::mem::replace(leaves, next.clone()) != *next);
            }
        }
    });
    Some(Published { bundles, leaves })
}

/// See [`published`].
#[derive(Clone, Debug)]
pub struct Published {
    /// Whom to trust.
    pub bundles: watch::Receiver<Arc<TrustBundle>>,
    /// What leaves should be.
    pub leaves: watch::Receiver<Leaves>,
}
