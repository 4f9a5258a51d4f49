//! Connections to the application.
//!
//! [`serve`] is called for each: other proxies are met by a handshake and said what they bring by its ALPN; what policy allows of the rest
//! is detected and forwarded. The application is dialled at the address that was meant, so what it binds to localhost stays private.

mod authorization;
mod authorize;
mod http;
pub mod limits;
pub mod policy;
pub mod refusals;
mod tokens;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fairlead_authz::Caller;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use self::policy::Plain;
pub use self::policy::Workload;
use crate::{
    accept::{
        Hello, Parsed, Worker,
        detect::{self, First, Kind, SILENCE, Speaker},
    },
    balance::{
        self,
        pool::Opaque,
        set::{EndpointSet, Picked},
    },
    http::Version,
    identity::{self, Alpn},
    route::Protocol,
    tcp::{
        self, Prefixed, Stream, Tunnel,
        connect::{self, ConnectError},
        copy,
    },
    telemetry::{Direction, Handshake, Refusal, Tls, Transport},
};

/// How long a caller that would be refused in plain may take to begin a handshake. Proxies do so at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long what is in flight may go on after a change of policy that no longer allows its caller.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Endpoints of the stable version that are tried for one caller of a canary.
const HANDOVER_ATTEMPTS: usize = 3;

/// A connection from outside the pod.
struct Incoming<'a> {
    worker: &'a Arc<Worker>,
    workload: Arc<Workload>,
    original: SocketAddr,
}

/// Serves one connection that was meant for `original`, an address of this pod, until it ends.
pub async fn serve(worker: &Arc<Worker>, client: TcpStream, original: SocketAddr) {
    if worker.mesh.own_ports.contains(&original.port()) {
        worker.mesh.telemetry.refused(Direction::Inbound, Refusal::Loop);
        return tcp::reset(&client);
    }
    let incoming = Incoming { worker, workload: worker.mesh.workload.load_full(), original };
    incoming.first(client).await;
}

