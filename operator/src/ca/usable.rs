//! Says whether certificates can be issued: to readiness, and to whoever watches the metrics.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::keeper::State;
use crate::telemetry::Condition;

/// 1 while certificates can be issued, 0 while they cannot.
pub fn gauge(registry: &mut Registry) -> Gauge {
    let gauge = Gauge::default();
    registry.register(
        "certificate_authority_usable",
        "Whether certificates can be issued; 0: a Secret is missing or damaged, the log says which and how to mend it",
        gauge.clone(),
    );
    gauge
}

/// Follows the state until its keeper is gone.
///
/// Nothing is ready before there was an authority. One that breaks later does not take readiness back: whoever was ready goes on admitting pods
/// and configuring proxies, which needs no new certificate for as long as the present ones last, and being unready on all replicas at
/// once would take the injector from every pod that starts.
pub async fn follow(mut state: watch::Receiver<State>, condition: Condition, usable: Gauge) {
    let mut loaded = false;
    loop {
        let present = state.borrow_and_update().authority();
        usable.set(present.is_ok().into());
        loaded |= present.is_ok();
        condition.set(if loaded { Ok(()) } else { present.map(|_| ()) });
        if state.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::authority::tests::authority;
    use super::*;
    use crate::telemetry::Readiness;

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_breaks_later_is_told_but_takes_no_readiness_back() {
        let (sender, state) = watch::channel(State::Starting);
        let (readiness, usable) = (Readiness::default(), Gauge::default());
        tokio::spawn(follow(state, readiness.condition("certificate authority"), usable.clone()));
        let ready = Arc::new(authority());
        for (next, missing, can_issue) in [
            (State::Broken("mend it".to_owned()), vec!["certificate authority: mend it"], 0),
            (State::Ready(Arc::clone(&ready)), vec![], 1),
            (State::Broken("mend it".to_owned()), vec![], 0),
            (State::Ready(ready), vec![], 1),
        ] {
            sender.send(next).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            assert_eq!(readiness.missing(), missing);
            assert_eq!(usable.get(), can_issue);
        }
    }
}
