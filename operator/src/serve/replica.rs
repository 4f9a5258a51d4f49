//! From one replica of the operator to another: how the leader hears what proxies said elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::tls;
use crate::ca::serving::ServingCertificate;
use crate::ca::{SpiffeId, TrustBundle};

/// For TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A leader whose node vanished is noticed after these two.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to replicas, each side proving to be the operator.
pub struct Replicas {
    /// Shown to the other side.
    pub serving: Arc<ServingCertificate>,
    /// What verifies the other side; the present one is taken for each connection.
    pub bundles: watch::Receiver<Arc<TrustBundle>>,
    /// Who the other side must be.
    pub operator: SpiffeId,
    /// Where replicas listen.
    pub port: u16,
}

/// Why there is no connection; the cause says the rest.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl Replicas {
    /// Opens a connection to the replica at a pod's address (without a port).
    pub async fn connect(&self, address: &str) -> Result<Channel, Error> {
        let address = SocketAddr::new(address.parse::<IpAddr>()?, self.port);
        let bundle = Arc::clone(&self.bundles.borrow());
        let config = Arc::new(tls::replica(Arc::clone(&self.serving), &bundle, &self.operator)?);
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let stream = TlsConnector::from(config).connect(ServerName::from(address.ip()), stream).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // The scheme is of no account: what is spoken is the connector's to decide.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}
