//! Renewal: a new key and certificate at half the life of the old, as soon as peers would no longer accept it, and when the operator asks for it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_identity::leaf::Claims;

use super::{
    Identity, TrustBundle,
    certify::{CertifyError, Issued},
};
use crate::backoff;

/// The wall clock may jump (a suspended machine, a corrected clock), timers do not follow: look again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// First wait after a failed attempt.
const RETRY_BASE: Duration = Duration::from_millis(500);
/// The longest wait between attempts; half a day is left when the first fails, and two minutes of the shortest life that can be set.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Half the life, ±10 % of it by `random` (0..1), so that pods that started together do not renew together.
pub fn renew_at(claims: &Claims, random: f64) -> SystemTime {
    let life = claims.not_after.duration_since(claims.not_before).unwrap_or_default();
    claims.not_before + life.mul_f64(0.45 + random.clamp(0.0, 1.0) * 0.1)
}

/// Gets the first certificate, however long that takes. `issue` is [`Certifier::certify`](super::certify::Certifier::certify).
pub async fn first(
    issue: impl AsyncFn(Option<Arc<TrustBundle>>) -> Result<Issued, CertifyError>,
    random: impl Fn() -> f64,
) -> Issued {
    obtain(&issue, &random, || None).await
}

/// Renews `identity` for ever. `wall` is the clock that certificates speak of, `random` gives 0..1.
pub async fn keep(
    identity: &Identity,
    issue: impl AsyncFn(Option<Arc<TrustBundle>>) -> Result<Issued, CertifyError>,
    wall: impl Fn() -> SystemTime,
    random: impl Fn() -> f64,
) {
    loop {
        due(identity, renew_at(identity.leaf().claims(), random()), &wall, &random).await;
        let issued = obtain(&issue, &random, || Some(identity.bundle())).await;
        let not_after = issued.leaf.claims().not_after;
        match identity.install(issued) {
            Ok(()) => tracing::info!(
                identity = %identity.own(),
                valid_for = ?not_after.duration_since(wall()).unwrap_or_default(),
                "certificate renewed"
            ),
            Err(error) => tracing::error!(%error, "cannot use the renewed certificate"),
        }
        // Whatever happened, never ask in a tight loop.
        tokio::time::sleep(RETRY_BASE).await;
    }
}

/// Returns when it is time to renew: at `at`, at the moment that was drawn when the operator asked, when a new bundle no longer covers the leaf, or
/// when somebody doubts it.
async fn due(identity: &Identity, mut at: SystemTime, wall: &impl Fn() -> SystemTime, random: &impl Fn() -> f64) {
    let mut changes = identity.changes();
    let mut asked = identity.asked.subscribe();
    loop {
        let Ok(left) = at.duration_since(wall()) else {
            return;
        };
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            () = identity.doubted.notified() => {
                tracing::info!("the operator seems not to accept this certificate: renewing");
                return;
            }
            _ = asked.changed() => {
                let within = *asked.borrow_and_update();
                // Whoever is asked twice does not wait longer for it.
                at = at.min(wall() + within.mul_f64(random().clamp(0.0, 1.0)));
                tracing::info!(within = ?within, "the operator asks for a new certificate");
            }
            _ = changes.changed() => {
                if !identity.leaf().verifies_under(&identity.bundle(), wall()) {
                    tracing::info!("the trust bundle no longer covers this certificate: renewing");
                    return;
                }
            }
        }
    }
}

