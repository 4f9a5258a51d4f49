//! The Go binaries: every Kubernetes component in one, and the pause program. They are built once and kept in the
//! cache under a key made of everything that they are built from.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ring::digest::{self, SHA256};

use super::plan::{KUBERNETES, Places};
use crate::command::{command, run};
use crate::prerequisites;
use crate::progress::Step;

/// What the binaries are built from, below `e2e/cluster`.
const SOURCES: [&str; 7] = [
    "go.mod",
    "go.sum",
    "main.go",
    "metrics.go",
    "networkpolicy/compile.go",
    "networkpolicy/enforce.go",
    "pause/main.go",
];

/// Both binaries in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// etcd, CoreDNS, kubectl, metrics-server, the enforcement of NetworkPolicies and all of Kubernetes; the first argument
    /// says which.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.folder.join("fairlead-cluster")
    }

    /// What holds a pod's namespaces.
    pub(crate) fn pause(&self) -> PathBuf {
        self.folder.join("pause")
    }
}

/// Finds the binaries in the cache or builds them.
///
/// # Errors
/// If Go is missing or too old, or the build fails.
pub(crate) async fn get(places: &Places) -> Result<Binaries> {
    let module = places.checkout.join("e2e/cluster");
    let mut sources = Vec::new();
    for name in SOURCES {
        let path = module.join(name);
        sources.push((name, fs::read(&path).with_context(|| format!("reading {}", path.display()))?));
    }
    let binaries = Binaries { folder: places.cache.join("cluster").join(key(KUBERNETES, &sources)) };
    if binaries.cluster().exists() && binaries.pause().exists() {
        return Ok(binaries);
    }
    prerequisites::go().await?;
    fs::create_dir_all(&binaries.folder).with_context(|| format!("making {}", binaries.folder.display()))?;
    build(&module, "./pause", &binaries.pause()).await?;
    let step = Step::begin(format!("building Kubernetes v{KUBERNETES} (first time about 6 min)"));
    build(&module, ".", &binaries.cluster()).await?;
    step.done();
    Ok(binaries)
}

/// A name that changes whenever the binaries would.
fn key(version: &str, sources: &[(&str, Vec<u8>)]) -> String {
    let mut context = digest::Context::new(&SHA256);
    context.update(version.as_bytes());
    for (name, content) in sources {
        // Lengths keep two different lists from running into the same bytes.
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(&(content.len() as u64).to_be_bytes());
        context.update(content);
    }
    hex(&context.finish().as_ref()[..8])
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

async fn build(module: &Path, package: &str, output: &Path) -> Result<()> {
    let mut numbers = KUBERNETES.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let version = "-X k8s.io/component-base/version";
    // Without these Kubernetes takes itself for v0.0.0 and refuses what depends on its version.
    let flags =
        format!("-s -w {version}.gitVersion=v{KUBERNETES} {version}.gitMajor={major} {version}.gitMinor={minor}");
    // A build that is cut short must not look like a finished one.
    let draft = output.with_extension(std::process::id().to_string());
    let mut go = command("go", ["build", "-trimpath", "-ldflags", &flags, "-o"]);
    run(go.arg(&draft).arg(package).current_dir(module).env("CGO_ENABLED", "0")).await?;
    fs::rename(&draft, output).with_context(|| format!("moving the build to {}", output.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_version_names_and_contents() {
        let sources = |name, content: &str| vec![(name, content.as_bytes().to_vec())];
        let base = key("1", &sources("go.mod", "a"));
        assert_eq!(base, key("1", &sources("go.mod", "a")));
        assert_eq!(base.len(), 16);
        for other in
            [key("2", &sources("go.mod", "a")), key("1", &sources("go.sum", "a")), key("1", &sources("go.mod", "b"))]
        {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn every_source_is_part_of_the_key() {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
        let mut found = vec!["go.mod".to_owned(), "go.sum".to_owned()];
        for folder in ["", "networkpolicy/", "pause/"] {
            for entry in fs::read_dir(module.join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                // What is documented or tested with does not become part of a binary.
                let go = Path::new(&name).extension().is_some_and(|extension| extension == "go");
                if go && !name.ends_with("_test.go") && name != "doc.go" {
                    found.push(format!("{folder}{name}"));
                }
            }
        }
        found.sort_unstable();
        assert_eq!(found, SOURCES);
    }

    #[test]
    fn the_version_agrees_with_the_module() {
        let module = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes v{KUBERNETES}\n")));
        assert!(!module.contains("=> ../") && !module.contains("=> /"), "the module builds from a clean checkout");
    }
}
