//! The cluster's keys and certificates, and the kubeconfigs made of them. The two authorities and the key that signs
//! service-account tokens are made once and kept, so that a later start speaks for the same cluster; everything that
//! they sign is made anew at each start.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::metrics;
use super::plan::{self, API_PORT, API_SERVICE, Node};

/// Longer than any checkout lives; nothing here is reachable from outside of the machine.
const VALIDITY: Duration = Duration::days(3650);

/// An authority: what it signs with, and the certificate that others check against.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key, both as PEM.
struct Leaf {
    certificate: String,
    key: String,
}

/// The folder with everything that [`make`] wrote.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The path of one of the files: `ca.crt`, `apiserver.key`, `node-a.kubeconfig`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Makes what is missing of the authorities, and everything below them.
///
/// # Errors
/// If a file cannot be read or written, or a kept authority is damaged.
pub(crate) fn make(folder: &Path, admin_kubeconfig: &Path) -> Result<Pki> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))?;
    let pki = Pki { folder: folder.to_owned() };

    let ca = authority(&pki, "ca")?;
    // Requests of the aggregation layer must not be possible with an ordinary client certificate.
    let front = authority(&pki, "front-proxy-ca")?;
    let tokens = kept_key(&pki.file("sa.key"))?;
    write(&pki.file("sa.pub"), &tokens.public_key_pem())?;

    let control_plane = plan::control_plane();
    let api_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain(["127.0.0.1".to_owned(), API_SERVICE.to_owned(), control_plane.address().to_string()]);
    server(&pki, &ca, "apiserver", "kube-apiserver", None, api_names.collect())?;
    server(&pki, &ca, "metrics-server", "metrics-server", None, vec![metrics::SERVER_NAME.to_owned()])?;
    write_leaf(&pki, "kubelet-client", &client(&ca, "kube-apiserver-kubelet-client", Some("system:masters"))?)?;
    write_leaf(&pki, "front-proxy-client", &client(&front, "front-proxy-client", None)?)?;

    let users = [
        ("controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler"),
        ("kube-proxy", "system:kube-proxy"),
        ("coredns", "coredns"),
        ("metrics-server", "metrics-server"),
        ("network-policy", "network-policy"),
    ];
    for (name, user) in users {
        let kubeconfig = kubeconfig(&ca, &client(&ca, user, None)?);
        write(&pki.file(&format!("{name}.kubeconfig")), &kubeconfig?)?;
    }
    for node in plan::nodes() {
        let user = format!("system:node:{}", node.name);
        let kubeconfig = kubeconfig(&ca, &client(&ca, &user, Some("system:nodes"))?)?;
        write(&pki.file(&format!("{}.kubeconfig", node.name)), &kubeconfig)?;
        server(&pki, &ca, node.name, &user, Some("system:nodes"), node_names(node))?;
    }
    write(admin_kubeconfig, &kubeconfig(&ca, &client(&ca, "fairlead-admin", Some("system:masters"))?)?)?;
    Ok(pki)
}

fn node_names(node: &Node) -> Vec<String> {
    vec![node.name.to_owned(), node.address().to_string(), node.address6().to_string()]
}

fn authority(pki: &Pki, name: &str) -> Result<Authority> {
    let key = kept_key(&pki.file(&format!("{name}.key")))?;
    let path = pki.file(&format!("{name}.crt"));
    if !path.exists() {
        let mut params = params(&format!("fairlead {name}"), None, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        write(&path, &params.self_signed(&key)?.pem())?;
    }
    let certificate = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, key)
        .with_context(|| format!("{} is damaged: begin anew with `make down PURGE=1`", path.display()))?;
    Ok(Authority { issuer, certificate })
}

/// A key that is made the first time and kept.
fn kept_key(path: &Path) -> Result<KeyPair> {
    if !path.exists() {
        write(path, &KeyPair::generate()?.serialize_pem())?;
    }
    let pem = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    KeyPair::from_pem(&pem)
        .with_context(|| format!("{} is damaged: begin anew with `make down PURGE=1`", path.display()))
}

fn params(common_name: &str, organization: Option<&str>, names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    let now = OffsetDateTime::now_utc();
    // The clocks of a machine that just woke up may disagree by a little.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + VALIDITY;
    Ok(params)
}

fn client(authority: &Authority, user: &str, group: Option<&str>) -> Result<Leaf> {
    leaf(authority, params(user, group, Vec::new())?, ExtendedKeyUsagePurpose::ClientAuth)
}

fn server(
    pki: &Pki,
    authority: &Authority,
    file: &str,
    name: &str,
    group: Option<&str>,
    names: Vec<String>,
) -> Result<()> {
    let leaf = leaf(authority, params(name, group, names)?, ExtendedKeyUsagePurpose::ServerAuth)?;
    write_leaf(pki, file, &leaf)
}

fn leaf(authority: &Authority, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Leaf> {
    let key = KeyPair::generate()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, &authority.issuer)?;
    Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn write_leaf(pki: &Pki, name: &str, leaf: &Leaf) -> Result<()> {
    write(&pki.file(&format!("{name}.crt")), &leaf.certificate)?;
    write(&pki.file(&format!("{name}.key")), &leaf.key)
}

/// A kubeconfig that holds everything in itself, so that it can be copied anywhere on the machine.
fn kubeconfig(ca: &Authority, leaf: &Leaf) -> Result<String> {
    let server = format!("https://{}:{API_PORT}", plan::control_plane().address());
    Ok(serde_yaml::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fairlead", "cluster": {
            "server": server,
            "certificate-authority-data": BASE64_STANDARD.encode(&ca.certificate),
        }}],
        "users": [{"name": "fairlead", "user": {
            "client-certificate-data": BASE64_STANDARD.encode(&leaf.certificate),
            "client-key-data": BASE64_STANDARD.encode(&leaf.key),
        }}],
        "contexts": [{"name": "fairlead", "context": {"cluster": "fairlead", "user": "fairlead"}}],
        "current-context": "fairlead",
    }))?)
}

/// Writes a file that only root can read: most of them hold keys.
fn write(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_kept_and_what_they_sign_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        make(folder.path(), &folder.path().join("admin")).unwrap();
        let before = ["ca.crt", "front-proxy-ca.crt", "sa.pub", "apiserver.crt"].map(read);
        make(folder.path(), &folder.path().join("admin")).unwrap();
        let after = ["ca.crt", "front-proxy-ca.crt", "sa.pub", "apiserver.crt"].map(read);
        assert_eq!(before[..3], after[..3]);
        assert_ne!(before[3], after[3]);
        assert_ne!(before[0], before[1], "the request-header authority differs from the client authority");
    }

    #[test]
    fn the_admin_kubeconfig_is_readable_by_kube_and_names_the_first_node() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &folder.path().join("admin")).unwrap();
        let config = kube::config::Kubeconfig::read_from(folder.path().join("admin")).unwrap();
        let server = config.clusters[0].cluster.as_ref().unwrap().server.clone().unwrap();
        assert_eq!(server, "https://198.18.77.11:6443");
    }
}
