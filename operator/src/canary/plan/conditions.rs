//! Whether a Canary is in force: what its conditions say, and why it is not.

use fairlead_crds::{CanaryStatus, ConditionType, Fact, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, CLONE_REFUSED, CONFLICTED, Note, Planner};

/// Why a Canary is not in force.
pub(super) struct Objection {
    pub(super) condition: ConditionType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Planner<'_> {
    pub(super) fn objection(&self) -> Option<Objection> {
        let workload = self.workload();
        if let Some(rival) = &self.observed.rival {
            return Some(Objection {
                condition: ConditionType::Accepted,
                reason: CONFLICTED,
                message: format!(
                    "Canary {rival} is older and releases Deployment {workload} already: delete one of the two"
                ),
            });
        }
        if self.observed.deployment.is_none() {
            return Some(Objection {
                condition: ConditionType::ResolvedRefs,
                reason: "DeploymentNotFound",
                message: format!(
                    "Deployment {workload} does not exist in this namespace: create it or correct spec.workloadRef.name"
                ),
            });
        }
        if self.observed.clone.as_ref().is_some_and(|clone| !clone.ours) {
            return Some(Objection {
                condition: ConditionType::Accepted,
                reason: "NameTaken",
                message: format!(
                    "Deployment {workload}-canary exists and is not Fairlead's: rename it, the new version runs under that name"
                ),
            });
        }
        if !self.observed.injected {
            return Some(Objection {
                condition: ConditionType::Accepted,
                reason: "NotInjected",
                message: format!(
                    "Pods of Deployment {workload} get no sidecar, so their traffic cannot be split: label the namespace \
                     fairlead.dev/inject=enabled (and do not opt the pods out) and restart the Deployment"
                ),
            });
        }
        None
    }

    /// What [`clone_refused`] wrote, while it is true: as long as the clone is asked for again.
    pub(super) fn refusal(&self) -> Option<String> {
        let asks = self.actions.iter().any(|action| matches!(action, Action::ApplyClone { .. }));
        let known = self.status.conditions.iter().find(|known| asks && known.reason == CLONE_REFUSED)?;
        Some(known.message.clone())
    }

    /// Why the matches of a step cannot be read.
    pub(super) fn unreadable(&self, index: usize) -> Option<String> {
        let matches = &self.observed.canary.spec.steps.get(index)?.matches;
        let why = crate::index::validate_matches(matches).err().filter(|_| !matches.is_empty())?;
        Some(format!("steps[{index}].matches: {why}"))
    }

    fn accepted(&self) -> &'static str {
        if self.observed.unseen_secrets {
            "Changes of the Deployment are released step by step, and of its ConfigMaps; of its Secrets none is seen unless ClusterRole \
             fairlead-canary-secrets is bound to the operator in this namespace"
        } else {
            "Changes of the Deployment are released step by step"
        }
    }

    pub(super) fn conditions(&mut self) {
        let now = Time(self.observed.now);
        let generation = Some(self.observed.canary.generation);
        let objection = self.objection();
        let mut facts = [
            (ConditionType::Accepted, Fact::holds("Accepted", self.accepted())),
            (ConditionType::ResolvedRefs, Fact::holds("ResolvedRefs", "The Deployment exists")),
        ];
        if let Some(missed) = &self.observed.missed_by {
            facts[0].1 = Fact::fails(
                "ServiceSelectsVersion",
                format!(
                    "{missed}, which the new version's pods do not have, so it gets none of that Service's requests: take it out of the selector"
                ),
            );
        }
        if let Some(message) = &self.observed.trouble.unschedulable {
            facts[0].1 = Fact::fails(
                "Unschedulable",
                format!(
                    "No node takes the new version's pods: make room for as many as the running version has, loosen anti-affinity, or say fewer \
                     in spec.rollout.replicas or a step's replicas ({message})"
                ),
            );
        }
        if let Some(why) = (0..self.observed.canary.spec.steps.len()).find_map(|index| self.unreadable(index)) {
            facts[0].1 = Fact::fails("Invalid", format!("{why}; a release goes no further than the step before"));
        }
        if let Some(refusal) = self.refusal() {
            facts[0].1 = Fact::fails(CLONE_REFUSED, refusal);
        }
        if let Some(objection) = objection {
            for (condition, fact) in &mut facts {
                if *condition == objection.condition {
                    *fact = Fact::fails(objection.reason, objection.message.clone());
                }
            }
        }
        for (condition, fact) in facts {
            let name = condition.to_string();
            let failed = |status: &CanaryStatus| {
                status.conditions.iter().any(|known| known.type_ == name && known.status == "False")
            };
            let failed_before = failed(&self.status);
            set_condition(&mut self.status.conditions, condition, &fact, generation, &now);
            if fact.status == Some(false) && !failed_before {
                self.notes.push(Note { warning: true, reason: fact.reason, message: fact.message });
            }
        }
        let proxies = &self.observed.proxies;
        let message = format!("{}/{} proxies", proxies.acknowledged, proxies.proxies);
        let fact = match &proxies.refused {
            Some(refused) => Fact::fails("Rejected", format!("{message}: {refused}")),
            None if proxies.acknowledged < proxies.proxies => Fact::fails("Pending", message),
            None => Fact::holds("Programmed", message),
        };
        set_condition(&mut self.status.conditions, ConditionType::Programmed, &fact, generation, &now);
    }
}
