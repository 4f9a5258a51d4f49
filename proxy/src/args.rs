//! The command line. Every setting of `run` is an environment variable as well, which is how the injector passes it.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are texts of --help")]

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use fairlead_proxy::{
    capture::PortRanges,
    identity::{SpiffeId, TrustDomain},
    telemetry::access::Which,
};

/// Fairlead's sidecar: secures, routes, balances and measures the traffic of one pod.
///
/// The operator's webhook adds it to pods of namespaces with the label fairlead.dev/inject=enabled; nobody needs to start it by hand.
#[derive(Debug, Parser)]
#[command(name = "fairlead-proxy", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send the pod's TCP connections to the proxy, once, before anything else runs in the pod.
    ///
    /// Writes the nftables table "inet fairlead" of the current network namespace, over netlink. Doing it again replaces the table. Look
    /// at it with: nft list table inet fairlead. Needs the capability NET_ADMIN.
    Init(InitArgs),
    /// Serve the pod's connections until SIGTERM.
    ///
    /// Gets a certificate from the operator, then its configuration, then is ready (GET :15020/ready). What it does can be seen from
    /// inside the pod: GET http://127.0.0.1:15000/config.
    Run(Box<RunArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What is logged: off, error, warn, info, debug, trace; or by part, such as info,fairlead_proxy::config=debug
    #[arg(long = "log", env = "FAIRLEAD_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) filter: String,
    /// How: json for machines, text for people
    #[arg(long = "log-format", env = "FAIRLEAD_LOG_FORMAT", default_value = "json", value_name = "FORMAT")]
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where the proxy accepts what arrives at the pod
    #[arg(long, default_value_t = INBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) inbound_port: u16,
    /// Where the proxy accepts what leaves the pod
    #[arg(long, default_value_t = OUTBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) outbound_port: u16,
    /// User of the proxy; its own connections are not captured
    #[arg(long, default_value_t = 2102)]
    pub(crate) proxy_uid: u32,
    /// Ports of this pod that are reached directly, past the proxy: 22,8000-8080
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PORTS")]
    pub(crate) skip_inbound_ports: PortRanges,
    /// Ports elsewhere that are dialled directly, past the proxy: 25,3306
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PORTS")]
    pub(crate) skip_outbound_ports: PortRanges,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

pub(crate) const INBOUND_PORT: u16 = 15006;
pub(crate) const OUTBOUND_PORT: u16 = 15001;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where the operator serves proxies, as host:port
    #[arg(
        long,
        env = "FAIRLEAD_OPERATOR_ADDRESS",
        default_value = "fairlead-operator.fairlead-system.svc.cluster.local:8443"
    )]
    pub(crate) operator_address: String,
    /// What the operator must prove to be
    #[arg(
        long,
        env = "FAIRLEAD_OPERATOR_IDENTITY",
        default_value = "spiffe://cluster.local/ns/fairlead-system/sa/fairlead-operator"
    )]
    pub(crate) operator_identity: SpiffeId,
    /// The mesh this pod belongs to
    #[arg(long, env = "FAIRLEAD_TRUST_DOMAIN", default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// Roots of the mesh, PEM; read anew for each connection to the operator
    #[arg(long, env = "FAIRLEAD_TRUST_BUNDLE", default_value = "/etc/fairlead/trust/ca.crt", value_name = "FILE")]
    pub(crate) trust_bundle: PathBuf,
    /// The pod's service-account token for audience fairlead.dev; read anew for each certificate
    #[arg(long, env = "FAIRLEAD_TOKEN", default_value = "/var/run/secrets/fairlead.dev/token", value_name = "FILE")]
    pub(crate) token: PathBuf,
    /// Where the proxy keeps what it needs to restart without the operator: a volume in memory that no other container mounts
    #[arg(long, env = "FAIRLEAD_STATE_DIR", default_value = "/run/fairlead", value_name = "DIRECTORY")]
    pub(crate) state_dir: PathBuf,
    /// How long connections may go on after SIGTERM: 30s, 1m30s
    #[arg(long, env = "FAIRLEAD_DRAIN_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub(crate) drain_timeout: Duration,
    /// Probes that the pod declared, as JSON; written by the injector
    #[arg(
        long,
        env = "FAIRLEAD_PROBES",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "JSON"
    )]
    pub(crate) probes: String,
    /// This pod's name
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: String,
    /// Its namespace
    #[arg(long, env = "POD_NAMESPACE")]
    pub(crate) pod_namespace: String,
    /// Its UID
    #[arg(long, env = "POD_UID")]
    pub(crate) pod_uid: String,
    /// Its addresses, the primary one first, separated by commas
    #[arg(long, env = "POD_IPS", value_delimiter = ',', required = true)]
    pub(crate) pod_ips: Vec<IpAddr>,
    /// Its service account
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub(crate) service_account: String,
    /// Requests that get a line in the log: off, failures, all, or failures and a percentage of the rest, such as 1%
    #[arg(long, env = "FAIRLEAD_ACCESS_LOG", default_value = "off", value_name = "WHICH")]
    pub(crate) access_log: Which,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// A duration as the Gateway API writes it: up to four numbers of at most five digits, each with h, m, s or ms.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: write for example 30s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return Err(bad());
        }
        let (number, tail) = rest.split_at(digits);
        let unit = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(unit);
        let number: u64 = number.parse().map_err(|_| bad())?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(bad()),
        };
        if tail.is_empty() {
            return Ok(total);
        }
        rest = tail;
    }
    Err(bad())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_injectors_command_lines_parse() {
        let cli = Cli::try_parse_from([
            "fairlead-proxy",
            "init",
            "--inbound-port=15006",
            "--outbound-port=15001",
            "--proxy-uid=2102",
            "--skip-inbound-ports=22,8000-8080",
            "--skip-outbound-ports=",
        ])
        .unwrap();
        let Command::Init(init) = cli.command else { panic!("{cli:?}") };
        assert_eq!(init.skip_inbound_ports.to_string(), "22,8000-8080");
        let pod =
            ["--pod-name=a", "--pod-namespace=b", "--pod-uid=c", "--service-account=d", "--pod-ips=10.0.0.1,fd00::1"];
        let cli = Cli::try_parse_from(["fairlead-proxy", "run"].into_iter().chain(pod)).unwrap();
        let Command::Run(run) = cli.command else { panic!("{cli:?}") };
        assert_eq!(run.pod_ips.len(), 2);
        assert_eq!(run.drain_timeout, Duration::from_secs(30));
    }

    #[test]
    fn hostile_annotations_are_refused_by_the_flag_that_carries_them() {
        for value in ["22;15006", "22 --proxy-uid=0", "0-65535", "$(reboot)", "22\n15006"] {
            let flag = format!("--skip-inbound-ports={value}");
            let error = Cli::try_parse_from(["fairlead-proxy", "init", &flag]).unwrap_err();
            assert!(error.to_string().contains("--skip-inbound-ports"), "{error}");
        }
    }

    #[test]
    fn durations_are_the_gateway_apis() {
        for (text, millis) in [("30s", 30_000), ("1m30s", 90_000), ("250ms", 250), ("1h2m3s4ms", 3_723_004), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "30", "s", "-1s", "1.5s", "1d", "30 s", "100000s", "1s1s1s1s1s", "\u{0663}s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
