//! Mesh-wide settings: one file, in a `ConfigMap` of the operator's namespace that is mounted as a folder.
//!
//! [`Settings::load`] reads it, once, at the start. What is not right is refused as a whole, in one sentence that names field and fix: an operator that ran on
//! with half of what somebody wrote would do what nobody asked for.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use fairlead_crds::Duration as DurationText;
use serde::{Deserialize, Serialize};

/// The `ConfigMap`, which users make; without it everything is as by default.
pub const SETTINGS_NAME: &str = "fairlead-settings";
/// Its one key.
pub const SETTINGS_KEY: &str = "settings.yaml";
/// Where it is mounted.
pub const SETTINGS_FOLDER: &str = "/etc/fairlead/settings";
/// Far more than all settings need.
const MAX_FILE: u64 = 64 * 1024;

/// Of a leaf where nobody says otherwise: a stolen key is good for a day at most, and the operator may be away for half a day.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Below this there is no room for the retries between half of a life and its end, and a proxy asks about as often as its rate limit allows.
pub const MIN_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// There is no revocation: a stolen key is good until its certificate ends. Also less than the 45 days that are left of an intermediate when it is renewed,
/// so that leaves get what was set.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `certificateLifetime`: from when a leaf is issued to when it ends.
    pub certificate_lifetime: Duration,
    /// `certificateRequests`: another authority signs leaves.
    pub certificate_requests: Option<CertificateRequests>,
}

/// Leaves are signed by an issuer of cert-manager's, by way of `CertificateRequest`s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequests {
    /// `issuerRef`.
    pub issuer: IssuerRef,
    /// `phaseOut`: the mesh is on its way to another root. The issuer signs for as long as its own root does.
    pub phase_out: bool,
}

/// Who signs, as cert-manager names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerRef {
    /// `cert-manager.io`, or that of an external issuer.
    #[serde(default = "default_group")]
    pub group: String,
    /// `Issuer` (in the operator's namespace), `ClusterIssuer`, or an external issuer's.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for IssuerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.kind, self.name, self.group)
    }
}

fn default_group() -> String {
    "cert-manager.io".to_owned()
}

impl Default for Settings {
    fn default() -> Self {
        Self { certificate_lifetime: DEFAULT_LIFETIME, certificate_requests: None }
    }
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The folder or the file cannot be read.
    #[error("cannot read the settings in {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A key of the `ConfigMap` that nobody would read.
    #[error(
        "ConfigMap {SETTINGS_NAME} has a key {0:?}, which nothing reads: the settings are all under {SETTINGS_KEY}"
    )]
    Key(String),
    /// Not YAML, a field that does not exist, or a value of another kind.
    #[error("ConfigMap {SETTINGS_NAME}, {SETTINGS_KEY}: {0}")]
    Unreadable(String),
    /// A value that is out of its bounds.
    #[error("ConfigMap {SETTINGS_NAME}, {SETTINGS_KEY}: {field} is {value}; {fix}")]
    Field {
        /// Its name.
        field: &'static str,
        /// As it was written.
        value: String,
        /// What it may be, and why.
        fix: &'static str,
    },
}

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    certificate_lifetime: Option<String>,
    certificate_requests: Option<WrittenRequests>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenRequests {
    issuer_ref: IssuerRef,
    #[serde(default)]
    phase_out: bool,
}

impl Settings {
    /// Of the mounted folder. One that is missing or empty is a mesh whose users set nothing.
    pub fn load(folder: &Path) -> Result<Self, SettingsError> {
        let failed = |source| SettingsError::File { path: folder.display().to_string(), source };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = false;
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            // The kubelet's own, by which it replaces all files at once.
            if name.starts_with("..") {
                continue;
            }
            if name != SETTINGS_KEY {
                return Err(SettingsError::Key(name));
            }
            found = true;
        }
        if !found {
            return Ok(Self::default());
        }
        let file = std::fs::File::open(folder.join(SETTINGS_KEY)).map_err(failed)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE + 1), &mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(SettingsError::Unreadable(format!("longer than {MAX_FILE} bytes")));
        }
        Self::parse(&text)
    }

    /// Of the file's text. What it does not state is as by default.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let written: Option<Written> =
            serde_yaml::from_str(text).map_err(|error| SettingsError::Unreadable(error.to_string()))?;
        let Written { certificate_lifetime, certificate_requests } = written.unwrap_or_default();
        let certificate_lifetime =
            certificate_lifetime.as_deref().map(lifetime).transpose()?.unwrap_or(DEFAULT_LIFETIME);
        let certificate_requests = certificate_requests.map(requests).transpose()?;
        Ok(Self { certificate_lifetime, certificate_requests })
    }
}

fn lifetime(written: &str) -> Result<Duration, SettingsError> {
    let field = |fix| SettingsError::Field { field: "certificateLifetime", value: format!("{written:?}"), fix };
    let parsed: Result<DurationText, _> = written.parse();
    let lifetime = parsed.map_err(|_| field("write a duration of h, m and s, such as 24h, 10m or 1h30m"))?.as_std();
    if lifetime < MIN_LIFETIME {
        return Err(field("it must be 5m or longer, so that a renewal that fails can be tried again in time"));
    }
    if lifetime > MAX_LIFETIME {
        return Err(field("it must be 720h (30 days) or shorter, since nothing revokes a certificate before it ends"));
    }
    if lifetime.subsec_millis() != 0 {
        return Err(field("it must be whole seconds, as the times in certificates are"));
    }
    Ok(lifetime)
}

