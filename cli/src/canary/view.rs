//! A release for people who look on: [`frame`] fills a terminal, [`Log`] makes a line of each change.

use std::fmt::Write as _;
use std::time::Duration;

use fairlead_crds::{Canary, CanaryStatus, Phase, VersionStatus};
use k8s_openapi::jiff::Timestamp;

use super::follow::Workload;
use super::screen::Size;
use super::state::{self, is_steerable, is_under_way};
use super::step::describe;
use crate::text::{grouped, one_line, span, table, wrap};

/// Characters of a bar.
const BAR: usize = 40;
/// What the longest sentence may take of a screen.
const MAX_LINES: usize = 4;
/// However low a terminal is: the step before, this one, the next, and how many there are besides.
const FEWEST_STEPS: usize = 5;
/// After that long without a line one says how it stands: who builds for others ends what is silent for long.
const SILENCE: Duration = Duration::from_secs(30);

/// What is looked at.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    /// As commands take it.
    pub(super) name: &'a str,
    /// `None`: there is none any more.
    pub(super) canary: Option<&'a Canary>,
    pub(super) workload: Option<&'a Workload>,
    /// Why what is shown may be old.
    pub(super) trouble: Option<&'a str>,
    /// How this command is called.
    pub(super) program: &'a str,
    pub(super) now: Timestamp,
}

/// As many lines as there is room for, but for the last of them.
pub(super) fn frame(scene: &Scene<'_>, size: Size) -> Vec<String> {
    let mut above = vec![format!("Canary {}", scene.name)];
    let mut below = Vec::new();
    let mut steps = Vec::new();
    if let Some(canary) = scene.canary {
        let fresh = CanaryStatus::default();
        let status = canary.status.as_ref().unwrap_or(&fresh);
        above[0] = format!("Canary {} releases Deployment {}", scene.name, canary.spec.workload_ref.name);
        above.push(headline(canary, status, scene.now));
        above.push(String::new());
        steps = marked(canary, status);
        below = details(canary, status, size.width);
    } else {
        above.push("deleted: its Deployment goes on without it".to_owned());
    }
    for (word, said) in notes(scene) {
        below.extend(labelled(word, &said, size.width));
    }
    // The last line of a terminal stays free, for the cursor.
    let room = size.height.saturating_sub(above.len() + below.len() + 1).max(FEWEST_STEPS);
    above.extend(window(&steps, room));
    above.extend(below);
    above
}

fn headline(canary: &Canary, status: &CanaryStatus, now: Timestamp) -> String {
    let mut text = match status.phase {
        None => "not looked at by the operator yet".to_owned(),
        Some(phase) => format!("{phase:?}"),
    };
    if is_under_way(status.phase) {
        match state::step(status) {
            Some(index) => {
                let _ = write!(text, ", step {} of {}", index + 1, canary.spec.steps.len());
            }
            None => text.push_str(", no step has begun"),
        }
    }
    if let Some(since) = state::since(canary).filter(|_| status.phase.is_some()) {
        let _ = write!(text, " for {}", span(now.as_second() - since.as_second()));
    }
    text
}

/// What a step has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Passed,
    Current,
    Refused,
    ToCome,
}

/// Each step with its mark, and whether the eye should be on it.
fn marked(canary: &Canary, status: &CanaryStatus) -> Vec<(bool, String)> {
    let reached = state::step(status);
    let mark = |index: usize| match (status.phase, reached) {
        (Some(Phase::Promoting | Phase::Succeeded), _) => Mark::Passed,
        (None | Some(Phase::Initialized), _) | (_, None) => Mark::ToCome,
        (_, Some(reached)) if index < reached => Mark::Passed,
        (_, Some(reached)) if index > reached => Mark::ToCome,
        (Some(Phase::RollingBack | Phase::Failed), _) => Mark::Refused,
        _ => Mark::Current,
    };
    let lines = canary.spec.steps.iter().enumerate().map(|(index, step)| {
        let mark = mark(index);
        let sign = match mark {
            Mark::Passed => '✔',
            Mark::Current => '▶',
            Mark::Refused => '✘',
            Mark::ToCome => ' ',
        };
        let is_approved = mark == Mark::Current && status.step.as_ref().is_some_and(|step| step.approved);
        let approved = if is_approved { " (approved)" } else { "" };
        (
            matches!(mark, Mark::Current | Mark::Refused),
            format!("  {sign} {:>2}  {}{approved}", index + 1, describe(step)),
        )
    });
    lines.collect()
}