async fn obtain(
    issue: &impl AsyncFn(Option<Arc<TrustBundle>>) -> Result<Issued, CertifyError>,
    random: &impl Fn() -> f64,
    known: impl Fn() -> Option<Arc<TrustBundle>>,
) -> Issued {
    let mut attempt = 0;
    loop {
        match issue(known()).await {
            Ok(issued) => return issued,
            Err(error) => {
                let wait = backoff::delay(attempt, RETRY_BASE, RETRY_MAX, random());
                tracing::warn!(%error, retry_in = ?wait, "no certificate");
                tokio::time::sleep(wait).await;
                attempt += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::identity::testing::{Authority, DAY, domain};

    const OWN: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

    #[test]
    fn half_of_the_life_with_a_tenth_of_jitter() {
        let authority = Authority::new();
        let leaf = authority.leaf(OWN);
        let start = leaf.claims().not_before;
        let life = leaf.claims().not_after.duration_since(start).unwrap();
        assert_eq!(renew_at(leaf.claims(), 0.0), start + life.mul_f64(0.45));
        assert_eq!(renew_at(leaf.claims(), 0.5), start + life.mul_f64(0.5));
        assert_eq!(renew_at(leaf.claims(), 1.0), start + life.mul_f64(0.55));
    }

    /// A wall clock that follows tokio's paused one.
    fn wall() -> impl Fn() -> SystemTime + Clone {
        let (start, base) = (tokio::time::Instant::now(), SystemTime::now());
        move || base + start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn renews_at_half_life_and_retries_while_the_old_one_lasts() {
        let authority = Authority::new();
        let identity = Identity::new(domain(), authority.leaf(OWN), authority.bundle(1)).unwrap();
        let wall = wall();
        let start = wall();
        let asked = AtomicU32::new(0);
        let issue = async |known: Option<Arc<TrustBundle>>| {
            assert!(known.is_some());
            if asked.fetch_add(1, Ordering::Relaxed) < 3 {
                return Err(CertifyError::Token("/token".into()));
            }
            Ok(Issued { leaf: authority.leaf_valid(OWN, (wall(), wall() + DAY)), bundle: authority.bundle(2) })
        };
        let first = identity.leaf();
        let mut changes = identity.changes();
        tokio::select! {
            () = keep(&identity, issue, wall.clone(), || 0.5) => panic!("it keeps on for as long as it is polled"),
            _ = changes.wait_for(|change| change.leaves == 2) => {}
        }
        let after = wall().duration_since(start).unwrap();
        assert!(after.abs_diff(DAY / 2) < Duration::from_secs(180), "{after:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        assert!(identity.leaf().claims().not_after > first.claims().not_after);
        assert_eq!(identity.bundle().sequence(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaf_of_minutes_is_renewed_in_time_again_and_again_also_where_the_operator_is_away_for_a_while() {
        let authority = Authority::new();
        let (wall, backdated) = (wall(), Duration::from_secs(120));
        let life = Duration::from_secs(5 * 60);
        let leaf = || authority.leaf_valid(OWN, (wall() - backdated, wall() + life));
        let identity = Identity::new(domain(), leaf(), authority.bundle(1)).unwrap();
        let asked = AtomicU32::new(0);
        // Each renewal is refused three times first.
        let issue = async |_: Option<Arc<TrustBundle>>| {
            if asked.fetch_add(1, Ordering::Relaxed) % 4 != 3 {
                return Err(CertifyError::Token("/token".into()));
            }
            Ok(Issued { leaf: leaf(), bundle: authority.bundle(1) })
        };
        let mut changes = identity.changes();
        let watch = async {
            for leaves in 2..22 {
                let ends = identity.leaf().claims().not_after;
                changes.wait_for(|change| change.leaves == leaves).await.unwrap();
                let left = ends.duration_since(wall()).unwrap();
                assert!(left > Duration::from_secs(120), "renewed when {left:?} were left of five minutes");
            }
        };
        tokio::select! {
            () = keep(&identity, issue, wall.clone(), || 1.0) => panic!("it keeps on for as long as it is polled"),
            () = watch => {}
        }
        // Within the rate limit of the operator: one every six seconds.
        assert_eq!(asked.load(Ordering::Relaxed), 80);
    }

    #[tokio::test(start_paused = true)]
    async fn renews_when_the_operator_asks_and_not_later_for_being_asked_twice() {
        let authority = Authority::new();
        let identity = Identity::new(domain(), authority.leaf(OWN), authority.bundle(1)).unwrap();
        let wall = wall();
        let start = wall();
        let issue = async |_: Option<Arc<TrustBundle>>| {
            Ok(Issued { leaf: authority.leaf_valid(OWN, (wall(), wall() + DAY)), bundle: authority.bundle(1) })
        };
        let mut changes = identity.changes();
        let ask = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            identity.renew_within(Duration::from_secs(100));
            tokio::time::sleep(Duration::from_secs(40)).await;
            identity.renew_within(Duration::from_secs(100));
            changes.wait_for(|change| change.leaves == 2).await.unwrap();
        };
        tokio::select! {
            () = keep(&identity, issue, wall.clone(), || 0.5) => panic!("it keeps on for as long as it is polled"),
            () = ask => {}
        }
        let after = wall().duration_since(start).unwrap();
        assert!(after.abs_diff(Duration::from_secs(110)) < Duration::from_secs(1), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn renews_at_once_when_a_new_bundle_no_longer_covers_the_leaf() {
        let (old, new) = (Authority::new(), Authority::new());
        let identity = Identity::new(domain(), old.leaf(OWN), old.bundle(1)).unwrap();
        let wall = wall();
        let start = wall();
        let issue = async |_: Option<Arc<TrustBundle>>| {
            Ok(Issued { leaf: new.leaf_valid(OWN, (wall(), wall() + DAY)), bundle: new.bundle(2) })
        };
        let mut changes = identity.changes();
        let push = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            identity.install_bundle(new.bundle(2)).unwrap();
            changes.wait_for(|change| change.leaves == 2).await.unwrap();
        };
        tokio::select! {
            () = keep(&identity, issue, wall.clone(), || 0.5) => panic!("it keeps on for as long as it is polled"),
            () = push => {}
        }
        assert!(wall().duration_since(start).unwrap() < Duration::from_secs(120));
    }
}
