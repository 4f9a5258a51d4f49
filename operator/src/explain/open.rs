//! What a question leaves open.
//!
//! An address decides by the blocks that it lies in, and those change only where a block begins or ends; a host by the names that rules speak of.
//! So trying one of each kind is trying all of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_authz::{HostPattern, Rule};

use super::admit::Decided;
use super::request::Request;
use crate::index::Alike;

/// Ways to fill in what is left open that are tried for one kind of pods.
const MAX_TRIALS: usize = 4_096;

/// What becomes of it whatever is filled in; the error says what to add.
pub(super) fn every(
    alike: &Alike,
    address: Option<IpAddr>,
    request: Option<&Request>,
    decide: impl Fn(IpAddr, Option<&str>) -> Decided,
) -> Result<Decided, String> {
    let addresses = address.map_or_else(|| addresses(alike), |address| vec![address.to_canonical()]);
    let hosts = match request {
        Some(request) if request.host.is_none() => hosts(alike),
        Some(request) => vec![request.host.clone()],
        None => vec![None],
    };
    if addresses.len().saturating_mul(hosts.len()) > MAX_TRIALS {
        return Err("rules look at too many addresses and hosts to try them all: say where the caller is (--from-address) and whom it asks for (--host)".to_owned());
    }
    let mut answer: Option<Decided> = None;
    for host in &hosts {
        let mut of_host: Option<Decided> = None;
        for address in &addresses {
            let decided = decide(*address, host.as_deref());
            if of_host.get_or_insert_with(|| decided.clone()) != &decided {
                return Err("it depends on the caller's address: say where it calls from (--from-address)".to_owned());
            }
        }
        if let Some(decided) = of_host
            && answer.get_or_insert_with(|| decided.clone()) != &decided
        {
            return Err("it depends on the host that the request is for: say it (--host)".to_owned());
        }
    }
    answer.ok_or_else(|| "nothing was tried".to_owned())
}

fn rules(alike: &Alike) -> impl Iterator<Item = &Rule> {
    let workload = &alike.workload;
    workload.admission.rules.iter().chain(workload.rehearsal.iter().flat_map(|rehearsal| &rehearsal.rules))
}

/// The first address of each stretch that lies in the same blocks.
fn addresses(alike: &Alike) -> Vec<IpAddr> {
    let mut first = BTreeSet::from([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
    for block in rules(alike).flat_map(|rule| &rule.from).flat_map(|source| &source.cidrs) {
        first.insert(block.network());
        first.extend(match block.broadcast() {
            IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| IpAddr::V4(next.into())),
            IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| IpAddr::V6(next.into())),
        });
    }
    first.into_iter().collect()
}

/// A host of each kind; `None`: one that no rule speaks of.
fn hosts(alike: &Alike) -> Vec<Option<String>> {
    let patterns = rules(alike).flat_map(|rule| &rule.to).flat_map(|to| &to.hosts);
    let named = patterns.map(|pattern| match pattern {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Below(suffix) => format!("any{suffix}"),
    });
    let named: BTreeSet<String> = named.collect();
    std::iter::once(None).chain(named.into_iter().map(Some)).collect()
}
