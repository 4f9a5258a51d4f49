//! What users keep out of the Canary: tokens, and URLs that are as good as one.
//!
//! Whoever may write a Canary says where its requests go. So a Secret is read only if its label says that its owner agrees to that; otherwise a Canary
//! would be a way to read every Secret of its namespace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::{OUTBOUND_LABEL, SecretKey};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long one is used without looking again: what a changed Secret, or a label that was taken away, takes to count.
const KEPT: Duration = Duration::from_secs(60);
/// For the API server.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens of service accounts have a tenth.
const MAX_LENGTH: usize = 16 * 1024;

/// Why there is none. Nothing of what a Secret holds is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SecretError {
    #[error("Secret {0} does not exist: create it in the namespace of the Canary")]
    Missing(String),
    #[error(
        "Secret {0} is not for this: label it {OUTBOUND_LABEL}=true if what it holds may be sent wherever a Canary of its namespace says"
    )]
    Unlabelled(String),
    #[error("Secret {0} has no key {1}")]
    NoKey(String, String),
    #[error("Secret {0} has under {1} what is no line of ASCII of at most 16 KiB")]
    NoLine(String, String),
    #[error("Secret {0} cannot be read: the operator has no permission to get Secrets of this namespace")]
    Forbidden(String),
    #[error("Secret {0} cannot be read: the API server does not answer")]
    Unanswered(String),
}

impl SecretError {
    /// For metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::NoKey(..) => "no_secret",
            Self::Unlabelled(_) => "unlabelled_secret",
            Self::NoLine(..) => "invalid_secret",
            Self::Forbidden(_) | Self::Unanswered(_) => "unread_secret",
        }
    }
}

/// Namespace, name and key.
type Place = (String, String, String);

pub(super) struct Secrets {
    client: Client,
    kept: Mutex<HashMap<Place, (Instant, Arc<str>)>>,
}

impl Secrets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// What the key holds, without space around it. It must not be logged.
    pub(super) async fn read(&self, namespace: &str, key: &SecretKey) -> Result<Arc<str>, SecretError> {
        let place = (namespace.to_owned(), key.name.clone(), key.key.clone());
        if let Some((read, value)) = self.kept.lock().get(&place)
            && read.elapsed() < KEPT
        {
            return Ok(Arc::clone(value));
        }
        let shown = format!("{namespace}/{}", key.name);
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = match tokio::time::timeout(TIMEOUT, api.get_opt(&key.name)).await {
            Ok(Ok(Some(secret))) => secret,
            Ok(Ok(None)) => return Err(SecretError::Missing(shown)),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => return Err(SecretError::Forbidden(shown)),
            // In the words of a parser there may be some of what it read.
            Ok(Err(_)) | Err(_) => return Err(SecretError::Unanswered(shown)),
        };
        let value = held(&secret, shown, &key.key)?;
        let mut kept = self.kept.lock();
        kept.retain(|_, (read, _)| read.elapsed() < KEPT);
        kept.insert(place, (Instant::now(), Arc::clone(&value)));
        Ok(value)
    }
}

fn held(secret: &Secret, shown: String, key: &str) -> Result<Arc<str>, SecretError> {
    let label = secret.metadata.labels.as_ref().and_then(|labels| labels.get(OUTBOUND_LABEL));
    if label.is_none_or(|label| label != "true") {
        return Err(SecretError::Unlabelled(shown));
    }
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Err(SecretError::NoKey(shown, key.to_owned()));
    };
    // Files end with a line feed, and tools take it for a part of what is secret.
    match std::str::from_utf8(&value.0).map(str::trim) {
        Ok(line)
            if !line.is_empty() && line.len() <= MAX_LENGTH && line.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(line.into())
        }
        _ => Err(SecretError::NoLine(shown, key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_api::FakeApi;

    const PATH: &str = "/api/v1/namespaces/shop/secrets/prometheus";

    fn secret(labels: &Value, value: &[u8]) -> Value {
        json!({"metadata": {"labels": labels}, "data": {"token": STANDARD.encode(value)}})
    }

    fn key(key: &str) -> SecretKey {
        SecretKey { name: "prometheus".into(), key: key.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_must_have_agreed() {
        let api = FakeApi::default();
        let secrets = Secrets::new(api.client());
        let read = async |name| secrets.read("shop", &key(name)).await;
        assert_eq!(
            read("token").await.unwrap_err().to_string(),
            "Secret shop/prometheus does not exist: create it in the namespace of the Canary"
        );
        for labels in [json!({}), json!({OUTBOUND_LABEL: "false"}), json!({"fairlead.dev/inject": "true"})] {
            api.put(PATH, secret(&labels, b"s3cr3t"));
            assert_eq!(
                read("token").await.unwrap_err().to_string(),
                "Secret shop/prometheus is not for this: label it fairlead.dev/outbound=true if what it holds may be sent wherever a Canary of its \
                 namespace says"
            );
        }
        let agreed = json!({OUTBOUND_LABEL: "true"});
        api.put(PATH, secret(&agreed, b"s3cr3t\n"));
        assert_eq!(&*read("token").await.unwrap(), "s3cr3t");
        assert_eq!(read("other").await.unwrap_err().to_string(), "Secret shop/prometheus has no key other");
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_holds_is_looked_at_again_after_a_minute() {
        let api = FakeApi::default();
        let secrets = Secrets::new(api.client());
        let agreed = json!({OUTBOUND_LABEL: "true"});
        api.put(PATH, secret(&agreed, b"first"));
        let read = async || secrets.read("shop", &key("token")).await;
        assert_eq!(&*read().await.unwrap(), "first");
        api.put(PATH, secret(&json!({}), b"second"));
        assert_eq!(&*read().await.unwrap(), "first");
        tokio::time::advance(KEPT).await;
        assert!(matches!(read().await, Err(SecretError::Unlabelled(_))));
        api.put(PATH, secret(&agreed, b"second"));
        assert_eq!(&*read().await.unwrap(), "second", "what failed is not kept");
        api.set_down(true);
        tokio::time::advance(KEPT).await;
        assert!(matches!(read().await, Err(SecretError::Unanswered(_))));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_refused_without_being_repeated() {
        let api = FakeApi::default();
        let secrets = Secrets::new(api.client());
        let long = vec![b'a'; MAX_LENGTH + 1];
        for value in [&b"s3cr3t\r\nHost: x"[..], b"s3cr\xff\xff", b"", b" ", "s3cr3t\u{fc}".as_bytes(), &long] {
            api.put(PATH, secret(&json!({OUTBOUND_LABEL: "true"}), value));
            let error = secrets.read("shop", &key("token")).await.unwrap_err().to_string();
            assert_eq!(error, "Secret shop/prometheus has under token what is no line of ASCII of at most 16 KiB");
        }
    }
}
