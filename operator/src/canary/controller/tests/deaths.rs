//! The operator dies after each write that a release makes, in turn, and another goes on: every release must end as if nothing had happened.

use super::*;

/// A release as a story of what users, controllers and proxies do; the operator gets its time in between.
type Story = &'static [Act];

#[derive(Clone, Copy)]
enum Act {
    /// The user applies another image.
    Apply(&'static str),
    /// A controller brings this Deployment's pods up.
    RollOut(&'static str),
    /// Callers send requests: of the canary so many, of which so many fail; of the running version as many, of which none does.
    Count(u64, u64),
    /// The user writes this into the annotation.
    Request(&'static str),
    /// The user writes the `ConfigMap` that the template names.
    Configure(&'static str),
}

const CONFIG: &str = "/api/v1/namespaces/shop/configmaps/settings";

struct Mortal {
    cluster: Cluster,
    releases: Arc<Releases>,
    deaths: usize,
}

impl Mortal {
    fn new(dies_after: Option<usize>) -> Self {
        let cluster = Cluster::new();
        let mut deployment = cluster.api.get(DEPLOYMENT).unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": "settings"}}]);
        cluster.api.put(DEPLOYMENT, deployment);
        cluster.api.put(CONFIG, json!({"data": {"colour": "red"}}));
        if let Some(writes) = dies_after {
            cluster.api.die_after(writes);
        }
        let releases = Arc::clone(&cluster.releases);
        Self { cluster, releases, deaths: 0 }
    }

    /// Until nothing is written any more, however often the operator has to be started.
    async fn settle(&mut self) {
        for _ in 0..60 {
            let writes = self.cluster.api.writes();
            match self.releases.reconcile(&key("reviews")).await {
                Ok(_) if self.cluster.api.writes() == writes => return,
                Ok(_) => {}
                Err(_) => {
                    self.deaths += 1;
                    assert!(self.deaths < 3, "it fails without having died: {:?}", self.cluster.status());
                    self.cluster.api.revive();
                    let proxies = || Arc::clone(&self.cluster.proxies);
                    self.releases = Releases::new(self.cluster.api.client(), proxies(), proxies(), proxies(), None);
                }
            }
        }
        panic!("it never comes to rest: {:?}", self.cluster.status());
    }

    async fn play(&mut self, story: Story) {
        self.settle().await;
        for act in story {
            match *act {
                Act::Apply(image) => self.cluster.apply(image),
                Act::RollOut(path) => self.cluster.roll_out(path),
                Act::Count(requests, failures) => self.cluster.count((requests, failures), (requests, 0)),
                Act::Request(request) => {
                    let mut canary = self.cluster.api.get(CANARY).unwrap();
                    canary["metadata"]["annotations"]["fairlead.dev/request"] = json!(request);
                    self.cluster.api.put(CANARY, canary);
                }
                Act::Configure(colour) => self.cluster.api.put(CONFIG, json!({"data": {"colour": colour}})),
            }
            self.settle().await;
        }
    }

    /// What users and callers see in the end; times and versions of objects are others each time.
    fn end(&self) -> Value {
        let api = &self.cluster.api;
        let deployment = api.get(DEPLOYMENT).unwrap();
        let status = self.cluster.status();
        let history: Vec<_> = status["history"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|release| (&release["revision"], &release["outcome"]))
            .collect();
        json!({
            "deployment": [deployment["metadata"]["labels"], deployment["metadata"]["annotations"], deployment["spec"]],
            "clone": api.get(CLONE).map(|clone| clone["spec"].clone()),
            "annotations": api.get(CANARY).unwrap()["metadata"]["annotations"],
            "status": [status["phase"], status["stable"], status["request"], status["ending"], status["step"]["weight"], status["step"]["index"]],
            "history": history,
        })
    }
}

async fn survives(story: Story, phase: &str) {
    let mut undisturbed = Mortal::new(None);
    undisturbed.play(story).await;
    assert_eq!((undisturbed.cluster.status()["phase"].as_str(), undisturbed.deaths), (Some(phase), 0));
    let writes = undisturbed.cluster.api.writes();
    assert!(writes > 10, "{writes}");
    let end = undisturbed.end();
    for dies_after in 0..writes {
        let mut mortal = Mortal::new(Some(dies_after));
        mortal.play(story).await;
        assert_eq!(mortal.deaths, 1, "after write {dies_after} of {writes}");
        assert_eq!(mortal.end(), end, "after write {dies_after} of {writes}");
    }
}

#[tokio::test]
async fn a_good_release_ends_well() {
    let story = &[Act::Apply("v2"), Act::RollOut(CLONE), Act::Count(100_000, 10), Act::RollOut(DEPLOYMENT)];
    survives(story, "Succeeded").await;
}

#[tokio::test]
async fn a_bad_release_is_taken_back() {
    survives(&[Act::Apply("v2"), Act::RollOut(CLONE), Act::Count(1_000, 900)], "Failed").await;
}

#[tokio::test]
async fn a_superseded_release_starts_over() {
    let story = &[
        Act::Apply("v2"),
        Act::RollOut(CLONE),
        Act::Apply("v3"),
        Act::RollOut(CLONE),
        Act::Count(100_000, 10),
        Act::RollOut(DEPLOYMENT),
    ];
    survives(story, "Succeeded").await;
}

#[tokio::test]
async fn what_is_asked_of_a_release_is_done_once() {
    let story = &[
        Act::Apply("v2"),
        Act::RollOut(CLONE),
        Act::Request("abort"),
        Act::Request("retry"),
        Act::RollOut(CLONE),
        Act::Request("promote"),
        Act::RollOut(DEPLOYMENT),
    ];
    survives(story, "Succeeded").await;
}

#[tokio::test]
async fn a_changed_configuration_is_released() {
    let story = &[Act::Configure("green"), Act::RollOut(CLONE), Act::Count(100_000, 10), Act::RollOut(DEPLOYMENT)];
    survives(story, "Succeeded").await;
}
