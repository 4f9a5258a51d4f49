//! A small HTTP/1 server for the proxy's own ports. One request per connection, a bounded number of connections per caller and in all,
//! a bounded time for each.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// What is answered; all answers are short enough to be held whole.
pub type Answer = Response<Full<Bytes>>;

/// A kubelet probes a dozen containers at most; what is beyond is somebody who wants to keep it from doing so.
const MAX_PER_CALLER: usize = 64;
/// Over all callers.
const MAX_CONNECTIONS: usize = 1024;
/// For the request to be read.
const HEAD: Duration = Duration::from_secs(5);
/// The proxy's ports take no uploads and no long headers.
const MAX_HEAD: usize = 16 * 1024;
/// After an accept that failed for want of file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A line of text.
pub fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    let mut body: String = body.into();
    body.push('\n');
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let content_type = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer
}

/// Connections per caller.
#[derive(Debug, Default)]
struct Callers(Mutex<HashMap<IpAddr, usize>>);

/// One of them; counted until dropped.
struct Counted(Arc<Callers>, IpAddr);

impl Callers {
    /// `None`: this caller, or everybody together, has too many.
    fn admit(self: &Arc<Self>, caller: IpAddr) -> Option<Counted> {
        let mut callers = self.0.lock();
        let total: usize = callers.values().sum();
        let own = callers.entry(caller).or_default();
        if *own >= MAX_PER_CALLER || total >= MAX_CONNECTIONS {
            if *own == 0 {
                callers.remove(&caller);
            }
            return None;
        }
        *own += 1;
        Some(Counted(self.clone(), caller))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut callers = self.0.0.lock();
        if let Some(own) = callers.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                callers.remove(&self.1);
            }
        }
    }
}

/// Answers what comes to `listener` with `handler`, for ever. A connection lasts at most `limit` after its request was read.
pub async fn serve<H, F>(listener: TcpListener, limit: Duration, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let callers = Arc::new(Callers::default());
    loop {
        let (stream, caller) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "cannot accept on the proxy's own port for now");
                    tokio::time::sleep(EXHAUSTED).await;
                }
                continue;
            }
        };
        let Some(counted) = callers.admit(canonical(caller)) else {
            continue;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let _counted = counted;
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(MAX_HEAD)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Errors are the caller's: nothing here depends on them.
            let _ = tokio::time::timeout(HEAD + limit, connection).await;
        });
    }
}

fn canonical(caller: SocketAddr) -> IpAddr {
    caller.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_take_all_connections() {
        let callers = Arc::new(Callers::default());
        let (kubelet, noisy) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..MAX_PER_CALLER).map(|_| callers.admit(noisy).unwrap()).collect();
        assert!(callers.admit(noisy).is_none());
        assert!(callers.admit(kubelet).is_some());
        held.pop();
        assert!(callers.admit(noisy).is_some());
        drop(held);
        assert!(callers.0.lock().is_empty(), "who is gone is forgotten");
    }

    #[test]
    fn all_callers_together_are_bounded() {
        let callers = Arc::new(Callers::default());
        let held: Vec<_> =
            (0..2 * MAX_CONNECTIONS as u32).filter_map(|n| callers.admit(IpAddr::from(n.to_be_bytes()))).collect();
        assert_eq!(held.len(), MAX_CONNECTIONS);
        assert_eq!(callers.0.lock().len(), MAX_CONNECTIONS);
    }
}
