//! Capture in real network namespaces.
//!
//! Each test runs itself again inside `unshare`, where it is root over a network of its own and cannot disturb the machine's. A machine
//! that has no namespaces or lacks a tool fails the test with a sentence; nothing is skipped.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Set inside, so that the test knows where it is.
const INSIDE: &str = "FAIRLEAD_TEST_INSIDE_NAMESPACE";

/// Runs the test `name` of this binary in a fresh network namespace; true if that is where it runs already.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    for tool in ["unshare", "ip", "nft", "nsenter"] {
        let found =
            Command::new(tool).arg("-V").output().is_ok() || Command::new(tool).arg("--version").output().is_ok();
        assert!(found, "this test needs `{tool}`: apt-get install util-linux iproute2 nftables");
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "in a network namespace (does this machine allow `unshare --user --net`?):\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("1 passed"), "{name} did not run inside:\n{ran}");
    false
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Another network namespace, wired to this one like a node to a pod: `10.99.0.1` and `fd99::1` here, `.2` and `::2` there. Ends when
/// dropped.
struct Neighbour(Child);

impl Neighbour {
    fn new() -> Self {
        let sleeper = Command::new("unshare").args(["--net", "sleep", "300"]).stdout(Stdio::null()).spawn().unwrap();
        let neighbour = Self(sleeper);
        let pid = neighbour.0.id();
        run("ip link set lo up");
        run("ip link add pod0 type veth peer name node0");
        // Until the child has its own namespace, it is still in this one.
        let here = std::fs::read_link("/proc/self/ns/net").unwrap();
        let there = format!("/proc/{pid}/ns/net");
        while std::fs::read_link(&there).is_ok_and(|there| there == here) {
            std::thread::yield_now();
        }
        run(&format!("ip link set node0 netns {pid}"));
        for address in ["10.99.0.1/24", "fd99::1/64 nodad"] {
            run(&format!("ip addr add {address} dev pod0"));
        }
        run("ip link set pod0 up");
        for command in
            ["ip addr add 10.99.0.2/24 dev node0", "ip addr add fd99::2/64 dev node0 nodad", "ip link set node0 up"]
        {
            neighbour.run(command);
        }
        neighbour
    }

    fn run(&self, command: &str) -> String {
        run(&format!("nsenter --net=/proc/{}/ns/net {command}", self.0.id()))
    }

    /// Dials from there and returns the first line that is answered; `None`: refused.
    fn dial(&self, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        let script = format!("exec 3<>/dev/tcp/{}/{} && head -n1 <&3", address.ip(), address.port());
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.0.id()))
            .args(["timeout", "5", "bash", "-c", &script])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers each connection with one line: the port it came to and where it was meant to go.
async fn answer(port: u16) {
    let v4 = TcpListener::bind((IpAddr::from([0, 0, 0, 0]), port)).await.unwrap();
    let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    v6.set_only_v6(true).unwrap();
    v6.set_nonblocking(true).unwrap();
    v6.bind(&SocketAddr::from(([0_u16; 8], port)).into()).unwrap();
    v6.listen(16).unwrap();
    let v6 = TcpListener::from_std(v6.into()).unwrap();
    for listener in [v4, v6] {
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let line = format!("{port} {:?}\n", original_dst(&stream).unwrap());
                stream.write_all(line.as_bytes()).await.unwrap();
            }
        });
    }
}

async fn dial(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let connect = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address));
    let mut stream = connect.await.unwrap().ok()?;
    let mut line = String::new();
    stream.read_to_string(&mut line).await.unwrap();
    Some(line.trim().to_owned())
}

fn capture() -> Capture {
    Capture {
        inbound_port: 15006,
        outbound_port: 15001,
        proxy_uid: 2102,
        skip_inbound: PortRanges::of([15000, 15001, 15006, 15020]).and(&"22".parse().unwrap()),
        skip_outbound: "3306-3308".parse().unwrap(),
    }
}

