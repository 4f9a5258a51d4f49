//! The Secrets of the authority: how they are written, and what they hold.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;

use super::foreign::{self, Foreign, TRUST_DOMAIN_LABEL};
use super::keeper::KeeperError;
use super::material::{Intermediate, MaterialError, Root, RootId, pem};

/// Holds the root.
pub const ROOT_SECRET: &str = "fairlead-root";
/// Holds the root that is to take its place, during a rotation.
pub const NEXT_ROOT_SECRET: &str = "fairlead-root-next";
/// Holds the online intermediate.
pub const ISSUER_SECRET: &str = "fairlead-issuer";
/// The user's: a root, or an intermediate with its chain. The operator reads it, and never writes it.
pub const USER_SECRET: &str = "fairlead-ca";

/// The roots of an authority that is asked to sign: a `ConfigMap` of the user's.
pub const ROOTS_MAP: &str = "fairlead-roots";
/// The present root of it, and during a change the one that is to follow.
const MAX_LISTED: usize = 2;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOT_CERTIFICATE: &str = "ca.crt";
/// More than proxies take; the rest is complained of.
const MAX_MAPS: u32 = 256;
const FOREIGN: &str = "trust-domains.json";

/// Reads and writes them in one namespace.
pub(super) struct Secrets {
    api: Api<Secret>,
    maps: Api<ConfigMap>,
    pub(super) namespace: String,
}

impl Secrets {
    pub(super) fn new(client: kube::Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            maps: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    pub(super) async fn get(&self, name: &'static str) -> Result<Option<Secret>, KeeperError> {
        self.api.get_opt(name).await.map_err(|source| self.error("read", name, source))
    }

    /// The `ConfigMap`s that name a trust domain.
    pub(super) async fn trust_domains(&self) -> Result<Vec<ConfigMap>, KeeperError> {
        let labelled = ListParams::default().labels(TRUST_DOMAIN_LABEL).limit(MAX_MAPS);
        let listed = self.maps.list(&labelled).await;
        listed.map(|list| list.items).map_err(|source| KeeperError::Maps {
            what: "list the ConfigMaps of other trust domains",
            namespace: self.namespace.clone(),
            source: Box::new(source),
        })
    }

    /// The roots of the authority that is asked to sign; `None`: there is no such `ConfigMap`.
    pub(super) async fn listed_roots(&self) -> Result<Option<ConfigMap>, KeeperError> {
        let found = self.maps.get_opt(ROOTS_MAP).await;
        found.map_err(|source| KeeperError::Maps {
            what: "read ConfigMap fairlead-roots",
            namespace: self.namespace.clone(),
            source: Box::new(source),
        })
    }

    /// That someone else was first is no error: the next look reads theirs.
    pub(super) async fn create(&self, name: &'static str, secret: Secret) -> Result<(), KeeperError> {
        match self.api.create(&PostParams::default(), &secret).await {
            Ok(_) => tracing::info!(secret = name, "certificate authority written"),
            Err(error) if is_conflict(&error) => (),
            Err(source) => return Err(self.error("create", name, source)),
        }
        Ok(())
    }

    /// `secret` carries the version that was read, so that what another replica wrote meanwhile is not undone.
    pub(super) async fn replace(
        &self,
        name: &'static str,
        secret: &Secret,
        what: &'static str,
    ) -> Result<(), KeeperError> {
        match self.api.replace(name, &PostParams::default(), secret).await {
            Ok(_) => tracing::info!(secret = name, "{what}"),
            Err(error) if is_conflict(&error) => (),
            Err(source) => return Err(self.error("write", name, source)),
        }
        Ok(())
    }

    /// Deletes the very object that was read.
    pub(super) async fn delete(&self, name: &'static str, secret: &Secret) -> Result<(), KeeperError> {
        let preconditions = Preconditions {
            resource_version: secret.metadata.resource_version.clone(),
            uid: secret.metadata.uid.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api.delete(name, &params).await {
            Ok(_) => tracing::info!(secret = name, "deleted"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => (),
            Err(source) => return Err(self.error("delete", name, source)),
        }
        Ok(())
    }

    fn error(&self, action: &'static str, name: &'static str, source: kube::Error) -> KeeperError {
        KeeperError::Api { action, namespace: self.namespace.clone(), name, source: Box::new(source) }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// A Secret of ours that is not there yet.
pub(super) fn new(name: &str, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "fairlead".to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// The same Secret, to be created again.
pub(super) fn again(mut secret: Secret) -> Secret {
    let metadata = &mut secret.metadata;
    (metadata.resource_version, metadata.uid, metadata.creation_timestamp) = (None, None, None);
    secret
}

/// An annotation; empty where there is none.
pub(super) fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|all| all.get(name)).map_or("", String::as_str)
}

/// What an annotation of ours keeps; `None` where it is missing, an error where it is damaged.
pub(super) fn kept<T: DeserializeOwned>(secret: &Secret, name: &str) -> Result<Option<T>, serde_json::Error> {
    let text = annotation(secret, name);
    if text.is_empty() { Ok(None) } else { serde_json::from_str(text).map(Some) }
}

/// Puts it there.
pub(super) fn keep<T: serde::Serialize>(secret: &mut Secret, name: &str, value: &T) {
    let text = serde_json::to_string(value).unwrap_or_default();
    secret.metadata.annotations.get_or_insert_default().insert(name.to_owned(), text);
}

pub(super) fn root_data(root: &Root) -> BTreeMap<String, ByteString> {
    BTreeMap::from([
        (CERTIFICATE.to_owned(), ByteString(root.certificate_pem().into_bytes())),
        // Secrets of this type must have the field.
        (KEY.to_owned(), ByteString(root.key_pem().unwrap_or_default().into_bytes())),
    ])
}

pub(super) fn intermediate_data(intermediate: &Intermediate, root: &Root) -> BTreeMap<String, ByteString> {
    BTreeMap::from([
        (CERTIFICATE.to_owned(), ByteString(intermediate.chain_pem().into_bytes())),
        (KEY.to_owned(), ByteString(intermediate.key_pem().into_bytes())),
        // For people: what to verify it with.
        (ROOT_CERTIFICATE.to_owned(), ByteString(root.certificate_pem().into_bytes())),
    ])
}

fn field<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|value| value.0.as_slice())
}

/// A root; one with an empty key is the user's, who kept it.
pub(super) fn root(secret: &Secret) -> Result<Root, MaterialError> {
    let certificate = field(secret, CERTIFICATE).ok_or(MaterialError::Certificate)?;
    let key = field(secret, KEY).ok_or(MaterialError::Key)?;
    Root::parse(certificate, (!key.is_empty()).then_some(key))
}

pub(super) fn intermediate(secret: &Secret) -> Result<Intermediate, MaterialError> {
    let chain = field(secret, CERTIFICATE).ok_or(MaterialError::Certificate)?;
    Intermediate::parse(chain, field(secret, KEY).ok_or(MaterialError::Key)?)
}

/// The roots of other trust domains, which lie beside our own.
pub(super) fn foreign(secret: &Secret) -> Foreign {
    field(secret, FOREIGN).map(foreign::from_json).unwrap_or_default()
}

/// Puts them there.
pub(super) fn set_foreign(secret: &mut Secret, roots: &Foreign) {
    secret.data.get_or_insert_default().insert(FOREIGN.to_owned(), ByteString(foreign::to_json(roots)));
}

/// The roots in it, in their order.
pub(super) fn listed(map: Option<&ConfigMap>) -> Result<Vec<Root>, String> {
    let map = map.ok_or("it does not exist")?;
    let text = map.data.as_ref().and_then(|data| data.get(ROOT_CERTIFICATE)).map_or("", String::as_str);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).take(MAX_LISTED + 1).collect();
    let found = found.map_err(|_| format!("{ROOT_CERTIFICATE} is not PEM"))?;
    if found.is_empty() {
        return Err(format!("{ROOT_CERTIFICATE} holds no certificate"));
    }
    if found.len() > MAX_LISTED {
        return Err(format!(
            "{ROOT_CERTIFICATE} holds more than {MAX_LISTED} certificates: the root in use, and after it the one that is to follow"
        ));
    }
    let root = |der: &CertificateDer<'_>| Root::parse(pem("CERTIFICATE", der).as_bytes(), None);
    let roots: Result<Vec<_>, _> = found.iter().map(root).collect();
    roots.map_err(|_| format!("{ROOT_CERTIFICATE} holds what is no authority's (no CA, or no keyCertSign)"))
}

/// Of the roots that are listed the one that is to be: the one after the present, where that is listed, otherwise the first.
pub(super) fn wanted(mut listed: Vec<Root>, present: Option<RootId>) -> Option<Root> {
    let at = listed.iter().position(|root| Some(root.id()) == present).map_or(0, |at| at + 1);
    let at = at.min(listed.len().checked_sub(1)?);
    Some(listed.swap_remove(at))
}

/// What the user gives the mesh to work with.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) root: Root,
    /// Where the root's key is not given.
    pub(super) intermediate: Option<Intermediate>,
}

