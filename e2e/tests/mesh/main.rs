//! The mesh on a real cluster. Run by `make test`, or on a cluster that is up by `make e2e TEST=<part of a name>`.
//!
//! The tests share the cluster and the operator; each has a namespace of its own. The one file that disturbs the operator says so, and
//! the others must not notice: that is what it tests.

mod authorization;
mod autoscaler;
mod bad_input;
mod canary;
mod canary_steps;
mod explain;
mod forgery;
mod identity;
mod injection;
mod locality;
mod network_policy;
mod no_loss;
mod operator;
mod orders;
mod origination;
mod protocols;
mod require_injection;
mod routing;
mod tokens;
mod traffic;
mod wire;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use fairlead_e2e::kit::apps::{App, BINARY, CONTAINER};
use fairlead_e2e::kit::{Mesh, Output, eventually};
use tokio::sync::OnceCell;

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// A cluster with the operator installed, once for all tests.
async fn mesh() -> Result<Mesh> {
    let mesh = Mesh::connect().await?;
    INSTALLED.get_or_try_init(|| async { mesh.install().await }).await?;
    Ok(mesh)
}

/// A pod from which a test makes its calls: it has the sample's binary, and a sidecar where its namespace is labelled.
fn client() -> App {
    App::echo("client")
}

/// `call …` from the client's pod in this namespace.
async fn call(mesh: &Mesh, namespace: &str, words: &[&str]) -> Result<Output> {
    let mut command = vec![BINARY, "call"];
    command.extend_from_slice(words);
    mesh.exec(namespace, "app=client", CONTAINER, &command).await
}

/// As [`call`], until it succeeds: a Service that was made a moment ago takes its time to be known everywhere.
async fn call_ok(mesh: &Mesh, namespace: &str, words: &[&str]) -> Result<Answer> {
    eventually(&format!("`call {}` from {namespace} to succeed", words.join(" ")), || async {
        Answer::parse(&call(mesh, namespace, words).await?.ok()?)
    })
    .await
}

/// What `call` printed.
#[derive(Debug)]
struct Answer {
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Result<Self> {
        let (head, body) = text.split_once("\n\n").with_context(|| format!("not an answer: {text:?}"))?;
        // The first line is the status; `call` has judged it by its exit code.
        let lines = head.lines().skip(1);
        let headers =
            lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Ok(Self { headers, body: body.to_owned() })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}
