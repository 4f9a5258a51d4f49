//! How fast a release moves traffic: one step to all callers, a bad version away from all, and how exactly weights are kept.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::api::Api;
use crate::callers::{self, Caller, Split, until_all};
use crate::cluster::{self, App};
use crate::operator::{self, Operator};
use crate::proxies::{self, Start};

/// Who follow each change of a step.
const CALLERS: u32 = 100;
/// Of them, who send requests.
const CALLING: usize = 10;
/// Requests for one weight, over all who send.
const REQUESTS: usize = 10_000;
/// What a release asks for, percent.
const WEIGHTS: [u32; 4] = [1, 5, 25, 50];
/// Of a release to a bad version: its first weight, and how many requests a second come to the application from each who sends.
const BAD_WEIGHT: u32 = 5;
const BAD_RATE: u32 = 10;
/// Releases to bad versions that go on at once.
const AT_ONCE: u32 = 10;

const STEPPED: App = App(0);
const WEIGHED: App = App(1);
/// Those from this number on get bad versions.
const FIRST_BAD: u32 = 2;

/// A step begins in a second of its own, which numbers it.
const STEP: Duration = Duration::from_millis(1_050);
/// For anything that is waited for: several times what it takes.
const LONGEST: Duration = Duration::from_secs(60);

/// Starts everything, measures, and says what came of it.
pub(crate) async fn measure(operator: &Path, folder: &Path, quick: bool) -> Result<Value> {
    let api = Api::new();
    operator::cluster(&api);
    cluster::control(&api);
    // Nothing but a change of the step ends these: the evidence is never enough to pass on.
    let one_step = |weight: u32| json!([{"weight": weight, "hold": "24h"}]);
    STEPPED.create(&api, &one_step(1));
    WEIGHED.create(&api, &one_step(1));
    let bad = (FIRST_BAD..FIRST_BAD + AT_ONCE).map(App);
    for app in bad.clone() {
        app.create(&api, &json!([{"weight": BAD_WEIGHT}, {"weight": 10}, {"weight": 25}, {"weight": 50}]));
    }
    callers::answer(FIRST_BAD).await?;
    let _operator = Operator::start(operator, &api, folder).await?;
    operator::write_roots(&api, folder)?;
    let callers = begin(&api, &Start::new(folder)?, CALLERS).await?;
    for app in [STEPPED, WEIGHED].into_iter().chain(bad.clone()) {
        app.at_rest(&api, Instant::now() + LONGEST).await?;
    }

    let step = steps(&api, &callers, if quick { 30 } else { 200 }).await.context("changes of a step")?;
    let calling = &callers[..CALLING];
    let weights = weights(&api, calling, if quick { 1 } else { 5 }).await.context("weights")?;
    let bad: Vec<App> = bad.collect();
    let rollbacks = rollbacks(&api, calling, &bad, if quick { 1 } else { 6 }).await.context("bad versions")?;
    Ok(json!({
        "callers": CALLERS, "stepMilliseconds": step,
        "requests": REQUESTS, "weights": weights,
        "rollbacks": rollbacks,
    }))
}

/// Pods that call: their proxies are configured and serve.
pub(crate) async fn begin(api: &Api, start: &Start, count: u32) -> Result<Vec<Caller>> {
    let proxies = proxies::begin(api, start, count).await?;
    proxies.into_iter().map(Caller::start).collect()
}

/// What an application's address leads to at each of the callers.
async fn follow(callers: &[Caller], app: App) -> Vec<Split> {
    let mut splits = Vec::new();
    for caller in callers {
        splits.push(caller.follow(app).await);
    }
    splits
}

/// Whether a Canary splits traffic so.
fn splits_by(weight: u32) -> impl Fn(&Value) -> bool {
    move |canary| canary["status"]["step"]["weight"].as_f64() == Some(f64::from(weight))
}

/// Asks for another weight of the first step; when the operator had written it.
async fn step_to(api: &Api, app: App, weight: u32) -> Result<Instant> {
    let from = api.changes();
    api.edit(&app.canary(), |canary| canary["spec"]["steps"][0]["weight"] = json!(weight))?;
    Ok(api.when(&app.canary(), from, Instant::now() + LONGEST, splits_by(weight)).await?.0)
}

