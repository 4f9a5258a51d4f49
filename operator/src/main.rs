//! Fairlead's operator. This file only wires the parts together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use clap::Parser;
use fairlead_operator::ca::keeper::{self, Keeper};
use fairlead_operator::ca::report;
use fairlead_operator::ca::requests::{self, Requests};
use fairlead_operator::ca::service::{ApiReviewer, IdentityService};
use fairlead_operator::ca::serving::{ServingCertificate, Shown};
use fairlead_operator::ca::usable;
use fairlead_operator::ca::{SpiffeId, TrustDomain, bundles};
use fairlead_operator::canary::controller::Releases;
use fairlead_operator::canary::outside::{self, Outside};
use fairlead_operator::config::{self, ConfigService, ReplicaService};
use fairlead_operator::explain;
use fairlead_operator::index::{self, Index};
use fairlead_operator::inject;
use fairlead_operator::inject::events::Events;
use fairlead_operator::inject::namespaces::Namespaces;
use fairlead_operator::jwks::{self, KeySets};
use fairlead_operator::leader::Election;
use fairlead_operator::outbound::Outbound;
use fairlead_operator::serve::listen::{Limits, Protocol, accept};
use fairlead_operator::serve::replica::Replicas;
use fairlead_operator::serve::{http, tls};
use fairlead_operator::settings::{SETTINGS_FOLDER, Settings};
use fairlead_operator::status;
use fairlead_operator::telemetry::{self, Condition, ListenerMetrics, LogFormat, Readiness};
use fairlead_operator::webhook::{self, registration};
use fairlead_proxy_api::v1::config_server::ConfigServer;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

const WEBHOOK_PORT: u16 = 9443;
const GRPC_PORT: u16 = 8443;
const METRICS_PORT: u16 = 9090;
/// On the loopback alone.
const EXPLAIN_PORT: u16 = fairlead_operator_api::EXPLAIN_PORT;

/// A proxy holds one connection, and briefly a second one when it renews. Pods have an address each.
const GRPC_LIMITS: Limits = Limits { connections: 16_384, per_address: 32 };
/// The API servers call, all from few addresses.
const WEBHOOK_LIMITS: Limits = Limits { connections: 1_024, per_address: 512 };
/// The kubelet and a collector.
const METRICS_LIMITS: Limits = Limits { connections: 128, per_address: 32 };
/// People, through the API server.
const EXPLAIN_LIMITS: Limits = Limits { connections: 32, per_address: 32 };

/// Between being no longer ready and closing the listeners: so long it takes until nobody is sent here any more.
const FAREWELL: Duration = Duration::from_secs(5);
/// For requests that are under way when the listeners close.
const PATIENCE: Duration = Duration::from_secs(5);

