//! What an operator does for thousands of proxies at once. It prints one line of JSON.
//!
//! The operator is the real one, in a process of its own; its API server is [`api`]; the proxies are [`proxies`], which run a real proxy's code
//! as far as certificate and configuration go. Everything is on this machine: run it in a network namespace of its own, in which
//! 10.250.0.0/16 is local (`ip route add local 10.250.0.0/16 dev lo`).

mod api;
mod operator;
mod proxies;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::api::Api;
use self::operator::Operator;
use self::proxies::{Proxy, Start};

/// Proxies that a changed policy is for.
const POLICY_PROXIES: u32 = 100;
/// How often it is changed.
const CHANGES: usize = 200;
/// Longer than anything here takes; what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// For one change.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(50);

/// Thousands of simulated proxies beside a real operator.
#[derive(Debug, Parser)]
#[allow(clippy::doc_markdown, reason = "these are help texts, for a terminal")]
struct Args {
    /// The operator's binary.
    #[arg(long)]
    operator: PathBuf,
    /// How many proxies start at once, from 100 to 60,000.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    proxies: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("a crypto provider was installed twice");
    }
    open_files(u64::from(args.proxies) * 4)?;
    let folder = tempfile::tempdir()?;
    let api = Api::new();
    operator::cluster(&api);
    let operator = Operator::start(&args.operator, &api, folder.path()).await?;
    std::fs::write(folder.path().join("roots.crt"), operator::roots(&api)?)?;
    let alone = operator.memory()?.1;

    let measured = async {
        let begun = Instant::now();
        let proxies = begin(&api, Start::new(folder.path())?, args.proxies).await?;
        let seconds = |at: fn(&Proxy) -> Instant| {
            proxies.iter().map(|proxy| (at(proxy) - begun).as_secs_f64()).fold(0.0, f64::max)
        };
        let (certified, configured) = (seconds(|proxy| proxy.certified), seconds(|proxy| proxy.configured));
        let milliseconds = policies(&api, &proxies).await?;
        let (peak, now) = operator.memory()?;
        anyhow::Ok(json!({
            "proxies": args.proxies, "certifiedSeconds": certified, "configuredSeconds": configured,
            "policyProxies": POLICY_PROXIES, "policyMilliseconds": milliseconds,
            "operatorMib": {"alone": alone, "peak": peak, "now": now},
        }))
    };
    let measured = tokio::time::timeout(PATIENCE, measured).await;
    let figures = measured
        .unwrap_or_else(|_| bail!("not done within {PATIENCE:?}"))
        .with_context(|| format!("the operator's last words: {}", operator::log_of(folder.path())))?;
    println!("{figures}");
    Ok(())
}

/// All pods appear, and their proxies start, at one moment; returns when all are configured.
async fn begin(api: &Api, start: Start, count: u32) -> Result<Vec<Proxy>> {
    let mut starting = JoinSet::new();
    for number in 0..count {
        let (path, pod) = proxies::pod(number);
        api.put(&path, pod);
        starting.spawn(start.clone().run(number));
    }
    let mut proxies = Vec::new();
    while let Some(proxy) = starting.join_next().await {
        proxies.push(proxy??);
    }
    Ok(proxies)
}

/// Changes the policy of the few again and again; for each change the milliseconds until the last of them decides by it.
async fn policies(api: &Api, proxies: &[Proxy]) -> Result<Vec<f64>> {
    let path = format!("/apis/fairlead.dev/v1alpha1/namespaces/{}/peerauths/few", proxies::NAMESPACE);
    let few: Vec<&Proxy> = proxies.iter().filter(|proxy| proxy.number < POLICY_PROXIES).collect();
    let versions = || few.iter().map(|proxy| proxy.store.workload.programmed().version).collect::<Vec<_>>();
    let mut before = versions();
    let mut milliseconds = Vec::new();
    for change in 0..CHANGES {
        let begun = Instant::now();
        api.put(
            &path,
            json!({
                "apiVersion": "fairlead.dev/v1alpha1", "kind": "PeerAuth",
                "metadata": {"namespace": proxies::NAMESPACE, "name": "few", "generation": change + 1},
                "spec": {
                    "selector": {"matchLabels": {"group": "few"}},
                    "mtls": {"mode": "Strict"},
                    "rules": [{"name": "all", "action": "Allow", "to": [{"paths": [format!("/{change}")]}]}],
                },
            }),
        );
        loop {
            let missing = versions().iter().zip(&before).filter(|(now, before)| now == before).count();
            if missing == 0 {
                break;
            }
            ensure!(begun.elapsed() < LONGEST, "{missing} proxies did not follow change {change} of the policy");
            sleep(Duration::from_millis(1)).await;
        }
        milliseconds.push(begun.elapsed().as_secs_f64() * 1000.0);
        before = versions();
        sleep(PAUSE).await;
    }
    Ok(milliseconds)
}

/// Raises the limit of open files, which the operator inherits.
fn open_files(wanted: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        let maximum = maximum.map(|maximum| maximum.max(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .with_context(|| format!("{wanted} open files are not allowed: ulimit -n {wanted}"))?;
    }
    Ok(())
}
