//! How a release divides the weights of a route: arithmetic alone.

use super::canary::WHOLE;

/// What the weights of a divided route add up to at most. Far above any weight that a user writes, so that rounding is below
/// anything that can be measured, and the sum still fits 32 bits.
const SCALE: u64 = 1_000_000_000;

/// A backend that may have to be divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undivided {
    /// As the user wrote it.
    pub weight: u32,
    /// Its endpoints without those of canaries.
    pub endpoints: usize,
    /// The releases among them.
    pub releases: Vec<Release>,
}

/// One Deployment that is being released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// What its canary gets of its traffic, millionths.
    pub share: u32,
    /// How many of the backend's endpoints are its own, stable ones.
    pub stable: usize,
}

/// A backend divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Divided {
    /// Of the endpoints without canaries.
    pub rest: u32,
    /// Of each release's canary.
    pub canaries: Vec<u32>,
}

/// Divides the backends of one route. Without releases the weights stay what they are; with one, all are multiplied by the same
/// number first, so that the proportions between them hold and a share of 0.01 % is not lost.
///
/// A canary gets its share of the *Deployment's* part of the backend: of a Service whose endpoints belong half to another
/// Deployment, a weight of 10 % is 5 % of the requests.
pub(super) fn divide(backends: &[Undivided]) -> Vec<Divided> {
    let sum: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let divided = backends.iter().any(|b| !b.releases.is_empty());
    let factor = if divided && sum > 0 { (SCALE / sum).max(1) } else { 1 };
    backends
        .iter()
        .map(|backend| {
            let whole = u64::from(backend.weight) * factor;
            let mut rest = whole;
            let canaries = backend
                .releases
                .iter()
                .map(|release| {
                    let weight = part(whole, release, backend.endpoints).min(rest);
                    rest -= weight;
                    u32::try_from(weight).unwrap_or(u32::MAX)
                })
                .collect();
            Divided { rest: u32::try_from(rest).unwrap_or(u32::MAX), canaries }
        })
        .collect()
}

/// What the canaries of a route get of all its requests, in millionths.
pub(super) fn share_of_route(backends: &[Undivided]) -> u32 {
    let divided = divide(backends);
    let canaries: u64 = divided.iter().flat_map(|d| &d.canaries).map(|weight| u64::from(*weight)).sum();
    let all: u64 = canaries + divided.iter().map(|d| u64::from(d.rest)).sum::<u64>();
    if all == 0 {
        return 0;
    }
    u32::try_from((canaries * u64::from(WHOLE) + all / 2) / all).unwrap_or(WHOLE)
}

/// `whole * share * stable / endpoints`, rounded to the nearest.
fn part(whole: u64, release: &Release, endpoints: usize) -> u64 {
    let divisor = u128::from(WHOLE) * endpoints as u128;
    if divisor == 0 {
        return 0;
    }
    let product = u128::from(whole) * u128::from(release.share) * release.stable as u128;
    u64::try_from((product + divisor / 2) / divisor).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backend(weight: u32, endpoints: usize, releases: &[(u32, usize)]) -> Undivided {
        let releases = releases.iter().map(|&(share, stable)| Release { share, stable }).collect();
        Undivided { weight, endpoints, releases }
    }

    #[test]
    fn without_a_release_weights_are_the_users() {
        let divided = divide(&[backend(3, 2, &[]), backend(1, 2, &[])]);
        assert_eq!(divided.iter().map(|d| d.rest).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn a_canary_gets_its_share_of_its_own_deployment() {
        // Half of the endpoints belong to another Deployment: 10 % of the release are 5 % of all.
        let divided = divide(&[backend(1, 4, &[(100_000, 2)])]);
        assert_eq!(divided[0].canaries, [50_000_000]);
        assert_eq!(divided[0].rest, 950_000_000);
    }

    #[test]
    fn all_weights_zero_stay_zero() {
        let divided = divide(&[backend(0, 1, &[(WHOLE, 1)])]);
        assert_eq!(divided, [Divided { rest: 0, canaries: vec![0] }]);
    }

    #[test]
    fn a_share_of_the_route_is_that_of_its_backends_by_weight() {
        // A quarter of the requests go where half of the endpoints are the Deployment's.
        let route = [backend(1, 4, &[(WHOLE, 2)]), backend(3, 5, &[])];
        assert_eq!(share_of_route(&route), 125_000);
        assert_eq!(share_of_route(&[backend(1, 1, &[(WHOLE, 1)])]), WHOLE);
        assert_eq!(share_of_route(&[backend(0, 1, &[(WHOLE, 1)])]), 0);
        assert_eq!(share_of_route(&[backend(1, 0, &[])]), 0);
    }

    fn backends() -> impl Strategy<Value = Vec<Undivided>> {
        let one = (0u32..=1_000_000, 1usize..500).prop_flat_map(|(weight, endpoints)| {
            // The releases of one backend share out its endpoints.
            let releases = prop::collection::vec((0u32..=WHOLE, 1usize..=endpoints), 0..3);
            releases.prop_map(move |mut releases| {
                let mut left = endpoints;
                releases.retain_mut(|(_, stable)| {
                    *stable = (*stable).min(left);
                    left -= *stable;
                    *stable > 0
                });
                backend(weight, endpoints, &releases)
            })
        });
        prop::collection::vec(one, 1..=8)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(backends in backends()) {
            let divided = divide(&backends);
            let of = |d: &Divided| u64::from(d.rest) + d.canaries.iter().map(|w| u64::from(*w)).sum::<u64>();
            let before: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
            let after: u64 = divided.iter().map(of).sum();
            prop_assert!(u32::try_from(after).is_ok());
            for (b, d) in backends.iter().zip(&divided) {
                // Proportions between backends hold exactly.
                prop_assert_eq!(u128::from(of(d)) * u128::from(before), u128::from(b.weight) * u128::from(after));
            }
        }

        #[test]
        fn shares_are_those_of_the_deployments(backends in backends()) {
            let divided = divide(&backends);
            for (b, d) in backends.iter().zip(&divided) {
                let whole = f64::from(d.rest) + d.canaries.iter().map(|w| f64::from(*w)).sum::<f64>();
                for (release, weight) in b.releases.iter().zip(&d.canaries) {
                    let wanted = whole * f64::from(release.share) / f64::from(WHOLE) * release.stable as f64 / b.endpoints as f64;
                    prop_assert!((f64::from(*weight) - wanted).abs() <= 2.0, "{} instead of {}", weight, wanted);
                }
            }
        }

        #[test]
        fn the_share_of_a_route_is_the_mean_of_its_backends(backends in backends()) {
            let sum: f64 = backends.iter().map(|b| f64::from(b.weight)).sum();
            let of = |b: &Undivided| {
                let parts = b.releases.iter().map(|r| f64::from(r.share) * r.stable as f64 / b.endpoints as f64);
                f64::from(b.weight) * parts.sum::<f64>()
            };
            let wanted = if sum > 0.0 { backends.iter().map(of).sum::<f64>() / sum } else { 0.0 };
            let share = share_of_route(&backends);
            prop_assert!((f64::from(share) - wanted).abs() <= 1.0, "{} instead of {}", share, wanted);
            prop_assert!(share <= WHOLE);
        }
    }
}
