//! Who is compared: no proxy at all, a pair of Envoys, a pair of Fairlead's proxies. Each has two pods of its own with the same server in one,
//! so that all of them are up at once and runs can alternate.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fairlead_operator::inject::ALLOCATOR;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::cost::Cpu;
use super::envoy;
use super::lab::{CLIENT, PROXY_USER, Pair, SERVER, SERVICE};
use super::operator::{self, Operator};
use super::tools::Programs;
use crate::command::tail;
use crate::kit::Process;

/// From a proxy's start to its first answer.
const START: Duration = Duration::from_secs(20);
/// What each proxy may use: as many threads as Fairlead's takes on such a machine.
const MAX_THREADS: usize = 2;

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Envoy,
    Fairlead,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Direct, Self::Envoy, Self::Fairlead];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Envoy => "envoy",
            Self::Fairlead => "fairlead",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All of them, up and answering.
pub(super) struct Contenders {
    all: [Contender; 3],
    operator: Operator,
    _files: TempDir,
}

/// Two pods, a server in one, and proxies in both unless this is the direct one.
pub(super) struct Contender {
    pub(super) kind: Kind,
    pub(super) pair: Pair,
    files: PathBuf,
    // The client's first.
    proxies: Vec<Child>,
    _servers: [Child; 2],
}

impl Contenders {
    pub(super) async fn start(programs: &Programs) -> Result<Self> {
        let files = tempfile::Builder::new().prefix("fairlead-bench-").tempdir()?;
        let top = files.path();
        open_to(top, 0o755)?;
        // Proxies run as a user that cannot look into the caller's home.
        let bin = top.join("bin");
        fs::create_dir(&bin)?;
        for (program, name) in [(&programs.proxy, "fairlead-proxy"), (&programs.envoy, "envoy")] {
            fs::copy(program, bin.join(name)).with_context(|| format!("copying {}", program.display()))?;
        }
        let direct = Contender::new(Kind::Direct, top, programs).await?;
        let mut envoy = Contender::new(Kind::Envoy, top, programs).await?;
        let mut fairlead = Contender::new(Kind::Fairlead, top, programs).await?;
        let operator = Operator::start(&fairlead.pair).await?;
        let roots = top.join("roots.crt");
        fs::write(&roots, operator.roots())?;
        for account in ["client", "server"] {
            let (chain, key) = operator.certify(account, top)?;
            open_to(&key, 0o644)?;
            let secrets = envoy::Secrets { chain, key, roots: roots.clone() };
            let config = if account == "client" { envoy::outbound(&secrets) } else { envoy::inbound(&secrets) };
            fs::write(envoy.files.join(format!("{account}.json")), serde_json::to_vec_pretty(&config)?)?;
        }
        for contender in [&mut envoy, &mut fairlead] {
            contender.pair.capture(&bin.join("fairlead-proxy")).await?;
            contender.restart().await?;
        }
        direct.answers().await?;
        Ok(Self { all: [direct, envoy, fairlead], operator, _files: files })
    }

    /// Has the server's pod decide by so many rules, of which the last lets the client in, or none.
    pub(super) fn set_rules(&self, count: usize, admits_client: bool) -> Result<()> {
        self.operator.set_rules(count, admits_client)
    }

    pub(super) fn of(&self, kind: Kind) -> &Contender {
        &self.all[kind as usize]
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut Contender {
        &mut self.all[kind as usize]
    }
}

impl Contender {
    async fn new(kind: Kind, top: &Path, programs: &Programs) -> Result<Self> {
        let pair = Pair::new().await?;
        let files = top.join(kind.name());
        fs::create_dir(&files)?;
        let start = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let responder = start(pair.server.command(&programs.responder)).context("starting the server")?;
        let mut iperf3 = pair.server.command("iperf3");
        iperf3.arg("--server");
        let iperf3 = start(iperf3).context("starting iperf3")?;
        Ok(Self { kind, pair, files, proxies: Vec::new(), _servers: [responder, iperf3] })
    }

    /// Where the client calls the server.
    pub(super) fn target(&self) -> Ipv4Addr {
        if self.kind == Kind::Direct { SERVER } else { SERVICE }
    }

