//! Two network namespaces joined by a virtual cable: the pods of client and server. They live as long as their processes, and those no
//! longer than this one, so nothing is left behind even if it is killed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::command::{command, run};

/// The client's pod.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The server's pod.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The Service that the client calls; it exists nowhere but in the proxies' configuration.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 5);
/// Who proxies run as: the user whose connections the capture rules spare.
pub(super) const PROXY_USER: u32 = 2102;

/// Scenarios open tens of thousands of connections a second, so addresses must be free again soon. The default route takes the Service's
/// address as far as the capture rules.
const SETTINGS: &str = "
    ip link set lo up
    echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range
    echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse
    echo 4096 > /proc/sys/net/core/somaxconn
    echo 4096 > /proc/sys/net/ipv4/tcp_max_syn_backlog
";
/// Of connection tracking, which is there once capture rules are.
const TRACKING: &str = "
    cd /proc/sys/net/netfilter
    for state in time_wait close close_wait fin_wait last_ack; do echo 1 > nf_conntrack_tcp_timeout_$state; done
";

/// A network namespace.
#[derive(Debug)]
pub(in crate::bench) struct Namespace {
    /// Keeps it alive.
    _holder: Child,
    path: PathBuf,
}

impl Namespace {
    pub(in crate::bench) async fn new() -> Result<Self> {
        let mut sleeper = command("unshare", ["--net", "setpriv", "--pdeathsig", "KILL", "sleep", "infinity"]);
        let holder =
            sleeper.stdout(Stdio::null()).spawn().context("starting `unshare` (apt-get install util-linux)")?;
        let path = PathBuf::from(format!("/proc/{}/ns/net", holder.id().context("the holder ended at once")?));
        let here = fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_link(&path)? == here {
            ensure!(Instant::now() < deadline, "`unshare --net` makes no network namespace");
            sleep(Duration::from_millis(5)).await;
        }
        let namespace = Self { _holder: holder, path };
        namespace.shell(SETTINGS).await?;
        Ok(namespace)
    }

    /// A command inside, as root; it ends with this process.
    pub(in crate::bench) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.with_privileges(&[], program.as_ref())
    }

    /// A command inside, as the user that capture rules spare and without any rights.
    pub(super) fn proxy_command(&self, program: impl AsRef<OsStr>) -> Command {
        let user = [format!("--reuid={PROXY_USER}"), format!("--regid={PROXY_USER}")];
        self.with_privileges(&[&user[0], &user[1], "--clear-groups", "--inh-caps=-all"], program.as_ref())
    }

    fn with_privileges(&self, privileges: &[&str], program: &OsStr) -> Command {
        let mut command = command("nsenter", [format!("--net={}", self.path.display())]);
        command.args(["setpriv", "--pdeathsig", "KILL"]).args(privileges).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    pub(in crate::bench) async fn shell(&self, script: &str) -> Result<()> {
        run(self.command("sh").args(["-euc", script])).await.map(|_| ())
    }

    /// Runs `body` on a thread inside: sockets that it makes stay there wherever they are used.
    pub(super) async fn enter<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            body()
        });
        // Not a thread of the runtime's pool: it would stay in the namespace.
        let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("a thread inside a network namespace panicked"))?
    }
}

/// The two pods of one contender, each with one address.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: Namespace,
    pub(super) server: Namespace,
}

impl Pair {
    pub(super) async fn new() -> Result<Self> {
        let (client, server) = (Namespace::new().await?, Namespace::new().await?);
        let peer = server.path.display();
        client.shell(&format!("ip link add eth0 type veth peer name eth0 netns {peer}")).await?;
        for (pod, address, other) in [(&client, CLIENT, SERVER), (&server, SERVER, CLIENT)] {
            pod.shell(&format!(
                "ip address add {address}/24 dev eth0; ip link set eth0 up; ip route add default via {other}"
            ))
            .await?;
        }
        Ok(Self { client, server })
    }

    /// Both pods, the client's first.
    pub(super) fn pods(&self) -> [(&Namespace, Ipv4Addr); 2] {
        [(&self.client, CLIENT), (&self.server, SERVER)]
    }

    /// Sends what leaves and what arrives to ports 15001 and 15006, as the proxy's `init` does it in a pod.
    pub(super) async fn capture(&self, proxy_binary: &std::path::Path) -> Result<()> {
        for (pod, _) in self.pods() {
            let user = format!("--proxy-uid={PROXY_USER}");
            run(pod.command(proxy_binary).args(["init", "--inbound-port=15006", "--outbound-port=15001", &user]))
                .await?;
            pod.shell(TRACKING).await?;
        }
        Ok(())
    }
}
