//! `run`: from nothing to serving, and back.
//!
//! This thread carries configuration, identity, admin and health; traffic has threads of its own ([`accept::Proxy`]). The order is:
//! listen (so that connections wait instead of failing), a certificate, the first configuration, serve.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use fairlead_proxy::{
    accept::{self, Listen, Mesh, OriginalDestination, Proxy, Settings},
    admin::{self, Admin, Phase, serve::serve},
    capture::original_dst,
    config::{
        Destinations, Metrics, OwnWorkload,
        persist::{Restored, StateDir},
        stream::{self, Connection, Store, Stream},
    },
    health::{self, Health, Probes},
    http::patience::Waits,
    identity::{
        Identity, Operator, SpiffeId,
        certify::{Certifier, Issued},
        renew,
    },
    inbound::{limits::Limiter, refusals::Refusals},
    telemetry::{Telemetry, access::AccessLog},
};
use fairlead_proxy_api::v1;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::args::{INBOUND_PORT, OUTBOUND_PORT, RunArgs};

/// For name lookups, which block; two at once are more than a proxy makes.
const BLOCKING_THREADS: usize = 2;
/// How long answering an admin request may take; `/config` of a thousand destinations takes milliseconds.
const ADMIN_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider was installed before ours"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the control thread")?
        .block_on(control(args))
}

/// What the parts that are started one after the other share.
struct Control {
    args: RunArgs,
    own: SpiffeId,
    operator: Operator,
    state: StateDir,
    telemetry: Arc<Telemetry>,
    metrics: Metrics,
    workload: Arc<OwnWorkload>,
    destinations: Arc<Destinations>,
    phase: watch::Sender<Phase>,
    identity: watch::Sender<Option<Arc<Identity>>>,
    connection: watch::Sender<Connection>,
}

async fn control(args: RunArgs) -> anyhow::Result<()> {
    let mut end = End::new()?;
    let control = Control::new(args)?;
    control.listen_for_people().await?;
    let sockets = (listen(OUTBOUND_PORT)?, listen(INBOUND_PORT)?);
    let restored = control.state.load(&control.own, SystemTime::now());

    let prepared = tokio::select! {
        prepared = control.prepare(restored) => prepared?,
        () = end.asked() => return Ok(()),
    };
    let proxy = control.serve(sockets, &prepared).context("cannot start serving")?;
    control.phase.send_replace(Phase::Ready);
    tracing::info!(identity = %control.own, "ready");

    end.asked().await;
    tracing::info!(timeout = ?control.args.drain_timeout, "asked to end: draining");
    control.phase.send_replace(Phase::Draining);
    tokio::select! {
        () = proxy.drain(control.args.drain_timeout) => tracing::info!("drained"),
        // Whoever asks twice does not want to wait.
        () = end.asked() => tracing::warn!("asked again to end: not draining any longer"),
    }
    Ok(())
}

/// Binds one of the ports that capture redirects to.
fn listen(port: u16) -> anyhow::Result<Listen> {
    let socket = accept::bind(port).with_context(|| format!("cannot listen on port {port}"))?;
    let original_destination: OriginalDestination = Arc::new(original_dst);
    Ok(Listen { socket, original_destination })
}

impl Control {
    fn new(args: RunArgs) -> anyhow::Result<Self> {
        let own = SpiffeId::new(args.trust_domain.as_str(), &args.pod_namespace, &args.service_account)
            .context("POD_NAMESPACE and SERVICE_ACCOUNT make no identity")?;
        let operator = Operator {
            address: args.operator_address.clone(),
            identity: args.operator_identity.clone(),
            trust_domain: args.trust_domain.clone(),
            bundle_path: args.trust_bundle.clone(),
        };
        let access = AccessLog::new(args.access_log, std::io::stdout()).context("cannot start the access log")?;
        let telemetry = Arc::new(Telemetry::with_access_log(access));
        let metrics = Metrics::default();
        telemetry.register(|registry| metrics.register(registry));
        Ok(Self {
            own,
            operator,
            state: StateDir::new(args.state_dir.clone()),
            telemetry,
            metrics,
            workload: Arc::default(),
            destinations: Arc::default(),
            phase: watch::Sender::new(Phase::Certifying),
            identity: watch::Sender::new(None),
            connection: watch::Sender::new(Connection::Away { reason: "not tried yet".to_owned() }),
            args,
        })
    }

