//! Bringing images onto the nodes: through `ctr` into each node's containerd, where the kubelet finds them by name.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::archive::{self, Archive};
use super::plan::{self, Node};
use crate::command::run;

/// The label on an image that says what it was made from.
const SOURCE_LABEL: &str = "fairlead.dev/source";

/// Imports every image of an archive on both nodes and returns their names as pods refer to them.
///
/// # Errors
/// If the file is no image archive, or an import fails.
pub(crate) async fn archive(path: &Path) -> Result<Vec<String>> {
    let archive = archive::read(path).await?;
    for node in plan::nodes() {
        on_node(node, path, &archive)
            .await
            .with_context(|| format!("importing {} on {}", path.display(), node.name))?;
    }
    let (Archive::Docker(images) | Archive::Oci(images)) = archive;
    Ok(images.into_iter().map(|image| image.name).collect())
}

async fn on_node(node: &Node, path: &Path, archive: &Archive) -> Result<()> {
    match archive {
        Archive::Docker(_) => run(node.ctr(["images", "import"]).arg(path))
            .await
            .map(drop),
        Archive::Oci(images) => {
            // `ctr` makes up names for OCI archives; by digest they can be told and given the right ones.
            let scratch = "fairlead-import";
            run(node
                .ctr(["images", "import", "--digests", "--base-name", scratch])
                .arg(path))
            .await?;
            for image in images {
                let Some(digest) = &image.digest else {
                    bail!("{} has no digest", image.name)
                };
                let made_up = format!("{scratch}@{digest}");
                run(&mut node.ctr(["images", "tag", "--force", &made_up, &image.name])).await?;
                run(&mut node.ctr(["images", "remove", &made_up])).await?;
            }
            Ok(())
        }
    }
}

/// Whether a node has an image under this name that was made from this source.
///
/// # Errors
/// If the node's containerd does not answer.
pub(crate) async fn is_current(node: &Node, name: &str, source: &str) -> Result<bool> {
    let filter = format!("name=={name},labels.\"{SOURCE_LABEL}\"=={source}");
    Ok(run(&mut node.ctr(["images", "list", "--quiet", &filter]))
        .await?
        .trim()
        == name)
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