/// The control plane of Fairlead: puts sidecars into pods, certifies them, configures them, and releases new versions through them.
///
/// It runs as the Deployment fairlead-operator that manifests/install.yaml makes; every option can be set there as an environment variable. It
/// listens on 9443 (webhooks), 8443 (proxies), 9090 (/metrics, /ready, /live) and, for the fairlead command and inside its pod alone, on 9091.
#[derive(Debug, Parser)]
#[command(version)]
#[allow(clippy::doc_markdown, reason = "these are help texts, for a terminal")]
struct Args {
    /// The image of the sidecar; the same version as the operator's.
    #[arg(long, env = "FAIRLEAD_PROXY_IMAGE", value_name = "IMAGE")]
    proxy_image: String,
    /// When nodes pull that image.
    #[arg(long, env = "FAIRLEAD_PROXY_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    proxy_image_pull_policy: String,
    /// What sidecars log where a pod's annotation fairlead.dev/proxy-log does not say otherwise.
    #[arg(long, env = "FAIRLEAD_PROXY_LOG", default_value = "info", value_name = "FILTER")]
    proxy_log: String,
    /// How sidecars write their logs.
    #[arg(long, env = "FAIRLEAD_PROXY_LOG_FORMAT", value_enum, default_value = "json")]
    proxy_log_format: LogFormat,
    /// Requests that get a line in the sidecars' logs: off, failures, all, or failures and a percentage of the rest, such as 1%.
    #[arg(long, env = "FAIRLEAD_PROXY_ACCESS_LOG", default_value = "off", value_name = "WHICH")]
    proxy_access_log: inject::AccessLog,
    /// What the operator logs: a level, or for example info,fairlead_operator::ca=debug.
    #[arg(long, env = "FAIRLEAD_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How the operator writes its logs.
    #[arg(long, env = "FAIRLEAD_LOG_FORMAT", value_enum, default_value = "json")]
    log_format: LogFormat,
    /// The first part of every identity: spiffe://DOMAIN/ns/…/sa/…. Changing it in a running mesh makes every pod a stranger until it is restarted.
    #[arg(long, env = "FAIRLEAD_TRUST_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    trust_domain: TrustDomain,
    /// What Kubernetes' own names end in; proxies find the operator by it.
    #[arg(long, env = "FAIRLEAD_CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// The folder that holds the mesh-wide settings, as ConfigMap fairlead-settings is mounted. They are read once, at the start.
    #[arg(long, env = "FAIRLEAD_SETTINGS", default_value = SETTINGS_FOLDER, value_name = "FOLDER")]
    settings: PathBuf,
    /// The operator's namespace. Its service account and its Service are both called fairlead-operator.
    #[arg(long, env = "POD_NAMESPACE", default_value = "fairlead-system")]
    namespace: String,
    /// The name of this pod: under it the replica takes part in the leader election.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// The address of this pod: other replicas reach the leader there.
    #[arg(long, env = "POD_IP")]
    pod_ip: IpAddr,
}

const NAME: &str = "fairlead-operator";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::start_logging(&args.log, args.log_format)?;
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("a crypto provider was installed twice");
    }
    run(args).await
}

