//! Certificates, sidecars and applications, so that a test reads as prose.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use fairlead_proxy::{
    accept::{Listen, MAX_CONNECTIONS, Mesh, Proxy, Settings},
    config::{Destinations, Metrics, OwnWorkload, stream::Store},
    http::patience::Waits,
    identity::{Identity, Leaf, SpiffeId, TrustBundle, TrustDomain},
    inbound::{limits::Limiter, policy::Current, refusals::Refusals},
    route,
    telemetry::{Telemetry, access::AccessLog},
};
use fairlead_proxy_api::v1;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The address that test clients "dial": a Service's.
pub const SERVICE: &str = "10.96.0.1:9080";

/// What nothing in these tests should take.
pub const SOON: Duration = Duration::from_secs(10);

/// A root that signs leaves itself.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn identity(&self, name: &str) -> Arc<Identity> {
        self.identity_that_trusts(name, &[])
    }

    /// An identity from here that believes `others` as well.
    pub fn identity_that_trusts(&self, name: &str, others: &[&Authority]) -> Arc<Identity> {
        self.identity_for(name, others, Duration::from_secs(3600))
    }

    /// One that lasts so long.
    pub fn identity_for(&self, name: &str, others: &[&Authority], lifetime: Duration) -> Arc<Identity> {
        let id = identity_of(name);
        let now = SystemTime::now();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + lifetime).into();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        let roots = std::iter::once(self).chain(others.iter().copied());
        let roots = roots.map(|authority| authority.0.der().clone()).collect();
        let bundle = TrustBundle::new(1, roots).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let leaf = Leaf::new(&id, key, chain, &bundle, now).unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        Arc::new(Identity::new(domain, leaf, bundle).unwrap())
    }
}

pub fn identity_of(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
}

/// A proxy that runs, as if in a pod.
pub struct Sidecar {
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
    pub telemetry: Arc<Telemetry>,
    pub proxy: Proxy,
    /// Policy, to be changed while it runs.
    pub workload: Arc<Current>,
    destinations: Arc<Destinations>,
}

/// What a sidecar is told.
pub struct Pod {
    pub identity: Arc<Identity>,
    /// Where its inbound connections were meant to go.
    pub application: SocketAddr,
    pub workload: v1::Workload,
    /// What [`SERVICE`] leads to; `None`: nothing known.
    pub service: Option<v1::destination::Kind>,
    pub own_addresses: Vec<IpAddr>,
    pub max_connections: usize,
    /// What its application "dials".
    pub dials: SocketAddr,
    pub access_log: AccessLog,
    pub waits: Waits,
}

impl Pod {
    pub fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            application: "127.0.0.1:1".parse().unwrap(),
            workload: workload(v1::MtlsMode::Permissive),
            service: Some(v1::destination::Kind::PassThrough(v1::PassThrough {})),
            own_addresses: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            dials: SERVICE.parse().unwrap(),
            access_log: AccessLog::default(),
            waits: Waits::default(),
        }
    }

    pub fn start(self) -> Sidecar {
        let telemetry = Arc::new(Telemetry::with_access_log(self.access_log));
        let store = Store {
            identity: self.identity.clone(),
            workload: Arc::new(OwnWorkload::default()),
            destinations: Arc::new(Destinations::new()),
            telemetry: telemetry.clone(),
            metrics: Metrics::default(),
        };
        let workload =
            v1::Resource { name: None, version: "1".into(), body: Some(v1::resource::Body::Workload(self.workload)) };
        let IpAddr::V4(ip) = self.dials.ip() else { panic!("tests dial IPv4") };
        let destination = v1::Resource {
            name: Some(v1::ResourceName {
                kind: Some(v1::resource_name::Kind::Destination(v1::Address {
                    ip: ip.octets().to_vec(),
                    port: self.dials.port().into(),
                })),
            }),
            version: "1".into(),
            body: Some(v1::resource::Body::Destination(v1::Destination { kind: self.service })),
        };
        store.restore(Some(workload), vec![destination]);
        assert!(*store.workload.known().borrow(), "the workload compiles");
        assert_eq!(store.destinations.len(), 1, "the destination compiles");

        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (outbound, inbound) = (bind(), bind());
        let (dials, application) = (self.dials, self.application);
        let mesh = Mesh {
            identity: self.identity,
            destinations: store.destinations.clone(),
            workload: store.workload.handle(),
            telemetry: telemetry.clone(),
            own_addresses: self.own_addresses,
            own_ports: Vec::new(),
            refusals: Refusals::default(),
            limiter: Limiter::default(),
            waits: self.waits,
        };
        let addresses = (outbound.local_addr().unwrap(), inbound.local_addr().unwrap());
        let proxy = Proxy::start(
            Settings {
                outbound: Listen { socket: outbound, original_destination: Arc::new(move |_| Ok(Some(dials))) },
                inbound: Listen { socket: inbound, original_destination: Arc::new(move |_| Ok(Some(application))) },
                workers: 2,
                max_connections: self.max_connections,
            },
            &Arc::new(mesh),
        )
        .unwrap();
        let workload = store.workload.handle();
        let destinations = store.destinations.clone();
        Sidecar { outbound: addresses.0, inbound: addresses.1, telemetry, proxy, workload, destinations }
    }
}