/// Those around the one that the eye should be on.
fn window(steps: &[(bool, String)], room: usize) -> Vec<String> {
    let lines = |steps: &[(bool, String)]| -> Vec<String> { steps.iter().map(|(_, line)| line.clone()).collect() };
    if steps.len() <= room {
        return lines(steps);
    }
    let eye = steps.iter().position(|(is_current, _)| *is_current).unwrap_or(0);
    let shown = room.saturating_sub(2);
    let first = eye.saturating_sub(1).min(steps.len() - shown);
    let last = first + shown;
    let more = |number: usize| format!("       … {number} more");
    let mut window = vec![if first > 0 { more(first) } else { String::new() }];
    window.extend(lines(&steps[first..last]));
    window.push(if last < steps.len() { more(steps.len() - last) } else { String::new() });
    window
}

/// Traffic, versions and the verdict.
fn details(canary: &Canary, status: &CanaryStatus, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    if is_under_way(status.phase) {
        lines.push(traffic(status));
        lines.push(String::new());
    }
    let version = |name: &str, version: &VersionStatus| {
        let share = |count: i64| match version.requests {
            0 => "-".to_owned(),
            requests => format!("{:.2} %", count as f64 * 100.0 / requests as f64),
        };
        let revision = version.revision.clone();
        let (requests, errors) = (grouped(version.requests), share(version.errors));
        [name.to_owned(), revision, requests, errors, latency(version.p50), latency(version.p99)]
    };
    let sides = [("stable", &status.stable), ("canary", &status.canary)];
    let rows: Vec<_> = sides.iter().filter_map(|(name, side)| Some(version(name, side.as_ref()?))).collect();
    if !rows.is_empty() {
        let text = table(["", "REVISION", "REQUESTS", "ERRORS", "P50", "P99"], &rows, None);
        lines.extend(text.lines().map(|line| format!("  {line}")));
        lines.push(String::new());
    }
    if let Some(verdict) = &status.verdict {
        lines.extend(labelled("verdict", &format!("{:?}: {}", verdict.result, verdict.reason), width));
        if !verdict.evidence.is_empty() {
            lines.extend(labelled("evidence", &verdict.evidence, width));
        }
    } else if let Some(last) = status.history.first().filter(|_| !is_under_way(status.phase)) {
        lines.extend(labelled("last", &format!("{} {:?}: {}", last.revision, last.outcome, last.reason), width));
    }
    for broken in state::broken(status) {
        lines.extend(labelled("wrong", &broken, width));
    }
    if let Some(request) = state::pending(canary) {
        lines.extend(labelled("asked", &format!("{request}, not answered yet"), width));
    }
    lines
}

fn traffic(status: &CanaryStatus) -> String {
    let Some(step) = &status.step else { return format!("  traffic   {} 0 %", bar(0.0)) };
    let mut text = format!("  traffic   {} {} %", bar(step.weight.value()), step.weight);
    if let Some(mirror) = step.mirror {
        let _ = write!(text, ", and copies of {} % ×{}", mirror.percent, mirror.copies);
    }
    if !step.matches.is_empty() {
        text += ", and what matches";
    }
    text
}

/// Something that is more than nothing is never shown as nothing.
fn bar(percent: f64) -> String {
    let filled = (percent.clamp(0.0, 100.0) / 100.0 * BAR as f64).round() as usize;
    let filled = if percent > 0.0 { filled.max(1) } else { 0 };
    "█".repeat(filled) + &"░".repeat(BAR - filled)
}

fn latency(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => "-".to_owned(),
        Some(milliseconds) if milliseconds >= 1000.0 => format!("{:.2} s", milliseconds / 1000.0),
        Some(milliseconds) if milliseconds >= 100.0 => format!("{milliseconds:.0} ms"),
        Some(milliseconds) => format!("{milliseconds:.1} ms"),
    }
}

/// A word, and beside it what is said, on as many lines as that takes.
fn labelled(word: &str, said: &str, width: usize) -> Vec<String> {
    const INDENT: usize = 12;
    let mut lines = wrap(&one_line(said), width.saturating_sub(INDENT).max(20));
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES);
        if let Some(last) = lines.last_mut() {
            last.push_str(" …");
        }
    }
    let word = |at: usize| if at == 0 { word } else { "" };
    lines.iter().enumerate().map(|(at, line)| format!("  {:<10}{line}", word(at))).collect()
}

