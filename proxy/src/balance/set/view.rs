//! Who takes part, as of one generation: what picks read without a lock.

use std::sync::{Arc, atomic::AtomicU64};

use super::Shared;
use crate::balance::Endpoint;

/// Who takes part.
#[derive(Debug)]
pub(super) struct View {
    pub(super) generation: u64,
    /// Into the set's endpoints.
    pub(super) usable: Vec<u32>,
    /// By endpoint.
    pub(super) is_usable: Vec<bool>,
    /// Those who are left out.
    pub(super) out: Vec<u32>,
    /// When the first of those may be tried; microseconds of the shared epoch.
    pub(super) due: AtomicU64,
}

impl View {
    /// As everybody does now. Where none is left, all are used.
    pub(super) fn of(generation: u64, endpoints: &[Arc<Endpoint>], shared: &Shared) -> Self {
        let select = |of: fn(&Endpoint) -> bool| {
            (0_u32..).zip(endpoints).filter(move |(_, endpoint)| of(endpoint)).map(|(index, _)| index)
        };
        let out: Vec<u32> = select(|endpoint| endpoint.health.is_out()).collect();
        let mut usable: Vec<u32> =
            select(|endpoint| !endpoint.health.is_out() && !endpoint.health.is_unhealthy()).collect();
        if usable.is_empty() {
            usable = select(|_| true).collect();
        }
        let mut is_usable = vec![false; endpoints.len()];
        for index in &usable {
            is_usable[*index as usize] = true;
        }
        let due = due(&out, endpoints, shared).into();
        Self { generation, usable, is_usable, out, due }
    }
}

/// When the first of those that are left out may be tried; microseconds of the shared epoch.
pub(super) fn due(out: &[u32], endpoints: &[Arc<Endpoint>], shared: &Shared) -> u64 {
    let due = out.iter().filter_map(|index| endpoints[*index as usize].health.due());
    due.min().map_or(u64::MAX, |due| shared.micros(due))
}