fn requests(written: WrittenRequests) -> Result<CertificateRequests, SettingsError> {
    let WrittenRequests { issuer_ref: issuer, phase_out } = written;
    let field = |field, value: &str, fix| Err(SettingsError::Field { field, value: format!("{value:?}"), fix });
    // As Kubernetes' API has names, so that what is wrong is said here and not by each request.
    let is_subdomain = |text: &str| {
        let label = |label: &str| {
            let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        };
        text.len() <= 253 && text.split('.').all(label)
    };
    if !is_subdomain(&issuer.group) {
        return field(
            "certificateRequests.issuerRef.group",
            &issuer.group,
            "it must be an API group, such as cert-manager.io",
        );
    }
    if issuer.kind.is_empty() || issuer.kind.len() > 63 || !issuer.kind.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return field(
            "certificateRequests.issuerRef.kind",
            &issuer.kind,
            "it must be a kind, such as ClusterIssuer, or Issuer for one in the operator's namespace",
        );
    }
    if !is_subdomain(&issuer.name) {
        return field("certificateRequests.issuerRef.name", &issuer.name, "it must be the name of an issuer");
    }
    Ok(CertificateRequests { issuer, phase_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Settings::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_stated_is_as_by_default() {
        for text in ["", "# nothing\n", "{}", "null"] {
            assert_eq!(Settings::parse(text).unwrap(), Settings::default());
        }
        let minutes = Settings::parse("certificateLifetime: 10m\n").unwrap();
        assert_eq!(minutes.certificate_lifetime, Duration::from_secs(600));
        for (text, seconds) in [("5m", 300), ("24h", 86_400), ("720h", 2_592_000), ("1h30m", 5_400)] {
            let settings = Settings::parse(&format!("certificateLifetime: {text}")).unwrap();
            assert_eq!(settings.certificate_lifetime, Duration::from_secs(seconds));
        }
    }

    #[test]
    fn an_issuer_is_named_by_kind_and_name() {
        let parse = |text: &str| Settings::parse(text).map(|settings| settings.certificate_requests);
        let issuer =
            |group: &str| IssuerRef { group: group.into(), kind: "ClusterIssuer".into(), name: "company".into() };
        let requests = |group, phase_out| Some(CertificateRequests { issuer: issuer(group), phase_out });
        let text = "certificateRequests:\n  issuerRef: {kind: ClusterIssuer, name: company}\n";
        assert_eq!(parse(text).unwrap(), requests("cert-manager.io", false));
        let text = "certificateRequests: {phaseOut: true, issuerRef: {group: awspca.cert-manager.io, kind: ClusterIssuer, name: company}}";
        assert_eq!(parse(text).unwrap(), requests("awspca.cert-manager.io", true));
        for (written, words) in [
            ("{}", ["certificateRequests", "missing field `issuerRef`"]),
            ("{issuerRef: {name: company}}", ["issuerRef", "missing field `kind`"]),
            ("{issuerRef: {kind: Issuer, name: a, namespace: b}}", ["unknown field `namespace`", "issuerRef"]),
            ("{issuerRef: {kind: Issuer, name: a}, roots: x}", ["unknown field `roots`", "certificateRequests"]),
            ("{issuerRef: {kind: Issuer, name: A_b}}", ["certificateRequests.issuerRef.name is \"A_b\"", "issuer"]),
            ("{issuerRef: {kind: a/b, name: a}}", ["certificateRequests.issuerRef.kind is \"a/b\"", "ClusterIssuer"]),
            ("{issuerRef: {group: '', kind: Issuer, name: a}}", ["certificateRequests.issuerRef.group", "API group"]),
        ] {
            let sentence = refused(&format!("certificateRequests: {written}"));
            assert!(words.iter().all(|word| sentence.contains(word)), "{written}: {sentence}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_fix() {
        for (text, words) in [
            ("certificateLifetime: 4m59s", ["certificateLifetime is \"4m59s\"", "5m or longer"]),
            ("certificateLifetime: 721h", ["certificateLifetime is \"721h\"", "30 days"]),
            ("certificateLifetime: 5m1ms", ["certificateLifetime is \"5m1ms\"", "whole seconds"]),
            ("certificateLifetime: 1d", ["certificateLifetime is \"1d\"", "such as 24h"]),
            ("certificateLifetime: 24", ["certificateLifetime is \"24\"", "such as 24h"]),
            ("certificateLifeTime: 24h", ["unknown field `certificateLifeTime`", "expected `certificateLifetime`"]),
            ("- certificateLifetime: 24h", ["settings.yaml", "invalid type"]),
            ("certificateLifetime: [", ["ConfigMap fairlead-settings", "line 1"]),
            ("certificateLifetime: 5m\ncertificateLifetime: 6m", ["duplicate", "certificateLifetime"]),
        ] {
            let sentence = refused(text);
            assert!(words.iter().all(|word| sentence.contains(word)), "{text}: {sentence}");
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
        }
    }

    #[test]
    fn the_folder_holds_one_file_or_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Settings::load(&folder.path().join("missing")).unwrap(), Settings::default());
        // As the kubelet lays it out.
        std::fs::create_dir(folder.path().join("..2026_11_20")).unwrap();
        assert_eq!(Settings::load(folder.path()).unwrap(), Settings::default());
        std::fs::write(folder.path().join(SETTINGS_KEY), "certificateLifetime: 1h").unwrap();
        assert_eq!(Settings::load(folder.path()).unwrap().certificate_lifetime, Duration::from_secs(3600));
        std::fs::write(folder.path().join(SETTINGS_KEY), "#".repeat(70_000)).unwrap();
        assert!(Settings::load(folder.path()).unwrap_err().to_string().contains("longer than"));
        std::fs::write(folder.path().join("settings.yml"), "certificateLifetime: 1h").unwrap();
        let error = Settings::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("\"settings.yml\"") && error.contains("settings.yaml"), "{error}");
    }
}