/// What is about to happen, what the user can do, and what is wrong with looking on.
fn notes(scene: &Scene<'_>) -> Vec<(&'static str, String)> {
    let mut notes = Vec::new();
    if let Some(canary) = scene.canary {
        let status = canary.status.as_ref();
        let phase = status.and_then(|status| status.phase);
        let is_held = scene.workload.is_some_and(|workload| workload.held);
        if is_held && matches!(phase, Some(Phase::Initialized | Phase::Succeeded)) {
            notes.push(("soon", "the change of the Deployment is held; its release is about to begin".to_owned()));
        }
        let asks = status.and_then(state::step).and_then(|index| canary.spec.steps.get(index));
        let is_approved = status.and_then(|status| status.step.as_ref()).is_some_and(|step| step.approved);
        let asks = asks.is_some_and(|step| step.approval.is_some()) && !is_approved;
        if state::pending(canary).is_none() {
            notes.extend(choices(scene, phase, asks).into_iter().map(|choice| ("next", choice)));
        }
    }
    if let Some(trouble) = scene.trouble {
        notes.push(("trouble", format!("this may be old, it is tried again: {trouble}")));
    }
    for again in 1..notes.len() {
        if notes[again].0 == "next" && notes[..again].iter().any(|(word, _)| *word == "next") {
            notes[again].0 = "";
        }
    }
    notes
}

/// Commands, each with what it does.
fn choices(scene: &Scene<'_>, phase: Option<Phase>, asks_approval: bool) -> Vec<String> {
    let Scene { name, program, .. } = scene;
    let mut choices = Vec::new();
    if asks_approval && is_steerable(phase) {
        choices.push(format!("{program} canary approve {name}"));
    }
    if phase == Some(Phase::Suspended) {
        choices.push("set spec.suspend to false: the release goes on".to_owned());
    }
    if is_steerable(phase) {
        choices.push(format!("{program} canary abort {name}"));
        if phase != Some(Phase::WaitingApproval) {
            choices.push(format!("{program} canary promote {name}, without further evidence"));
        }
    }
    if phase == Some(Phase::Failed) {
        choices.push(format!("change the template, or {program} canary retry {name}"));
    }
    choices
}

/// Makes a line of each change, for what is not a terminal.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// What the last line was about.
    about: String,
    /// It, but for the time.
    said: String,
    at: Option<Timestamp>,
}

impl Log {
    /// The line that is due. Numbers that grow are no change; after [`SILENCE`] they are.
    pub(super) fn line(&mut self, scene: &Scene<'_>) -> Option<String> {
        let (about, said) = stand(scene);
        let silent = self.at.map(|at| scene.now.as_second() - at.as_second());
        let is_news = silent.is_none_or(|seconds| seconds >= SILENCE.as_secs().cast_signed());
        if about == self.about && (said == self.said || !is_news) {
            return None;
        }
        let now = Timestamp::from_second(scene.now.as_second()).unwrap_or(scene.now);
        let line = one_line(&format!("{now} {}: {said}", scene.name));
        (self.about, self.said, self.at) = (about, said, Some(now));
        Some(line)
    }
}

/// What a change is a change of, and how it stands.
fn stand(scene: &Scene<'_>) -> (String, String) {
    let Some(canary) = scene.canary else { return ("deleted".to_owned(), "deleted".to_owned()) };
    let fresh = CanaryStatus::default();
    let status = canary.status.as_ref().unwrap_or(&fresh);
    let mut said = match status.phase {
        None => "not looked at by the operator yet".to_owned(),
        Some(phase) => format!("{phase:?}"),
    };
    if let Some(version) = &status.canary {
        let _ = write!(said, ", revision {}", version.revision);
    }
    let step = state::step(status).filter(|_| is_under_way(status.phase));
    if let Some((index, step)) = step.and_then(|index| Some((index, canary.spec.steps.get(index)?))) {
        let _ = write!(said, ", step {} of {} ({})", index + 1, canary.spec.steps.len(), describe(step));
    }
    let mut about = said.clone();
    for broken in state::broken(status) {
        let _ = write!(said, "; {broken}");
        // What stands between words and numbers, such as how many proxies follow, may change often.
        about += broken.split(':').next().unwrap_or_default();
    }
    if let Some(request) = state::pending(canary) {
        about += &request;
        let _ = write!(said, "; {request} was asked for");
    }
    if let Some(trouble) = scene.trouble {
        about += trouble;
        let _ = write!(said, "; this may be old, it is tried again: {trouble}");
    }
    if let Some(verdict) = &status.verdict {
        let _ = write!(about, "{:?}", verdict.result);
        let _ = write!(said, "; {:?}: {}", verdict.result, verdict.reason);
    }
    for (word, note) in notes(scene) {
        if word == "soon" || status.phase == Some(Phase::WaitingApproval) && word == "next" {
            about += &note;
            let _ = write!(said, "; {note}");
        }
    }
    (about, said)
}

/// The state after something was asked, in a few words.
pub(super) fn summary(scene: &Scene<'_>) -> String {
    let Some(canary) = scene.canary else { return "deleted".to_owned() };
    let fresh = CanaryStatus::default();
    headline(canary, canary.status.as_ref().unwrap_or(&fresh), scene.now)
}

#[cfg(test)]
mod tests;
