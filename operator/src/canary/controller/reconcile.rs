//! One look at a Canary: everything that belongs to it is read anew, planned on, and what the plan says is written.

use std::collections::{BTreeMap, HashMap};

use fairlead_crds::{CLONE_OF_LABEL, Canary, CheckPhase, REQUEST_ANNOTATION};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt as _};
use serde_json::Value;

use super::{Again, Error, Key, PODS, RIVALS, Releases, SOON, passages};
use crate::canary::act::{self, Subjects};
use crate::canary::config::{self, Kind};
use crate::canary::observe::{self, CloneDeployment, Deployment, Observed, Subject, Trouble};
use crate::canary::outside::{ApiVersion, Asked, CheckBody, Names, Told};
use crate::canary::plan::{Action, CONFLICTED, Note, clone_refused, plan};
use crate::canary::revision::config as digest;
use crate::canary::{clone, generation, groups};

/// Services of a namespace that are looked at for one that leads to the running version alone.
const SERVICES: u32 = 500;

/// Of the notes those that people want to be told outside the cluster: where a release begins, ends, or needs them.
const TOLD: [&str; 9] = [
    "Started",
    "StartedOver",
    "WaitingApproval",
    "Undecided",
    "Promoting",
    "Succeeded",
    "RollingBack",
    "RolledBack",
    "Failed",
];

/// The phases of checks, all of them.
const CHECKS: [CheckPhase; 5] = [
    CheckPhase::BeforeStart,
    CheckPhase::Step,
    CheckPhase::BeforePromote,
    CheckPhase::AfterPromote,
    CheckPhase::AfterRollback,
];

impl Releases {
    pub(super) async fn reconcile(&self, key: &Key) -> Result<Again, Error> {
        let (namespace, name) = key;
        let canary = self.get(&act::canaries(&self.client, namespace), name).await?;
        // One that another controller's finalizer still keeps decides nothing any more.
        let canary = canary.filter(|canary| !canary["metadata"]["deletionTimestamp"].is_string());
        let Some(mut canary) = canary else {
            self.release_orphans(namespace, name, None).await?;
            let left = self.keep_passages(namespace, name, None).await?.lingering;
            return Ok(if left { Again::In(SOON) } else { Again::Never });
        };
        let typed: Canary = serde_json::from_value(canary.clone())?;
        let reference = typed.object_ref(&());
        let workload = typed.spec.workload_ref.name.clone();
        if typed.status.as_ref().is_none_or(|status| status.phase.is_none()) {
            // Left by an earlier Canary of this name that was about another Deployment.
            self.release_orphans(namespace, name, Some(&workload)).await?;
        }
        let deployments = act::deployments(&self.client, namespace);
        let deployment = self.get(&deployments, &workload).await?;
        let clone = self.get(&deployments, &clone::name(&workload)).await?;
        let observed = self.observe(&canary, typed, deployment.as_ref(), clone.as_ref()).await?;
        let plan = plan(&observed);
        if plan.status != observed.canary.status {
            canary = act::persist(&self.client, &canary, &plan.status).await?;
        }
        for note in &plan.notes {
            self.tell(note, &reference).await;
            self.tell_outside(note, &observed);
        }
        let progress_deadline = observed.canary.spec.rollout.progress_deadline;
        let subjects = Subjects {
            canary: &canary,
            deployment: deployment.as_ref(),
            revision: observed.deployment.as_ref().map_or("", |deployment| &deployment.revision),
            // A whole second at least, as the API server wants it.
            progress_deadline: progress_deadline.map(|deadline| deadline.as_std().as_secs().max(1)),
            clone: clone.as_ref(),
        };
        let applies = |action: &Action| matches!(action, Action::ApplyClone { .. });
        let handing_over = passages::HandingOver::read(&subjects, plan.actions.iter().any(applies));
        for action in &plan.actions {
            tracing::debug!(namespace, canary = name, ?action, "release");
            if let Action::Ask(phase) = action {
                self.ask(*phase, &observed);
            }
            let result = async {
                if applies(action) {
                    // Open before a caller can reach the new pods.
                    let kept = self.keep_passages(namespace, name, handing_over.as_ref()).await?;
                    if let Some(note) = kept.closed {
                        self.tell(&note, &reference).await;
                    }
                }
                act::perform(&self.client, action, &subjects).await
            };
            let result = result.await;
            if let Err(error) = &result
                && applies(action)
                && let Some(refusal) = act::refusal(error)
            {
                let status = clone_refused(&plan.status, &refusal, observed.now);
                if status != plan.status {
                    act::persist(&self.client, &canary, &status).await?;
                }
            }
            result?;
        }
        let kept = self.keep_passages(namespace, name, handing_over.as_ref()).await?;
        Ok(Again::In(if kept.lingering { plan.again.min(SOON) } else { plan.again }))
    }

