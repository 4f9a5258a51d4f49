//! The images of this checkout: static binaries in images from scratch, by the Containerfiles that users build with
//! Docker. [`build_and_load`] makes them and brings them onto the nodes; what is there already is left alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ring::digest::{self, SHA256};

use crate::cluster::{self, Node, Places};
use crate::command::{command, run};
use crate::prerequisites;
use crate::progress::Step;

/// An image that is built from a crate of this workspace.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// As pods name it.
    pub name: &'static str,
    /// The crate, whose binary has the same name.
    pub package: &'static str,
    /// The profile of the workspace that it is built with.
    pub profile: Profile,
    /// Its Containerfile, from the top of the checkout.
    pub containerfile: &'static str,
    /// The most that the image may weigh, in bytes.
    pub limit: Option<u64>,
}

/// How binaries are optimised; `Cargo.toml` says what each profile is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// The control plane and the sample.
    Release,
    /// The proxy, and what measures it.
    DataPlane,
}

impl Profile {
    /// As Cargo names it, and the folder that its binaries are in.
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::DataPlane => "data-plane",
        }
    }
}

/// Every image that the manifests and samples use.
pub const IMAGES: [Image; 3] = [
    Image {
        name: "fairlead.dev/proxy:dev",
        package: "fairlead-proxy",
        profile: Profile::DataPlane,
        containerfile: "proxy/Containerfile",
        // It is pulled onto every node and its memory is paid for in every pod.
        limit: Some(15_000_000),
    },
    Image {
        name: "fairlead.dev/operator:dev",
        package: "fairlead-operator",
        profile: Profile::Release,
        containerfile: "operator/Containerfile",
        limit: None,
    },
    Image {
        name: "fairlead.dev/bookinfo:dev",
        package: "fairlead-bookinfo",
        profile: Profile::Release,
        containerfile: "samples/bookinfo/Containerfile",
        limit: None,
    },
];

/// The image of a crate, by the crate's name without `fairlead-`.
///
/// # Errors
/// If there is no such image; the error lists those that there are.
pub fn by_short_name(name: &str) -> Result<Image, String> {
    let short = |image: &Image| image.package.trim_start_matches("fairlead-").to_owned();
    IMAGES
        .into_iter()
        .find(|image| short(image) == name)
        .ok_or_else(|| format!("there are images of {}", IMAGES.iter().map(short).collect::<Vec<_>>().join(", ")))
}

/// Builds the images from the sources as they are and brings them onto the nodes. Where `KUBECONFIG` names another
/// cluster they are only built, and it says where their archives lie.
///
/// # Errors
/// If a build fails, an image is over its limit, or the embedded cluster does not run.
pub async fn build_and_load(images: &[Image]) -> Result<()> {
    let places = Places::find()?;
    let onto_nodes = cluster::accepts_images()?;
    prerequisites::packages(&prerequisites::CLUSTER_PACKAGES).await?;
    let mut folders = BTreeMap::new();
    for profile in [Profile::Release, Profile::DataPlane] {
        let packages: Vec<_> =
            images.iter().filter(|image| image.profile == profile).map(|image| image.package).collect();
        if !packages.is_empty() {
            folders.insert(profile, binaries(&places, profile, &packages).await?);
        }
    }
    for image in images {
        let binary = folders[&image.profile].join(image.package);
        let recipe = places.checkout.join(image.containerfile);
        let build = Build { name: image.name, recipe: &recipe, binary: &binary };
        if onto_nodes {
            for node in cluster::nodes()? {
                build.onto(&places, node, image.limit).await?;
            }
        } else {
            let (archive, size) = build.archive(&places, image.limit).await?;
            eprintln!("{}: {} in {}", image.name, megabytes(size), archive.display());
        }
    }
    Ok(())
}

/// Sees that a node has the image that holds pods' namespaces.
pub(crate) async fn ensure_pause(places: &Places, node: &Node, binary: &Path, name: &str) -> Result<()> {
    let recipe = places.checkout.join("e2e/cluster/pause/Containerfile");
    Build { name, recipe: &recipe, binary }.onto(places, node, None).await
}

/// Builds static binaries of these crates and returns the folder that they are in.
pub(crate) async fn binaries(places: &Places, profile: Profile, packages: &[&str]) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| places.cache.join("target"), PathBuf::from);
    let host = run(&mut command("rustc", ["--print", "host-tuple"])).await?.trim().to_owned();
    let step = Step::begin(format!("building {} (first time some minutes)", packages.join(", ")));
    // With a target named, the flags are for what goes into the image alone: build scripts and macros stay dynamic.
    let mut cargo = command("cargo", ["build", "--profile", profile.name(), "--locked", "--target", &host]);
    cargo.args(packages.iter().flat_map(|name| ["--package", name]));
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_TARGET_DIR", &target);
    run(cargo.current_dir(&places.checkout)).await?;
    step.done();
    Ok(target.join(host).join(profile.name()))
}

/// What an image is made of.
struct Build<'a> {
    name: &'a str,
    recipe: &'a Path,
    binary: &'a Path,
}