impl Sidecar {
    /// What [`SERVICE`] leads to from now on.
    pub async fn told(&self, service: v1::Service) {
        let kind = Some(v1::destination::Kind::Service(service));
        let handle = self.destinations.get(SERVICE.parse().unwrap()).await;
        let next = route::compile(Some(&**handle.load()), v1::Destination { kind }).unwrap();
        handle.store(Arc::new(next));
    }

    /// Waits until a line of the metrics begins like this: counts are made when a connection ends, which a test may see first.
    pub async fn counted(&self, line: &str) {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let text = self.telemetry.render().unwrap();
            if text.lines().any(|found| found.starts_with(line)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "no metric {line:?} in\n{text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn workload(mode: v1::MtlsMode) -> v1::Workload {
    v1::Workload { mtls: mode.into(), ..v1::Workload::default() }
}

pub fn endpoint(address: SocketAddr, identity: &str) -> v1::Endpoint {
    let IpAddr::V4(ip) = address.ip() else { panic!("tests use IPv4") };
    v1::Endpoint {
        ip: ip.octets().to_vec(),
        port: address.port().into(),
        identity: match identity {
            "" => String::new(),
            name => identity_of(name).to_string(),
        },
        ..v1::Endpoint::default()
    }
}

pub fn backend(weight: u32, set: u32) -> v1::Backend {
    v1::Backend { weight, target: Some(v1::backend::Target::EndpointSet(set)) }
}

/// A Service whose sets are these; everything goes to the first.
pub fn service(sets: Vec<Vec<v1::Endpoint>>) -> v1::Service {
    v1::Service {
        namespace: "test".into(),
        name: "server".into(),
        port: 9080,
        protocol: v1::Protocol::Detect.into(),
        routes: vec![v1::Route { backends: vec![backend(1, 0)], ..v1::Route::default() }],
        endpoint_sets: sets
            .into_iter()
            .enumerate()
            .map(|(index, endpoints)| v1::EndpointSet {
                name: format!("set-{index}"),
                endpoints,
                ..v1::EndpointSet::default()
            })
            .collect(),
        opaque_backends: vec![backend(1, 0)],
        ..v1::Service::default()
    }
}

/// A client's sidecar for a Service.
pub fn client_of(authority: &Authority, service: v1::Service) -> Sidecar {
    Pod { service: Some(v1::destination::Kind::Service(service)), ..Pod::new(authority.identity("client")) }.start()
}

/// A server's sidecar in front of an application, named "server".
pub fn server_of(authority: &Authority, application: SocketAddr, mode: v1::MtlsMode) -> Sidecar {
    Pod { application, workload: workload(mode), ..Pod::new(authority.identity("server")) }.start()
}

/// A client's sidecar and a server's, strict, in front of `application`.
pub struct Pair {
    pub client: Sidecar,
    pub server: Sidecar,
}

pub fn pair(application: SocketAddr) -> Pair {
    let authority = Authority::new();
    let server = server_of(&authority, application, v1::MtlsMode::Strict);
    let client = client_of(&authority, service(vec![vec![endpoint(server.inbound, "server")]]));
    Pair { client, server }
}

/// An application that talks bytes: `script` gets each connection.
pub struct App {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl App {
    pub async fn start<F>(script: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(script(stream));
            }
        });
        Self { address, connections }
    }

    /// Answers every request without a body with `response`, and keeps the connection as long as the client wants to.
    pub async fn answering(response: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                stream.write_all(response.as_bytes()).await.unwrap();
                if head.contains("Connection: close") {
                    return;
                }
            }
        })
        .await
    }

    /// Answers every request with its own head as the body.
    pub async fn mirror() -> Self {
        Self::start(|mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Reads up to and with an empty line; `None` at the end.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    read_until(stream, "\r\n\r\n").await
}

/// Reads up to and with `end`; `None` if the connection ends before.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Sends bytes and returns all that comes back until the other side closes.
pub async fn talk(address: SocketAddr, bytes: &str) -> String {
    // Who closes at once may have done so by now, or even before this side knew that it was connected.
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return String::new(),
        Err(error) => panic!("{error}"),
    };
    let _ = stream.write_all(bytes.as_bytes()).await;
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection ends").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    talk(address, &format!("GET {path} HTTP/1.1\r\nHost: server\r\n{headers}Connection: close\r\n\r\n")).await
}

pub fn status(response: &str) -> u16 {
    response
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status in {response:?}"))
}
