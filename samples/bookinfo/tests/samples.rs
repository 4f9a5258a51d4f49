//! The manifests of the sample, checked against the binary that they run.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use clap::Parser;
use fairlead_bookinfo::cli::Cli;
use serde::Deserialize;
use serde_yaml::Value;

fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/samples").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn deployments(file: &str) -> Vec<Value> {
    documents(file).into_iter().filter(|document| document["kind"] == "Deployment").collect()
}

#[test]
fn every_deployment_runs_a_role_that_exists_and_is_probed() {
    for file in ["bookinfo.yaml", "reviews-v3.yaml", "reviews-v3-faulty.yaml"] {
        let deployments = deployments(file);
        assert!(!deployments.is_empty(), "{file} has no Deployment");
        for deployment in deployments {
            let name = deployment["metadata"]["name"].as_str().unwrap();
            let template = &deployment["spec"]["template"];
            let container = &template["spec"]["containers"][0];
            let args = container["args"].as_sequence().unwrap().iter().map(|arg| arg.as_str().unwrap());
            let line = std::iter::once("fairlead-bookinfo").chain(args);
            Cli::try_parse_from(line).unwrap_or_else(|e| panic!("{file}, {name}: {e}"));
            let port = container["readinessProbe"]["httpGet"]["port"].as_str().unwrap();
            let ports = container["ports"].as_sequence().unwrap();
            assert!(ports.iter().any(|p| p["name"] == port && p["containerPort"] == 9080), "{file}, {name}: {port}");
            for (label, value) in deployment["spec"]["selector"]["matchLabels"].as_mapping().unwrap() {
                assert_eq!(&template["metadata"]["labels"][label], value, "{file}, {name}: selector");
            }
        }
    }
}

#[test]
fn a_release_changes_nothing_but_the_version() {
    let current = deployments("bookinfo.yaml")
        .into_iter()
        .find(|deployment| deployment["metadata"]["name"] == "reviews")
        .expect("bookinfo.yaml has the Deployment reviews");
    for file in ["reviews-v3.yaml", "reviews-v3-faulty.yaml"] {
        let mut released = deployments(file).remove(0);
        assert_ne!(released["spec"]["template"], current["spec"]["template"], "{file} releases nothing");
        released["metadata"]["labels"] = current["metadata"]["labels"].clone();
        for part in ["/spec/template/metadata/labels", "/spec/template/spec/containers/0/args"] {
            let steps = part.split('/').skip(1);
            let (mut to, mut from) = (&mut released, &current);
            for step in steps {
                (to, from) = match step.parse::<usize>() {
                    Ok(index) => (&mut to[index], &from[index]),
                    Err(_) => (&mut to[step], &from[step]),
                };
            }
            *to = from.clone();
        }
        assert_eq!(released, current, "{file} changes more than labels and arguments");
    }
}
