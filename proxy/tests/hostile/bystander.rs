//! Somebody who means well, while others do not.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use fairlead_proxy::http::patience::Waits;
use fairlead_proxy_api::v1;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, timeout};

use crate::support::*;

/// How long a modest request may take while an attack goes on; on a busy machine, in a build without optimisation.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an attack may cost while it goes on, together with the tests that run beside it. What floods offer is more, mostly several times.
const MEMORY: usize = 256 << 20;

/// An application behind two proxies, one of which takes plain callers.
pub struct Path {
    app: Target,
    pub client: Sidecar,
    pub server: Sidecar,
}

impl Path {
    pub fn to(app: Target) -> Self {
        Self::waiting(app, Waits::default(), |_| {})
    }

    /// One whose proxies wait for so long for their callers; `change` is made to the Service.
    pub fn waiting(app: Target, waits: Waits, change: impl FnOnce(&mut v1::Service)) -> Self {
        let authority = Authority::new();
        let application = app.app.address;
        let server = Pod { application, waits, ..Pod::new(authority.identity("server")) }.start();
        let mut service = service(vec![vec![endpoint(server.inbound, "server")]]);
        change(&mut service);
        let service = Some(v1::destination::Kind::Service(service));
        let client = Pod { service, waits, ..Pod::new(authority.identity("client")) }.start();
        Self { app, client, server }
    }

    /// Requests that were not the modest client's and reached the application.
    pub fn attacked(&self) -> usize {
        self.app.attacked.load(Relaxed)
    }

    /// Of the application.
    pub fn port(&self) -> u16 {
        self.app.app.address.port()
    }

    /// Where hostile clients knock.
    pub fn doors(&self) -> [(&'static str, SocketAddr); 2] {
        [("outbound", self.client.outbound), ("inbound", self.server.inbound)]
    }

    /// Runs an attack while a modest client asks for `/modest` again and again; it must be answered by the application each time, before
    /// and after as well.
    pub async fn survives<T>(&self, attack: impl Future<Output = T>) -> T {
        self.modest().await;
        let before = resident();
        tokio::pin!(attack);
        let mut most = before;
        let result = loop {
            tokio::select! {
                biased;
                result = &mut attack => break result,
                () = self.modest() => most = most.max(resident()),
            }
        };
        most = most.max(resident());
        self.modest().await;
        assert!(most - before.min(most) < MEMORY, "{} MiB more than before", (most - before) >> 20);
        result
    }

    async fn modest(&self) {
        let began = Instant::now();
        let answer = timeout(PATIENCE, get(self.client.outbound, "/modest", "")).await;
        let answer = answer.unwrap_or_else(|_| panic!("not answered after {:?}", began.elapsed()));
        assert_eq!(status(&answer), 200, "{answer}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the application does with requests other than `/modest`.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// It answers two bytes.
    Short,
    /// It answers 8 MB.
    Large,
    /// It thinks about it.
    Never,
}

/// An application, and how often it was asked for something else than `/modest`.
pub struct Target {
    app: App,
    attacked: Arc<AtomicUsize>,
}

impl From<App> for Target {
    /// One that counts nothing.
    fn from(app: App) -> Self {
        Self { app, attacked: Arc::default() }
    }
}

/// An application that speaks HTTP/1 and HTTP/2, and answers `/modest` with two bytes.
pub async fn app(answer: Answer) -> Target {
    let attacked = Arc::new(AtomicUsize::new(0));
    let count = attacked.clone();
    let app = App::start(move |stream| {
        let count = count.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let count = count.clone();
            async move {
                let answer = if request.uri().path() == "/modest" {
                    Answer::Short
                } else {
                    count.fetch_add(1, Relaxed);
                    answer
                };
                let body = match answer {
                    Answer::Short => Full::from("ok").boxed(),
                    Answer::Large => {
                        let piece = Bytes::from(vec![b'x'; 64 << 10]);
                        let pieces = std::iter::repeat_n(piece, 128).map(|piece| Ok(Frame::data(piece)));
                        StreamBody::new(futures::stream::iter(pieces)).boxed()
                    }
                    Answer::Never => std::future::pending().await,
                };
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        async move {
            let mut first = [0; 3];
            let http2 = stream.peek(&mut first).await.is_ok_and(|n| first[..n] == *b"PRI");
            let io = TokioIo::new(stream);
            if http2 {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, service).await;
            }
        }
    })
    .await;
    Target { app, attacked }
}

/// Resident bytes of this process: the proxies, and the tests themselves.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
