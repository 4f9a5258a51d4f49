//! The `fairlead` command: asks a mesh what it would do, and whether it is well. `kubectl fairlead` is the same under another name.
//!
//! [`args`] says what it takes, [`cluster`] reaches the cluster and the operator, and each command has a file or folder: [`explain`], [`check`]
//! and [`canary`], of pure functions that make text of what was found.

mod args;
mod canary;
mod check;
mod cluster;
mod explain;
mod text;

use std::process::ExitCode;

use args::{Args, Authz, Command};
use cluster::Cluster;

/// What a script learns. Wrong use is 2 as well, as clap has it.
const NO: u8 = 1;
const UNANSWERED: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = args::parse(std::env::args_os());
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a crypto provider was installed twice");
        return ExitCode::from(UNANSWERED);
    }
    match run(args).await {
        Ok((text, is_well)) => {
            print!("{}", text::printable(&text));
            if is_well { ExitCode::SUCCESS } else { ExitCode::from(NO) }
        }
        Err(error) => {
            eprintln!("error: {}", text::one_line(&format!("{error:#}")));
            ExitCode::from(UNANSWERED)
        }
    }
}

/// What to print, and whether the answer is yes.
async fn run(args: Args) -> anyhow::Result<(String, bool)> {
    let cluster = Cluster::connect(&args.cluster).await?;
    match args.command {
        Command::Authz { command: Authz::Explain(asked) } => {
            let question = asked.question(cluster.namespace())?;
            let answer = cluster.ask(&question).await?;
            let text = match asked.output {
                Some(args::Output::Json) => serde_json::to_string_pretty(&answer)? + "\n",
                None => explain::text(&question, &answer),
            };
            Ok((text, answer.is_allowed()))
        }
        Command::Canary { command } => canary::run(&cluster, command, args.program).await,
        Command::Check => {
            let findings = check::judge(&cluster.facts().await?);
            Ok((check::text(&findings), check::is_well(&findings)))
        }
    }
}
