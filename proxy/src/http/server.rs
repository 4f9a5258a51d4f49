//! Reads requests from a connection, within limits.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    Reason, Version,
    body::Body,
    h1, http2,
    message::{Request, Response},
};
use crate::tcp::Stream;

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one. Dropped if the caller goes away.
    fn handle(&self, request: Request) -> impl Future<Output = Response<Body>> + Send;

    /// What came was no request, and was answered for this reason.
    fn refused(&self, reason: Reason);
}

/// Serves requests until the peer closes or `draining` is cancelled; then what is in flight is still answered. Malformed requests get 400,
/// heads over [`MAX_HEAD`](super::MAX_HEAD) or of more than 100 fields 431, and the connection ends.
pub async fn serve<S: Service>(
    stream: Stream,
    version: Version,
    draining: &CancellationToken,
    service: Arc<S>,
) -> io::Result<()> {
    match version {
        Version::Http1 => h1::serve(stream, draining, &*service).await,
        Version::Http2 => Box::pin(http2::serve(stream, draining, service)).await.map_err(io::Error::other),
    }
}
