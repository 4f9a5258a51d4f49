//! Whom Strict would cut off: plain callers by name, for the status of each `PeerAuth` that concerns whom they call.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use fairlead_crds::WorkloadReadiness;

use crate::index::pod::Pod;
use crate::index::state::State;
use crate::model::ObjectName;

/// Workloads of a status, and callers of a workload: as many as its schema takes, and more than anybody reads.
const MAX_WORKLOADS: usize = 32;
const MAX_CALLERS: usize = 16;

impl State {
    /// By `PeerAuth`; `called` says from which addresses pods were called in plain.
    pub(in crate::index) fn readiness(
        &self,
        called: &HashMap<ObjectName, BTreeSet<IpAddr>>,
    ) -> HashMap<ObjectName, Vec<WorkloadReadiness>> {
        let mut by_auth: HashMap<ObjectName, BTreeMap<String, BTreeSet<String>>> = HashMap::new();
        for (name, addresses) in called {
            let Some(pod) = self.pods.get(name) else { continue };
            let workload = workload(name, pod);
            for concerned in self.concerned(&name.namespace, &pod.labels) {
                let callers = by_auth.entry(concerned.object).or_default().entry(workload.clone()).or_default();
                callers.extend(addresses.iter().map(|address| self.caller(*address)));
            }
        }
        let readiness = |(workload, callers): (String, BTreeSet<String>)| WorkloadReadiness {
            workload,
            plaintext_callers: i32::try_from(callers.len()).unwrap_or(i32::MAX),
            callers: callers.into_iter().take(MAX_CALLERS).collect(),
        };
        let list = |workloads: BTreeMap<_, _>| workloads.into_iter().take(MAX_WORKLOADS).map(readiness).collect();
        by_auth.into_iter().map(|(auth, workloads)| (auth, list(workloads))).collect()
    }

    /// Who has this address now. A pod that is gone since has left it to nobody, or to somebody else: names are a help and no evidence.
    fn caller(&self, address: IpAddr) -> String {
        let pod = self.pod_ips.get(&address).and_then(|name| Some((name, self.pods.get(name)?)));
        pod.map_or_else(|| address.to_string(), |(name, pod)| workload(name, pod))
    }
}

fn workload(name: &ObjectName, pod: &Pod) -> String {
    let own = pod.deployment.as_ref().unwrap_or(&name.name);
    format!("{}/{own}", name.namespace)
}
