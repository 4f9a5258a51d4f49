//! Callers: the proxies of [`proxies`](crate::proxies) with the data path of a real proxy besides, requests through it, and the pods that answer them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairlead_proxy::accept::{self, Listen, MAX_CONNECTIONS, Mesh, OriginalDestination, Settings};
use fairlead_proxy::http::patience::Waits;
use fairlead_proxy::inbound::{limits::Limiter, refusals::Refusals};
use fairlead_proxy::route::{Destination, Handle, Target};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::cluster::{App, PORT, is_clone};
use crate::proxies::{self, Proxy};

/// Of the requests to a new version that is bad, so many fail.
const FAILING: f64 = 0.2;
/// What a version says of itself.
const NEW: &str = "version: new";
/// The weights of a split add up to this, or to few enough that steps of this size find each of them in turn: the operator scales what it divides.
const WHOLE: u64 = 1_000_000_000;
/// So many numbers are drawn of a split to see how it divides.
const DRAWS: u64 = 1_000;
/// Between two looks at a split.
const LOOK: Duration = Duration::from_millis(1);

/// A pod with a proxy.
pub(crate) struct Caller {
    proxy: Proxy,
    /// Where its proxy takes what leaves.
    port: u16,
    _data_path: accept::Proxy,
}

impl Caller {
    /// Starts the data path of a proxy. What it captures are connections to its port at any address.
    pub(crate) fn start(proxy: Proxy) -> Result<Self> {
        let outbound = accept::bind(0).context("a caller's outbound port")?;
        let port = outbound.local_addr()?.port();
        let captured: OriginalDestination = Arc::new(|connection| {
            let meant = connection.local_addr()?.ip().to_canonical();
            Ok(Some(SocketAddr::new(meant, 80)))
        });
        let nobody: OriginalDestination = Arc::new(|_| Ok(None));
        let mesh = Mesh {
            identity: proxy.store.identity.clone(),
            destinations: proxy.store.destinations.clone(),
            workload: proxy.store.workload.handle(),
            telemetry: proxy.store.telemetry.clone(),
            own_addresses: vec![IpAddr::V4(proxies::address(proxy.number))],
            own_ports: Vec::new(),
            refusals: Refusals::default(),
            limiter: Limiter::default(),
            waits: Waits::default(),
        };
        let settings = Settings {
            outbound: Listen { socket: outbound, original_destination: captured },
            inbound: Listen { socket: accept::bind(0)?, original_destination: nobody },
            workers: 1,
            max_connections: MAX_CONNECTIONS,
        };
        let data_path = accept::Proxy::start(settings, &Arc::new(mesh)).context("a caller's data path")?;
        Ok(Self { proxy, port, _data_path: data_path })
    }

    /// Follows what an application's address leads to.
    pub(crate) async fn follow(&self, app: App) -> Split {
        Split::new(self.proxy.store.destinations.get(app.service().into()).await)
    }

    /// The application in its pod connects to another.
    pub(crate) async fn connect(&self, app: App) -> Result<Connection> {
        let stream = TcpStream::connect((*app.service().ip(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    /// Sends requests to an application at a constant rate until its handle is dropped.
    pub(crate) async fn call(&self, app: App, every: Duration, tasks: &mut JoinSet<Result<()>>) -> Result<()> {
        let mut connection = self.connect(app).await?;
        // Callers are not in step with each other.
        let begin = Instant::now() + every.mul_f64(rand::random());
        tasks.spawn(async move {
            let mut ticks = interval_at(begin, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                ticks.tick().await;
                connection.request().await?;
            }
        });
        Ok(())
    }
}

/// A connection of an application to its own proxy.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Sends a request; whether a new version answered it.
    pub(crate) async fn request(&mut self) -> Result<bool> {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
        let head = read_head(&mut self.0).await?.context("the proxy closed the connection")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(["200", "500"].contains(&status), "the proxy itself answered: {head}");
        ensure!(head.contains("content-length: 0"), "an answer has a body: {head}");
        Ok(head.contains(NEW))
    }
}

/// What an address leads to at one caller.
pub(crate) struct Split {
    handle: Handle,
    seen: Option<(Arc<Destination>, f64)>,
}

impl Split {
    fn new(handle: Handle) -> Self {
        Self { handle, seen: None }
    }

    /// Percent of the requests that pods of the new version get, by the choice that is made for each request.
    fn percent(&mut self) -> f64 {
        let now = self.handle.load_full();
        if let Some((_, percent)) = self.seen.as_ref().filter(|(seen, _)| Arc::ptr_eq(seen, &now)) {
            return *percent;
        }
        let percent = percent(&now);
        self.seen = Some((now, percent));
        percent
    }
}

fn percent(destination: &Destination) -> f64 {
    let Destination::Service(service) = destination else { return 0.0 };
    // The last takes what no other does; there is no other here.
    let Some(route) = service.routes.last() else { return 0.0 };
    let new: BTreeSet<usize> = service
        .sets
        .iter()
        .enumerate()
        .filter(|(_, set)| set.endpoints.iter().any(|endpoint| is_new(endpoint.address.ip())))
        .map(|(index, _)| index)
        .collect();
    let chosen = (0..DRAWS).filter(|draw| match route.split.choose(draw * (WHOLE / DRAWS)) {
        Some(Target::Set(index)) => new.contains(index),
        _ => false,
    });
    chosen.count() as f64 * 100.0 / DRAWS as f64
}

fn is_new(pod: IpAddr) -> bool {
    matches!(pod, IpAddr::V4(pod) if is_clone(pod))
}

/// Waits until all split so.
pub(crate) async fn until_all(splits: &mut [Split], percent: f64, deadline: Instant) -> Result<()> {
    loop {
        let missing = splits.iter_mut().filter_map(|split| {
            let is = split.percent();
            // The draws tell it to a tenth of a point.
            ((is - percent).abs() > 0.11).then_some(is)
        });
        let missing: Vec<f64> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{} of {} callers do not send {percent} % to the new version, but {missing:?}",
                missing.len(),
                splits.len()
            );
        }
        sleep(LOOK).await;
    }
}

/// Answers at every pod's address, for as long as this program runs; new versions of applications from number `bad` on fail.
pub(crate) async fn answer(bad: u32) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.context("the applications' port")?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // A connection that breaks is the proxy's business, which counts it.
            tokio::spawn(serve(connection, bad));
        }
    });
    Ok(())
}