async fn run(args: Args) -> anyhow::Result<()> {
    // Refused as a whole, before anything is touched.
    let settings = Settings::load(&args.settings)?;
    tracing::info!(
        certificate_lifetime = ?settings.certificate_lifetime,
        certificates_by = settings.certificate_requests.as_ref().map(|requests| tracing::field::display(&requests.issuer)),
        "settings"
    );
    let identity = SpiffeId::new(args.trust_domain.as_str(), &args.namespace, NAME)
        .context("--namespace cannot be part of an identity")?;
    let service_name = format!("{NAME}.{}.svc", args.namespace);
    let full_name = format!("{service_name}.{}", args.cluster_domain);
    let client = kube::Client::try_default()
        .await
        .context("no way to the API server: the operator runs in a pod, or with KUBECONFIG naming a cluster")?;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let readiness = Readiness::default();
    let mut registry = Registry::with_prefix("fairlead_operator");

    // What is known of the cluster.
    let index = Arc::new(Index::new(index::Settings {
        trust_domain: args.trust_domain.to_string(),
        operator_namespace: args.namespace.clone(),
    }));
    tasks.spawn(index::watch::run(client.clone(), Arc::clone(&index), stop.clone().cancelled_owned()));
    let asked_outside = outside::Metrics::register(&mut registry);
    let key_sets = KeySets::new(jwks::Metrics::register(&mut registry));
    let fetching = jwks::serve(Arc::clone(&index), key_sets, stop.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(fetching));
    let namespaces = Namespaces::watch(client.clone(), stop.clone());
    tasks.spawn(hold_when_listed(Arc::clone(&index), namespaces.clone(), readiness.condition("cluster listed")));

    // The election; what only a leader does waits for it.
    let (election, leadership) = Election::new(client.clone(), &args.namespace, &args.pod_name, args.pod_ip);
    let mut election = tasks.spawn(election.run(stop.clone()));

    // Who may sign, and the operator's own certificate. A rotation waits for what proxies and replicas said, and for what was written.
    let said = Arc::new(config::Registry::default());
    let (bundles_written, config_maps) = watch::channel(0);
    let (bundles_trusted, webhooks) = watch::channel(0);
    let everywhere = config::Everywhere {
        index: Arc::clone(&index),
        registry: Arc::clone(&said),
        own: args.pod_name.clone(),
        config_maps,
        webhooks,
    };
    let requests = settings.certificate_requests.clone().map(|requests| {
        let metrics = requests::Metrics::register(&mut registry);
        Requests::new(client.clone(), &args.namespace, requests, metrics)
    });
    if let Some(requests) = &requests {
        let sweep = tell_when_leading(leadership.is_leader.clone(), Arc::clone(requests).sweep());
        tasks.spawn(stop.clone().run_until_cancelled_owned(sweep));
    }
    let keeper = Keeper::new(
        client.clone(),
        &args.namespace,
        args.trust_domain.clone(),
        settings,
        requests.clone(),
        leadership.is_leader.clone(),
        Arc::new(everywhere),
    );
    let (authority, standing) = (keeper.state(), keeper.standing());
    tasks.spawn(keeper.run(stop.clone()));
    tasks.spawn(usable::follow(
        authority.clone(),
        readiness.condition("certificate authority"),
        usable::gauge(&mut registry),
    ));
    let serving = Arc::new(ServingCertificate::default());
    let dns_names = vec![full_name.clone(), service_name.clone(), format!("{NAME}.{}", args.namespace)];
    tasks.spawn(Arc::clone(&serving).run(
        authority.clone(),
        identity.clone(),
        dns_names,
        readiness.condition("serving certificate"),
        stop.clone(),
    ));
    tasks.spawn(stop.clone().run_until_cancelled_owned(announce(serving.shown(), Arc::clone(&said))));
    let identity_metrics = report::Metrics::register(&mut registry);
    tasks.spawn(identity_metrics.follow(standing.clone(), serving.shown(), stop.clone()));
    tasks.spawn(stop.clone().run_until_cancelled_owned(tell_when_leading(
        leadership.is_leader.clone(),
        report::tell(client.clone(), args.namespace.clone(), args.pod_name.clone(), authority.clone(), standing),
    )));

    // Webhooks.
    let injection = inject::Settings {
        image: args.proxy_image,
        image_pull_policy: args.proxy_image_pull_policy,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        operator_address: format!("{full_name}:{GRPC_PORT}"),
        operator_identity: identity.to_string(),
        trust_domain: args.trust_domain.to_string(),
        proxy_log: args.proxy_log,
        proxy_access_log: args.proxy_access_log,
        proxy_log_format: args.proxy_log_format.name().to_owned(),
    };
    let webhooks = webhook::router(webhook::Context {
        settings: Arc::new(injection),
        namespaces: namespaces.clone(),
        events: Events::publish(client.clone(), &args.pod_name, stop.clone()),
        metrics: webhook::Metrics::register(&mut registry),
    });
    let webhook_tls = Protocol::Tls(Arc::new(ArcSwap::from_pointee(tls::webhooks(Arc::clone(&serving))?)));
    let connections = accept(
        listen(WEBHOOK_PORT).await?,
        webhook_tls,
        WEBHOOK_LIMITS,
        ListenerMetrics::register(&mut registry, "webhooks"),
        stop.clone(),
    );
    tasks.spawn(http::run(connections, webhooks, stop.clone(), PATIENCE));

    // What policy would decide, for people. Who may forward a port to this pod may ask, and nobody else reaches the loopback.
    let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, EXPLAIN_PORT))
        .await
        .with_context(|| format!("cannot listen on port {EXPLAIN_PORT} of the loopback"))?;
    let connections = accept(
        loopback,
        Protocol::Plain,
        EXPLAIN_LIMITS,
        ListenerMetrics::register(&mut registry, "explain"),
        stop.clone(),
    );
    tasks.spawn(http::run(connections, explain::router(Arc::clone(&index)), stop.clone(), PATIENCE));

    // Health and metrics. What is registered later is not shown.
    let grpc_metrics = ListenerMetrics::register(&mut registry, "grpc");
    let config_metrics = config::Metrics::new(&mut registry);
    let registered = readiness.condition("webhooks registered");
    let stopping = readiness.condition("running");
    stopping.set(Ok(()));
    let metrics_metrics = ListenerMetrics::register(&mut registry, "metrics");
    let connections =
        accept(listen(METRICS_PORT).await?, Protocol::Plain, METRICS_LIMITS, metrics_metrics, stop.clone());
    tasks.spawn(http::run(connections, telemetry::router(readiness, registry), stop.clone(), PATIENCE));

    // Proxies, and what the cluster is told of them, as soon as there are roots that verify them.
    let with_roots = {
        let (stop, tasks) = (stop.clone(), tasks.clone());
        async move {
            let Some(published) = keeper::published(authority.clone(), stop.clone()).await else {
                return anyhow::Ok(());
            };
            let roots = published.bundles.clone();
            tasks.spawn(registration::run(
                client.clone(),
                roots.clone(),
                leadership.is_leader.clone(),
                bundles_trusted,
                registered,
                stop.clone(),
            ));

            let identities = IdentityService::new(
                args.trust_domain.as_str(),
                authority,
                ApiReviewer::new(client.clone()),
                Arc::clone(&index) as _,
            );
            let configuration =
                ConfigService::new(Arc::clone(&index), Arc::clone(&said), config_metrics, published, stop.clone());
            let replica = ReplicaService::new(Arc::clone(&said), identity.clone());
            let routes = Routes::new(identities.into_server())
                .add_service(ConfigServer::new(configuration))
                .add_service(replica.into_server());
            let protocol = Protocol::Tls(tls::follow(Arc::clone(&serving), roots.clone(), args.trust_domain)?);
            let connections = accept(listen(GRPC_PORT).await?, protocol, GRPC_LIMITS, grpc_metrics, stop.clone());
            tasks.spawn(http::run(connections, routes.into_axum_router(), stop.clone(), PATIENCE));

            let replicas = Arc::new(Replicas { serving, bundles: roots.clone(), operator: identity, port: GRPC_PORT });
            let connect: config::Connect = Arc::new(move |address| {
                let replicas = Arc::clone(&replicas);
                Box::pin(async move { replicas.connect(&address).await })
            });
            let share = config::share(
                Arc::clone(&said),
                leadership.clone(),
                args.pod_name.clone(),
                args.pod_ip.to_string(),
                connect,
            );
            tasks.spawn(stop.clone().run_until_cancelled_owned(share));

            // What only the leader does; each waits until this replica leads.
            let status =
                status::run(client.clone(), index, Arc::clone(&said), leadership.clone(), args.pod_name.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(status));
            let outside = Outside::new(client.clone(), Outbound::default(), asked_outside);
            let releases =
                Releases::new(client.clone(), Arc::clone(&said) as _, said, Arc::new(outside), Some(args.pod_name));
            tasks.spawn(releases.run(leadership.is_leader.clone(), stop.clone().cancelled_owned()));
            let mut is_leader = leadership.is_leader;
            if is_leader.wait_for(|leading| *leading).await.is_ok() {
                tasks.spawn(bundles::run(client, namespaces, roots, bundles_written, stop));
            }
            Ok(())
        }
    };
    let mut with_roots = tasks.spawn(with_roots);

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut roots_wait = true;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            ended = &mut election => return ended.context("the leader election panicked")?.context("the leader election ended"),
            ended = &mut with_roots, if roots_wait => {
                ended.context("the start of the gRPC services panicked")??;
                roots_wait = false;
            }
        }
    }
    tracing::info!("stopping");
    stopping.set(Err("stopping".to_owned()));
    tokio::time::sleep(FAREWELL).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(PATIENCE * 2, tasks.wait()).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    Ok(())
}

/// On all addresses, IPv6 and IPv4.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    if let Ok(listener) = TcpListener::bind(address).await {
        return Ok(listener);
    }
    // A kernel without IPv6.
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on port {port}"))
}

/// Tells the others what this replica trusts and shows.
async fn announce(mut shown: watch::Receiver<Option<Shown>>, said: Arc<config::Registry>) {
    loop {
        let present = shown.borrow_and_update().clone();
        if let Some(Shown { trust, .. }) = present {
            said.set_own_trust(trust);
        }
        if shown.changed().await.is_err() {
            return;
        }
    }
}

async fn tell_when_leading(mut is_leader: watch::Receiver<bool>, tell: impl Future<Output = ()>) {
    if is_leader.wait_for(|leads| *leads).await.is_ok() {
        tell.await;
    }
}

async fn hold_when_listed(index: Arc<Index>, namespaces: Namespaces, condition: Condition) {
    index.ready().await;
    namespaces.synced().await;
    condition.set(Ok(()));
}
