//! Two pods, each a network namespace with the real binary in it (`init`, then `run`), and an operator that the test plays.
//!
//! The test runs itself again inside `unshare --net`, so nothing of it is seen outside and nothing is left behind. It must be root, as the
//! proxies run under a user of their own; without, it fails with a sentence.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fairlead_proxy_api::v1::{self, destination::Kind, resource::Body, resource_name};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

#[allow(dead_code, reason = "shared with the unit tests")]
#[path = "../src/identity/testing.rs"]
mod identity_testing;
#[allow(dead_code, reason = "shared with the unit tests")]
#[path = "../src/config/testing.rs"]
mod operator;

mod identity {
    pub(crate) use fairlead_proxy::identity::*;

    pub(crate) use crate::identity_testing as testing;
}

use operator::FakeOperator;

const INSIDE: &str = "FAIRLEAD_TEST_INSIDE_NAMESPACE";
const REVIEWS: [u8; 4] = [10, 99, 0, 1];
const RATINGS: [u8; 4] = [10, 99, 0, 2];
const SERVICE: [u8; 4] = [10, 96, 0, 5];
const OPERATOR: [u8; 4] = [10, 99, 0, 254];
const APP: u16 = 9080;

/// Runs this test in a fresh network namespace; true if that is where it runs already.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "this test starts proxies under their own user and must be root: sudo -E cargo test -p fairlead-proxy --test pods"
    );
    let output = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("this test needs `unshare`: apt-get install util-linux");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in a network namespace:\n{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "{name} did not run inside:\n{stdout}");
    false
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let tool = words.next().unwrap();
    let output = Command::new(tool)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}: apt-get install util-linux iproute2 nftables"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace, wired to the bridge of this one.
struct Pod {
    holder: Child,
    name: &'static str,
    ip: [u8; 4],
    files: tempfile::TempDir,
}

