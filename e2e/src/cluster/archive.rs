//! What an image archive holds: told from its table of contents and its index, without unpacking it. Docker archives
//! (`docker save`) have a `manifest.json`, OCI archives an `index.json`; recent Docker writes both.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{command, run};

/// An image in an archive, under the name that pods will use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Normalised as the kubelet does it: with registry, repository and tag.
    pub(crate) name: String,
    /// The digest of its manifest; Docker archives do not tell.
    pub(crate) digest: Option<String>,
}

/// An archive with its images.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// `docker save`, `buildah push docker-archive:`.
    Docker(Vec<Named>),
    /// `docker buildx build --output type=oci`, `podman save --format oci-archive`, `docker save` since 25.
    Oci(Vec<Named>),
}

#[derive(Deserialize)]
struct DockerManifest {
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(rename = "io.containerd.image.name")]
    name: Option<String>,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    reference: Option<String>,
}

/// Reads what an archive holds; `tar` sees by itself whether it is compressed.
///
/// # Errors
/// If it is no tar archive, holds neither kind of index, or names no image.
pub(crate) async fn read(path: &Path) -> Result<Archive> {
    if !path.is_file() {
        bail!("{} is not a file: save an image with `docker save --output app.tar app:1`", path.display());
    }
    let list = run(command("tar", ["--list", "--file"]).arg(path))
        .await
        .with_context(|| format!("{} is not a tar archive, compressed or not", path.display()))?;
    let entry = async |name: &str| match list.lines().find(|line| line.trim_start_matches("./") == name) {
        Some(line) => run(command("tar", ["--extract", "--to-stdout", "--file"]).arg(path).arg(line)).await.map(Some),
        None => Ok(None),
    };
    let stem = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.split('.').next().unwrap_or_default();
    classify(entry("index.json").await?.as_deref(), entry("manifest.json").await?.as_deref(), stem)
        .with_context(|| format!("reading {}", path.display()))
}

/// Decides from the two possible indexes. OCI goes first, as it also carries digests.
fn classify(oci: Option<&str>, docker: Option<&str>, stem: &str) -> Result<Archive> {
    if let Some(text) = oci {
        let index: Index = serde_json::from_str(text).context("its index.json is not an OCI index")?;
        if index.manifests.is_empty() {
            bail!("its index.json lists no image");
        }
        return Ok(Archive::Oci(index.manifests.into_iter().map(|entry| oci_name(entry, stem)).collect()));
    }
    let Some(text) = docker else {
        bail!("it is neither a Docker archive (manifest.json) nor an OCI archive (index.json)");
    };
    let manifests: Vec<DockerManifest> =
        serde_json::from_str(text).context("its manifest.json is not that of a Docker archive")?;
    let names: Vec<_> = manifests
        .into_iter()
        .flat_map(|manifest| manifest.tags.unwrap_or_default())
        .map(|tag| Named { name: normalise(&tag), digest: None })
        .collect();
    if names.is_empty() {
        bail!("its image has no name: save it by name (`docker save app:1`), not by number");
    }
    Ok(Archive::Docker(names))
}

/// An OCI reference may be a whole name or a mere tag, and may be absent: then the file gives the name.
fn oci_name(entry: Descriptor, stem: &str) -> Named {
    let reference = match (entry.annotations.name, entry.annotations.reference) {
        (Some(name), _) => name,
        (None, Some(reference)) if reference.contains([':', '/']) => reference,
        (None, Some(tag)) => format!("{stem}:{tag}"),
        (None, None) => stem.to_owned(),
    };
    Named { name: normalise(&reference), digest: Some(entry.digest) }
}

/// The full form of a reference, by Docker's rules, which the kubelet follows: `app` is
/// `docker.io/library/app:latest`.
fn normalise(reference: &str) -> String {
    let (host, rest) = match reference.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest.to_owned()),
        Some(_) => ("docker.io", reference.to_owned()),
        None => ("docker.io", format!("library/{reference}")),
    };
    let last = rest.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { format!("{host}/{rest}") } else { format!("{host}/{rest}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_the_kubelet_completes_them() {
        for (given, full) in [
            ("app", "docker.io/library/app:latest"),
            ("app:1", "docker.io/library/app:1"),
            ("team/app:1", "docker.io/team/app:1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("fairlead.dev/proxy:dev", "fairlead.dev/proxy:dev"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00"),
        ] {
            assert_eq!(normalise(given), full);
        }
    }

    #[test]
    fn a_docker_archive_names_its_images() {
        let text = r#"[{"Config":"c.json","RepoTags":["app:1","app:2"],"Layers":[]}]"#;
        let Archive::Docker(images) = classify(None, Some(text), "x").unwrap() else { panic!("not Docker") };
        let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    }

    #[test]
    fn an_oci_archive_is_named_by_annotation_tag_or_file() {
        let named = |annotations: &str| {
            let text = format!(
                r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:aa","size":1,"annotations":{annotations}}}]}}"#
            );
            let Archive::Oci(images) = classify(Some(&text), None, "shop").unwrap() else { panic!("not OCI") };
            assert_eq!(images[0].digest.as_deref(), Some("sha256:aa"));
            images[0].name.clone()
        };
        let both = r#"{"io.containerd.image.name":"docker.io/library/app:1","org.opencontainers.image.ref.name":"1"}"#;
        assert_eq!(named(both), "docker.io/library/app:1");
        assert_eq!(named(r#"{"org.opencontainers.image.ref.name":"localhost/app:1"}"#), "localhost/app:1");
        assert_eq!(named(r#"{"org.opencontainers.image.ref.name":"2"}"#), "docker.io/library/shop:2");
        assert_eq!(named("{}"), "docker.io/library/shop:latest");
    }

    #[test]
    fn what_is_no_image_archive_is_refused_with_the_reason() {
        let reason = |oci, docker| format!("{:#}", classify(oci, docker, "x").unwrap_err());
        assert!(reason(None, None).contains("neither a Docker archive"));
        assert!(reason(None, Some(r#"[{"RepoTags":null}]"#)).contains("save it by name"));
        assert!(reason(None, Some("{}")).contains("not that of a Docker archive"));
        assert!(reason(Some(r#"{"manifests":[]}"#), None).contains("lists no image"));
        assert!(reason(Some("[]"), None).contains("not an OCI index"));
    }

    #[tokio::test]
    async fn a_file_that_is_no_archive_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a tar archive").unwrap();
        let error = format!("{:#}", read(file.path()).await.unwrap_err());
        assert!(error.contains("is not a tar archive") && error.contains(&*file.path().to_string_lossy()), "{error}");
    }
}
