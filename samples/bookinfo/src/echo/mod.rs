//! The echo role: one process that speaks every protocol a mesh has to carry.
//!
//! | port | speaks |
//! | --- | --- |
//! | 9080 | HTTP/1.1 and h2c: see [`http`]; WebSocket at `/ws`; gRPC at `/fairlead.bookinfo.v1.Echo/Stream` and `/Unary` |
//! | 9081 | TCP where the server speaks first: a greeting, then every line comes back |
//! | 9082 | TCP where the client speaks first: every byte comes back |

pub mod grpc;
pub mod http;
pub mod tcp;

use std::net::SocketAddr;

use ::http::HeaderValue;
use anyhow::Result;

use crate::server::{self, Identity, Stop};

/// Options of the echo role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What every role over HTTP shares.
    #[command(flatten)]
    pub server: server::Options,
    /// Version told in the header x-version.
    #[arg(long, env = "BOOKINFO_VERSION", default_value = "v1")]
    pub version: HeaderValue,
    /// Address of the TCP port where the server speaks first.
    #[arg(long, env = "BOOKINFO_GREETER_LISTEN", default_value = "0.0.0.0:9081")]
    pub greeter_listen: SocketAddr,
    /// Address of the TCP port where the client speaks first.
    #[arg(long, env = "BOOKINFO_TCP_LISTEN", default_value = "0.0.0.0:9082")]
    pub tcp_listen: SocketAddr,
}

/// Serves all ports until told to stop.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let stop = Stop::on_signal(args.server.common.lameduck)?;
    let web = server::bind(args.server.listen).await?;
    let greeter = server::bind(args.greeter_listen).await?;
    let plain = server::bind(args.tcp_listen).await?;
    let identity = Identity { role: "echo", version: args.version, pod: args.server.common.pod };
    let pod = identity.pod_name().to_owned();
    tokio::try_join!(
        server::serve(web, http::routes(&pod, stop.clone()), identity, stop.clone()),
        tcp::serve_greeter(greeter, pod, stop.clone()),
        tcp::serve_plain(plain, stop),
    )?;
    Ok(())
}
