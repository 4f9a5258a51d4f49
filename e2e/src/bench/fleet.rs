//! `fairlead-fleet`, which simulates what an operator has around it, in a network namespace of its own.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use super::data_path::Namespace;
use crate::cluster::Places;
use crate::command::run;
use crate::images::{self, Profile};

/// The binaries and where they run.
pub(super) struct Fleet {
    folder: PathBuf,
    namespace: Namespace,
}

impl Fleet {
    /// Builds them.
    pub(super) async fn prepare() -> Result<Self> {
        let packages = ["fairlead-operator", "fairlead-fleet"];
        let folder = images::binaries(&Places::find()?, Profile::Release, &packages).await?;
        let namespace = Namespace::new().await?;
        // Of proxies, pods and Services: each has an address of its own, and all are here.
        namespace.shell("ip route add local 10.248.0.0/14 dev lo").await?;
        Ok(Self { folder, namespace })
    }

    /// What it prints when it is called so.
    pub(super) async fn run<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let mut fleet = self.namespace.command(self.folder.join("fairlead-fleet"));
        fleet.arg("--operator").arg(self.folder.join("fairlead-operator")).args(words).stderr(Stdio::inherit());
        let printed = run(&mut fleet).await?;
        serde_json::from_str(&printed).with_context(|| format!("fairlead-fleet printed {printed:?}"))
    }
}