impl Incoming<'_> {
    /// With the policy of now: the client may have been silent for hours.
    fn renewed(&self) -> Self {
        Self { worker: self.worker, workload: self.worker.mesh.workload.load_full(), original: self.original }
    }

    fn plain(&self) -> Plain<'_> {
        self.workload.plain(self.original.port())
    }

    fn protocol(&self) -> Protocol {
        self.workload.protocol(self.original.port())
    }

    /// Waits for the first bytes.
    async fn first(&self, mut client: TcpStream) {
        let mut buffer = BytesMut::new();
        let caller = Caller { identity: None, address: address_of(&client) };
        let silence = match (self.plain(), self.protocol()) {
            (Plain::Refuse, _) => Some(PATIENCE),
            (Plain::Accept, Protocol::Http) => None,
            // Nobody whom only requests may come from is told what the server says first.
            _ if !self.workload.allows_bytes(&caller, self.original.port()) => None,
            _ => Some(SILENCE),
        };
        match detect::first(&mut client, &mut buffer, silence).await {
            // Boxes, so that a connection is charged for what it is and not for the largest that it could have been.
            Ok(First::Spoke(kind)) => Box::pin(self.renewed().spoke(client, kind, buffer, None)).await,
            Ok(First::Silence) => Box::pin(self.silence(client)).await,
            Ok(First::Closed) | Err(_) => {}
        }
    }

    /// The client has spoken. `upstream`: whom it would be joined with as bytes, if that is connected already.
    async fn spoke(&self, client: TcpStream, kind: Kind, buffer: BytesMut, upstream: Option<Opaque>) {
        if kind == Kind::Tls && Parsed::from_bytes(&buffer) == Parsed::Complete(Hello::Mesh) {
            drop(upstream);
            return Box::pin(self.mesh(client, buffer.freeze())).await;
        }
        if matches!(self.plain(), Plain::Refuse) {
            return self.refuse(&client);
        }
        let accepted = matches!(self.plain(), Plain::Accept);
        let _counted = self.worker.mesh.telemetry.plain_callers.begin(address_of(&client));
        let version = match (kind, self.protocol()) {
            (_, Protocol::Opaque) | (Kind::Tls, _) | (Kind::Opaque, Protocol::Detect) => None,
            (Kind::Http(version), _) => Some(version),
            // It is stated to be HTTP, so what it is is malformed.
            (Kind::Opaque, Protocol::Http) => Some(Version::Http1),
        };
        let address = address_of(&client);
        let caller = Caller { identity: None, address };
        let stream = Stream::Plain(Prefixed::new(client, buffer.freeze()));
        match version {
            Some(version) if accepted => {
                drop(upstream);
                let until = self.worker.draining.child_token();
                let serving = http::serve(self.worker, stream, version, caller, self.original, &until);
                let mut serving = pin!(serving);
                tokio::select! {
                    () = &mut serving => return,
                    () = self.plain_refused(address) => until.cancel(),
                }
                // A connection that rests ends at once; what is in flight has this long.
                let _ = timeout(LAST_WORDS, serving).await;
            }
            _ if !self.allows_bytes(&caller) => stream.reset(),
            _ => {
                let upstream = match upstream {
                    Some(upstream) => Some(upstream),
                    None => self.upstream().await,
                };
                match upstream {
                    Some(upstream) => {
                        self.join(stream, upstream, Bytes::new(), &caller).await;
                    }
                    None => stream.reset(),
                }
            }
        }
    }

    /// The server may be the one to speak; a proxy that is late with its handshake is still met by one.
    async fn silence(&self, mut client: TcpStream) {
        if matches!(self.plain(), Plain::Refuse) {
            return self.refuse(&client);
        }
        let caller = Caller { identity: None, address: address_of(&client) };
        if !self.allows_bytes(&caller) {
            return tcp::reset(&client);
        }
        let Some(mut upstream) = self.upstream().await else {
            return tcp::reset(&client);
        };
        let _counted = self.worker.mesh.telemetry.plain_callers.begin(caller.address);
        let mut said = BytesMut::new();
        match detect::speaks_first(&client, &mut upstream.stream, &mut said).await {
            Ok(Speaker::Server) => {
                self.join(client.into(), upstream, said.freeze(), &caller).await;
            }
            Ok(Speaker::Client) => {
                let mut buffer = BytesMut::new();
                match detect::first(&mut client, &mut buffer, None).await {
                    Ok(First::Spoke(kind)) => {
                        self.renewed().spoke(client, kind, buffer, Some(upstream)).await;
                    }
                    // It closed; the application may still want to say something.
                    Ok(_) => {
                        self.join(client.into(), upstream, Bytes::new(), &caller).await;
                    }
                    Err(_) => upstream.stream.reset(),
                }
            }
            Err(_) => tcp::reset(&client),
        }
    }

    /// The peer says it is a proxy of the mesh: the handshake shows.
    async fn mesh(&self, client: TcpStream, hello: Bytes) {
        let telemetry = &self.worker.mesh.telemetry;
        let address = address_of(&client);
        let acceptor = TlsAcceptor::from(self.worker.mesh.identity.server_config());
        let stream = Prefixed::new(client, hello);
        // In a box, which ends with the handshake: it is larger than what follows.
        let accepted = timeout(connect::HANDSHAKE, Box::pin(acceptor.accept(stream)))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let tls = match accepted {
            Ok(tls) => tls,
            Err(error) => {
                telemetry.handshake_failed(Direction::Inbound, Handshake::from_error(&error));
                if self.worth_a_line(address) {
                    tracing::warn!(caller = %address, port = self.original.port(), %error, "a handshake failed");
                }
                return;
            }
        };
        let session = tls.get_ref().1;
        let alpn = session.alpn_protocol().and_then(Alpn::from_name);
        let peer = identity::peer(session.peer_certificates());
        let (Some(alpn), Some(peer)) = (alpn, peer) else {
            // The configuration lets nobody through without both.
            telemetry.handshake_failed(Direction::Inbound, Handshake::Protocol);
            return;
        };
        tracing::trace!(peer = %peer.identity, ?alpn, port = self.original.port(), "authenticated");
        let caller = Caller { identity: Some(peer.identity.clone()), address };
        let version = match alpn {
            Alpn::Http1 => Version::Http1,
            Alpn::Http2 => Version::Http2,
            Alpn::Tcp => return self.tunnel(Box::new(tls.into()), caller, connect::expiry(&peer)).await,
        };
        let stream = Stream::Tls(Box::new(tls.into()));
        // Proxies give a connection no new request by then. Who does is told to come again, with a certificate that is valid.
        let until = self.worker.draining.child_token();
        let serving = http::serve(self.worker, stream, version, caller, self.original, &until);
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => return,
            () = sleep_until(connect::expiry(&peer)) => until.cancel(),
        }
        serving.await;
    }

    /// Joins the connections that another proxy opens over one of its own, one after the other, with the application.
    async fn tunnel(&self, stream: Box<TlsStream<Prefixed>>, caller: Caller, expires: Instant) {
        // Proxies begin no connection on it after that; whoever does is told to go elsewhere.
        let until = self.worker.draining.child_token();
        let serving = async {
            let mut tunnel = Box::new(Tunnel::new(stream));
            loop {
                match tunnel.accept(&until).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        tracing::debug!(%error, port = self.original.port(), "a tunnel broke");
                        return;
                    }
                }
                if !self.renewed().allows_bytes(&caller) {
                    return Stream::Tunnel(tunnel).reset();
                }
                let Some(upstream) = self.application().await else { return Stream::Tunnel(tunnel).reset() };
                match self.join(Stream::Tunnel(tunnel), upstream, Bytes::new(), &caller).await {
                    Some(Stream::Tunnel(again)) if again.rests() => tunnel = again,
                    _ => return,
                }
            }
        };
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => return,
            () = sleep_until(expires) => until.cancel(),
        }
        serving.await;
    }

    /// Whom a plain caller is joined with as bytes.
    async fn upstream(&self) -> Option<Opaque> {
        match self.plain() {
            Plain::Accept => self.application().await,
            Plain::HandOver(stable) => self.stable(stable).await,
            Plain::Refuse => None,
        }
    }

    async fn application(&self) -> Option<Opaque> {
        match connect::in_pod(self.original, connect::CONNECT).await {
            Ok(tcp) => Some(Opaque::direct(tcp.into())),
            Err(error) => {
                tracing::debug!(%error, "the application was not reached");
                self.worker.mesh.telemetry.refused(Direction::Inbound, Refusal::Connect);
                None
            }
        }
    }

    async fn stable(&self, set: Option<&Arc<EndpointSet>>) -> Option<Opaque> {
        let mesh = &self.worker.mesh;
        let mut failed = Vec::new();
        for _ in 0..HANDOVER_ATTEMPTS {
            let began = Instant::now();
            let Some(picked) = set.and_then(|set| set.pick(&failed, None, balance::random(), began)) else {
                break;
            };
            let Picked { endpoint, trial } = picked;
            let mut in_flight = endpoint.load.begin();
            let connected = self.worker.pool.opaque(&self.worker.dialler, endpoint).await;
            let now = Instant::now();
            in_flight.heard();
            if !matches!(connected, Err(ConnectError::Full(_))) {
                set.and_then(|set| set.record(endpoint, trial, connected.is_err(), now));
            }
            match connected {
                Ok(connection) => {
                    endpoint.load.observe(now - began, now);
                    mesh.telemetry.handed_over();
                    return Some(connection);
                }
                // Nor is there room for another.
                Err(ConnectError::Full(_)) => break,
                Err(error) => {
                    endpoint.load.fail(now);
                    tracing::debug!(%error, "an endpoint of the stable version was not reached");
                    failed.push(endpoint.address);
                }
            }
        }
        mesh.telemetry.refused(Direction::Inbound, Refusal::Handover);
        None
    }

    /// Copies until both sides have ended; returns the client if they did so in order.
    async fn join(&self, mut client: Stream, mut upstream: Opaque, said: Bytes, caller: &Caller) -> Option<Stream> {
        let telemetry = &self.worker.mesh.telemetry;
        let tls = if caller.identity.is_some() { Tls::Mutual } else { Tls::None };
        let _open = telemetry.open(Direction::Inbound, Transport::Opaque, tls);
        if client.write_all(&said).await.is_err() {
            upstream.stream.reset();
            return None;
        }
        let cut_off = async {
            tokio::select! {
                () = self.plain_refused(caller.address), if caller.identity.is_none() => {}
                () = authorize::denied(&self.worker.mesh, caller, self.original.port(), None) => {}
            }
        };
        let (copied, result) = copy::both_ways_until(&mut client, &mut upstream.stream, cut_off).await;
        telemetry.copied(Direction::Inbound, copied.forth, copied.back + said.len() as u64);
        if result.is_err() {
            client.reset();
            upstream.stream.reset();
            return None;
        }
        upstream.release();
        Some(client)
    }

    /// Policy demands authentication and the caller brought none.
    fn refuse(&self, client: &TcpStream) {
        self.note_refusal(address_of(client));
        tcp::reset(client);
    }

    /// Ready when a change of policy demands authentication of a plain caller who is connected: connections last for hours, and policy must
    /// not wait for their end.
    async fn plain_refused(&self, caller: IpAddr) {
        let port = self.original.port();
        self.worker.mesh.workload.until(|workload| matches!(workload.plain(port), Plain::Refuse)).await;
        self.note_refusal(caller);
    }

    /// Whether rules let in what is not HTTP.
    fn allows_bytes(&self, caller: &Caller) -> bool {
        authorize::allows(&self.worker.mesh, &self.workload, caller, self.original.port(), None)
    }

    fn note_refusal(&self, caller: IpAddr) {
        self.worker.mesh.telemetry.refused(Direction::Inbound, Refusal::Plaintext);
        if self.worth_a_line(caller) {
            tracing::warn!(%caller, port = self.original.port(), "refused a plain caller: mTLS is Strict here");
        }
    }

    fn worth_a_line(&self, caller: IpAddr) -> bool {
        self.worker.mesh.refusals.worth_a_line(caller, Instant::now())
    }
}

/// From where a connection came. One that is gone already has no address, and needs none.
fn address_of(client: &TcpStream) -> IpAddr {
    client.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip().to_canonical())
}
