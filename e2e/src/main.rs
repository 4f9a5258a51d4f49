//! The commands behind the Makefile's targets.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use fairlead_e2e::{bench, cluster, demo, fuzz, images, suite};

/// Fairlead on a real Kubernetes, on this machine.
#[derive(Parser)]
#[command(name = "fairlead-e2e", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole path: a cluster, the mesh on it, a bad version rolled back and a good one promoted
    Demo,
    /// Run every test: lints, unit tests, then the mesh on a cluster that is started for it and ended after it
    Test {
        /// Leave the cluster running
        #[arg(long)]
        keep: bool,
    },
    /// Run the tests that need a cluster on the one that is up
    Mesh {
        /// Only those whose name contains this
        #[arg(default_value = "")]
        filter: String,
    },
    /// Make up what strangers may send to a proxy, and look for what it does not bear
    Fuzz {
        /// One of the folders in proxy/fuzz/corpus; all of them if none is named
        #[arg(long)]
        target: Option<String>,
        /// How long to look, for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Try this input alone, as a failure names it
        #[arg(long)]
        input: Option<PathBuf>,
    },
    /// Measure speed and size, print them beside what was promised, write .bench/results.json
    Bench {
        /// Only these: proxy, growth, decision, identity, policy, canary, release, control-plane, or scenarios of the data path by letter (A,B,C,G,D,E,T,F,M)
        #[arg(long, value_delimiter = ',')]
        only: Vec<bench::Part>,
        /// Short runs: to see what a change did, not to publish
        #[arg(long)]
        quick: bool,
    },
    /// Start a Kubernetes of two nodes on this machine; its kubeconfig is .cluster/kubeconfig
    Cluster,
    /// End it and leave nothing behind but its data in .cluster
    Down {
        /// Remove the data as well
        #[arg(long)]
        purge: bool,
    },
    /// Bring a Docker or OCI archive onto the nodes
    Load {
        /// As `docker save --output app.tar app:1` writes it; may be compressed
        archive: PathBuf,
    },
    /// Build the images of this checkout and bring them onto the nodes
    Images {
        /// Only these: proxy, operator, bookinfo
        #[arg(value_parser = images::by_short_name)]
        only: Vec<images::Image>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo => demo::run().await,
        Command::Test { keep } => suite::run(keep).await,
        Command::Mesh { filter } => suite::on_cluster(&filter).await,
        Command::Fuzz { target, seconds, input } => {
            fuzz::long(&fuzz::Options { target, duration: Duration::from_secs(seconds), input }).await
        }
        Command::Bench { only, quick } => bench::run(&bench::Options { only, quick }).await,
        Command::Cluster => cluster::up().await,
        Command::Down { purge } => cluster::down(purge).await,
        Command::Load { archive } => {
            for name in cluster::load(&archive).await? {
                println!("{name} is on both nodes; use it with `imagePullPolicy: IfNotPresent`");
            }
            Ok(())
        }
        Command::Images { only } if only.is_empty() => images::build_and_load(&images::IMAGES).await,
        Command::Images { only } => images::build_and_load(&only).await,
    }
}
