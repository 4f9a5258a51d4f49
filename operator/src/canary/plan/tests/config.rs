//! Versions that differ in their `ConfigMaps` and Secrets.

use super::*;

/// A Deployment that names some, and a Canary that manages it.
fn configured() -> World {
    let mut world = World::new();
    world.deployment.as_mut().unwrap().revision = "v1-ca".to_owned();
    world.run(5);
    assert_eq!(world.status.phase, Some(Phase::Initialized));
    world
}

/// Somebody writes another configuration, and nothing to the Deployment.
fn reconfigure(world: &mut World, revision: &str) {
    revision.clone_into(&mut world.deployment.as_mut().unwrap().revision);
}

#[test]
fn a_changed_configuration_is_released_like_a_changed_template() {
    let mut world = configured();
    reconfigure(&mut world, "v1-cb");
    world.until(World::splits);
    assert!(!world.deployment().paused, "there is nothing to hold");
    world.until_phase(Phase::Promoting);
    world.until(|world| world.deployment().noted_config.is_some());
    assert_eq!(world.deployment().noted_config.as_deref(), Some("cb"), "its pods are replaced");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v1-cb");
    world.assert_at_rest();
}

#[test]
fn a_bad_configuration_is_rolled_back_and_its_pods_stay() {
    let mut world = configured();
    world.failing = (0.5, 0.0);
    reconfigure(&mut world, "v1-cb");
    world.until_phase(Phase::Failed);
    assert!(world.clone.is_none() && !world.deployment().paused);
    assert_eq!(world.deployment().noted_config, None);
    world.assert_at_rest();
    // Written back, all is as it was.
    reconfigure(&mut world, "v1-ca");
    world.until_phase(Phase::Initialized);
    world.failing = (0.0, 0.0);
    reconfigure(&mut world, "v1-cc");
    world.until_phase(Phase::Succeeded);
}

#[test]
fn a_template_that_changes_with_its_configuration_is_one_release() {
    let mut world = configured();
    world.change("v2-cb");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.history.len(), 1);
    assert_eq!(world.deployment().noted_config, None, "its new pods read it by themselves");
    world.assert_at_rest();
}

#[test]
fn a_template_that_changes_while_a_configuration_is_released_starts_over() {
    let mut world = configured();
    reconfigure(&mut world, "v1-cb");
    world.until(World::splits);
    world.change("v2-cb");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2-cb");
}

#[test]
fn a_configuration_that_changes_while_a_template_is_released_starts_over() {
    let mut world = configured();
    world.change("v2-ca");
    world.until(World::splits);
    reconfigure(&mut world, "v2-cb");
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v2-cb");
}

#[test]
fn a_version_that_was_recorded_without_its_configuration_is_the_same() {
    let mut world = World::managed();
    reconfigure(&mut world, "v1-ca");
    world.run(5);
    assert!(world.clone.is_none());
    assert_eq!(world.status.stable.as_ref().unwrap().revision, "v1-ca");
    // And one whose Secrets can be read now, or no more.
    for revision in ["v1-ca-sa", "v1-ca"] {
        reconfigure(&mut world, revision);
        world.run(5);
        assert!(world.clone.is_none());
        assert_eq!(world.status.stable.as_ref().unwrap().revision, revision);
    }
    world.assert_at_rest();
}

#[test]
fn an_operator_that_stops_after_any_write_of_a_changed_configuration_changes_nothing() {
    survives_every_stop(|world| {
        world.deployment.as_mut().unwrap().revision = "v1-ca".to_owned();
        world.run(5);
        reconfigure(world, "v1-cb");
        world.until_phase(Phase::Succeeded);
        world.failing = (0.5, 0.0);
        reconfigure(world, "v1-cc");
        world.until_phase(Phase::Failed);
    });
}

#[test]
fn a_configuration_that_changes_in_mid_rollout_is_the_next_release() {
    let mut world = configured();
    world.change("v2-ca");
    world.stalled = true;
    world.until_phase(Phase::Promoting);
    world.run(5);
    reconfigure(&mut world, "v2-cb");
    world.run(30);
    assert_eq!(world.status.phase, Some(Phase::Promoting), "what is being rolled out is no other template");
    world.stalled = false;
    world.until(|world| world.status.history.len() == 2);
    let releases: Vec<_> =
        world.status.history.iter().map(|release| (release.revision.as_str(), release.outcome)).collect();
    assert_eq!(releases, [("v2-cb", Outcome::Succeeded), ("v2-ca", Outcome::Succeeded)]);
}

#[test]
fn a_pause_of_the_users_own_outlasts_a_changed_configuration() {
    let mut world = configured();
    world.deployment.as_mut().unwrap().paused = true;
    for revision in ["v1-cb", "v1-cb-sa"] {
        reconfigure(&mut world, revision);
        world.run(30);
        assert!(world.deployment().paused && world.clone.is_none());
    }
}
