//! Waiting for something to become true that others change.

use std::pin::pin;

use tokio::sync::Notify;

/// What `look` finds, at once or after some of the `news`; it is asked again after each.
pub(crate) async fn until<T>(news: &Notify, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut next = pin!(news.notified());
        // Before looking, so that nothing is missed that changes in between.
        next.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        next.await;
    }
}
