//! What an operator does for thousands of proxies and for a thousand Canaries, and how fast releases move traffic. It prints one line of JSON.
//!
//! The operator is the real one, in a process of its own; its API server is [`api`], the cluster's controllers are [`cluster`]; the proxies are
//! [`proxies`], which run a real proxy's code as far as certificate and configuration go, and where they are [`callers`] the data path as well.
//! Everything is on this machine: run it in a network namespace of its own, in which 10.248.0.0/14 is local
//! (`ip route add local 10.248.0.0/14 dev lo`).

mod api;
mod arrival;
mod callers;
mod canaries;
mod cluster;
mod operator;
mod proxies;
mod release;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Longer than anything here takes; what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(900);

/// Thousands of simulated proxies, or of Canaries, beside a real operator.
#[derive(Debug, Parser)]
#[allow(clippy::doc_markdown, reason = "these are help texts, for a terminal")]
struct Args {
    /// The operator's binary.
    #[arg(long)]
    operator: PathBuf,
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum What {
    /// Proxies that start at once, and a policy that changes for some of them
    Arrival {
        /// How many, from 100 to 60,000
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
        proxies: u32,
    },
    /// How fast a step reaches all callers, how fast a bad version is left, how exactly weights are kept
    Release {
        /// Fewer changes and releases
        #[arg(long)]
        quick: bool,
    },
    /// What a thousand Canaries cost
    Canaries {
        /// Looks at them for a shorter time
        #[arg(long)]
        quick: bool,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let Args { operator, what } = Args::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("a crypto provider was installed twice");
    }
    open_files(match what {
        What::Arrival { proxies } => u64::from(proxies) * 4,
        What::Release { .. } | What::Canaries { .. } => 20_000,
    })?;
    let folder = tempfile::tempdir()?;
    let path = folder.path();
    let measured = async {
        match what {
            What::Arrival { proxies } => arrival::measure(&operator, path, proxies).await,
            What::Release { quick } => release::measure(&operator, path, quick).await,
            What::Canaries { quick } => canaries::measure(&operator, path, quick).await,
        }
    };
    let measured = tokio::time::timeout(PATIENCE, measured).await;
    let figures = measured
        .unwrap_or_else(|_| bail!("not done within {PATIENCE:?}"))
        .with_context(|| format!("the operator's last words: {}", operator::log_of(path)))?;
    println!("{figures}");
    Ok(())
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
