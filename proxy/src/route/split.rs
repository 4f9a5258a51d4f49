//! A weighted choice.

use std::sync::Arc;

/// Where one share of the requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into `Service::sets`.
    Set(usize),
    /// A reference that leads nowhere: 500 with this sentence.
    Unresolved(Arc<str>),
}

/// Targets by weight.
#[derive(Debug)]
pub struct Split<T = Target> {
    /// Each with the sum of the weights up to and with its own, ascending; targets of weight 0 are left out.
    targets: Vec<(u64, T)>,
}

impl<T> Split<T> {
    /// From weights and targets, in any order.
    pub fn new(weighted: impl IntoIterator<Item = (u32, T)>) -> Self {
        let mut sum = 0;
        let targets = weighted
            .into_iter()
            .filter(|(weight, _)| *weight > 0)
            .map(|(weight, target)| {
                sum += u64::from(weight);
                (sum, target)
            })
            .collect();
        Self { targets }
    }

    /// Whether every weight is 0.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The target that a uniformly random number falls on; `None` where every weight is 0.
    pub fn choose(&self, random: u64) -> Option<&T> {
        let (total, last) = self.targets.last()?;
        if self.targets.len() == 1 {
            return Some(last);
        }
        let point = random % total;
        let index = self.targets.partition_point(|(sum, _)| *sum <= point);
        self.targets.get(index).map(|(_, target)| target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn nothing_is_chosen_where_all_weights_are_zero() {
        assert_eq!(Split::new([(0, Target::Set(0)), (0, Target::Set(1))]).choose(7), None);
        assert_eq!(Split::<Target>::new([]).choose(7), None);
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(0_u32..1_000_000, 1..6), seed: u64) {
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            prop_assume!(total > 0);
            let split = Split::new(weights.iter().enumerate().map(|(i, w)| (*w, Target::Set(i))));
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut counts = vec![0_u32; weights.len()];
            let draws = 20_000;
            for _ in 0..draws {
                match split.choose(rng.random()) {
                    Some(Target::Set(i)) => counts[*i] += 1,
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            for (weight, count) in weights.iter().zip(counts) {
                let expected = f64::from(*weight) / total as f64;
                let seen = f64::from(count) / f64::from(draws);
                // Five standard deviations: once in three million draws by chance.
                let tolerance = 5.0 * (expected * (1.0 - expected) / f64::from(draws)).sqrt() + 1e-9;
                prop_assert!((seen - expected).abs() <= tolerance, "weight {weight} of {total}: {seen} of requests");
                if *weight == 0 {
                    prop_assert_eq!(count, 0);
                }
            }
        }
    }
}
