//! Tells the owner of a pod why the pod has no sidecar, or will not start with it: an Event on its controller, which is where a person looks, since the
//! pod itself does not exist yet. A controller that makes a thousand such pods gets one Event.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The same reason on the same object is told again after this.
const SILENCE: Duration = Duration::from_secs(3600);
/// What was told lately; more than this many owners at a time are told nothing.
const MAX_REMEMBERED: usize = 4_096;
/// What waits to be told; a burst beyond it is dropped.
const BACKLOG: usize = 256;
/// For one call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The API server's limit for the note of an Event, in bytes.
const MAX_NOTE: usize = 1024;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The controller of the pod, or else its namespace.
    pub about: ObjectReference,
    /// Something will fail.
    pub warning: bool,
    /// In `PascalCase`.
    pub reason: String,
    /// One sentence.
    pub sentence: String,
}

/// Takes notes without waiting.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Note>);

impl Events {
    /// Publishes until stopped. `instance` is the pod's name.
    pub fn publish(client: kube::Client, instance: &str, stop: CancellationToken) -> Self {
        let (events, mut notes) = Self::channel();
        let reporter = Reporter { controller: "fairlead.dev/injector".to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut told = Told::default();
            while let Some(note) = notes.recv().await {
                if told.is_new(&note) {
                    publish(&recorder, note).await;
                }
            }
        }));
        events
    }

    /// The other end is for who publishes.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Note>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }

    /// Drops the note where too many wait: a webhook never does.
    pub fn tell(&self, note: Note) {
        let _ = self.0.try_send(note);
    }
}

async fn publish(recorder: &Recorder, note: Note) {
    let mut sentence = note.sentence;
    if sentence.len() > MAX_NOTE {
        sentence.truncate(sentence.floor_char_boundary(MAX_NOTE));
    }
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason,
        note: Some(sentence),
        action: "Inject".to_owned(),
        secondary: None,
    };
    match tokio::time::timeout(TIMEOUT, recorder.publish(&event, &note.about)).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => tracing::warn!(%error, reason = event.reason, "event not published"),
        Err(_) => tracing::warn!(reason = event.reason, "event not published in time"),
    }
}

/// Whom a note about this pod concerns: the object that controls it; where there is none, the namespace.
pub fn owner(pod: &Value, namespace: &str) -> ObjectReference {
    let references = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |reference: &Value, field: &str| reference[field].as_str().map(str::to_owned);
    match references.iter().find(|reference| reference["controller"] == true) {
        Some(reference) => ObjectReference {
            api_version: text(reference, "apiVersion"),
            kind: text(reference, "kind"),
            name: text(reference, "name"),
            uid: text(reference, "uid"),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Namespace".to_owned()),
            name: Some(namespace.to_owned()),
            // An Event about a Namespace lies within it, where who may see the pods may see it.
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        },
    }
}

type Key = (Option<String>, Option<String>, Option<String>, String);

#[derive(Default)]
struct Told(HashMap<Key, Instant>);

impl Told {
    fn is_new(&mut self, note: &Note) -> bool {
        let now = Instant::now();
        let key = (note.about.namespace.clone(), note.about.name.clone(), note.about.uid.clone(), note.reason.clone());
        if self.0.get(&key).is_some_and(|at| now.duration_since(*at) < SILENCE) {
            return false;
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, at| now.duration_since(*at) < SILENCE);
        }
        if self.0.len() >= MAX_REMEMBERED {
            return false;
        }
        self.0.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(name: &str, reason: &str) -> Note {
        let about = ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
        Note { about, warning: false, reason: reason.to_owned(), sentence: "a sentence".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_told_once_an_hour_for_each_owner() {
        let mut told = Told::default();
        assert!(told.is_new(&note("a", "HostNetwork")));
        assert!(!told.is_new(&note("a", "HostNetwork")));
        assert!(told.is_new(&note("a", "OptedOut")));
        assert!(told.is_new(&note("b", "HostNetwork")));
        tokio::time::advance(SILENCE).await;
        assert!(told.is_new(&note("a", "HostNetwork")));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let mut told = Told::default();
        let new = (0..2 * MAX_REMEMBERED).filter(|owner| told.is_new(&note(&owner.to_string(), "OptedOut"))).count();
        assert_eq!(new, MAX_REMEMBERED);
        let (events, _kept) = Events::channel();
        for _ in 0..2 * BACKLOG {
            events.tell(note("a", "OptedOut"));
        }
    }

    #[test]
    fn the_controller_is_told_and_else_the_namespace() {
        let pod = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "0"},
            {"apiVersion": "batch/v1", "kind": "Job", "name": "migrate", "uid": "1", "controller": true},
        ]}});
        let about = owner(&pod, "bookinfo");
        assert_eq!(
            (about.kind.as_deref(), about.name.as_deref(), about.uid.as_deref()),
            (Some("Job"), Some("migrate"), Some("1"))
        );
        let about = owner(&json!({"metadata": {}}), "bookinfo");
        assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Namespace"), Some("bookinfo")));
    }
}
