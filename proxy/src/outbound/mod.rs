//! Connections that the application opens.
//!
//! [`serve`] is called for each: it finds out what the address leads to, then what is spoken, and hands over to [`http`] or to
//! [`opaque`].

mod attempts;
mod choose;
mod http;
mod opaque;
mod rules;

pub use self::rules::MAX_COPIES;

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::{
    accept::{
        Mesh, Worker,
        detect::{self, First, Kind, SILENCE, Speaker},
    },
    balance::Endpoint,
    http::Version,
    route::{Destination, Handle, Protocol},
    tcp::{self, Prefixed, Stream},
    telemetry::{Direction, Refusal},
};

/// An application's connection and where it was meant to go.
struct Outgoing<'a> {
    worker: &'a Arc<Worker>,
    original: SocketAddr,
    destination: Handle,
}

/// Serves one connection that was meant for `original`, until it ends.
pub async fn serve(worker: &Arc<Worker>, client: TcpStream, original: SocketAddr) {
    if worker.mesh.is_loop(original) {
        worker.mesh.telemetry.refused(Direction::Outbound, Refusal::Loop);
        return tcp::reset(&client);
    }
    let destination = worker.mesh.destinations.get(original).await;
    let protocol = match &**destination.load() {
        Destination::PassThrough => None,
        Destination::Service(service) => Some(service.protocol),
        Destination::Pod(_) => Some(Protocol::Detect),
    };
    let outgoing = Outgoing { worker, original, destination };
    match protocol {
        None => Box::pin(opaque::pass_through(worker, client, original)).await,
        Some(Protocol::Opaque) => Box::pin(outgoing.opaque(client, Bytes::new())).await,
        Some(protocol) => outgoing.detect(client, protocol == Protocol::Http).await,
    }
}

impl Outgoing<'_> {
    /// `http`: the port is stated to be, so silence means nothing and what is not HTTP is malformed.
    async fn detect(&self, mut client: TcpStream, http: bool) {
        let mut buffer = BytesMut::new();
        let limit = (!http).then_some(SILENCE);
        match detect::first(&mut client, &mut buffer, limit).await {
            // Boxes, so that a connection is charged for what it is and not for the largest that it could have been.
            Ok(First::Spoke(Kind::Http(version))) => Box::pin(self.http(client, buffer, version)).await,
            Ok(First::Spoke(Kind::Opaque)) if http => Box::pin(self.http(client, buffer, Version::Http1)).await,
            Ok(First::Spoke(Kind::Tls | Kind::Opaque)) => Box::pin(self.opaque(client, buffer.freeze())).await,
            Ok(First::Silence) => Box::pin(self.silence(client)).await,
            Ok(First::Closed) | Err(_) => {}
        }
    }

    /// Connects, so that the server can speak; but if it is the client who does, and HTTP, it is served as such after all.
    async fn silence(&self, mut client: TcpStream) {
        let Some(mut upstream) = opaque::connect(self).await else {
            return tcp::reset(&client);
        };
        let mut said = BytesMut::new();
        match detect::speaks_first(&client, &mut upstream.connection.stream, &mut said).await {
            Ok(Speaker::Server) => {
                opaque::join(self, client.into(), upstream, said.freeze()).await;
            }
            Ok(Speaker::Client) => {
                let mut buffer = BytesMut::new();
                match detect::first(&mut client, &mut buffer, None).await {
                    Ok(First::Spoke(Kind::Http(version))) => {
                        drop(upstream);
                        self.http(client, buffer, version).await;
                    }
                    Ok(_) => {
                        let client = Stream::Plain(Prefixed::new(client, buffer.freeze()));
                        opaque::join(self, client, upstream, Bytes::new()).await;
                    }
                    Err(_) => upstream.connection.stream.reset(),
                }
            }
            Err(_) => tcp::reset(&client),
        }
    }

    async fn opaque(&self, client: TcpStream, prefix: Bytes) {
        match opaque::connect(self).await {
            Some(upstream) => {
                let client = Stream::Plain(Prefixed::new(client, prefix));
                opaque::join(self, client, upstream, Bytes::new()).await;
            }
            None => tcp::reset(&client),
        }
    }

    async fn http(&self, client: TcpStream, buffer: BytesMut, version: Version) {
        let client = Stream::Plain(Prefixed::new(client, buffer.freeze()));
        http::serve(self, client, version).await;
    }
}

/// How an endpoint is reached from here: the pod itself not through its own proxy.
fn reachable(mesh: &Mesh, endpoint: &Arc<Endpoint>) -> Arc<Endpoint> {
    endpoint.seen_from(&mesh.own_addresses).map_or_else(|| endpoint.clone(), Arc::new)
}
