//! Where a person looks when something is wrong with identities: a `ConfigMap`, Events on the Secrets, and metrics, all made of [`Standing`].

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::keeper::State;
use super::rotation::{Phase, Waiting};
use super::secrets::ROOT_SECRET;
use super::serving::Shown;
use super::standing::{Complaint, Standing};

/// The name of the `ConfigMap`, in the operator's namespace.
pub const IDENTITY_NAME: &str = "fairlead-identity";
const MANAGER: &str = "fairlead-identity";
/// For one call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);
/// The API server keeps Events for an hour: what still holds is told again.
const SILENCE: Duration = Duration::from_secs(3600);

/// What is measured of the authority.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    expiry: Family<Of, Gauge>,
    phase: Family<In, Gauge>,
    waited_for: Gauge,
    complaints: Family<About, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    certificate: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct In {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct About {
    reason: &'static str,
    secret: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When a certificate of the authority, or this replica's own (serving), ends, unix seconds",
            metrics.expiry.clone(),
        );
        registry.register(
            "root_rotation_phase",
            "1 for the phase in which a rotation of the root is",
            metrics.phase.clone(),
        );
        registry.register(
            "root_rotation_proxies_waited_for",
            "Proxies that hold the present phase; told by the replica that leads",
            metrics.waited_for.clone(),
        );
        registry.register(
            "certificate_authority_complaints",
            "1 for what will hurt if nobody looks at it: ConfigMap fairlead-identity says more",
            metrics.complaints.clone(),
        );
        metrics
    }

    fn set(&self, standing: &Standing) {
        for phase in Phase::ALL {
            self.phase.get_or_create(&In { phase: phase.name() }).set((phase == standing.phase).into());
        }
        let waited_for = standing.waiting.as_ref().map_or(0, |waiting| waiting.proxy_count);
        self.waited_for.set(i64::try_from(waited_for).unwrap_or(i64::MAX));
        for certificate in ["next root", "intermediate", "issuer"] {
            self.expiry.remove(&Of { certificate });
        }
        for certificate in &standing.certificates {
            let ends = certificate.validity.not_after.unix_timestamp();
            self.expiry.get_or_create(&Of { certificate: certificate.name }).set(ends);
        }
        self.complaints.clear();
        for Complaint { reason, secret, .. } in &standing.complaints {
            self.complaints.get_or_create(&About { reason, secret }).set(1);
        }
    }

    /// Follows what every replica knows, until stopped.
    pub async fn follow(
        self,
        mut standing: watch::Receiver<Option<Standing>>,
        mut serving: watch::Receiver<Option<Shown>>,
        stop: CancellationToken,
    ) {
        loop {
            if let Some(standing) = &*standing.borrow_and_update() {
                self.set(standing);
            }
            if let Some(shown) = &*serving.borrow_and_update() {
                self.expiry.get_or_create(&Of { certificate: "serving" }).set(shown.not_after.unix_timestamp());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = standing.changed() => if changed.is_err() { return },
                changed = serving.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Keeps the `ConfigMap` true and tells Events, until it is dropped. For the leader alone; `instance` is this pod's name.
pub async fn tell(
    client: kube::Client,
    namespace: String,
    instance: String,
    mut state: watch::Receiver<State>,
    mut standing: watch::Receiver<Option<Standing>>,
) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let reporter = Reporter { controller: "fairlead.dev/identity".to_owned(), instance: Some(instance) };
    let recorder = Recorder::new(client, reporter);
    let mut told = Told::default();
    let mut written = None;
    loop {
        let broken = match &*state.borrow_and_update() {
            State::Broken(sentence) => Some(sentence.clone()),
            State::Starting | State::Ready(_) => None,
        };
        let present = standing.borrow_and_update().clone();
        let data = data(present.as_ref(), broken.as_deref());
        if written.as_ref() != Some(&data) && write(&maps, &data).await {
            written = Some(data.clone());
        }
        for note in told.news(present.as_ref(), broken.as_deref(), Instant::now()) {
            publish(&recorder, &namespace, note).await;
        }
        let pause = if written.as_ref() == Some(&data) { SILENCE } else { RETRY };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = standing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => (),
        }
    }
}

async fn write(maps: &Api<ConfigMap>, data: &BTreeMap<String, String>) -> bool {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(IDENTITY_NAME.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "fairlead".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(data.clone()),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(MANAGER).force();
    match timeout(TIMEOUT, maps.patch(IDENTITY_NAME, &params, &Patch::Apply(&map))).await {
        Ok(Ok(_)) => return true,
        Ok(Err(error)) => tracing::warn!(%error, "ConfigMap {IDENTITY_NAME} not written"),
        Err(_) => tracing::warn!("ConfigMap {IDENTITY_NAME} not written in time"),
    }
    false
}

async fn publish(recorder: &Recorder, namespace: &str, note: Note) {
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(note.secret.to_owned()),
        ..ObjectReference::default()
    };
    // An Event's note has at most 1,024 bytes.
    let mut sentence = note.sentence;
    sentence.truncate(sentence.floor_char_boundary(1024));
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason,
        note: Some(sentence),
        action: "Keep".to_owned(),
        secondary: None,
    };
    if !matches!(timeout(TIMEOUT, recorder.publish(&event, &about)).await, Ok(Ok(()))) {
        tracing::debug!(reason = event.reason, "an Event was not written: the ConfigMap says the same");
    }
}

