//! Who takes part, as of one generation: what picks read without a lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use super::{Behaviour, Shared, Spill};
use crate::balance::{
    Endpoint,
    locality::{self, WHOLE},
};

/// Who takes part.
#[derive(Debug)]
pub(super) struct View {
    pub(super) generation: u64,
    /// The nearest first; none without endpoints.
    pub(super) levels: Vec<Level>,
    /// By endpoint: the level in which it takes part.
    pub(super) level_of: Vec<Option<u32>>,
    /// Those who are left out.
    pub(super) out: Vec<u32>,
    /// When the first of those may be tried; microseconds of the shared epoch.
    pub(super) due: AtomicU64,
}

/// Endpoints that are equally far.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// Those who take part, into the set's endpoints; at least one.
    pub(super) usable: Vec<u32>,
    /// Of [`WHOLE`], up to and with this level.
    until: u64,
}

impl View {
    /// As everybody does now. Where none is left, all are used.
    pub(super) fn of(generation: u64, endpoints: &[Arc<Endpoint>], behaviour: &Behaviour, shared: &Shared) -> Self {
        let out: Vec<u32> =
            (0..).zip(endpoints).filter(|(_, endpoint)| endpoint.health.is_out()).map(|(index, _)| index).collect();
        let due = due(&out, endpoints, shared).into();
        // What checks found means nothing once there are none.
        let checked = behaviour.check.is_some();
        let takes_part = |Endpoint { health, .. }: &Endpoint| !health.is_out() && (!checked || !health.is_unhealthy());
        let mut levels = match &behaviour.spill {
            None => together(endpoints, takes_part),
            Some(spill) => by_distance(endpoints, spill, takes_part),
        };
        if levels.is_empty() {
            levels = together(endpoints, |_| true);
        }
        let mut level_of = vec![None; endpoints.len()];
        for (number, level) in (0..).zip(&levels) {
            for index in &level.usable {
                level_of[*index as usize] = Some(number);
            }
        }
        Self { generation, levels, level_of, out, due }
    }

    /// Which level gets a request; there must be one. `random` is spread over all numbers.
    pub(super) fn level(&self, random: u64) -> usize {
        if self.levels.len() <= 1 {
            return 0;
        }
        let drawn = random % WHOLE;
        self.levels.partition_point(|level| level.until <= drawn).min(self.levels.len() - 1)
    }
}

fn together(endpoints: &[Arc<Endpoint>], takes_part: impl Fn(&Endpoint) -> bool) -> Vec<Level> {
    let usable: Vec<u32> =
        (0..).zip(endpoints).filter(|(_, endpoint)| takes_part(endpoint)).map(|(index, _)| index).collect();
    if usable.is_empty() { Vec::new() } else { vec![Level { usable, until: WHOLE }] }
}

/// Levels without anybody are left out; one that gets nothing is there for what fails nearer by.
fn by_distance(endpoints: &[Arc<Endpoint>], spill: &Spill, takes_part: impl Fn(&Endpoint) -> bool) -> Vec<Level> {
    let mut found: BTreeMap<u32, (Vec<u32>, u32)> = BTreeMap::new();
    for (index, endpoint) in (0..).zip(endpoints) {
        let (usable, all) = found.entry(endpoint.level).or_default();
        *all += 1;
        if takes_part(endpoint) {
            usable.push(index);
        }
    }
    let counted: Vec<_> = found
        .iter()
        .map(|(level, (usable, all))| {
            let unready = spill.unready.get(*level as usize).copied().unwrap_or_default();
            locality::Level { healthy: usable.len() as u32, all: all.saturating_add(unready) }
        })
        .collect();
    let mut until = 0;
    let shares = locality::shares(&counted, spill.min_healthy);
    found
        .into_values()
        .zip(shares)
        .filter(|((usable, _), _)| !usable.is_empty())
        .map(|((usable, _), share)| {
            until += share;
            Level { usable, until }
        })
        .collect()
}

/// When the first of those that are left out may be tried; microseconds of the shared epoch.
pub(super) fn due(out: &[u32], endpoints: &[Arc<Endpoint>], shared: &Shared) -> u64 {
    let due = out.iter().filter_map(|index| endpoints[*index as usize].health.due());
    due.min().map_or(u64::MAX, |due| shared.micros(due))
}