    /// Opens the admin and health ports, before anything else can go wrong and wants to be looked at.
    async fn listen_for_people(&self) -> anyhow::Result<()> {
        let admin = Admin {
            phase: self.phase.subscribe(),
            identity: self.identity.subscribe(),
            connection: self.connection.subscribe(),
            operator: self.operator.address.clone(),
            workload: self.workload.clone(),
            destinations: self.destinations.clone(),
            telemetry: self.telemetry.clone(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, admin::PORT))
            .await
            .with_context(|| format!("cannot listen on the admin port 127.0.0.1:{}", admin::PORT))?;
        tokio::spawn(serve(listener, ADMIN_LIMIT, move |request| {
            let answer = admin.answer(&request);
            async move { answer }
        }));

        let probes = Probes::parse(&self.args.probes)?;
        let health = Health::new(self.phase.subscribe(), probes, self.args.pod_ips.first().copied());
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, health::PORT)).await {
            Ok(listener) => listener,
            // A node without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, health::PORT))
                .await
                .with_context(|| format!("cannot listen on the health port {}", health::PORT))?,
        };
        let limit = health.longest() + ADMIN_LIMIT;
        tokio::spawn(serve(listener, limit, move |request| health.clone().answer(request)));
        Ok(())
    }

    /// Comes to an identity and a first configuration, from the state directory or from the operator, and keeps both up to date from
    /// then on.
    async fn prepare(&self, restored: Restored) -> anyhow::Result<Store> {
        let certifier =
            Certifier { operator: self.operator.clone(), own: self.own.clone(), token_path: self.args.token.clone() };
        let issue = async move |known: Option<Arc<_>>| certifier.certify(known.as_deref()).await;
        let (leaf, bundle) = if let Some(found) = restored.identity {
            tracing::info!("using the certificate from before the restart");
            found
        } else {
            let Issued { leaf, bundle } = renew::first(&issue, rand::random).await;
            (leaf, bundle)
        };
        let identity = Arc::new(
            Identity::new(self.args.trust_domain.clone(), leaf, bundle).context("cannot use the certificate")?,
        );
        self.identity.send_replace(Some(identity.clone()));
        self.phase.send_replace(Phase::Configuring);
        tokio::spawn(keep_identity(identity.clone(), self.state.clone(), self.metrics.clone()));
        let renewing = identity.clone();
        tokio::spawn(async move { renew::keep(&renewing, issue, SystemTime::now, rand::random).await });

        let store = Store {
            identity,
            workload: self.workload.clone(),
            destinations: self.destinations.clone(),
            telemetry: self.telemetry.clone(),
            metrics: self.metrics.clone(),
        };
        store.restore(restored.workload, restored.destinations);
        self.follow(store.clone());
        // Never closed: this holds the sender.
        let _ = self.workload.known().wait_for(|known| *known).await;
        Ok(store)
    }

    /// Starts the configuration stream.
    fn follow(&self, store: Store) {
        let stream = Stream {
            operator: self.operator.clone(),
            hello: v1::Hello {
                pod_namespace: self.args.pod_namespace.clone(),
                pod_name: self.args.pod_name.clone(),
                pod_uid: self.args.pod_uid.clone(),
                proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
                instance: format!("{:032x}", rand::random::<u128>()),
            },
        };
        let (state, connection) = (self.state.clone(), self.connection.clone());
        tokio::spawn(async move { stream::run(&stream, &store, &state, &connection, rand::random).await });
    }

    fn serve(&self, (outbound, inbound): (Listen, Listen), store: &Store) -> anyhow::Result<Proxy> {
        let mesh = Mesh {
            identity: store.identity.clone(),
            destinations: store.destinations.clone(),
            workload: store.workload.handle(),
            telemetry: store.telemetry.clone(),
            own_addresses: self.args.pod_ips.clone(),
            own_ports: vec![admin::PORT, OUTBOUND_PORT, INBOUND_PORT, health::PORT],
            refusals: Refusals::default(),
            limiter: Limiter::default(),
            waits: Waits::default(),
        };
        let settings = Settings {
            outbound,
            inbound,
            workers: accept::default_workers(),
            max_connections: accept::MAX_CONNECTIONS,
        };
        Ok(Proxy::start(settings, &Arc::new(mesh))?)
    }
}

/// Saves the identity at the start and after each change, and shows when it ends.
async fn keep_identity(identity: Arc<Identity>, state: StateDir, metrics: Metrics) {
    let mut changes = identity.changes();
    loop {
        changes.mark_unchanged();
        let leaf = identity.leaf();
        let expiry = leaf.claims().not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.certificate_expiry.set(expiry.as_secs().try_into().unwrap_or(i64::MAX));
        if let Err(error) = state.write_identity(&leaf, &identity.bundle()) {
            tracing::warn!(%error, "cannot save the certificate: a restart without the operator would miss it");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// SIGTERM, as the kubelet sends it, or SIGINT from a terminal.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn new() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("cannot watch for signals");
        Ok(Self { terminate: watch(SignalKind::terminate())?, interrupt: watch(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
