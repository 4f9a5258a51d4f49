//! Looks on: one watch on one Canary, shown on a terminal or told line by line, until something has happened.

use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use fairlead_crds::Canary;
use futures::{Stream, StreamExt as _};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_kube};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::follow::{Ending, Follow, Look, Seen, Workload};
use super::screen::Screen;
use super::view::{self, Log, Scene};
use super::{Target, is_denied};

/// Elapsed times are shown in seconds.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks at the Deployment while the Canary says nothing new.
const LOOK: Duration = Duration::from_secs(5);
/// For one look at the Deployment.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that was cut without a word is noticed after this many seconds and five.
const WATCH_SECONDS: u32 = 30;

/// How looking on ended.
pub(super) enum Watched {
    /// What was waited for has happened.
    Ended(Ending),
    /// The user has seen enough.
    Interrupted,
}

/// Each state of the Canary, again and again after errors. `None`: there is none.
fn states(api: Api<DynamicObject>, name: &str) -> impl Stream<Item = watcher::Result<Option<DynamicObject>>> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    let mut is_listed = false;
    watch_kube(api, config).default_backoff().filter_map(move |event| {
        let state = match event {
            Ok(Event::Init) => {
                is_listed = false;
                None
            }
            Ok(Event::InitApply(object)) => {
                is_listed = true;
                Some(Ok(Some(object)))
            }
            Ok(Event::Apply(object)) => Some(Ok(Some(object))),
            Ok(Event::Delete(_)) => Some(Ok(None)),
            Ok(Event::InitDone) => (!is_listed).then_some(Ok(None)),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(state)
    })
}

/// What came of an event: the Canary as it is, or why it is not known. Errors that do not pass end the watch.
fn taken(event: Option<watcher::Result<Option<DynamicObject>>>) -> Result<Result<Option<Canary>, String>> {
    match event.context("the watch ended")? {
        Ok(object) => Ok(Ok(object.map(super::read).transpose()?)),
        Err(error) if is_hopeless(&error) => {
            Err(anyhow!(error).context("watching the Canary: get, list and watch on canaries are needed"))
        }
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn is_hopeless(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_denied(error),
        watcher::Error::WatchError(status) => matches!(status.code, 401 | 403),
        watcher::Error::NoResourceVersion => false,
    }
}

/// Waits until `done` says so of the Canary, for so long at most. `None`: it took too long.
pub(super) async fn until(
    target: &Target,
    patience: Duration,
    mut done: impl FnMut(&Canary) -> bool,
) -> Result<Option<Canary>> {
    let mut states = pin!(states(target.canaries.clone(), &target.name));
    let wait = async {
        loop {
            match taken(states.next().await)? {
                Ok(Some(canary)) if done(&canary) => return Ok(canary),
                Ok(None) => bail!("Canary {} was deleted", target.full_name()),
                Ok(Some(_)) | Err(_) => {}
            }
        }
    };
    timeout(patience, wait).await.ok().transpose()
}

/// Shows it until `follow` has ended, which may take so long; without one for ever. `workload` was looked at before the Canary.
pub(super) async fn look_on(
    target: &Target,
    workload: Option<Workload>,
    follow: Option<(Follow, Duration)>,
    show: Show,
) -> Result<Watched> {
    let (follow, patience) = follow.unzip();
    let mut watch = Watch {
        target,
        canary: None,
        is_known: false,
        workload,
        trouble: None,
        follow,
        waiting: "for the Canary".to_owned(),
        began: Instant::now(),
        show,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = watch.run() => Some(ended),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        () = late(patience) => {
            let waiting = std::mem::take(&mut watch.waiting);
            Some(Err(anyhow!("{}: it took longer than --timeout: {waiting}", target.full_name())))
        }
    };
    match ended {
        Some(ended) => ended.map(Watched::Ended),
        None if watch.follow.is_some() => bail!("{}: interrupted before the release has ended", target.full_name()),
        None => Ok(Watched::Interrupted),
    }
}

async fn late(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

/// To whom it is shown.
pub(super) enum Show {
    /// In place.
    Screen(Screen),
    /// Line by line.
    Log(Log, Box<dyn Write>),
}

impl Show {
    /// As standard output allows.
    pub(super) fn open() -> Self {
        Screen::open().map_or_else(|| Self::Log(Log::default(), Box::new(io::stdout())), Self::Screen)
    }
}

struct Watch<'a> {
    target: &'a Target,
    canary: Option<Canary>,
    /// Whether there was an answer yet.
    is_known: bool,
    workload: Option<Workload>,
    trouble: Option<String>,
    follow: Option<Follow>,
    /// What for.
    waiting: String,
    began: Instant,
    show: Show,
}

impl Watch<'_> {
    async fn run(&mut self) -> Result<Ending> {
        let mut states = pin!(states(self.target.canaries.clone(), &self.target.name));
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looked = self.began;
        loop {
            let is_due = tokio::select! {
                event = states.next() => {
                    let is_first = !self.is_known;
                    match taken(event)? {
                        Ok(canary) => {
                            (self.canary, self.is_known, self.trouble) = (canary, true, None);
                            // At first as it was before: whatever began since then, the Canary shows.
                            !is_first || self.workload.is_none()
                        }
                        Err(trouble) => {
                            self.trouble = Some(trouble);
                            false
                        }
                    }
                }
                _ = tick.tick() => false,
            };
            let mut is_fresh = true;
            if is_due || looked.elapsed() >= LOOK {
                looked = Instant::now();
                is_fresh = self.look_at_workload().await?;
            }
            if !self.is_known {
                continue;
            }
            self.draw()?;
            if is_fresh && let Some(follow) = &mut self.follow {
                let (canary, workload) = (self.canary.as_ref(), self.workload.as_ref());
                match follow.look(&Seen { canary, workload, elapsed: self.began.elapsed() }) {
                    Look::Ended(ending) => return Ok(ending),
                    Look::Waiting(what) => self.waiting = what,
                }
            }
        }
    }

    /// Whether it is known how it is now. Who only looks on need not know.
    async fn look_at_workload(&mut self) -> Result<bool> {
        let Some(canary) = &self.canary else { return Ok(true) };
        match timeout(PATIENCE, self.target.workload(canary)).await {
            Ok(Ok(workload)) => {
                self.workload = workload;
                Ok(true)
            }
            Ok(Err(error)) if is_denied(&error) && self.follow.is_some() => {
                Err(anyhow!(error).context("looking at the Deployment: get on deployments is needed"))
            }
            Ok(Err(_)) | Err(_) => Ok(self.follow.is_none()),
        }
    }

    fn draw(&mut self) -> Result<()> {
        let name = self.target.full_name();
        let scene = Scene {
            name: &name,
            canary: self.canary.as_ref(),
            workload: self.workload.as_ref(),
            trouble: self.trouble.as_deref(),
            program: self.target.program,
            now: Timestamp::now(),
        };
        match &mut self.show {
            Show::Screen(screen) => screen.show(|size| view::frame(&scene, size))?,
            Show::Log(log, out) => {
                if let Some(line) = log.line(&scene) {
                    writeln!(out, "{line}")?;
                    out.flush()?;
                }
            }
        }
        Ok(())
    }
}