    pub(super) fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.target())
    }

    /// Starts its proxies anew, with nothing of what they knew, and waits for them.
    pub(super) async fn restart(&mut self) -> Result<()> {
        for mut proxy in self.proxies.drain(..) {
            proxy.kill().await?;
        }
        for (pod, name, address) in [(&self.pair.client, "client", CLIENT), (&self.pair.server, "server", SERVER)] {
            let mut proxy = match self.kind {
                Kind::Direct => continue,
                Kind::Envoy => {
                    let mut envoy = pod.proxy_command(self.program("envoy"));
                    envoy.args(["--log-level", "error", "--disable-hot-restart", "--concurrency"]);
                    envoy.arg(threads().to_string()).arg("--config-path").arg(self.files.join(format!("{name}.json")));
                    envoy
                }
                Kind::Fairlead => self.sidecar(pod.proxy_command(self.program("fairlead-proxy")), name, address)?,
            };
            let log = fs::OpenOptions::new().create(true).append(true).open(self.log(name))?;
            proxy.stdout(log.try_clone()?).stderr(log);
            self.proxies.push(proxy.spawn().with_context(|| format!("starting {}", self.kind))?);
        }
        self.answers().await
    }

    fn program(&self, name: &str) -> PathBuf {
        self.files.with_file_name("bin").join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.files.join(format!("{name}.log"))
    }

    /// The environment that the injector gives, and an empty state folder.
    fn sidecar(&self, mut proxy: Command, name: &str, address: Ipv4Addr) -> Result<Command> {
        let state = self.files.join(name);
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        fs::create_dir(&state)?;
        std::os::unix::fs::chown(&state, Some(PROXY_USER), Some(PROXY_USER))?;
        let token = self.files.join(format!("{name}.token"));
        fs::write(&token, format!("header.{name}.signature"))?;
        proxy
            .arg("run")
            .env_clear()
            .env("PATH", crate::command::search_path())
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", operator::NAMESPACE)
            .env("POD_UID", operator::uid(name))
            .env("POD_IPS", address.to_string())
            .env("SERVICE_ACCOUNT", name)
            .env("FAIRLEAD_OPERATOR_ADDRESS", operator::address(address))
            .env("FAIRLEAD_TRUST_BUNDLE", self.files.with_file_name("roots.crt"))
            .env("FAIRLEAD_TOKEN", token)
            .env("FAIRLEAD_STATE_DIR", state);
        Ok(proxy)
    }

    /// Waits until a request from the client's pod is answered by the server.
    async fn answers(&self) -> Result<()> {
        let address = SocketAddr::from((self.target(), 8080));
        let deadline = Instant::now() + START;
        loop {
            let answer = self.pair.client.enter(move || Ok(connect_and_ask(address).map(|_| ()))).await?;
            let Err(error) = answer else { return Ok(()) };
            if Instant::now() >= deadline {
                let words = ["client", "server"].map(|name| fs::read_to_string(self.log(name)).unwrap_or_default());
                bail!("{} does not answer ({error}); it said:\n{}\n{}", self.kind, tail(&words[0]), tail(&words[1]));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether the server answers a request of the client with success.
    pub(super) async fn is_answered(&self) -> Result<bool> {
        let address = SocketAddr::from((self.target(), 8080));
        self.pair.client.enter(move || Ok(connect_and_ask(address).is_ok())).await
    }

    pub(super) fn processes(&self) -> Vec<u32> {
        self.proxies.iter().filter_map(Child::id).collect()
    }

    /// Of both proxies.
    pub(super) fn cpu(&self) -> Result<Cpu> {
        self.processes().into_iter().map(Cpu::of).sum()
    }

    /// Of the larger proxy, MiB.
    pub(super) fn resident(&self) -> Result<f64> {
        let sizes: Option<Vec<f64>> =
            self.processes().into_iter().map(|pid| Process::with_id(pid).resident()).collect();
        sizes.context("a proxy has ended")?.into_iter().max_by(f64::total_cmp).context("there are no proxies")
    }

    /// Connections that got an answer each and are left open.
    pub(super) async fn idle_connections(&self, count: usize) -> Result<Vec<TcpStream>> {
        let address = SocketAddr::from((self.target(), 8080));
        self.pair.client.enter(move || (0..count).map(|_| Ok(connect_and_ask(address)?)).collect()).await
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS))
}

fn open_to(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("opening {}", path.display()))
}

fn connect_and_ask(address: SocketAddr) -> std::io::Result<TcpStream> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /1k HTTP/1.1\r\nHost: server\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    while answer.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|head| answer.len() < head + 4 + 1024) {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(stream)
    } else {
        Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
    }
}