    /// Everything that a decision depends on.
    async fn observe(
        &self,
        canary: &Value,
        typed: Canary,
        deployment: Option<&Value>,
        clone: Option<&Value>,
    ) -> Result<Observed, Error> {
        let (namespace, name) = (typed.namespace().unwrap_or_default(), typed.name_any());
        let uid = typed.uid().unwrap_or_default();
        let workload = &typed.spec.workload_ref.name;
        let status = typed.status.clone().unwrap_or_default();
        let (read, unseen_secrets) = match deployment {
            Some(deployment) => {
                let (config, unseen) = self.config(&namespace, deployment).await?;
                (Some(Deployment::read(deployment, config.as_deref())), unseen)
            }
            None => (None, false),
        };
        let groups = groups(&namespace, &name, &status);
        let (canary_counts, stable_counts) = groups
            .as_ref()
            .map(|(canary, stable)| (self.evidence.counts(canary), self.evidence.counts(stable)))
            .unwrap_or_default();
        let fresh = groups
            .as_ref()
            .map(|(canary, stable)| (self.evidence.fresh(canary), self.evidence.fresh(stable)))
            .unwrap_or_default();
        let revision = read.as_ref().map(|deployment| deployment.revision.clone()).unwrap_or_default();
        let asked = asked(&namespace, &name, &uid, &status);
        let metrics = &typed.spec.analysis.metrics;
        let looks = if groups.is_some() && !metrics.is_empty() {
            let names = Names {
                namespace: namespace.clone(),
                workload: workload.clone(),
                canary: clone::name(workload),
                revision: revision.clone(),
            };
            self.world.look(&asked, metrics, &names);
            self.world.seen(&asked)
        } else {
            Vec::new()
        };
        let checks: HashMap<_, _> =
            CHECKS.into_iter().filter_map(|phase| Some((phase, self.world.answer(&asked, phase)?))).collect();
        Ok(Observed {
            now: Timestamp::now(),
            rival: if may_have_rival(&status) { self.rival(canary, workload).await? } else { None },
            injected: match deployment {
                Some(deployment) => self.injected(&namespace, deployment).await?,
                None => false,
            },
            trouble: match clone {
                Some(_) => observe::trouble(&self.pods(&namespace, workload).await?, &revision),
                None => Trouble::default(),
            },
            unseen_secrets,
            missed_by: match (deployment, clone) {
                (Some(deployment), Some(clone)) => self.missed_by(&namespace, deployment, clone).await?,
                _ => None,
            },
            clone: clone.map(|clone| CloneDeployment::read(clone, &uid)),
            deployment: read,
            canary_counts: canary_counts.unwrap_or_default(),
            stable_counts: stable_counts.unwrap_or_default(),
            fresh,
            proxies: self.programmed.acknowledgements(&namespace, &name, generation(&status)),
            checks,
            looks,
            canary: Subject {
                generation: typed.metadata.generation.unwrap_or(0),
                uid,
                namespace,
                name,
                request: typed.annotations().get(REQUEST_ANNOTATION).cloned(),
                spec: typed.spec,
                status,
            },
        })
    }

    /// The digest of what the `ConfigMaps` and Secrets hold that a Deployment's template names, and whether there are Secrets that may not be read.
    pub(super) async fn config(&self, namespace: &str, deployment: &Value) -> Result<(Option<String>, bool), Error> {
        let mut held = Vec::new();
        let mut unseen = false;
        for (kind, name) in config::named(&deployment["spec"]["template"]) {
            let object = match kind {
                Kind::ConfigMap => self.get(&self.dynamic::<ConfigMap>(namespace), &name).await,
                Kind::Secret => self.get(&self.dynamic::<Secret>(namespace), &name).await,
            };
            match object {
                Ok(object) => held.push((kind, object)),
                // The right to is given namespace by namespace.
                Err(Error::Api(error)) if kind == Kind::Secret && act::is_forbidden(&error) => unseen = true,
                Err(error) => return Err(error),
            }
        }
        if unseen {
            held.retain(|(kind, _)| *kind != Kind::Secret);
        }
        Ok((digest(&held), unseen))
    }

    /// The Service that a new version gets no requests of, while the running one does.
    async fn missed_by(&self, namespace: &str, deployment: &Value, clone: &Value) -> Result<Option<String>, Error> {
        let Ok(selector) = serde_json::from_value::<LabelSelector>(deployment["spec"]["selector"].clone()) else {
            return Ok(None);
        };
        let stable = self.stable_labels(namespace, &selector).await?;
        let labels = clone["spec"]["template"]["metadata"]["labels"].clone();
        let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap_or_default();
        let services = self.dynamic::<Service>(namespace).list(&ListParams::default().limit(SERVICES)).await?;
        let services: Vec<Value> = services.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
        Ok(observe::missed_by(&services, &stable, &labels))
    }

