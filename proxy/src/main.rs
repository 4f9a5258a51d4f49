//! `fairlead-proxy`: `init` captures a pod's connections, `run` serves them. This file only wires.

mod args;
mod run;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fairlead_proxy::capture::{self, Capture, PortRanges};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use self::args::{Cli, Command, InitArgs, LogArgs, LogFormat};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Init(args) => log(&args.log).and_then(|()| init(&args)),
        Command::Run(args) => log(&args.log).and_then(|()| run::run(*args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where logs go, in their form; if there are no logs because their settings are wrong, as plain text.
            if tracing::dispatcher::has_been_set() {
                tracing::error!(error = format!("{error:#}"), "fairlead-proxy ends");
            } else {
                eprintln!("fairlead-proxy: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn log(args: &LogArgs) -> anyhow::Result<()> {
    // Not `EnvFilter`: its regular expressions are half a megabyte of code that nothing else needs at the start.
    let filter: Targets = args.filter.parse().with_context(|| {
        format!("FAIRLEAD_LOG is {:?}: write a level such as info, or info,fairlead_proxy=debug", args.filter)
    })?;
    let lines = tracing_subscriber::fmt::layer();
    let lines = match args.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let set = tracing_subscriber::registry().with(lines).with(filter).try_init();
    set.map_err(|error| anyhow::anyhow!("cannot set up logs: {error}"))
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    // The proxy's own ports are reached as they are: by the kubelet, or by nobody.
    let own = PortRanges::of([
        args.inbound_port,
        args.outbound_port,
        fairlead_proxy::admin::PORT,
        fairlead_proxy::health::PORT,
    ]);
    let capture = Capture {
        inbound_port: args.inbound_port,
        outbound_port: args.outbound_port,
        proxy_uid: args.proxy_uid,
        skip_inbound: args.skip_inbound_ports.and(&own),
        skip_outbound: args.skip_outbound_ports.clone(),
    };
    capture::install(&capture).context("cannot capture this pod's connections")?;
    tracing::info!(
        inbound = capture.inbound_port,
        outbound = capture.outbound_port,
        skip_inbound = %capture.skip_inbound,
        skip_outbound = %capture.skip_outbound,
        "captured this pod's connections"
    );
    Ok(())
}