fn time_of(seconds: i64) -> String {
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// In words: who holds the phase.
fn waits_for(waiting: &Waiting) -> String {
    let mut parts = Vec::new();
    if waiting.proxy_count > 0 {
        let more = waiting.proxy_count - waiting.proxies.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        parts.push(format!("{} proxies: {}{more}", waiting.proxy_count, waiting.proxies.join(", ")));
    }
    if !waiting.replicas.is_empty() {
        parts.push(format!("replicas of the operator: {}", waiting.replicas.join(", ")));
    }
    parts.extend(waiting.others.iter().map(|other| (*other).to_owned()));
    parts.join("; ")
}

/// The `ConfigMap`'s. Every key is always there, so that nothing old is left.
fn data(standing: Option<&Standing>, broken: Option<&str>) -> BTreeMap<String, String> {
    let mut certificates = String::new();
    let mut problems = broken.map(|sentence| format!("{sentence}\n")).unwrap_or_default();
    for certificate in standing.iter().flat_map(|standing| &standing.certificates) {
        let ends = time_of(certificate.validity.not_after.unix_timestamp());
        let root = certificate.root.map(|root| format!(", SHA-256 {root}")).unwrap_or_default();
        let place = certificate.secret.map(|secret| format!(" (Secret {secret})")).unwrap_or_default();
        let _ = writeln!(certificates, "{}{place}: ends {ends}{root}", certificate.name);
    }
    for complaint in standing.iter().flat_map(|standing| &standing.complaints) {
        let _ = writeln!(problems, "{}", complaint.sentence);
    }
    let text = |of: fn(&Standing) -> String| standing.map(of).unwrap_or_default();
    BTreeMap::from(
        [
            ("usable", broken.is_none().to_string()),
            ("problems", problems),
            ("signer", text(|standing| standing.signer.clone())),
            ("certificates", certificates),
            ("phase", text(|standing| standing.phase.name().to_owned())),
            ("since", text(|standing| if standing.since == 0 { String::new() } else { time_of(standing.since) })),
            ("waitsFor", text(|standing| standing.waiting.as_ref().map(waits_for).unwrap_or_default())),
            ("aborted", text(|standing| standing.aborted.to_string())),
            ("sequence", text(|standing| standing.sequence.to_string())),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    )
}

/// One Event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    secret: &'static str,
    reason: String,
    warning: bool,
    sentence: String,
}

/// What Events said.
#[derive(Debug, Default)]
struct Told {
    phase: Option<Phase>,
    complaints: HashMap<(&'static str, String), Instant>,
}

impl Told {
    fn news(&mut self, standing: Option<&Standing>, broken: Option<&str>, now: Instant) -> Vec<Note> {
        let mut notes = Vec::new();
        if let Some(standing) = standing {
            let before = self.phase.replace(standing.phase);
            // What a former leader saw, it told.
            if before.is_some_and(|before| before != standing.phase) {
                notes.push(Note {
                    secret: ROOT_SECRET,
                    reason: format!("Rotation{}", standing.phase.name()),
                    warning: false,
                    sentence: sentence(standing).to_owned(),
                });
            }
        }
        let unusable = broken.map(|sentence| ("AuthorityUnusable", ROOT_SECRET, sentence.to_owned()));
        let complaints = standing.iter().flat_map(|standing| &standing.complaints);
        let complaints = complaints.map(|complaint| (complaint.reason, complaint.secret, complaint.sentence.clone()));
        let wrong: Vec<_> = unusable.into_iter().chain(complaints).collect();
        self.complaints.retain(|(reason, sentence), _| wrong.iter().any(|(r, _, s)| r == reason && s == sentence));
        for (reason, secret, sentence) in wrong {
            let at = self.complaints.entry((reason, sentence.clone()));
            let due = match &at {
                std::collections::hash_map::Entry::Occupied(told) => now.duration_since(*told.get()) >= SILENCE,
                std::collections::hash_map::Entry::Vacant(_) => true,
            };
            if due {
                *at.or_insert(now) = now;
                notes.push(Note { secret, reason: reason.to_owned(), warning: true, sentence });
            }
        }
        notes
    }
}

fn sentence(standing: &Standing) -> &'static str {
    match standing.phase {
        Phase::Settled if standing.aborted => "the rotation was aborted: the old root is alone again",
        Phase::Settled => "the rotation is done: every proxy trusts the new root alone",
        Phase::Publishing => {
            "a new root was made; it signs when every proxy and every replica trusts it beside the old one"
        }
        Phase::Signing => "the new root signs; the old one goes when every proxy has a certificate under the new one",
        Phase::Dropping => "the old root is gone; the rotation is done when every proxy has dropped it",
        Phase::Aborting => "the old root signs again; the new one goes when no proxy has a certificate under it",
    }
}

#[cfg(test)]
mod tests {
    use super::super::material::Validity;
    use super::super::standing::Certificate;
    use super::*;
    use crate::ca::authority::tests::now;
    use crate::fake_api::FakeApi;

    fn standing(phase: Phase) -> Standing {
        let validity = Validity { not_before: now(), not_after: now() + time::Duration::days(10) };
        Standing {
            phase,
            since: now().unix_timestamp(),
            sequence: 7,
            aborted: false,
            waiting: None,
            signer: "this operator".into(),
            certificates: vec![Certificate { name: "root", secret: Some(ROOT_SECRET), validity, root: None }],
            complaints: Vec::new(),
        }
    }

    #[test]
    fn the_record_says_what_is_waited_for_and_when_everything_ends() {
        let waiting = Waiting {
            proxies: vec!["shop/a".into(), "shop/b".into()],
            proxy_count: 12,
            replicas: vec!["operator-2".into()],
            others: vec!["caBundle of the webhooks"],
        };
        let data = data(Some(&Standing { waiting: Some(waiting), ..standing(Phase::Publishing) }), None);
        assert_eq!((data["phase"].as_str(), data["signer"].as_str()), ("Publishing", "this operator"));
        assert_eq!(data["since"], "2027-01-15T08:00:00Z");
        assert_eq!(
            data["waitsFor"],
            "12 proxies: shop/a, shop/b and 10 more; replicas of the operator: operator-2; caBundle of the webhooks"
        );
        assert_eq!(data["certificates"], "root (Secret fairlead-root): ends 2027-01-25T08:00:00Z\n");
        assert_eq!((data["usable"].as_str(), data["problems"].as_str()), ("true", ""));
        let broken = super::data(None, Some("mend it"));
        assert_eq!((broken["usable"].as_str(), broken["problems"].as_str()), ("false", "mend it\n"));
        assert_eq!(broken.keys().collect::<Vec<_>>(), data.keys().collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn each_transition_is_one_event_and_what_is_wrong_is_told_each_hour() {
        let mut told = Told::default();
        let settled = standing(Phase::Settled);
        assert!(told.news(Some(&settled), None, Instant::now()).is_empty(), "a leader that begins");
        let publishing = standing(Phase::Publishing);
        let notes = told.news(Some(&publishing), None, Instant::now());
        assert_eq!(notes.iter().map(|note| note.reason.as_str()).collect::<Vec<_>>(), ["RotationPublishing"]);
        assert!(told.news(Some(&publishing), None, Instant::now()).is_empty());

        let complaint = Complaint { reason: "Expiring", secret: ROOT_SECRET, sentence: "soon".into() };
        let complaining = Standing { complaints: vec![complaint], ..publishing };
        let notes = told.news(Some(&complaining), Some("mend it"), Instant::now());
        assert!(notes.iter().all(|note| note.warning) && notes.len() == 2, "{notes:?}");
        assert!(told.news(Some(&complaining), Some("mend it"), Instant::now()).is_empty());
        tokio::time::advance(SILENCE).await;
        assert_eq!(told.news(Some(&complaining), None, Instant::now()).len(), 1);
        assert!(told.news(Some(&standing(Phase::Publishing)), None, Instant::now()).is_empty());
        assert_eq!(told.news(Some(&complaining), None, Instant::now()).len(), 1, "it came back");
    }

    #[tokio::test]
    async fn the_record_is_written_or_the_failure_seen() {
        let api = FakeApi::default();
        let maps: Api<ConfigMap> = Api::namespaced(api.client(), "fairlead-system");
        assert!(write(&maps, &data(Some(&standing(Phase::Settled)), None)).await);
        let map = api.get("/api/v1/namespaces/fairlead-system/configmaps/fairlead-identity").unwrap();
        assert_eq!(map["data"]["phase"], "Settled");
        api.set_down(true);
        assert!(!write(&maps, &BTreeMap::new()).await);
    }

    #[test]
    fn metrics_follow_the_standing() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let complaint = Complaint { reason: "Expiring", secret: ROOT_SECRET, sentence: "soon".into() };
        let waiting = Waiting { proxy_count: 3, ..Waiting::default() };
        metrics.set(&Standing { complaints: vec![complaint], waiting: Some(waiting), ..standing(Phase::Signing) });
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        for line in [
            "certificate_expiry_timestamp_seconds{certificate=\"root\"} 1800864000",
            "root_rotation_phase{phase=\"Signing\"} 1",
            "root_rotation_phase{phase=\"Settled\"} 0",
            "root_rotation_proxies_waited_for 3",
            "certificate_authority_complaints{reason=\"Expiring\",secret=\"fairlead-root\"} 1",
        ] {
            assert!(text().contains(line), "{line} is not in\n{}", text());
        }
        let settled = standing(Phase::Settled);
        metrics.set(&settled);
        assert!(!text().contains("reason=\"Expiring\""));

        // Another authority signs now: of the intermediate nothing is told any more.
        for name in ["intermediate", "issuer"] {
            let of = Certificate { name, secret: None, ..settled.certificates[0] };
            metrics.set(&Standing { certificates: vec![of], ..settled.clone() });
            assert!(text().contains(&format!("{{certificate=\"{name}\"}} 1800864000")), "{}", text());
            assert!(
                data(Some(&Standing { certificates: vec![of], ..settled.clone() }), None)["certificates"]
                    .starts_with(&format!("{name}: ends 2027"))
            );
        }
        assert!(!text().contains("certificate=\"intermediate\""), "{}", text());
    }
}
