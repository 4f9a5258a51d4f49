//! Bringing images onto the nodes: through `ctr` into each node's containerd, where the kubelet finds them by name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use super::archive::{self, Archive};
use super::plan::{self, Node};
use crate::command::{command, run};

/// The label on an image that says what it was made from.
const SOURCE_LABEL: &str = "fairlead.dev/source";

/// Under this name OCI archives are imported, until their images get the right ones.
const SCRATCH: &str = "fairlead-import";

/// Imports every image of an archive on both nodes and returns their names as pods refer to them.
///
/// # Errors
/// If the file is no image archive, or an import fails.
pub(crate) async fn archive(path: &Path) -> Result<Vec<String>> {
    let archive = archive::read(path).await?;
    let plain = decompressed(path).await?;
    let file = plain.as_ref().map_or(path, NamedTempFile::path);
    for node in plan::nodes() {
        on_node(node, file, &archive)
            .await
            .with_context(|| format!("importing {} on {}", path.display(), node.name))?;
    }
    let (Archive::Docker(images) | Archive::Oci(images)) = archive;
    Ok(images.into_iter().map(|image| image.name).collect())
}

/// `ctr` reads plain archives only: a compressed one is unpacked into a temporary file.
async fn decompressed(path: &Path) -> Result<Option<NamedTempFile>> {
    let mut magic = [0; 2];
    let compressed = File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == [0x1f, 0x8b];
    if !compressed {
        return Ok(None);
    }
    let plain = NamedTempFile::new().context("making a temporary file")?;
    let output = plain.reopen().context("opening the temporary file again")?;
    let mut gzip = command("gzip", ["--decompress", "--stdout"]);
    let status = gzip.arg(path).stdout(output).status().await.context("starting gzip")?;
    if !status.success() {
        bail!("{} cannot be decompressed", path.display());
    }
    Ok(Some(plain))
}

async fn on_node(node: &Node, path: &Path, archive: &Archive) -> Result<()> {
    let Archive::Oci(images) = archive else {
        return run(node.ctr(["images", "import"]).arg(path)).await.map(drop);
    };
    // `ctr` makes up names for OCI archives; by digest they can be told and given the right ones.
    run(node.ctr(["images", "import", "--digests", "--base-name", SCRATCH]).arg(path)).await?;
    for image in images {
        let Some(digest) = &image.digest else { bail!("{} has no digest", image.name) };
        run(&mut node.ctr(["images", "tag", "--force", &format!("{SCRATCH}@{digest}"), &image.name])).await?;
    }
    let made_up = run(&mut node.ctr(["images", "list", "--quiet", &format!("name~=^{SCRATCH}[:@]")])).await?;
    run(node.ctr(["images", "remove"]).args(made_up.lines())).await.map(drop)
}

/// Whether a node has an image under this name that was made from this source.
///
/// # Errors
/// If the node's containerd does not answer.
pub(crate) async fn is_current(node: &Node, name: &str, source: &str) -> Result<bool> {
    let filter = format!("name=={name},labels.\"{SOURCE_LABEL}\"=={source}");
    Ok(run(&mut node.ctr(["images", "list", "--quiet", &filter])).await?.trim() == name)
}

/// Imports the one image of a Docker archive on a node and notes what it was made from.
///
/// # Errors
/// If the import fails.
pub(crate) async fn built(node: &Node, path: &Path, name: &str, source: &str) -> Result<()> {
    run(node.ctr(["images", "import"]).arg(path)).await?;
    run(&mut node.ctr(["images", "label", name, &format!("{SOURCE_LABEL}={source}")])).await?;
    Ok(())
}
