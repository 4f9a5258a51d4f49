//! Reads what [`passage`](crate::canary::passage) decides on, and writes what it decides.

use std::collections::BTreeSet;

use fairlead_crds::{CANARY_LABEL, CLONE_OF_LABEL};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, ListParams, Patch, Preconditions};
use kube::core::Selector;
use kube::{Api, ResourceExt};

use super::Releases;
use crate::canary::act::{Subjects, applying, is_not_found};
use crate::canary::passage::{self, App, Isolating, Labels};
use crate::canary::plan::Note;

/// NetworkPolicies of a namespace that are read. Where there are more, no passage is opened, as one of the rest may matter.
const POLICIES: u32 = 1000;
/// Pods of a Deployment whose labels are looked at: they come from two templates at most.
const PODS: u32 = 500;

/// A Deployment with a clone that is there or about to be.
pub(super) struct HandingOver {
    deployment: String,
    selector: LabelSelector,
    clone: Labels,
}

/// What became of the passages.
#[derive(Default)]
pub(super) struct Kept {
    /// Some stay only until the last pods of a clone are gone.
    pub lingering: bool,
    /// Callers are refused, and nothing can be done about it.
    pub closed: Option<Note>,
}

impl HandingOver {
    /// `None` where there is no clone of this Canary's and none is made.
    pub(super) fn read(subjects: &Subjects<'_>, about_to: bool) -> Option<Self> {
        let deployment = subjects.deployment?;
        let uid = &subjects.canary["metadata"]["uid"];
        let ours = subjects.clone.filter(|clone| {
            let owners = clone["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|owner| owner["uid"] == *uid)
        });
        let template = if about_to { &deployment["spec"]["template"] } else { &ours?["spec"]["template"] };
        let name = deployment["metadata"]["name"].as_str()?.to_owned();
        let mut clone: Labels = serde_json::from_value(template["metadata"]["labels"].clone()).unwrap_or_default();
        clone.insert(CLONE_OF_LABEL.to_owned(), name.clone());
        let selector = serde_json::from_value(deployment["spec"]["selector"].clone()).ok()?;
        Some(Self { deployment: name, selector, clone })
    }
}

impl Releases {
    /// Opens the passages that a clone needs, closes what it does not need any more, and what is left of earlier ones once the last
    /// pod of theirs is gone.
    pub(super) async fn keep_passages(
        &self,
        namespace: &str,
        canary: &str,
        subject: Option<&HandingOver>,
    ) -> kube::Result<Kept> {
        let api = Api::<NetworkPolicy>::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default().limit(POLICIES);
        if subject.is_none() {
            params = params.labels(&format!("{CANARY_LABEL}={canary}"));
        }
        let list = api.list(&params).await?;
        let too_many = list.metadata.continue_.is_some_and(|more| !more.is_empty());
        let (ours, others): (Vec<_>, Vec<_>) =
            list.items.into_iter().partition(|policy| passage::is_ours(Some(policy.labels())));
        let ours: Vec<_> = ours.into_iter().filter(|policy| policy.labels()[CANARY_LABEL] == canary).collect();

        let mut kept = Kept::default();
        let mut wanted: Vec<NetworkPolicy> = Vec::new();
        let taken: BTreeSet<String> = others.iter().map(ResourceExt::name_any).collect();
        let policies: Vec<_> = others.into_iter().filter_map(Isolating::read).collect();
        if let Some(subject) = subject.filter(|_| !too_many && policies.iter().any(|p| p.ingress || p.egress)) {
            let app = App {
                deployment: subject.deployment.clone(),
                canary: canary.to_owned(),
                selector: subject.selector.clone(),
                stable: self.stable_labels(namespace, &subject.selector).await?,
                clone: subject.clone.clone(),
            };
            for passage in passage::passages(&app, namespace, &policies) {
                wanted.push(serde_json::from_value(passage).map_err(kube::Error::SerdeError)?);
            }
            kept.closed = passage::closed(&app, &policies).map(closed);
        }
        for policy in &wanted {
            let name = policy.name_any();
            if taken.contains(&name) {
                // A user's own: not to be written over, nor deleted later.
                kept.closed = Some(name_taken(&name));
                continue;
            }
            if ours.iter().any(|known| known.name_any() == name && same(known, policy)) {
                continue;
            }
            api.patch(&name, &applying(), &Patch::Apply(policy)).await?;
            tracing::info!(
                namespace,
                canary,
                policy = name,
                "NetworkPolicy written: pods of the canary hand callers over"
            );
        }
        for policy in ours {
            let name = policy.name_any();
            if wanted.iter().any(|wanted| wanted.name_any() == name) {
                continue;
            }
            let deployment = &policy.labels()[CLONE_OF_LABEL];
            let needed = subject.is_none_or(|subject| subject.deployment != *deployment)
                && self.has_clone_pods(namespace, deployment).await?;
            if needed {
                kept.lingering = true;
                continue;
            }
            let params =
                DeleteParams::default().preconditions(Preconditions { uid: policy.uid(), resource_version: None });
            match api.delete(&name, &params).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => tracing::info!(namespace, canary, policy = name, "NetworkPolicy deleted: no pod needs it"),
            }
        }
        Ok(kept)
    }

    /// The labels of a Deployment's own pods, each set once.
    pub(super) async fn stable_labels(&self, namespace: &str, selector: &LabelSelector) -> kube::Result<Vec<Labels>> {
        let Ok(selector) = Selector::try_from(selector.clone()) else { return Ok(Vec::new()) };
        let params = ListParams::default().labels_from(&selector).limit(PODS);
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace).list_metadata(&params).await?;
        let all = pods.items.into_iter().filter_map(|pod| pod.metadata.labels);
        Ok(all.filter(|labels| !labels.contains_key(CLONE_OF_LABEL)).collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn has_clone_pods(&self, namespace: &str, deployment: &str) -> kube::Result<bool> {
        let params = ListParams::default().labels(&format!("{CLONE_OF_LABEL}={deployment}")).limit(1);
        Ok(!Api::<Pod>::namespaced(self.client.clone(), namespace).list_metadata(&params).await?.items.is_empty())
    }
}

fn same(known: &NetworkPolicy, wanted: &NetworkPolicy) -> bool {
    known.spec == wanted.spec
        && known.labels() == wanted.labels()
        && known.metadata.owner_references == wanted.metadata.owner_references
}

fn name_taken(policy: &str) -> Note {
    Note {
        warning: true,
        reason: "CallersRefused",
        message: format!(
            "NetworkPolicy {policy} exists and is not Fairlead's, so callers without a sidecar that reach the new version cannot be handed over: \
             rename it"
        ),
    }
}

fn closed(policy: &str) -> Note {
    Note {
        warning: true,
        reason: "CallersRefused",
        message: format!(
            "NetworkPolicy {policy} does not select the new version's pods as it does the running version's: callers without a sidecar that \
             reach the new version cannot be handed over. Let its podSelector select both"
        ),
    }
}
