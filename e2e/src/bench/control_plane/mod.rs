//! What the control plane and a release cost, on a cluster.

mod configuration;
mod lossless;
mod memory;
mod metrics;
mod reviews;
mod webhook;

use anyhow::Result;

use super::Figure;
use crate::kit::apps::App;
use crate::kit::{Mesh, TempNamespace};
use crate::progress::Step;
use crate::{cluster, images};

/// Measures; brings up the cluster if it is not there.
pub(super) async fn measure() -> Result<Vec<Figure>> {
    cluster::up().await?;
    images::build_and_load(&images::IMAGES).await?;
    let mesh = Mesh::connect().await?;
    mesh.install().await?;

    let ns = TempNamespace::injected(&mesh, "bench").await?;
    mesh.apply(&App::reviews("reviews", "v1").replicas(2).arg("--ratings-url=http://client:9080").yaml(ns.name()))
        .await?;
    mesh.apply(&App::echo("client").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "reviews").await?;
    mesh.rolled_out(ns.name(), "client").await?;

    let mut figures = Vec::new();
    let step = Step::begin("memory of proxies that idle, and of the operator");
    figures.extend(memory::measure().await?);
    step.done();
    let step = Step::begin("webhook at 50 pods a second");
    figures.extend(webhook::measure(&mesh, ns.name()).await?);
    step.done();
    let step = Step::begin("token reviews");
    figures.extend(reviews::measure(&mesh, ns.name()).await?);
    step.done();
    let step = Step::begin("a policy's way to all of its proxies, 60 times");
    figures.extend(configuration::measure(&mesh, ns.name()).await?);
    step.done();
    let step = Step::begin("requests lost at 500 a second (about 80 s)");
    figures.extend(lossless::measure(&mesh, ns.name()).await?);
    step.done();
    Ok(figures)
}
