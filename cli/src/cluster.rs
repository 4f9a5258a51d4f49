//! The way to the cluster, and through it to the operator.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use fairlead_crds::{Canary, PeerAuth, TrafficPolicy};
use fairlead_operator_api::{Answer, EXPLAIN_PATH, EXPLAIN_PORT, Question, Refusal};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, TypeMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt as _};

use crate::args::ClusterArgs;
use crate::check::Facts;

const OPERATOR: &str = "fairlead-operator";
const OPERATOR_LABEL: &str = "app.kubernetes.io/name=fairlead-operator";
/// For all of a command: longer than a healthy cluster ever takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer has a few names for each of 256 kinds of pods.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Objects of one listing; the next one asks for more.
const PAGE: u32 = 500;

/// A cluster, and where its operator is.
pub(crate) struct Cluster {
    client: Client,
    /// Of names that have none.
    namespace: String,
    /// The one that `check` looks at, if it is not all.
    only: Option<String>,
    operator_namespace: String,
}

impl Cluster {
    /// As the arguments say, or else as kubectl would.
    pub(crate) async fn connect(args: &ClusterArgs) -> Result<Self> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&args.kubeconfig, &args.context) {
            (Some(file), _) => {
                let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            (None, Some(context)) => {
                Config::from_kubeconfig(&options).await.with_context(|| format!("the context {context}"))?
            }
            (None, None) => {
                Config::infer().await.context("no cluster is named: set KUBECONFIG, or say --kubeconfig")?
            }
        };
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self {
            client: Client::try_from(config)?,
            namespace,
            only: args.namespace.clone(),
            operator_namespace: args.operator_namespace.clone(),
        })
    }

    /// Of names that have none.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Asks an operator; the error says why there is no answer.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer> {
        in_time(self.ask_operator(question)).await
    }

    async fn ask_operator(&self, question: &Question) -> Result<Answer> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.operator_namespace);
        let replicas = pods
            .list(&ListParams::default().labels(OPERATOR_LABEL))
            .await
            .with_context(|| format!("looking for the operator in the namespace {}", self.operator_namespace))?;
        // Any replica knows the whole cluster.
        let ready = replicas.items.iter().find(|pod| is_ready(pod)).with_context(|| {
            format!(
                "no pod of the operator is ready in the namespace {}: see `fairlead check`, or say --operator-namespace",
                self.operator_namespace
            )
        })?;
        let mut forward = pods.portforward(&ready.name_any(), &[EXPLAIN_PORT]).await.with_context(|| {
            format!("forwarding a port of pod {}: `create` on pods/portforward is needed", ready.name_any())
        })?;
        let stream = forward.take_stream(EXPLAIN_PORT).context("the port was not forwarded")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the process, or with an error that the request reports.
        tokio::spawn(connection);
        let request =
            hyper::Request::post(EXPLAIN_PATH).header(HOST, OPERATOR).header(CONTENT_TYPE, "application/json");
        let body = Full::new(Bytes::from(serde_json::to_vec(question)?));
        let response = sender
            .send_request(request.body(body)?)
            .await
            .context("asking the operator: is it as new as this command?")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow!("the answer broke off: {error}"))?.to_bytes();
        if !status.is_success() {
            match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) => bail!("{}", refusal.error),
                Err(_) => bail!("the operator answered {status}: is it as new as this command?"),
            }
        }
        serde_json::from_slice(&body)
            .context("the answer is not as this command knows it: is the operator as new as it?")
    }

    /// What `check` looks at.
    pub(crate) async fn facts(&self) -> Result<Facts> {
        in_time(async {
            let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.operator_namespace);
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            Ok(Facts {
                operator_namespace: self.operator_namespace.clone(),
                operator: deployments.get_opt(OPERATOR).await.context("looking for the operator")?,
                objects: [
                    self.objects::<TrafficPolicy>(self.only.as_deref()).await?,
                    self.objects::<PeerAuth>(self.only.as_deref()).await?,
                    self.objects::<Canary>(self.only.as_deref()).await?,
                ]
                .concat(),
                namespaces: all(&namespaces).await.context("listing namespaces")?,
                pods: all(&self.api::<Pod>(self.only.as_deref())).await.context("listing pods")?,
            })
        })
        .await
    }

    /// As JSON: one that another version of the schema wrote must not hide the others.
    pub(crate) async fn canaries(&self, of_all_namespaces: bool) -> Result<Vec<DynamicObject>> {
        let namespace = (!of_all_namespaces).then_some(self.namespace.as_str());
        in_time(self.objects::<Canary>(namespace)).await
    }

    /// The ways to the Canaries and the Deployments of a namespace.
    pub(crate) fn canary_apis(&self, namespace: &str) -> (Api<DynamicObject>, Api<DynamicObject>) {
        let api = |resource: ApiResource| Api::namespaced_with(self.client.clone(), namespace, &resource);
        (api(ApiResource::erase::<Canary>(&())), api(ApiResource::erase::<Deployment>(&())))
    }

    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// As JSON: one that another version of the schema wrote must not hide the others.
    async fn objects<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>) -> Result<Vec<DynamicObject>> {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let mut found =
            all(&api).await.with_context(|| format!("listing {}: is Fairlead installed?", resource.plural))?;
        // A list need not say of each of its items what all of them are.
        for object in &mut found {
            object.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
        }
        Ok(found)
    }
}

/// Page by page.
async fn all<K>(api: &Api<K>) -> Result<Vec<K>>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

pub(crate) async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| anyhow!("no answer within {} seconds", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, work).await.map_err(late)?
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