    fn dynamic<K: Resource<DynamicType = ()>>(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<K>(&()))
    }

    fn ask(&self, phase: CheckPhase, observed: &Observed) {
        let canary = &observed.canary;
        let status = &canary.status;
        let revision = |side: &Option<fairlead_crds::VersionStatus>| side.as_ref().map(|side| side.revision.clone());
        let step = status.step.as_ref();
        let body = CheckBody {
            api_version: ApiVersion::V1Alpha1,
            phase,
            namespace: canary.namespace.clone(),
            canary: canary.name.clone(),
            workload: canary.spec.workload_ref.name.clone(),
            revision: revision(&status.canary).unwrap_or_default(),
            stable_revision: revision(&status.stable),
            step: step.and_then(|step| step.index),
            weight: step.map_or(fairlead_crds::Percent::ZERO, |step| step.weight),
        };
        let asked = asked(&canary.namespace, &canary.name, &canary.uid, status);
        self.world.check(&asked, phase, &canary.spec.checks, &body);
    }

    fn tell_outside(&self, note: &Note, observed: &Observed) {
        let canary = &observed.canary;
        if canary.spec.notify.is_empty() || !TOLD.contains(&note.reason) {
            return;
        }
        // Of the release that it is about, which a change of the Deployment may have ended.
        let released = canary.status.canary.as_ref().map(|canary| canary.revision.clone());
        let revision = released.or_else(|| observed.deployment.as_ref().map(|deployment| deployment.revision.clone()));
        let told = Told {
            api_version: ApiVersion::V1Alpha1,
            namespace: canary.namespace.clone(),
            canary: canary.name.clone(),
            workload: canary.spec.workload_ref.name.clone(),
            revision: revision.unwrap_or_default(),
            event: note.reason.to_owned(),
            message: note.message.clone(),
            warning: note.warning,
            at: Time(observed.now),
        };
        self.world.tell(&canary.spec.notify, &told);
    }

    async fn get(&self, api: &Api<DynamicObject>, name: &str) -> Result<Option<Value>, Error> {
        Ok(api.get_opt(name).await?.map(serde_json::to_value).transpose()?)
    }

    /// The name of an older Canary about the same Deployment.
    async fn rival(&self, canary: &Value, workload: &str) -> Result<Option<String>, Error> {
        let age = |metadata: &kube::core::ObjectMeta| {
            let created = metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
            (created, metadata.name.clone().unwrap_or_default())
        };
        let metadata: kube::core::ObjectMeta = serde_json::from_value(canary["metadata"].clone())?;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let all = act::canaries(&self.client, namespace).list(&ListParams::default().limit(RIVALS)).await?;
        let others = all.items.into_iter().filter(|other| {
            other.data["spec"]["workloadRef"]["name"] == workload
                && other.metadata.deletion_timestamp.is_none()
                && age(&other.metadata) < age(&metadata)
        });
        Ok(others.min_by_key(|other| age(&other.metadata)).and_then(|other| other.metadata.name))
    }

    async fn injected(&self, namespace: &str, deployment: &Value) -> Result<bool, Error> {
        let resource = ApiResource::erase::<Namespace>(&());
        let namespaces = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let object = self.get(&namespaces, namespace).await?.unwrap_or_default();
        Ok(observe::injected(&object, deployment))
    }

    async fn pods(&self, namespace: &str, workload: &str) -> Result<Vec<Value>, Error> {
        let resource = ApiResource::erase::<Pod>(&());
        let pods = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        let params = ListParams::default().labels(&format!("{CLONE_OF_LABEL}={workload}")).limit(PODS);
        let list = pods.list(&params).await?;
        Ok(list.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    /// An event that cannot be told is not worth a failure: the status says the same.
    async fn tell(&self, note: &Note, reference: &ObjectReference) {
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.to_owned(),
            note: Some(note.message.chars().take(1000).collect()),
            action: "Release".to_owned(),
            secondary: None,
        };
        tracing::info!(
            namespace = reference.namespace,
            canary = reference.name,
            reason = note.reason,
            "{}",
            note.message
        );
        if let Err(error) = self.recorder.publish(&event, reference).await {
            tracing::warn!(%error, reason = note.reason, "event not written");
        }
    }
}

/// Whether there may be an older Canary of the same Deployment. Neither age nor Deployment of a Canary ever change, so whoever had none at the first look
/// never gets one.
fn may_have_rival(status: &fairlead_crds::CanaryStatus) -> bool {
    status.phase.is_none() || status.conditions.iter().any(|condition| condition.reason == CONFLICTED)
}

/// What the world is asked about: the present split of the present release.
fn asked(namespace: &str, canary: &str, uid: &str, status: &fairlead_crds::CanaryStatus) -> Asked {
    Asked {
        namespace: namespace.to_owned(),
        canary: canary.to_owned(),
        uid: uid.to_owned(),
        revision: status.canary.as_ref().map(|canary| canary.revision.clone()).unwrap_or_default(),
        number: generation(status),
    }
}