/// Of each change of a step, the milliseconds from when it was written until the last caller splits so.
async fn steps(api: &Api, callers: &[Caller], changes: u32) -> Result<Vec<f64>> {
    let mut splits = follow(callers, STEPPED).await;
    let from = api.changes();
    STEPPED.release(api, "app:1")?;
    api.when(&STEPPED.canary(), from, Instant::now() + LONGEST, splits_by(1)).await?;
    until_all(&mut splits, 1.0, Instant::now() + LONGEST).await?;
    let mut milliseconds = Vec::new();
    for change in 0..changes {
        let next = Instant::now() + STEP;
        sleep_until(next).await;
        // From 2 to 50, each other than the one before.
        let weight = 2 + change * 7 % 49;
        let written = step_to(api, STEPPED, weight).await?;
        until_all(&mut splits, f64::from(weight), written + LONGEST).await?;
        milliseconds.push(written.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(milliseconds)
}

/// Of each weight, by how many points the share of requests that the new version answered differs from it, by round.
async fn weights(api: &Api, callers: &[Caller], rounds: u32) -> Result<Vec<Value>> {
    let mut splits = follow(callers, WEIGHED).await;
    WEIGHED.release(api, "app:1")?;
    let mut weights = Vec::new();
    for weight in WEIGHTS {
        sleep_until(Instant::now() + STEP).await;
        let written = if weight == WEIGHTS[0] {
            api.when(&WEIGHED.canary(), 0, Instant::now() + LONGEST, splits_by(weight)).await?.0
        } else {
            step_to(api, WEIGHED, weight).await?
        };
        until_all(&mut splits, f64::from(weight), written + LONGEST).await?;
        let mut points = Vec::new();
        for _ in 0..rounds {
            let mut asking = JoinSet::new();
            for caller in callers {
                let mut connection = caller.connect(WEIGHED).await?;
                let requests = REQUESTS / callers.len();
                asking.spawn(async move {
                    let mut new = 0;
                    for _ in 0..requests {
                        new += usize::from(connection.request().await?);
                    }
                    anyhow::Ok(new)
                });
            }
            let mut new = 0;
            while let Some(asked) = asking.join_next().await {
                new += asked??;
            }
            points.push((new as f64 * 100.0 / REQUESTS as f64 - f64::from(weight)).abs());
        }
        weights.push(json!({"weight": weight, "points": points}));
    }
    Ok(weights)
}

/// Releases bad versions again and again. Of each the seconds from when its step was written, before the first request of the step, until no caller
/// sends it anything, and what the operator had counted of it by then.
async fn rollbacks(api: &Api, callers: &[Caller], apps: &[App], rounds: u32) -> Result<Vec<Value>> {
    let mut calls = JoinSet::new();
    for app in apps {
        for caller in callers {
            caller.call(*app, Duration::from_secs(1) / BAD_RATE, &mut calls).await?;
        }
    }
    let measured = async {
        let mut rollbacks = Vec::new();
        for round in 1..=rounds {
            let mut releases = Vec::new();
            for app in apps {
                let splits = follow(callers, *app).await;
                releases.push(rollback(api, *app, splits, format!("app:{round}")));
            }
            rollbacks.extend(futures::future::try_join_all(releases).await?);
        }
        Ok(rollbacks)
    };
    tokio::select! {
        rollbacks = measured => rollbacks,
        Some(broken) = calls.join_next() => {
            broken??;
            bail!("calls ended")
        }
    }
}

async fn rollback(api: &Api, app: App, mut splits: Vec<Split>, image: String) -> Result<Value> {
    let from = api.changes();
    let deadline = Instant::now() + LONGEST * 2;
    app.release(api, &image)?;
    let (began, _) = api.when(&app.canary(), from, deadline, splits_by(BAD_WEIGHT)).await?;
    until_all(&mut splits, f64::from(BAD_WEIGHT), deadline).await?;
    until_all(&mut splits, 0.0, deadline).await?;
    let seconds = began.elapsed().as_secs_f64();
    let failed = |canary: &Value| canary["status"]["phase"] == "Failed";
    let (_, canary) = api.when(&app.canary(), from, deadline, failed).await?;
    let counted = &canary["status"]["canary"];
    Ok(json!({"seconds": seconds, "requests": counted["requests"], "failures": counted["errors"]}))
}
