//! What is asked and told, as the controller says it and as programs read it.

use fairlead_crds::{CheckPhase, Percent};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

/// Which split of which release a question is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Of the Canary.
    pub namespace: String,
    /// Its name.
    pub canary: String,
    /// Its metadata.uid.
    pub uid: String,
    /// Of the template that is released.
    pub revision: String,
    /// Of the split ([`crate::canary::generation`]); 0 before the first.
    pub number: i64,
}

/// What the checks of a phase say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckAnswer {
    /// Not all have answered: why the last try of the first such one was none, if there was a try.
    Pending(Option<String>),
    /// All said yes, or there is none.
    Passed,
    /// One said no: which, and how.
    Refused(String),
}

/// What a check is asked: the body of the POST.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind", rename = "CanaryCheck")]
pub struct CheckBody {
    /// Of this form.
    pub api_version: ApiVersion,
    /// When it is asked.
    pub phase: CheckPhase,
    /// Of the Canary.
    pub namespace: String,
    /// The Canary.
    pub canary: String,
    /// The Deployment.
    pub workload: String,
    /// The new version.
    pub revision: String,
    /// The running one; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// Into spec.steps, from 0; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
    /// Percent of the Deployment's traffic that goes to the new version.
    pub weight: Percent,
}

/// What is told of a release: the body of a notification in the form Json, and what the other forms are made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind", rename = "CanaryNotification")]
pub struct Told {
    /// Of this form.
    pub api_version: ApiVersion,
    /// Of the Canary.
    pub namespace: String,
    /// The Canary.
    pub canary: String,
    /// The Deployment.
    pub workload: String,
    /// The new version.
    pub revision: String,
    /// What happened, as the reason of an event says it: `Started`, `WaitingApproval`, `RollingBack`.
    pub event: String,
    /// A sentence for people.
    pub message: String,
    /// Whether somebody should look.
    pub warning: bool,
    /// When, in RFC 3339.
    pub at: Time,
}

/// The version of the forms above: that of the Canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ApiVersion {
    /// The only one there is.
    #[default]
    #[serde(rename = "fairlead.dev/v1alpha1")]
    V1Alpha1,
}

/// What the placeholders of a query stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `{{namespace}}`.
    pub namespace: String,
    /// `{{workload}}`: the Deployment.
    pub workload: String,
    /// `{{canary}}`: the Deployment of the new version.
    pub canary: String,
    /// `{{revision}}`: of the new version.
    pub revision: String,
}

/// What a metric says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Of the metric.
    pub name: String,
    /// What the last look saw; `None`: it saw nothing, or there was none yet.
    pub value: Option<f64>,
    /// Why it saw nothing.
    pub error: Option<String>,
    /// How many looks in a row, up to the last that saw something, saw a number below min or above max. One that saw nothing is not counted and ends
    /// no row: a Prometheus that is away says nothing against the new version, and must not hide a number that is bad whenever it is there.
    pub outside_in_a_row: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_read_fields() {
        let body = CheckBody {
            api_version: ApiVersion::default(),
            phase: CheckPhase::BeforePromote,
            namespace: "shop".into(),
            canary: "reviews".into(),
            workload: "reviews-v2".into(),
            revision: "2b".into(),
            stable_revision: Some("1a".into()),
            step: Some(3),
            weight: Percent::try_from(25.0).unwrap(),
        };
        let expected = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "CanaryCheck", "phase": "BeforePromote", "namespace": "shop", "canary": "reviews",
            "workload": "reviews-v2", "revision": "2b", "stableRevision": "1a", "step": 3, "weight": 25,
        });
        assert_eq!(serde_json::to_value(&body).unwrap(), expected);
        let first = CheckBody { stable_revision: None, step: None, ..body };
        let first = serde_json::to_value(&first).unwrap();
        assert!(first.get("step").is_none() && first.get("stableRevision").is_none());
    }
}
