//! What the index keeps of a `ConfigMap` with authorities outside the mesh.

use std::sync::Arc;

use fairlead_crds::{CA_KEY, CA_LABEL};
use fairlead_identity::verifier;
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::state::State;
use crate::model::ObjectName;

/// Certificates of one `ConfigMap`. The common bundles of public authorities have about 150.
const MAX_ROOTS: usize = 256;
/// Bytes of them in DER, so that a destination with several fits into a message to a proxy.
const MAX_BYTES: usize = 256 * 1024;

/// Certificates in DER, at least one, each fit to end a chain; or why there are none, as a clause about the `ConfigMap`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Authorities(Result<Arc<[Vec<u8>]>, String>);

impl Authorities {
    pub(super) fn parse(map: ConfigMap) -> Self {
        let pem = map.data.unwrap_or_default().remove(CA_KEY);
        Self(pem.ok_or_else(|| format!("has no key {CA_KEY}")).and_then(|pem| roots(&pem)))
    }
}

fn roots(pem: &str) -> Result<Arc<[Vec<u8>]>, String> {
    let mut found = Vec::new();
    let mut bytes = 0;
    for (i, root) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let root = root.map_err(|error| format!("has a key {CA_KEY} that is not PEM: {error}"))?;
        bytes += root.len();
        if found.len() == MAX_ROOTS || bytes > MAX_BYTES {
            let most = MAX_BYTES / 1024;
            return Err(format!(
                "has more than {MAX_ROOTS} certificates or {most} KiB of them: keep those that are needed"
            ));
        }
        // As proxies do it, so that none has to refuse what it is sent.
        verifier::anchor(&root).map_err(|error| format!("has a certificate (number {}) of no use: {error}", i + 1))?;
        found.push(root.to_vec());
    }
    if found.is_empty() { Err(format!("has no certificate in its key {CA_KEY}")) } else { Ok(found.into()) }
}

impl State {
    /// The certificates of a `ConfigMap`, or a sentence about why there are none.
    pub(super) fn roots(&self, name: &ObjectName) -> Result<Arc<[Vec<u8>]>, String> {
        match self.authorities.get(name) {
            None => Err(format!("ConfigMap {name} does not exist or lacks the label {CA_LABEL}: \"true\"")),
            Some(Authorities(roots)) => roots.clone().map_err(|why| format!("ConfigMap {name} {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    fn root() -> rcgen::Certificate {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[allow(clippy::needless_pass_by_value, reason = "reads as the literal that it is")]
    fn parse(data: Value) -> Result<Arc<[Vec<u8>]>, String> {
        Authorities::parse(serde_json::from_value(json!({"metadata": {}, "data": data})).unwrap()).0
    }

    #[test]
    fn a_bundle_is_read_with_what_is_written_between() {
        let (a, b) = (root(), root());
        let pem = format!("# A\n{}\n# B\n{}", a.pem(), b.pem());
        let read = parse(json!({"ca.crt": pem, "other": "x"})).unwrap();
        assert_eq!(*read, [a.der().to_vec(), b.der().to_vec()]);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let pem = root().pem();
        let cut = pem.replace("-----END CERTIFICATE-----", "");
        let empty = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for (data, expected) in [
            (json!({}), "has no key ca.crt"),
            (json!({"ca.crt": ""}), "has no certificate in its key ca.crt"),
            (json!({"ca.crt": "hello"}), "has no certificate in its key ca.crt"),
            (json!({"ca.crt": cut}), "has a key ca.crt that is not PEM"),
            (json!({"ca.crt": format!("{pem}{empty}")}), "has a certificate (number 2) of no use"),
            (json!({"ca.crt": pem.repeat(MAX_ROOTS + 1)}), "has more than 256 certificates"),
        ] {
            let why = parse(data).unwrap_err();
            assert!(why.starts_with(expected), "{why}");
        }
        assert_eq!(parse(json!({"ca.crt": pem.repeat(MAX_ROOTS)})).unwrap().len(), MAX_ROOTS);
    }
}
