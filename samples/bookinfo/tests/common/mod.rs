//! Starts roles on loopback and asks them.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of this")]

use std::net::SocketAddr;

use axum::Router;
use bytes::Bytes;
use fairlead_bookinfo::fault::Fault;
use fairlead_bookinfo::redis::client::Redis;
use fairlead_bookinfo::redis::{self, Store};
use fairlead_bookinfo::reviews::{self, Version};
use fairlead_bookinfo::server::{self, Identity, Stop};
use fairlead_bookinfo::{productpage, ratings};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_fairlead-bookinfo");

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves routes as the role and version given, until the test ends.
pub async fn serve(role: &'static str, version: &'static str, routes: Router) -> Uri {
    let (listener, address) = listener().await;
    let identity = Identity {
        role,
        version: HeaderValue::from_static(version),
        pod: HeaderValue::try_from(format!("{role}-{version}-pod")).unwrap(),
    };
    tokio::spawn(server::serve(listener, routes, identity, Stop::default()));
    format!("http://{address}").parse().unwrap()
}

/// Serves Redis until the stop is complete.
pub fn serve_redis(listener: TcpListener, stop: Stop) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { redis::serve(listener, Store::seeded(), stop).await.unwrap() })
}

pub async fn ratings(redis: SocketAddr) -> Uri {
    serve("ratings", "v1", ratings::routes(Redis::new(redis.to_string()))).await
}

pub async fn reviews(version: Version, ratings: &Uri, fault: Fault) -> Uri {
    let service = reviews::Service::new(version, &format!("reviews-{}-pod", version.name()), ratings.clone(), fault);
    serve("reviews", version.name(), reviews::routes(service)).await
}

pub async fn productpage(details: &Uri, reviews: &Uri) -> Uri {
    let service = productpage::Service {
        identity: Identity {
            role: "productpage",
            version: HeaderValue::from_static("v1"),
            pod: HeaderValue::from_static("productpage-pod"),
        },
        details_url: details.clone(),
        reviews_url: reviews.clone(),
        client: fairlead_bookinfo::client::Client::new(),
    };
    serve("productpage", "v1", productpage::routes(service)).await
}

/// An address that nobody listens on.
pub async fn nobody() -> Uri {
    let (_closed, address) = listener().await;
    format!("http://{address}").parse().unwrap()
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub async fn ask(method: Method, base: &Uri, path: &str, headers: &[(&'static str, &str)], body: &str) -> Answer {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = method;
    *request.uri_mut() = format!("{}{path}", base.to_string().trim_end_matches('/')).parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: head.status, headers: head.headers, text }
}

pub async fn get(base: &Uri, path: &str) -> Answer {
    ask(Method::GET, base, path, &[], "").await
}