/// A root is signed by itself, and its `ca.crt` is missing or the same; everything else is an intermediate below `ca.crt`.
pub(super) fn offer(secret: &Secret, now: time::OffsetDateTime) -> Result<Offer, MaterialError> {
    let ca = field(secret, ROOT_CERTIFICATE).filter(|ca| !ca.is_empty());
    let given = ca.map(|ca| {
        Root::parse(ca, None).map_err(|error| match error {
            MaterialError::Certificate => MaterialError::Root,
            other => other,
        })
    });
    let given = given.transpose()?;
    let (chain, key) = (field(secret, CERTIFICATE), field(secret, KEY).ok_or(MaterialError::Key)?);
    let chain = chain.ok_or(MaterialError::Certificate)?;
    let itself = Root::parse(chain, None).ok().filter(Root::is_self_signed);
    let offer = match (given, itself) {
        (None, Some(_)) => Offer { root: Root::parse(chain, Some(key))?, intermediate: None },
        (Some(root), Some(itself)) if root.id() == itself.id() => {
            Offer { root: Root::parse(chain, Some(key))?, intermediate: None }
        }
        (Some(root), _) => Offer { root, intermediate: Some(Intermediate::parse(chain, key)?) },
        (None, None) => return Err(MaterialError::Root),
    };
    offer.root.validity.check(now)?;
    if let Some(intermediate) = &offer.intermediate {
        intermediate.validity.check(now)?;
        intermediate.check_under(&offer.root)?;
    } else {
        offer.root.new_intermediate(&super::material::Serial::random()?, now)?.check_under(&offer.root)?;
    }
    Ok(offer)
}