#[test]
fn the_table_is_what_nft_understands_and_writing_it_twice_changes_nothing() {
    if !inside("capture::tests::the_table_is_what_nft_understands_and_writing_it_twice_changes_nothing") {
        return;
    }
    install(&capture()).unwrap();
    let expected = "\
table inet fairlead {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname \"lo\" return
		tcp dport 22 return
		tcp dport 15000-15001 return
		tcp dport 15006 return
		tcp dport 15020 return
		meta l4proto tcp redirect to :15006
	}

	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid 2102 return
		oifname \"lo\" return
		tcp dport 3306-3308 return
		meta l4proto tcp redirect to :15001
	}
}
";
    assert_eq!(run("nft list table inet fairlead"), expected);
    install(&capture()).unwrap();
    assert_eq!(run("nft list table inet fairlead"), expected);
    assert_eq!(run("nft list tables"), "table inet fairlead\n");

    // A change replaces, and leaves other people's tables alone.
    run("nft add table ip other");
    let mut changed = capture();
    changed.skip_outbound = PortRanges::default();
    install(&changed).unwrap();
    assert!(!run("nft list table inet fairlead").contains("3306"));
    assert!(run("nft list tables").contains("table ip other"));
}

#[test]
fn what_leaves_the_pod_reaches_the_proxy_with_its_destination() {
    if !inside("capture::tests::what_leaves_the_pod_reaches_the_proxy_with_its_destination") {
        return;
    }
    block_on(async {
        let _neighbour = Neighbour::new();
        install(&capture()).unwrap();
        for port in [15001, 80] {
            answer(port).await;
        }
        for address in ["10.99.0.2:80", "[fd99::2]:80"] {
            let expected = format!("15001 Some({address})");
            assert_eq!(dial(address).await, Some(expected));
        }
        // Over lo: the application's own port answers, nobody is in between.
        for address in ["127.0.0.1:80", "[::1]:80", "10.99.0.1:80", "[fd99::1]:80"] {
            assert_eq!(dial(address).await.as_deref(), Some("80 None"), "{address}");
        }
        // A skipped port is dialled directly, where nobody listens.
        assert_eq!(dial("10.99.0.2:3307").await, None);
        // The proxy itself is not captured (this test runs as uid 0).
        let mut own = capture();
        own.proxy_uid = 0;
        install(&own).unwrap();
        assert_eq!(dial("10.99.0.2:80").await, None);
        assert_eq!(dial("[fd99::2]:80").await, None);
    });
}

#[test]
fn what_arrives_at_the_pod_reaches_the_proxy_with_its_destination() {
    if !inside("capture::tests::what_arrives_at_the_pod_reaches_the_proxy_with_its_destination") {
        return;
    }
    block_on(async {
        let neighbour = Neighbour::new();
        install(&capture()).unwrap();
        for port in [15001, 15006, 15020, 22, 80] {
            answer(port).await;
        }
        for address in ["10.99.0.1:80", "[fd99::1]:80", "10.99.0.1:9999"] {
            let expected = format!("15006 Some({address})");
            assert_eq!(neighbour.dial(address), Some(expected));
        }
        // Skipped ports, the proxy's own among them: those who dial them directly are seen to have done so.
        for (address, expected) in [
            ("10.99.0.1:22", "22 None"),
            ("10.99.0.1:15020", "15020 None"),
            ("10.99.0.1:15006", "15006 None"),
            ("10.99.0.1:15001", "15001 None"),
            ("[fd99::1]:15006", "15006 None"),
        ] {
            assert_eq!(neighbour.dial(address).as_deref(), Some(expected));
        }
    });
}

#[test]
fn a_dual_stack_listener_sees_ipv4_destinations_as_ipv4() {
    if !inside("capture::tests::a_dual_stack_listener_sees_ipv4_destinations_as_ipv4") {
        return;
    }
    block_on(async {
        let _neighbour = Neighbour::new();
        install(&capture()).unwrap();
        let listener = TcpListener::bind("[::]:15001").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect("10.99.0.2:80"), listener.accept());
        let destination = original_dst(&accepted.unwrap().0).unwrap();
        assert_eq!(destination, Some("10.99.0.2:80".parse().unwrap()));
        drop(client);
    });
}

#[test]
fn a_missing_capability_is_named() {
    if !inside("capture::tests::a_missing_capability_is_named") {
        return;
    }
    // A capability set is per thread: the rest of the test process keeps its own.
    std::thread::spawn(|| {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).unwrap();
        let error = install(&capture()).unwrap_err().to_string();
        assert!(error.contains("NET_ADMIN"), "{error}");
    })
    .join()
    .unwrap();
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}
