//! How long `make test` and `make demo` took when they last succeeded. Nobody repeats an hour of tests to print a table, so
//! each run leaves its figure beside the caches ([`Run`]), and `make bench` prints what is there ([`table`]).

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use tokio::time::Instant;

use crate::cluster::{self, Places};

/// Set by the Makefile: when `make` began, in seconds since 1970. The first thing it does is to build this program,
/// which counts for whoever waits.
const BEGAN: &str = "FAIRLEAD_BEGAN";
/// A build of this program never takes longer; what claims so is a variable that was left from another time.
const LONGEST_BUILD: Duration = Duration::from_secs(3600);

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// `make test`
    Test,
    /// `make demo`
    Demo,
}

/// What a run found when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Start {
    /// Nothing of Kubernetes and of the images had been built.
    Bare,
    /// Both had.
    Caches,
}

/// What is promised: at most so many minutes.
const PROMISED: [(What, Start, &str, f64); 3] = [
    (What::Test, Start::Bare, "`make test`, bare machine", 60.0),
    (What::Test, Start::Caches, "`make test`, with caches", 20.0),
    (What::Demo, Start::Caches, "`make demo`, with caches, to a finished canary", 5.0),
];

/// The last run of its kind that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    what: What,
    start: Start,
    seconds: f64,
    /// In UTC, such as `2026-11-21`.
    date: String,
}

/// A run under way.
pub struct Run {
    what: What,
    /// `None` where the figure would stand beside no promise.
    start: Option<Start>,
    before: Duration,
    began: Instant,
    file: PathBuf,
}

impl Run {
    /// Looks at what there is; call it before anything is built.
    ///
    /// # Errors
    /// If this is no checkout.
    pub fn begin(what: What) -> Result<Self> {
        let cache = Places::find()?.cache;
        let images = fs::read_dir(cache.join("images")).into_iter().flatten().flatten();
        let built = images.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("fairlead-"));
        // A cluster that was there already says nothing about this machine, nor about ours.
        let start = cluster::nodes().ok().and_then(|_| found(cache.join("cluster").exists(), built));
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let before = before(std::env::var(BEGAN).ok().as_deref(), now);
        Ok(Self { what, start, before, began: Instant::now(), file: file(&cache) })
    }

    /// Keeps the figure.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn succeeded(self) -> Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let seconds = (self.before + self.began.elapsed()).as_secs_f64();
        let date = OffsetDateTime::now_utc().date().format(&Iso8601::DATE)?;
        let entries = keep(read(&self.file), Entry { what: self.what, start, seconds, date });
        let write = || {
            let folder = self.file.parent().context("the file is in the cache")?;
            let mut new = tempfile::NamedTempFile::new_in(folder)?;
            new.write_all(&serde_json::to_vec_pretty(&entries)?)?;
            anyhow::Ok(new.persist(&self.file)?)
        };
        write().with_context(|| format!("writing {}", self.file.display())).map(drop)
    }
}

/// The last duration of each kind beside what was promised, as `make bench` prints it.
///
/// # Errors
/// If this is no checkout.
pub fn table() -> Result<String> {
    Ok(rows(&read(&file(&Places::find()?.cache))))
}

fn file(cache: &Path) -> PathBuf {
    cache.join("durations.json")
}