impl Pod {
    fn new(name: &'static str, ip: [u8; 4], operator: &FakeOperator) -> Self {
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).stdout(Stdio::null()).spawn().unwrap();
        let files = tempfile::tempdir().unwrap();
        for folder in [files.path().to_owned(), files.path().join("state")] {
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_fairlead-proxy"), files.path().join("fairlead-proxy")).unwrap();
        fs::write(files.path().join("token"), format!("header.{name}.signature")).unwrap();
        fs::copy(operator.file("ca.crt"), files.path().join("ca.crt")).unwrap();
        let pod = Self { holder, name, ip, files };
        let (pid, [.., last]) = (pod.holder.id(), ip);
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let began = Instant::now();
        while fs::read_link(pod.namespace()).is_ok_and(|there| there == here) {
            assert!(began.elapsed() < Duration::from_secs(5), "unshare makes no namespace");
        }
        run(&format!("ip link add node{last} type veth peer name eth0 netns {pid}"));
        run(&format!("ip link set node{last} master br0 up"));
        for command in [
            "ip link set lo up".to_owned(),
            format!("ip addr add 10.99.0.{last}/24 dev eth0"),
            "ip link set eth0 up".to_owned(),
            "ip route add default via 10.99.0.254".to_owned(),
        ] {
            run(&format!("nsenter --net={} {command}", pod.namespace()));
        }
        let binary = pod.files.path().join("fairlead-proxy");
        run(&format!(
            "nsenter --net={} {} init --inbound-port 15006 --outbound-port 15001 --proxy-uid 2102",
            pod.namespace(),
            binary.display()
        ));
        pod
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    /// Starts the proxy, as the injector would.
    fn proxy(&self) -> Proxy {
        let probes = format!(
            r#"{{"app/readiness":{{"kind":"http","port":{APP},"path":"/","scheme":"HTTP","headers":[],"host":null,"timeoutMs":1000}}}}"#
        );
        let log = fs::OpenOptions::new().create(true).append(true).open(self.file("log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.namespace()))
            .args(["setpriv", "--reuid=2102", "--regid=2102", "--clear-groups", "--inh-caps=-all"])
            .arg(self.file("fairlead-proxy"))
            .arg("run")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("POD_NAME", self.name)
            .env("POD_NAMESPACE", "bookinfo")
            .env("POD_UID", "uid")
            .env("POD_IPS", SocketAddr::from((self.ip, 0)).ip().to_string())
            .env("SERVICE_ACCOUNT", self.name)
            .env("FAIRLEAD_OPERATOR_ADDRESS", SocketAddr::from((OPERATOR, 8443)).to_string())
            .env("FAIRLEAD_TRUST_BUNDLE", self.file("ca.crt"))
            .env("FAIRLEAD_TOKEN", self.file("token"))
            .env("FAIRLEAD_STATE_DIR", self.file("state"))
            .env("FAIRLEAD_DRAIN_TIMEOUT", "5s")
            .env("FAIRLEAD_PROBES", probes)
            .stdout(log)
            .spawn()
            .unwrap();
        Proxy { child, log: self.file("log") }
    }

    /// Runs `body` on a thread inside the pod.
    fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.namespace()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                use std::os::fd::AsFd;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                body()
            });
            thread.join().unwrap()
        })
    }

    /// An application that answers every request with `body`.
    fn serve(&self, body: &'static str) {
        let listener = self.enter(|| TcpListener::bind(("0.0.0.0", APP)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut request = [0; 4096];
                    while let Ok(1..) = stream.read(&mut request) {
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Proxy {
    child: Child,
    log: std::path::PathBuf,
}

impl Proxy {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks politely and returns the exit code.
    fn end(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the proxy does not end");
            wait();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn wait() {
    std::thread::park_timeout(Duration::from_millis(20));
}

/// Status and body, or why there is none.
fn get(ip: [u8; 4], port: u16, path: &str) -> Result<(u16, String), std::io::Error> {
    let address = SocketAddr::from((ip, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let expected = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(ToOwned::to_owned))
            .and_then(|length| length.parse::<usize>().ok());
        if length == 0 || expected.is_some_and(|expected| body.len() >= expected) {
            let status = head.split(' ').nth(1).unwrap_or_default().parse().map_err(std::io::Error::other)?;
            return Ok((status, body.to_owned()));
        }
    }
}

fn until_ready(ip: [u8; 4]) {
    let began = Instant::now();
    loop {
        let answer = get(ip, 15020, "/ready");
        if matches!(answer, Ok((200, _))) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "not ready: {answer:?}");
        wait();
    }
}

fn ratings() -> v1::Endpoint {
    v1::Endpoint {
        ip: RATINGS.to_vec(),
        port: APP.into(),
        identity: "spiffe://cluster.local/ns/bookinfo/sa/ratings".into(),
        ..Default::default()
    }
}

/// What the operator says: ratings is Strict, its Service has one endpoint, everything else is unknown.
fn script(pod: &str, name: &v1::ResourceName) -> Option<v1::Resource> {
    let body = match name.kind.as_ref()? {
        resource_name::Kind::Workload(_) => {
            let mode = if pod == "ratings" { v1::MtlsMode::Strict } else { v1::MtlsMode::Permissive };
            Body::Workload(v1::Workload { mtls: mode.into(), ..Default::default() })
        }
        resource_name::Kind::Destination(address) => {
            let backend = || v1::Backend { weight: 1, target: Some(v1::backend::Target::EndpointSet(0)) };
            let kind = if address.ip == SERVICE && address.port == u32::from(APP) {
                Kind::Service(v1::Service {
                    namespace: "bookinfo".into(),
                    name: "ratings".into(),
                    port: APP.into(),
                    routes: vec![v1::Route { backends: vec![backend()], ..Default::default() }],
                    endpoint_sets: vec![v1::EndpointSet {
                        name: "ratings".into(),
                        endpoints: vec![ratings()],
                        ..v1::EndpointSet::default()
                    }],
                    opaque_backends: vec![backend()],
                    ..Default::default()
                })
            } else if address.ip == RATINGS {
                Kind::Pod(v1::Endpoint { port: address.port, ..ratings() })
            } else {
                Kind::PassThrough(v1::PassThrough {})
            };
            Body::Destination(v1::Destination { kind: Some(kind) })
        }
    };
    Some(v1::Resource { name: Some(name.clone()), version: "1".into(), body: Some(body) })
}

#[test]
fn two_pods_talk_over_mutual_tls_and_outlive_their_operator() {
    if !inside("two_pods_talk_over_mutual_tls_and_outlive_their_operator") {
        return;
    }
    for command in
        ["ip link set lo up", "ip link add br0 type bridge", "ip addr add 10.99.0.254/24 dev br0", "ip link set br0 up"]
    {
        run(command);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = SocketAddr::from((OPERATOR, 8443));
    let mut operator = runtime.block_on(FakeOperator::start_with(operator::OPERATOR, address, Some(script)));
    let (client, server) = (Pod::new("reviews", REVIEWS, &operator), Pod::new("ratings", RATINGS, &operator));
    server.serve("stars");
    let (client_proxy, server_proxy) = (client.proxy(), server.proxy());
    until_ready(REVIEWS);
    until_ready(RATINGS);
    let ask = |ip| client.enter(move || get(ip, APP, "/").map_err(|error| error.kind()));
    let stars = Ok((200, "stars".to_owned()));

    // By the Service's address, which exists nowhere but in configuration, and by the pod's.
    assert_eq!(ask(SERVICE), stars);
    assert_eq!(ask(RATINGS), stars);
    let (_, metrics) = server.enter(|| get([127, 0, 0, 1], 15000, "/metrics").unwrap());
    assert!(metrics.lines().any(|line| line.contains("inbound") && line.contains("mutual")), "{metrics}");

    // Who has no identity is refused under Strict; the kubelet's probe comes through.
    assert!(get(RATINGS, APP, "/").is_err());
    assert_eq!(get(RATINGS, 15020, "/probe/app/readiness").unwrap(), (200, "stars".into()));
    assert_eq!(get(RATINGS, 15020, "/probe/app/liveness").unwrap().0, 404);
    // The proxy's own ports are not a way in.
    assert!(get(RATINGS, 15000, "/config").is_err());
    for port in [15001, 15006] {
        assert!(get(RATINGS, port, "/").is_err(), "{port}");
    }
    let (_, config) = client.enter(|| get([127, 0, 0, 1], 15000, "/config").unwrap());
    assert!(config.contains("bookinfo/ratings:9080"), "{config}");

    // UDP is not captured, neither arriving nor leaving: docs/security.md promises no more.
    let bind = |ip: [u8; 4], port: u16| UdpSocket::bind(SocketAddr::from((ip, port))).unwrap();
    let receiver = server.enter(|| bind(RATINGS, APP));
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for (sender, ip) in [(bind(OPERATOR, 0), OPERATOR), (client.enter(|| bind(REVIEWS, 0)), REVIEWS)] {
        sender.send_to(b"in plain", SocketAddr::from((RATINGS, APP))).unwrap();
        let mut received = [0; 16];
        let (length, from) = receiver.recv_from(&mut received).unwrap();
        assert_eq!((&received[..length], from.ip()), (&b"in plain"[..], ip.into()));
    }

    // The operator goes; a proxy dies without a word and comes back alone.
    let saved = client.file("state").join(format!("destination-{}", SocketAddr::from((SERVICE, APP))));
    let began = Instant::now();
    while !saved.exists() {
        assert!(began.elapsed() < Duration::from_secs(5), "nothing is saved");
        wait();
    }
    runtime.block_on(operator.stop());
    assert_eq!(ask(SERVICE), stars);
    client_proxy.signal(rustix::process::Signal::KILL);
    drop(client_proxy);
    let client_proxy = client.proxy();
    until_ready(REVIEWS);
    assert_eq!(ask(SERVICE), stars);

    // Asked to end, a proxy drains and says that all went well.
    assert_eq!(client_proxy.end(), Some(0));
    assert_eq!(server_proxy.end(), Some(0));
    // The rules outlive it: what would have gone through it does not go around it.
    assert_eq!(get(RATINGS, APP, "/").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(RATINGS), Err(ErrorKind::ConnectionRefused));
    assert!(Path::new(&client.file("state").join("identity")).exists());
}
