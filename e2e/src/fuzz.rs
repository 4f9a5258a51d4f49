//! `make fuzz`, and its part of `make test`: libFuzzer makes up what strangers may send to a proxy, and looks for bytes that reach new code
//! and break what must hold of them (`proxy/src/fuzz.rs`).
//!
//! The pinned stable compiler instruments what it compiles as LLVM's fuzzers want it; no nightly compiler and no cargo-fuzz is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;

use crate::cluster::Places;
use crate::command::{command, run, tail};
use crate::prerequisites;
use crate::progress::Step;

/// How long `make test` looks for anything with each target.
const SHORT: Duration = Duration::from_secs(20);

/// How many run side by side: one more than this would only wait for a core on the machines that tests run on.
const AT_ONCE: usize = 2;

/// What libFuzzer needs to see where an input went, for code of our own and of every library below it.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What is to be fuzzed.
#[derive(Debug, Clone)]
pub struct Options {
    /// One of the folders in `proxy/fuzz/corpus`; `None`: all of them.
    pub target: Option<String>,
    /// For each target.
    pub duration: Duration,
    /// Tries this one input in place of made-up ones.
    pub input: Option<PathBuf>,
}

/// All targets, for as long as `make test` has time.
///
/// # Errors
/// If an input breaks what must hold; the error names the file that it is in.
pub async fn shortly() -> Result<()> {
    let options = Options { target: None, duration: SHORT, input: None };
    let fuzzer = Fuzzer::build(&options).await?;
    // What it finds is forgotten, so that every run begins with what the repository has.
    let found = tempfile::tempdir()?;
    fuzzer.all(&targets(&fuzzer.places, None)?, found.path()).await
}

/// As long as wanted. What reaches new code is kept in the cache, and the next run begins with it.
///
/// # Errors
/// If an input breaks what must hold; the error names the file that it is in.
pub async fn long(options: &Options) -> Result<()> {
    let fuzzer = Fuzzer::build(options).await?;
    let targets = targets(&fuzzer.places, options.target.as_deref())?;
    if let Some(input) = &options.input {
        let [target] = &targets[..] else {
            bail!("say which target the input is for: make fuzz TARGET=request INPUT=…")
        };
        return fuzzer.one(target, std::slice::from_ref(input)).await.map(|_| eprintln!("{} holds", input.display()));
    }
    let found = fuzzer.places.cache.join("fuzz/corpus");
    fuzzer.all(&targets, &found).await
}

/// The targets, by the folders that hold their seeds.
fn targets(places: &Places, only: Option<&str>) -> Result<Vec<String>> {
    let corpus = places.checkout.join("proxy/fuzz/corpus");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| format!("reading {}", corpus.display()))? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    match only {
        None => Ok(targets),
        Some(only) if targets.iter().any(|target| target == only) => Ok(vec![only.to_owned()]),
        Some(only) => bail!("there is no target {only:?}, but {}", targets.join(", ")),
    }
}

struct Fuzzer {
    places: Places,
    program: PathBuf,
    duration: Duration,
}

impl Fuzzer {
    async fn build(options: &Options) -> Result<Self> {
        prerequisites::packages(&prerequisites::FUZZ_PACKAGES).await?;
        let places = Places::find()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| places.cache.join("target"), PathBuf::from);
        // A folder of its own: its flags concern every library.
        let target = target.join("fuzz");
        let host = run(&mut command("rustc", ["--print", "host-tuple"])).await?.trim().to_owned();
        let step = Step::begin("building what is fuzzed (first time about 5 min)");
        let mut cargo = command("cargo", ["build", "--locked", "--profile", "fuzz", "--target", &host]);
        cargo.args(["--package", "fairlead-proxy-fuzz", "--features", "libfuzzer"]);
        run(cargo.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &target).current_dir(&places.checkout)).await?;
        step.done();
        let program = target.join(host).join("fuzz/fairlead-fuzz");
        Ok(Self { places, program, duration: options.duration })
    }

    /// Each target for its time, some side by side; `found` has a folder for each.
    async fn all(&self, targets: &[String], found: &Path) -> Result<()> {
        for some in targets.chunks(AT_ONCE) {
            let step = Step::begin(format!("fuzzing {} for {} s", some.join(" and "), self.duration.as_secs()));
            let runs = try_join_all(some.iter().map(|target| async move {
                let found = found.join(target);
                fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
                let seeds = self.places.checkout.join("proxy/fuzz/corpus").join(target);
                self.one(target, &[found, seeds]).await
            }));
            let tried: Vec<_> = runs.await?.iter().map(|runs| format!("{runs} inputs")).collect();
            step.done_with(tried.join(" and "));
        }
        Ok(())
    }

    /// Runs one target on folders or files; how many inputs were tried.
    async fn one(&self, target: &str, corpus: &[PathBuf]) -> Result<u64> {
        let broken = self.places.checkout.join(".fuzz");
        fs::create_dir_all(&broken).with_context(|| format!("making {}", broken.display()))?;
        let mut fuzzer = command(&self.program, [format!("-max_total_time={}", self.duration.as_secs())]);
        // An input takes a millisecond; ten seconds on a busy machine are an endless loop. Memory is for what a proxy would be killed for.
        fuzzer.args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        fuzzer.arg(format!("-artifact_prefix={}/{target}-", broken.display())).args(corpus);
        let output = fuzzer.env("FAIRLEAD_FUZZ", target).stdin(Stdio::null()).output().await;
        let output = output.with_context(|| format!("starting {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(tried(&said));
        }
        match input(&said).or_else(|| corpus.iter().find(|path| path.is_file()).map(|path| path.display().to_string()))
        {
            Some(input) => bail!(
                "{target} does not hold for {input}; again with `make fuzz TARGET={target} INPUT={input}`:\n{}",
                panic(&said)
            ),
            None => bail!("fuzzing {target} failed:\n{}", tail(&said)),
        }
    }
}

/// How many inputs libFuzzer says it tried.
fn tried(said: &str) -> u64 {
    let number = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

/// Where libFuzzer says it put the input that failed.
fn input(said: &str) -> Option<String> {
    said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim().to_owned())
}

/// What the program said of its failure: the panic, or else the last lines.
fn panic(said: &str) -> String {
    match said.find("panicked at") {
        Some(at) => said[at..].lines().take(3).collect::<Vec<_>>().join("\n"),
        None => tail(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "INFO: Seed: 1\n#2\tINITED cov: 3\n\nthread '<unnamed>' (1) panicked at proxy/src/a.rs:1:2:\nno route\n\
                          note: run\n==9== ERROR: libFuzzer: deadly signal\nartifact_prefix='.fuzz/path-'; \
                          Test unit written to .fuzz/path-crash-0a\nBase64: Kg==\n";

    #[test]
    fn a_failure_names_its_input_and_what_broke() {
        assert_eq!(input(FAILED).as_deref(), Some(".fuzz/path-crash-0a"));
        assert!(panic(FAILED).starts_with("panicked at proxy/src/a.rs:1:2:\nno route"));
        assert_eq!(input("Done 5 runs"), None);
    }

    #[test]
    fn what_was_tried_is_counted() {
        assert_eq!(tried("Done 7 runs\nstat::number_of_executed_units: 12345\nstat::x: 1"), 12345);
    }

    #[test]
    fn every_target_has_seeds_and_no_other_can_be_named() {
        let places = Places::find().unwrap();
        assert!(targets(&places, None).unwrap().contains(&"request".to_owned()));
        assert!(targets(&places, Some("no-such")).unwrap_err().to_string().contains("request"));
    }
}
