//! Applications with a Canary each, and what a cluster's own controllers make of them: pods of Deployments, slices of Services. Pods are ready as soon
//! as they are wanted.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::Api;

/// Where their pods listen.
pub(crate) const PORT: u16 = 8080;
/// Pods of each Deployment.
const REPLICAS: u32 = 2;
/// Applications of one namespace.
const OF_A_NAMESPACE: u32 = 50;
/// Addresses of pods that run what their Deployment ran first, of pods of clones, and of Services; all are this machine.
const STABLE: u32 = 0x0af8_0000;
const CLONES: u32 = 0x0af9_0000;
const SERVICES: u32 = 0x0afb_0000;
const NETWORK: u32 = 0xffff_0000;

const DEPLOYMENTS: &str = "/deployments/";

/// A Service, a Deployment and a Canary of one name, told by a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct App(pub(crate) u32);

impl App {
    /// Whose pod listens at an address.
    pub(crate) fn at(pod: Ipv4Addr) -> Self {
        Self((u32::from(pod) & !NETWORK) / REPLICAS)
    }

    fn namespace(self) -> String {
        format!("apps-{}", self.0 / OF_A_NAMESPACE)
    }

    fn name(self) -> String {
        format!("app-{}", self.0)
    }

    pub(crate) fn service(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(SERVICES | self.0), 80)
    }

    pub(crate) fn canary(self) -> String {
        format!("/apis/fairlead.dev/v1alpha1/namespaces/{}/canaries/{}", self.namespace(), self.name())
    }

    pub(crate) fn deployment(self) -> String {
        format!("/apis/apps/v1/namespaces/{}/deployments/{}", self.namespace(), self.name())
    }

    /// Has it be there, running its first template.
    pub(crate) fn create(self, api: &Api, steps: &Value) {
        let (namespace, name, address) = (self.namespace(), self.name(), *self.service().ip());
        let labels = json!({"app": name, "number": self.0.to_string()});
        let metadata = json!({"namespace": namespace, "name": name});
        api.put(
            &format!("/api/v1/namespaces/{namespace}"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"fairlead.dev/inject": "enabled"}}}),
        );
        api.put(
            &format!("/api/v1/namespaces/{namespace}/services/{name}"),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {
                    "clusterIP": address, "clusterIPs": [address], "selector": {"app": name},
                    "ports": [{"port": 80, "targetPort": PORT, "appProtocol": "http"}],
                },
            }),
        );
        api.put(
            &self.deployment(),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
                "spec": {
                    "replicas": REPLICAS, "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "app", "image": "app:0", "ports": [{"containerPort": PORT}]}]},
                    },
                },
            }),
        );
        api.put(
            &self.canary(),
            json!({
                "apiVersion": "fairlead.dev/v1alpha1", "kind": "Canary", "metadata": metadata,
                "spec": {"workloadRef": {"kind": "Deployment", "name": name}, "steps": steps},
            }),
        );
    }

    /// Another template, held in the same write as the operator's webhook does it.
    pub(crate) fn release(self, api: &Api, image: &str) -> Result<()> {
        api.edit(&self.deployment(), |deployment| {
            deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
            deployment["spec"]["paused"] = json!(true);
            deployment["metadata"]["annotations"]["fairlead.dev/held"] = json!("true");
        })
    }

    /// Waits until the operator manages it and nothing of it is being released.
    pub(crate) async fn at_rest(self, api: &Api, deadline: Instant) -> Result<()> {
        api.when(&self.canary(), 0, deadline, |canary| canary["status"]["phase"] == "Initialized").await?;
        let managed = |deployment: &Value| deployment["metadata"]["labels"]["fairlead.dev/canary"].is_string();
        api.when(&self.deployment(), 0, deadline, managed).await.map(drop)
    }

    fn pods(self, is_clone: bool) -> impl Iterator<Item = (String, Ipv4Addr)> {
        let owner = if is_clone { format!("{}-canary", self.name()) } else { self.name() };
        let network = if is_clone { CLONES } else { STABLE };
        (0..REPLICAS)
            .map(move |index| (format!("{owner}-1-{index}"), Ipv4Addr::from(network | (self.0 * REPLICAS + index))))
    }
}

/// Whether a pod runs a new version.
pub(crate) fn is_clone(pod: Ipv4Addr) -> bool {
    u32::from(pod) & NETWORK == CLONES
}

/// Does what a cluster's controllers do, for as long as this program runs.
pub(crate) fn control(api: &Api) {
    let api = api.clone();
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            for path in api.changed(&mut seen, |path| path.contains(DEPLOYMENTS)).await {
                reconcile(&api, &path);
            }
        }
    });
}

