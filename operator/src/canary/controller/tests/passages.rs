//! The way for plain callers of a clone, where NetworkPolicies isolate the application.

use super::*;

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";
const PODS: &str = "/api/v1/namespaces/shop/pods";

impl Cluster {
    /// Comes to rest in this phase, while the user isolates everything in the namespace.
    async fn isolated(phase: &str) -> Self {
        let cluster = Self::new();
        cluster.api.put(&format!("{PODS}/reviews-1"), json!({"metadata": {"labels": {"app": "reviews"}}}));
        cluster.isolate(&json!({}));
        cluster.bring(phase).await;
        cluster
    }

    fn isolate(&self, selector: &Value) {
        let spec = json!({"podSelector": selector, "policyTypes": ["Ingress", "Egress"]});
        self.api.put(&format!("{POLICIES}/all"), json!({"metadata": {"namespace": "shop", "uid": "p1"}, "spec": spec}));
    }

    fn passages(&self) -> Vec<Value> {
        let names = ["ingress", "egress"].map(|direction| format!("{POLICIES}/reviews-canary-{direction}"));
        names.iter().filter_map(|path| self.api.get(path)).collect()
    }

    fn clone_pod(&self, there: bool) {
        let path = format!("{PODS}/reviews-canary-1");
        if there {
            self.api
                .put(&path, json!({"metadata": {"labels": {"app": "reviews", "fairlead.dev/clone-of": "reviews"}}}));
        } else {
            self.api.remove(&path);
        }
    }
}

#[tokio::test]
async fn the_way_is_open_before_the_clone_is_there() {
    let cluster = Cluster::isolated("Initialized").await;
    assert!(cluster.passages().is_empty(), "nothing is released");
    cluster.apply("v2");
    cluster.api.refuse(Some((CLONE, 403)));
    for _ in 0..5 {
        let _refused = cluster.reconcile().await;
    }
    assert!(cluster.api.get(CLONE).is_none());
    assert_eq!(cluster.passages().len(), 2);
}

#[tokio::test]
async fn a_way_that_the_api_server_does_not_take_keeps_the_clone_back() {
    let cluster = Cluster::isolated("Initialized").await;
    cluster.apply("v2");
    cluster.api.refuse(Some((&format!("{POLICIES}/reviews-canary-ingress"), 403)));
    for _ in 0..5 {
        let _refused = cluster.reconcile().await;
    }
    assert!(cluster.api.get(CLONE).is_none(), "its plain callers would be refused");
    assert_eq!(cluster.status()["conditions"][0]["reason"], "CloneRefused");
}

#[tokio::test]
async fn the_way_stays_open_until_the_last_pod_of_the_clone_is_gone() {
    let cluster = Cluster::isolated("Progressing").await;
    cluster.clone_pod(true);
    cluster.count((1_000, 900), (100_000, 0));
    for _ in 0..10 {
        cluster.reconcile().await.unwrap();
    }
    assert_eq!(cluster.status()["phase"], "Failed");
    assert!(cluster.api.get(CLONE).is_none());
    assert_eq!(cluster.passages().len(), 2, "a pod that is ending still hands over what reaches it");
    assert_eq!(cluster.reconcile().await.unwrap(), Again::In(SOON), "no watch tells of the pod's end");
    cluster.clone_pod(false);
    cluster.settle().await;
    assert!(cluster.passages().is_empty());
    assert!(cluster.api.get(&format!("{POLICIES}/all")).is_some(), "the user's own stays");
}

#[tokio::test]
async fn the_way_follows_the_users_policy() {
    let cluster = Cluster::isolated("Progressing").await;
    cluster.isolate(
        &json!({"matchLabels": {"app": "reviews"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}),
    );
    cluster.settle().await;
    let selector = &cluster.passages()[0]["spec"]["podSelector"]["matchExpressions"];
    assert_eq!(selector[0]["key"], "app", "{selector}");
    // Garbage collection takes them with their owner; what it has not come to yet would isolate by itself.
    cluster.api.remove(&format!("{POLICIES}/all"));
    cluster.settle().await;
    assert!(cluster.passages().is_empty());
}

#[tokio::test]
async fn a_deleted_canary_closes_the_way_when_its_pods_are_gone() {
    let cluster = Cluster::isolated("Progressing").await;
    cluster.clone_pod(true);
    cluster.api.remove(CANARY);
    assert_eq!(cluster.reconcile().await.unwrap(), Again::In(SOON));
    assert_eq!(cluster.passages().len(), 2);
    cluster.clone_pod(false);
    assert_eq!(cluster.reconcile().await.unwrap(), Again::Never);
    assert!(cluster.passages().is_empty());
}

#[tokio::test]
async fn a_policy_that_selects_one_version_alone_is_told_of() {
    let cluster = Cluster::new();
    let labels = json!({"app": "reviews", "version": "v1"});
    cluster.api.put(&format!("{PODS}/reviews-1"), json!({"metadata": {"labels": labels}}));
    cluster.isolate(&json!({"matchLabels": {"version": "v1"}}));
    cluster.bring("Progressing").await;
    assert!(cluster.passages().is_empty(), "everybody reaches the clone: it would be a way around the policy");

    let events = Api::<k8s_openapi::api::events::v1::Event>::namespaced(cluster.api.client(), "shop");
    let told = events.list(&ListParams::default().limit(100)).await.unwrap().items;
    let notes: Vec<_> = told.iter().filter(|event| event.reason.as_deref() == Some("CallersRefused")).collect();
    assert_eq!(notes.len(), 1, "{told:?}");
    assert!(notes[0].note.as_ref().unwrap().starts_with("NetworkPolicy all does not select"), "{:?}", notes[0]);
}