/// What was kept; nothing if there is none or it cannot be read, since a next run writes it anew.
fn read(file: &Path) -> Vec<Entry> {
    fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// What a run found; `None` for half of it, which takes as long as that half.
fn found(kubernetes: bool, images: bool) -> Option<Start> {
    match (kubernetes, images) {
        (false, false) => Some(Start::Bare),
        (true, true) => Some(Start::Caches),
        _ => None,
    }
}

/// How long `make` had been at work before this program started.
fn before(began: Option<&str>, now: i64) -> Duration {
    let seconds = began.and_then(|text| text.trim().parse::<i64>().ok()).and_then(|began| now.checked_sub(began));
    let before = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    before.filter(|before| *before < LONGEST_BUILD).unwrap_or_default()
}

/// The entries with a new one in the place of the last of its kind, if it is of a kind that is promised.
fn keep(mut entries: Vec<Entry>, new: Entry) -> Vec<Entry> {
    entries.push(new);
    PROMISED.into_iter().filter_map(|(what, start, ..)| last(&entries, what, start).cloned()).collect()
}

fn last(entries: &[Entry], what: What, start: Start) -> Option<&Entry> {
    entries.iter().rfind(|entry| (entry.what, entry.start) == (what, start))
}

fn rows(entries: &[Entry]) -> String {
    let mut out = String::from("| duration | last measured | at most | |\n| --- | --- | --- | --- |\n");
    for (what, start, name, at_most) in PROMISED {
        let (measured, verdict) = match last(entries, what, start) {
            Some(entry) => {
                let minutes = entry.seconds / 60.0;
                let verdict = if minutes <= at_most { "met" } else { "MISSED" };
                (format!("{minutes:.1} min on {}", entry.date), verdict)
            }
            None => ("not run here".into(), ""),
        };
        let _ = writeln!(out, "| {name} | {measured} | {at_most} min | {verdict} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(what: What, start: Start, minutes: f64) -> Entry {
        Entry { what, start, seconds: minutes * 60.0, date: "2026-11-21".into() }
    }

    #[test]
    fn half_of_the_caches_is_neither_bare_nor_with_caches() {
        assert_eq!(found(false, false), Some(Start::Bare));
        assert_eq!(found(true, true), Some(Start::Caches));
        assert_eq!(found(true, false), None);
        assert_eq!(found(false, true), None);
    }

    #[test]
    fn the_time_before_counts_unless_it_cannot_be_true() {
        assert_eq!(before(Some("1000"), 1120), Duration::from_secs(120));
        for claim in [None, Some(""), Some("soon"), Some("1121"), Some("-9223372036854775808"), Some("-5000")] {
            assert_eq!(before(claim, 1120), Duration::ZERO, "{claim:?}");
        }
    }

    #[test]
    fn the_last_run_of_each_kind_is_kept() {
        let mut entries = Vec::new();
        for minutes in 1..100 {
            entries = keep(entries, entry(What::Test, Start::Caches, f64::from(minutes)));
            entries = keep(entries, entry(What::Demo, Start::Bare, f64::from(minutes)));
        }
        entries = keep(entries, entry(What::Demo, Start::Caches, 2.0));
        assert_eq!(entries, [entry(What::Test, Start::Caches, 99.0), entry(What::Demo, Start::Caches, 2.0)]);
    }

    #[test]
    fn the_table_says_what_was_met_what_was_missed_and_what_was_not_run() {
        let text = rows(&[entry(What::Test, Start::Caches, 21.0), entry(What::Demo, Start::Caches, 2.04)]);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| `make test`, bare machine | not run here | 60 min |  |");
        assert_eq!(lines[1], "| `make test`, with caches | 21.0 min on 2026-11-21 | 20 min | MISSED |");
        assert!(lines[2].ends_with("| 2.0 min on 2026-11-21 | 5 min | met |"), "{}", lines[2]);
    }

    #[test]
    fn a_run_is_kept_where_the_next_one_finds_it() {
        let cache = tempfile::tempdir().unwrap();
        let file = file(cache.path());
        fs::write(&file, "torn").unwrap();
        let before = Duration::from_secs(60);
        let run = |start| Run { what: What::Demo, start, before, began: Instant::now(), file: file.clone() };
        run(None).succeeded().unwrap();
        assert_eq!(read(&file), []);
        run(Some(Start::Caches)).succeeded().unwrap();
        let kept = read(&file);
        assert_eq!(kept.len(), 1);
        assert!((60.0..120.0).contains(&kept[0].seconds), "{kept:?}");
    }
}