impl Build<'_> {
    /// Brings the image onto a node, unless one made of the same is there.
    async fn onto(&self, places: &Places, node: &Node, limit: Option<u64>) -> Result<()> {
        let source = self.source()?;
        if cluster::is_current(node, self.name, &source).await? {
            return Ok(());
        }
        let (archive, size) = self.archive(places, limit).await?;
        cluster::built(node, &archive, self.name, &source).await?;
        eprintln!("{}: {} onto {}", self.name, megabytes(size), node.name);
        Ok(())
    }

    /// Builds the image into an archive in the cache and returns its path and size in bytes, unless it is there.
    async fn archive(&self, places: &Places, limit: Option<u64>) -> Result<(PathBuf, u64)> {
        let folder = places.cache.join("images");
        let binary = self.binary.file_name().context("the binary has a name")?.to_string_lossy();
        let path = folder.join(format!("{binary}-{}.tar", self.source()?));
        if !path.exists() {
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            self.buildah(&folder, &path).await?;
            keep_only(&folder, &format!("{binary}-"), &path)?;
        }
        let size = fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.len();
        if let Some(limit) = limit.filter(|limit| size >= *limit) {
            bail!("{} is {}, and must stay under {}", self.name, megabytes(size), megabytes(limit));
        }
        Ok((path, size))
    }

    /// In a folder of its own, with storage of its own, so that nothing of it stays but the archive.
    async fn buildah(&self, folder: &Path, archive: &Path) -> Result<()> {
        let work = tempfile::tempdir_in(folder).with_context(|| format!("making a folder in {}", folder.display()))?;
        let context = work.path().join("context");
        let binary = self.binary.file_name().context("the binary has a name")?;
        fs::create_dir(&context)?;
        fs::copy(self.binary, context.join(binary)).with_context(|| format!("copying {}", self.binary.display()))?;
        // No step of a build uses the network, but buildah keeps a lock where its configuration would be.
        let settings = work.path().join("containers.conf");
        fs::write(&settings, format!("[network]\nnetwork_config_dir = '{}'\n", work.path().join("network").display()))?;
        let buildah = |verb: &str| {
            let mut buildah = command("buildah", ["--storage-driver", "vfs", "--root"]);
            buildah.arg(work.path().join("root")).arg("--runroot").arg(work.path().join("run")).arg(verb);
            buildah.env("TMPDIR", work.path()).env("CONTAINERS_CONF", &settings);
            buildah
        };
        let mut build = buildah("bud");
        build.args([
            "--isolation",
            "chroot",
            "--build-arg",
            &format!("BINARY={}", binary.display()),
            "--tag",
            self.name,
        ]);
        run(build.arg("--file").arg(self.recipe).arg(&context)).await?;
        let draft = work.path().join("image.tar");
        run(buildah("push").arg(self.name).arg(format!("docker-archive:{}:{}", draft.display(), self.name))).await?;
        fs::rename(&draft, archive).with_context(|| format!("moving the image to {}", archive.display()))
    }

    /// A name for everything that goes into the image.
    fn source(&self) -> Result<String> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let mut context = digest::Context::new(&SHA256);
        for part in [self.name.as_bytes(), &read(self.recipe)?, &read(self.binary)?] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        Ok(cluster::hex(&context.finish().as_ref()[..16]))
    }
}

/// Removes earlier archives of an image, so that the cache holds one of each.
fn keep_only(folder: &Path, prefix: &str, newest: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(prefix) && path.extension().is_some_and(|kind| kind == "tar") && path != newest {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Bytes as a person reads them.
fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_decimal_megabytes() {
        assert_eq!(megabytes(14_987_654), "14.9 MB");
        assert_eq!(megabytes(99_999), "0.0 MB");
    }

    #[test]
    fn the_cache_keeps_the_newest_archive_of_each_image() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["app-1.tar", "app-2.tar", "other-1.tar", "app-work"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        keep_only(folder.path(), "app-", &folder.path().join("app-2.tar")).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["app-2.tar", "app-work", "other-1.tar"]);
    }

    #[test]
    fn an_unknown_image_is_answered_with_the_known_ones() {
        assert_eq!(by_short_name("proxy").unwrap().name, "fairlead.dev/proxy:dev");
        assert_eq!(by_short_name("porxy").unwrap_err(), "there are images of proxy, operator, bookinfo");
    }

    #[test]
    fn an_image_follows_its_name_recipe_and_binary() {
        let folder = tempfile::tempdir().unwrap();
        let (recipe, binary) = (folder.path().join("Containerfile"), folder.path().join("app"));
        fs::write(&recipe, "FROM scratch").unwrap();
        fs::write(&binary, "1").unwrap();
        let source = |name| Build { name, recipe: &recipe, binary: &binary }.source().unwrap();
        let first = source("a");
        assert_eq!(first, source("a"));
        assert_ne!(first, source("b"));
        fs::write(&binary, "2").unwrap();
        assert_ne!(first, source("a"));
    }

    #[test]
    fn every_image_runs_as_its_own_user_and_brings_one_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut users = Vec::new();
        for image in IMAGES {
            let recipe = fs::read_to_string(root.join(image.containerfile)).unwrap();
            let lines: Vec<_> = recipe.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
            assert_eq!(lines[0], "FROM scratch", "{}", image.containerfile);
            assert_eq!(lines.iter().filter(|line| line.starts_with("COPY")).count(), 1);
            let user = lines.iter().find_map(|line| line.strip_prefix("USER ")).unwrap();
            assert!(user.split(':').all(|id| id.parse::<u32>().unwrap() > 0), "{user}");
            users.push(user.to_owned());
        }
        users.dedup();
        assert_eq!(users.len(), 3);
    }
}