async fn serve(connection: TcpStream, bad: u32) -> Result<()> {
    connection.set_nodelay(true)?;
    let IpAddr::V4(pod) = connection.local_addr()?.ip() else { bail!("pods have IPv4 addresses here") };
    let is_bad = is_clone(pod) && App::at(pod).0 >= bad;
    let version = if is_clone(pod) { NEW } else { "version: running" };
    let mut connection = BufReader::new(connection);
    while read_head(&mut connection).await?.is_some() {
        let status = if is_bad && rand::random_bool(FAILING) { "500 Internal Server Error" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\n{version}\r\ncontent-length: 0\r\n\r\n");
        connection.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// The head of a message without a body, in lower case; `None`: the connection ended before one.
async fn read_head(stream: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        // More than any head here has.
        let read = (&mut *stream).take(4096).read_line(&mut head).await?;
        if read == 0 {
            ensure!(before == 0, "the connection ended within a head");
            return Ok(None);
        }
        if head[before..].trim_end().is_empty() {
            head.make_ascii_lowercase();
            return Ok(Some(head));
        }
    }
}

#[cfg(test)]
mod tests {
    use fairlead_proxy::route;
    use fairlead_proxy_api::v1;

    use super::*;

    fn destination(stable: u32, clone: u32) -> Destination {
        let set = |name: &str, ip: [u8; 4]| v1::EndpointSet {
            name: name.to_owned(),
            endpoints: vec![v1::Endpoint { ip: ip.into(), port: 80, ..v1::Endpoint::default() }],
            ..v1::EndpointSet::default()
        };
        let backend = |weight, set| v1::Backend { weight, target: Some(v1::backend::Target::EndpointSet(set)) };
        let service = v1::Service {
            namespace: "n".into(),
            name: "s".into(),
            port: 80,
            routes: vec![v1::Route { backends: vec![backend(stable, 0), backend(clone, 1)], ..v1::Route::default() }],
            endpoint_sets: vec![set("stable", [10, 248, 0, 1]), set("clone", [10, 249, 0, 1])],
            ..v1::Service::default()
        };
        let message = v1::Destination { kind: Some(v1::destination::Kind::Service(service)) };
        route::compile(None, message).unwrap()
    }

    #[test]
    fn a_split_tells_its_weight() {
        for (stable, clone, expected) in
            [(950_000_000, 50_000_000, 5.0), (990_000_000, 10_000_000, 1.0), (1, 0, 0.0), (0, 1_000_000_000, 100.0)]
        {
            let percent = percent(&destination(stable, clone));
            assert!((percent - expected).abs() < 0.11, "{percent} instead of {expected}");
        }
    }

    #[tokio::test]
    async fn a_head_ends_with_an_empty_line() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (receiver, _) = listener.accept().await.unwrap();
        sender.write_all(b"GET / HTTP/1.1\r\nHost: App\r\n\r\nGET ").await.unwrap();
        drop(sender);
        let mut receiver = BufReader::new(receiver);
        let head = read_head(&mut receiver).await.unwrap();
        assert_eq!(head.as_deref(), Some("get / http/1.1\r\nhost: app\r\n\r\n"));
        assert!(read_head(&mut receiver).await.is_err(), "half a head is none");
    }
}
