//! `fairlead canary`: where releases stand, how they ended, and what a person wants of one.
//!
//! [`run`] is the one call that enters. What decides is data in, data out: [`request`] whether a request makes sense, [`follow`] whether a
//! release has ended and how, [`view`], [`list`] and [`step`] what there is to read. [`watch`] and [`screen`] are the edge.

pub(crate) mod args;
mod follow;
mod list;
mod request;
mod screen;
mod state;
mod step;
mod view;
mod watch;

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use fairlead_crds::{Canary, REQUEST_ANNOTATION, Request};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;

use self::args::{Asked, Command, History, List, Watch};
use self::follow::{Follow, Workload};
use self::request::Need;
use self::view::Scene;
use self::watch::{Show, Watched};
use crate::args::Output;
use crate::cluster::{Cluster, in_time};

/// How long an operator may take to hear a request. It takes moments; a new leader is found in less.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
/// An operator that judges writes every two seconds, so that somebody else's write between reading and asking is rare.
const ATTEMPTS: usize = 5;

/// What to print, and whether the answer is yes. `program` is how this command is called.
pub(crate) async fn run(cluster: &Cluster, command: Command, program: &'static str) -> Result<(String, bool)> {
    let target = |name: &args::Name| -> Result<Target> {
        let (namespace, name) = name.parts(cluster.namespace())?;
        let (canaries, deployments) = cluster.canary_apis(&namespace);
        Ok(Target { namespace, name, canaries, deployments, program })
    };
    match command {
        Command::List(List { all_namespaces, output }) => {
            let rows: Vec<_> = cluster.canaries(all_namespaces).await?.into_iter().map(list::Row::of).collect();
            let text = match output {
                Some(Output::Json) => serde_json::to_string_pretty(&rows)? + "\n",
                None => list::list(&rows, Timestamp::now(), screen::size().map(|size| size.width)),
            };
            Ok((text, true))
        }
        Command::History(History { name, output }) => {
            let canary = in_time(target(&name)?.canary()).await?;
            let releases = canary.status.map(|status| status.history).unwrap_or_default();
            let text = match output {
                Some(Output::Json) => serde_json::to_string_pretty(&releases)? + "\n",
                None => list::history(&releases, Timestamp::now()),
            };
            Ok((text, true))
        }
        Command::Watch(Watch { name, wait }) => target(&name)?.watch(wait.patience()).await,
        Command::Approve(asked) => ask(&target(&asked.name)?, Request::Approve, &asked).await,
        Command::Abort(asked) => ask(&target(&asked.name)?, Request::Abort, &asked).await,
        Command::Promote(asked) => ask(&target(&asked.name)?, Request::Promote, &asked).await,
        Command::Retry(asked) => ask(&target(&asked.name)?, Request::Retry, &asked).await,
    }
}

/// One Canary, and the way to it.
struct Target {
    namespace: String,
    name: String,
    /// As JSON, so that it is this command that says what it does not understand.
    canaries: Api<DynamicObject>,
    deployments: Api<DynamicObject>,
    /// How this command is called.
    program: &'static str,
}

impl Target {
    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    async fn canary(&self) -> Result<Canary> {
        let name = self.full_name();
        let found = self.canaries.get_opt(&self.name).await.with_context(|| format!("reading Canary {name}"))?;
        read(found.with_context(|| {
            format!("there is no Canary {name}; {} canary list -n {} shows what there is", self.program, self.namespace)
        })?)
    }

    async fn workload(&self, canary: &Canary) -> kube::Result<Option<Workload>> {
        let found = self.deployments.get_opt(&canary.spec.workload_ref.name).await?;
        Ok(found.as_ref().map(Workload::read))
    }

    async fn watch(&self, patience: Option<Duration>) -> Result<(String, bool)> {
        let canary = in_time(self.canary()).await?;
        let workload = in_time(async {
            match self.workload(&canary).await {
                // Without it less is shown, but nothing is claimed.
                Err(error) if patience.is_none() && is_denied(&error) => Ok(None),
                known => known.with_context(|| {
                    format!("reading Deployment {}: get on deployments is needed", canary.spec.workload_ref.name)
                }),
            }
        })
        .await?;
        let follow = patience.map(|patience| (Follow::applied(&canary, workload.as_ref()), patience));
        self.look_on(workload, follow).await
    }

    async fn look_on(&self, workload: Option<Workload>, follow: Option<(Follow, Duration)>) -> Result<(String, bool)> {
        Ok(match watch::look_on(self, workload, follow, Show::open()).await? {
            Watched::Ended(ending) => (format!("{}: {}\n", self.full_name(), ending.sentence), ending.promoted),
            Watched::Interrupted => (String::new(), true),
        })
    }

    /// Writes the request onto the Canary for which it makes sense, and answers that.
    async fn write(&self, request: Request) -> Result<Canary> {
        for _ in 0..ATTEMPTS {
            let canary = self.canary().await?;
            match request::check(request, &canary, self.program).map_err(|why| anyhow!(why))? {
                Need::Wait => return Ok(canary),
                Need::Write => {}
            }
            // As it was read: what has changed since then must be checked anew.
            let body = json!({
                "metadata": {
                    "resourceVersion": canary.metadata.resource_version,
                    "annotations": {REQUEST_ANNOTATION: request.to_string()},
                },
            });
            let params = PatchParams { field_manager: Some("fairlead-cli".to_owned()), ..PatchParams::default() };
            match self.canaries.patch(&self.name, &params, &Patch::Merge(body)).await {
                Ok(_) => return Ok(canary),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    return Err(anyhow!(error))
                        .with_context(|| format!("asking Canary {}: patch on canaries is needed", self.full_name()));
                }
            }
        }
        bail!("Canary {} changes faster than it can be asked; try again", self.full_name())
    }
}

/// Asks, waits until it is heard and, where wanted, until the release has ended.
async fn ask(target: &Target, request: Request, asked: &Asked) -> Result<(String, bool)> {
    let name = target.full_name();
    let before = in_time(target.write(request)).await?;
    let is_heard = |canary: &Canary| state::pending(canary).is_none();
    let Some(canary) = watch::until(target, HEARD_WITHIN, is_heard).await? else {
        bail!(
            "{name}: nobody has answered the request within {} seconds. Does the operator run? {} check says so. Once it does, \
             the request is answered; to take it back: kubectl -n {} annotate canary {} {REQUEST_ANNOTATION}-",
            HEARD_WITHIN.as_secs(),
            target.program,
            target.namespace,
            target.name
        );
    };
    let scene = Scene {
        name: &name,
        canary: Some(&canary),
        workload: None,
        trouble: None,
        program: target.program,
        now: Timestamp::now(),
    };
    let line = format!("{name}: the operator has heard {request}: {}\n", view::summary(&scene));
    let Some(patience) = asked.wait.patience() else { return Ok((line, true)) };
    print!("{}", crate::text::printable(&line));
    target.look_on(None, Some((Follow::release(&before), patience))).await
}

fn read(object: DynamicObject) -> Result<Canary> {
    object.try_parse().context("the Canary is not as this command knows it: is it as new as the operator?")
}

/// Whether trying again will not help.
fn is_denied(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

#[cfg(test)]
mod tests;
