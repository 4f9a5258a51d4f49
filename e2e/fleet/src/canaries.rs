//! What many Canaries cost the API server and the operator: at rest, and while a part of them releases.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::api::{Api, Requests};
use crate::callers;
use crate::cluster::{self, App};
use crate::operator::{self, Operator};
use crate::proxies::Start;
use crate::release::begin;

const CANARIES: u32 = 1_000;
/// Of them, those that release something in the end.
const PROGRESSING: u32 = 100;
const CALLERS: u32 = 10;
/// Between two requests of one caller to one application that releases something.
const EVERY: Duration = Duration::from_secs(1);
/// The operator has nothing left to do when it wrote nothing but its Lease for so long: longer than any pause but the idle one.
const QUIET: Duration = Duration::from_secs(12);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(180);
/// From the step of the last release until what its begin caused is over.
const BEGUN: Duration = Duration::from_secs(10);
/// What the operator renews whether there are Canaries or not.
const LEASES: &str = "leases";

/// Starts everything, measures, and says what came of it.
pub(crate) async fn measure(operator: &Path, folder: &Path, quick: bool) -> Result<Value> {
    let api = Api::new();
    operator::cluster(&api);
    cluster::control(&api);
    for number in 0..CANARIES {
        // Too little traffic for a verdict while it is looked at.
        App(number).create(&api, &json!([{"weight": 10, "hold": "24h"}]));
    }
    callers::answer(CANARIES).await?;
    let started = Instant::now();
    let operator = Operator::start(operator, &api, folder).await?;
    operator::write_roots(&api, folder)?;
    for number in 0..CANARIES {
        App(number).at_rest(&api, started + LONGEST).await?;
    }
    let managed = started.elapsed().as_secs_f64();
    let callers = begin(&api, &Start::new(folder)?, CALLERS).await?;
    settle(&api, started + LONGEST).await?;
    let at_start = operator.memory()?.0;
    let at_rest = watch(&api, Duration::from_secs(if quick { 60 } else { 150 })).await;
    let of_rest = operator.memory()?;

    let mut calls = JoinSet::new();
    for app in (0..PROGRESSING).map(App) {
        for caller in &callers {
            caller.call(app, EVERY, &mut calls).await?;
        }
    }
    let measured = async {
        let from = api.changes();
        let deadline = Instant::now() + LONGEST;
        for app in (0..PROGRESSING).map(App) {
            app.release(&api, "app:1")?;
        }
        let splits = |canary: &Value| canary["status"]["step"]["weight"].as_f64() == Some(10.0);
        for app in (0..PROGRESSING).map(App) {
            api.when(&app.canary(), from, deadline, splits).await?;
        }
        sleep(BEGUN).await;
        let progressing = watch(&api, Duration::from_secs(if quick { 20 } else { 60 })).await;
        for app in (0..PROGRESSING).map(App) {
            let status = api.get(&app.canary()).context("a Canary is gone")?["status"].take();
            if status["phase"] != "Progressing" || status["stable"]["requests"].as_u64().unwrap_or(0) == 0 {
                bail!("{app:?} does not release, or nobody calls it: {status}");
            }
        }
        Ok(progressing)
    };
    let progressing = tokio::select! {
        progressing = measured => progressing?,
        Some(broken) = calls.join_next() => {
            broken??;
            bail!("calls ended")
        }
    };
    Ok(json!({
        "canaries": CANARIES, "progressing": PROGRESSING, "managedSeconds": managed,
        "atRest": at_rest, "whileProgressing": progressing,
        "operatorMib": {"started": at_start, "atRest": of_rest.1, "peakAtRest": of_rest.0, "peak": operator.memory()?.0},
    }))
}

/// Waits until the operator has done what there is to do.
async fn settle(api: &Api, deadline: Instant) -> Result<()> {
    let mut quiet_since = Instant::now();
    let mut before = api.requests();
    while quiet_since.elapsed() < QUIET {
        if Instant::now() > deadline {
            bail!("the operator still writes: {:?}", api.requests().since(&before).writes);
        }
        sleep(LOOK).await;
        let now = api.requests();
        if now.since(&before).writes.keys().any(|kind| kind != LEASES) {
            quiet_since = Instant::now();
        }
        before = now;
    }
    Ok(())
}

/// What is asked of the API server in this time, a second.
async fn watch(api: &Api, time: Duration) -> Value {
    let (before, begun) = (api.requests(), Instant::now());
    sleep(time).await;
    rates(&api.requests().since(&before), begun.elapsed())
}

fn rates(requests: &Requests, time: Duration) -> Value {
    let rate = |count: u64| count as f64 / time.as_secs_f64();
    let all = |counts: &std::collections::BTreeMap<String, u64>| rate(counts.values().sum());
    let each = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(kind, count)| (kind.clone(), json!(rate(*count)))).collect::<serde_json::Map<_, _>>()
    };
    json!({
        "writes": all(&requests.writes), "writesByKind": each(&requests.writes),
        "reads": all(&requests.reads), "readsByKind": each(&requests.reads),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_second_and_by_kind() {
        let requests = Requests {
            writes: [("leases".to_owned(), 5), ("canaries".to_owned(), 15)].into(),
            reads: [("canaries".to_owned(), 100)].into(),
        };
        assert_eq!(
            rates(&requests, Duration::from_secs(10)),
            json!({
                "writes": 2.0, "writesByKind": {"leases": 0.5, "canaries": 1.5},
                "reads": 10.0, "readsByKind": {"canaries": 10.0},
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_when_nothing_is_written_but_the_lease() {
        let api = Api::new();
        assert!(settle(&api, Instant::now() + QUIET * 2).await.is_ok());
        assert!(settle(&api, Instant::now() + QUIET / 2).await.is_err());
    }
}