/// Has the pods, the slice and the status be as a Deployment says, which may be gone.
fn reconcile(api: &Api, path: &str) {
    let Some((name, is_clone)) =
        path.rsplit('/').next().map(|name| name.strip_suffix("-canary").map_or((name, false), |name| (name, true)))
    else {
        return;
    };
    let Some(app) = name.strip_prefix("app-").and_then(|number| number.parse().ok()).map(App) else { return };
    let namespace = app.namespace();
    let pod_path = |name: &str| format!("/api/v1/namespaces/{namespace}/pods/{name}");
    if let Some(deployment) = api.get(path) {
        for (pod, address) in app.pods(is_clone) {
            if api.get(&pod_path(&pod)).is_none() {
                api.put(&pod_path(&pod), pod_of(&deployment, &namespace, &pod, address));
            }
        }
        api.put(&slice_path(app), slice(api, app));
        api.put_status(path, status(&deployment));
    } else {
        // Nobody is sent to a pod that goes.
        api.put(&slice_path(app), slice(api, app));
        for (pod, _) in app.pods(is_clone) {
            api.remove(&pod_path(&pod));
        }
    }
}

fn pod_of(deployment: &Value, namespace: &str, name: &str, address: Ipv4Addr) -> Value {
    let template = &deployment["spec"]["template"];
    let mut labels = template["metadata"]["labels"].clone();
    labels["pod-template-hash"] = json!("1");
    let set = format!("{}-1", deployment["metadata"]["name"].as_str().unwrap_or_default());
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-{name}"), "labels": labels,
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": format!("uid-{set}"), "controller": true}],
        },
        // Without a sidecar: nothing of what is measured is theirs.
        "spec": template["spec"],
        "status": {"phase": "Running", "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn slice_path(app: App) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}-1", app.namespace(), app.name())
}

/// Of the pods whose Deployments are there.
fn slice(api: &Api, app: App) -> Value {
    let (namespace, name) = (app.namespace(), app.name());
    let clone = api.get(&format!("{}-canary", app.deployment())).is_some();
    let pods = app.pods(false).chain(app.pods(true).filter(|_| clone));
    let endpoints = pods.map(|(pod, address)| {
        json!({
            "addresses": [address], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": format!("uid-{pod}")},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "", "port": PORT}], "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// All pods are there. Of one that is paused none is of a template that changed meanwhile.
fn status(deployment: &Value) -> Value {
    let wanted = &deployment["spec"]["replicas"];
    let updated = if deployment["spec"]["paused"] == true { json!(0) } else { wanted.clone() };
    json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted, "updatedReplicas": updated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/apps-1/endpointslices/app-60-1";

    fn addresses(api: &Api) -> Vec<String> {
        let slice = api.get(SLICE).unwrap();
        let endpoints = slice["endpoints"].as_array().unwrap().clone();
        endpoints.iter().map(|e| e["addresses"][0].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_deployment_and_its_clone_have_pods_behind_one_service() {
        let (api, app) = (Api::new(), App(60));
        app.create(&api, &json!([{"weight": 5}]));
        reconcile(&api, &app.deployment());
        assert_eq!(addresses(&api), ["10.248.0.120", "10.248.0.121"]);
        let status = |api: &Api, path: &str| api.get(path).unwrap()["status"].clone();
        assert_eq!(status(&api, &app.deployment())["updatedReplicas"], 2);

        app.release(&api, "app:1").unwrap();
        reconcile(&api, &app.deployment());
        let held = status(&api, &app.deployment());
        assert_eq!((&held["observedGeneration"], &held["updatedReplicas"]), (&json!(2), &json!(0)));

        let clone = format!("{}-canary", app.deployment());
        let mut object = api.get(&app.deployment()).unwrap();
        object["metadata"] = json!({"name": "app-60-canary"});
        object["spec"]["template"]["metadata"]["labels"]["fairlead.dev/clone-of"] = json!("app-60");
        object["spec"]["paused"].take();
        api.put(&clone, object);
        reconcile(&api, &clone);
        assert_eq!(addresses(&api)[2..], ["10.249.0.120", "10.249.0.121"]);
        let pod = api.get("/api/v1/namespaces/apps-1/pods/app-60-canary-1-0").unwrap();
        assert_eq!(pod["metadata"]["labels"]["fairlead.dev/clone-of"], "app-60");
        assert_eq!(status(&api, &clone)["updatedReplicas"], 2);

        let before = api.changes();
        reconcile(&api, &clone);
        assert_eq!(api.changes(), before, "nothing was left to do");

        api.remove(&clone);
        reconcile(&api, &clone);
        assert_eq!(addresses(&api).len(), 2);
        assert!(api.get("/api/v1/namespaces/apps-1/pods/app-60-canary-1-0").is_none());
    }

    #[test]
    fn an_address_tells_whose_pod_it_is() {
        for (app, address) in
            [App(7), App(999)].into_iter().flat_map(|app| app.pods(true).map(move |(_, ip)| (app, ip)))
        {
            assert!(is_clone(address));
            assert_eq!(App::at(address), app);
        }
        assert!(App(7).pods(false).all(|(_, address)| !is_clone(address)));
    }
}
