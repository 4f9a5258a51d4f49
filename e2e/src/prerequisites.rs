//! What the machine must offer: rights, Debian packages, Go, kernel features. What can be installed is installed, with
//! a line that says so; for the rest one sentence says what is missing and how to get it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{command, run, search_path};
use crate::progress::Step;

/// A Debian package, known by a file that it brings.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Its name for `apt-get`.
    pub name: &'static str,
    /// A program (looked for where Debian puts programs) or an absolute path.
    pub brings: &'static str,
}

const fn package(name: &'static str, brings: &'static str) -> Package {
    Package { name, brings }
}

/// What the embedded cluster and the tests on it run.
pub const CLUSTER_PACKAGES: [Package; 8] = [
    package("containerd", "containerd"),
    package("runc", "runc"),
    package("containernetworking-plugins", "/usr/lib/cni/bridge"),
    package("iptables", "iptables"),
    package("nftables", "nft"),
    package("conntrack", "conntrack"),
    package("iproute2", "ip"),
    package("buildah", "buildah"),
];

/// What packet captures in the tests need.
pub const CAPTURE_PACKAGES: [Package; 1] = [package("tcpdump", "tcpdump")];

/// What libFuzzer is compiled with.
pub const FUZZ_PACKAGES: [Package; 1] = [package("g++", "g++")];

/// What generates load in the benchmarks.
pub const BENCH_PACKAGES: [Package; 4] = [
    package("wrk", "wrk"),
    package("nghttp2-client", "h2load"),
    package("iperf3", "iperf3"),
    // Counts system calls.
    package("linux-perf", "perf"),
];

/// What Python's virtual environments need where Debian's Python is the only one. Known by nothing that another Python would not bring too, so
/// it is for when making one has failed.
pub const VENV_PACKAGE: Package = package("python3-venv", "/usr/share/doc/python3-venv/copyright");

/// The oldest Go that builds the pinned Kubernetes, as major and minor.
const GO: (u32, u32) = (1, 25);

/// A file that tells package scripts not to start services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Checks that this runs as root.
///
/// # Errors
/// If it does not.
pub fn root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the embedded cluster makes network namespaces, mounts and control groups, so it needs root: \
             run this as root (`sudo --preserve-env=PATH,HOME make …`)"
        );
    }
    Ok(())
}

/// Everything that the cluster needs, except Go, which only a build needs.
///
/// # Errors
/// If something is missing and cannot be installed.
pub async fn cluster() -> Result<()> {
    packages(&CLUSTER_PACKAGES).await?;
    kernel().await
}

/// Sees that Debian packages are installed.
///
/// # Errors
/// If one is missing and `apt-get` is too, or fails.
pub async fn packages(wanted: &[Package]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|package| !is_installed(package)).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !on_path("apt-get") {
        bail!("missing: {names}; this is not a Debian system, so install what these Debian packages hold yourself");
    }
    root().with_context(|| format!("missing: {names}; to install these by hand: `apt-get install {names}`"))?;
    let step = Step::begin(format!("installing Debian packages: {names}"));
    // A started containerd would have nothing to do, and would not be ended by us.
    let policy = NoServices::declare()?;
    let apt = |arguments: &[&str]| {
        let mut apt = command("apt-get", ["--quiet", "--yes"]);
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run(&mut apt(&["update"])).await.context("the package lists cannot be fetched: check the network")?;
    let install = run(apt(&["install", "--no-install-recommends"]).args(&missing)).await;
    drop(policy);
    install.with_context(|| format!("to install them by hand: `apt-get install {names}`"))?;
    step.done();
    Ok(())
}

/// While this lives, installed packages do not start their services.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn declare() -> Result<Self> {
        let policy = Path::new(POLICY);
        // One that is there already is the administrator's word.
        if policy.exists() {
            return Ok(Self { ours: false });
        }
        fs::write(policy, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(policy, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

fn is_installed(package: &Package) -> bool {
    if package.brings.starts_with('/') { Path::new(package.brings).exists() } else { on_path(package.brings) }
}

fn on_path(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(program).is_file())
}

/// Checks that Go is there and new enough.
///
/// # Errors
/// If it is not.
pub async fn go() -> Result<()> {
    let wanted = format!(
        "Go {}.{} or newer builds the cluster's Kubernetes: get it from https://go.dev/dl and put its bin folder into PATH",
        GO.0, GO.1
    );
    // Outside of any module, so that it names the installed version and fetches none.
    let Ok(found) = run(command("go", ["env", "GOVERSION"]).current_dir("/")).await else {
        bail!("Go is missing; {wanted}");
    };
    match go_version(&found) {
        Some(version) if version >= GO => Ok(()),
        _ => bail!("{} is too old; {wanted}", found.trim()),
    }
}

/// Major and minor of `go1.26.8`, `go1.27rc1`, `go1.25`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.');
    let minor = |text: &str| text.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok();
    Some((numbers.next()?.parse().ok()?, minor(numbers.next()?)?))
}

/// Checks what only the kernel can give, after asking for the modules that may hold it.
async fn kernel() -> Result<()> {
    // Without modprobe, or with everything built in, the checks below decide.
    let _ = run(&mut command("modprobe", ["--all", "--quiet", "overlay", "br_netfilter", "nf_tables", "veth"])).await;
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.split_whitespace().any(|name| name == "overlay") {
        bail!("the kernel has no overlayfs, which containers' file systems need: use a kernel with CONFIG_OVERLAY_FS");
    }
    for (file, what) in [
        ("/proc/self/ns/net", "network namespaces: use a kernel with CONFIG_NET_NS"),
        (
            "/proc/sys/net/bridge/bridge-nf-call-iptables",
            "br_netfilter: `modprobe br_netfilter` (CONFIG_BRIDGE_NETFILTER)",
        ),
        ("/proc/sys/net/ipv6/conf/all/forwarding", "IPv6: boot it without ipv6.disable=1"),
    ] {
        if !Path::new(file).exists() {
            bail!("the kernel lacks {what}");
        }
    }
    run(&mut command("nft", ["list", "tables"]))
        .await
        .context("the kernel lacks nftables: `modprobe nf_tables` (CONFIG_NF_TABLES)")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_compared_by_number() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(go_version("go1.27rc1"), Some((1, 27)));
        assert_eq!(go_version("devel"), None);
        assert!(go_version("go1.9.7").unwrap() < GO);
    }

    #[tokio::test]
    async fn what_is_installed_is_not_installed_again() {
        packages(&[package("no-such-package", "sh"), package("no-such-package", "/bin/sh")]).await.unwrap();
    }
}
