//! The redis role: enough of Redis to keep the sample's ratings, in memory, without an image from elsewhere.
//!
//! It answers GET, SET, PING and COMMAND, so that `redis-cli` can look inside. What the mesh sees is opaque TCP.

pub mod client;
pub mod resp;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::details::PRODUCT;
use crate::ratings;
use crate::server::{self, Identity, Stop};
use resp::Value;

/// Keys that are kept; with [`resp::MAX_BULK`] this bounds the memory at 64 MiB.
const MAX_KEYS: usize = 1000;

/// Options of the redis role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to speak the Redis protocol on.
    #[arg(long, env = "BOOKINFO_REDIS_LISTEN", default_value = "0.0.0.0:6379")]
    pub listen: SocketAddr,
    /// Address to serve /health on, over HTTP.
    #[arg(long, env = "BOOKINFO_LISTEN", default_value = "0.0.0.0:9080")]
    pub health_listen: SocketAddr,
    /// What every serving role shares.
    #[command(flatten)]
    pub common: server::Common,
    /// Version told in the header x-version of /health.
    #[arg(long, env = "BOOKINFO_VERSION", default_value = "v1")]
    pub version: HeaderValue,
}

/// Keys and values, shared by the connections.
#[derive(Clone, Debug)]
pub struct Store {
    values: Arc<Mutex<HashMap<Bytes, Bytes>>>,
}

impl Store {
    /// A store that holds the ratings of the sample's product.
    pub fn seeded() -> Self {
        let ratings = Bytes::from_static(br#"{"Reviewer1":5,"Reviewer2":4}"#);
        let values = HashMap::from([(Bytes::from(ratings::key(PRODUCT)), ratings)]);
        Self { values: Arc::new(Mutex::new(values)) }
    }

    /// Answers one command.
    pub fn answer(&self, command: &Value) -> Value {
        let Value::Array(words) = command else {
            return error("expected a command as an array");
        };
        let mut bulks = Vec::with_capacity(words.len());
        for word in words {
            let Value::Bulk(Some(word)) = word else {
                return error("expected a command of strings");
            };
            bulks.push(word);
        }
        let Some((name, arguments)) = bulks.split_first() else {
            return error("expected a command");
        };
        match (name.to_ascii_uppercase().as_slice(), arguments) {
            (b"PING", []) => Value::Status("PONG".into()),
            (b"PING", [message]) => Value::Bulk(Some((*message).clone())),
            (b"GET", [key]) => Value::Bulk(self.values.lock().get(*key).cloned()),
            (b"SET", [key, value]) => self.set(key, value),
            (b"COMMAND", _) => Value::Array(Vec::new()),
            _ => error("unknown command or wrong number of arguments; this server knows GET, SET and PING"),
        }
    }

    fn set(&self, key: &Bytes, value: &Bytes) -> Value {
        let mut values = self.values.lock();
        if values.len() >= MAX_KEYS && !values.contains_key(key) {
            return Value::Error("OOM this sample keeps no more keys".into());
        }
        values.insert(key.clone(), value.clone());
        Value::Status("OK".into())
    }
}

fn error(text: &str) -> Value {
    Value::Error(format!("ERR {text}"))
}

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let stop = Stop::on_signal(args.common.lameduck)?;
    let data = server::bind(args.listen).await?;
    let health = server::bind(args.health_listen).await?;
    let identity = Identity { role: "redis", version: args.version, pod: args.common.pod };
    tokio::try_join!(server::serve(health, Router::new(), identity, stop.clone()), serve(data, Store::seeded(), stop))?;
    Ok(())
}

/// Speaks the Redis protocol with everyone who connects.
///
/// # Errors
/// See [`server::serve_tcp`].
pub async fn serve(listener: TcpListener, store: Store, stop: Stop) -> Result<()> {
    let closing = stop.clone();
    server::serve_tcp(listener, "redis", stop, move |stream| session(stream, store.clone(), closing.clone())).await
}

async fn session(mut stream: TcpStream, store: Store, stop: Stop) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut output = BytesMut::new();
    loop {
        loop {
            match resp::take(&mut input) {
                Ok(Some(command)) => store.answer(&command).put(&mut output),
                Ok(None) => break,
                Err(malformed) => {
                    error(&format!("Protocol error: {malformed}")).put(&mut output);
                    return stream.write_all(&output).await;
                }
            }
        }
        stream.write_all(&output).await?;
        output.clear();
        tokio::select! {
            read = stream.read_buf(&mut input) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            () = stop.closing() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask<const N: usize>(store: &Store, words: [&'static str; N]) -> Value {
        store.answer(&Value::command(words.map(|word| Bytes::from_static(word.as_bytes()))))
    }

    #[test]
    fn the_store_is_filled_and_can_be_changed() {
        let store = Store::seeded();
        assert_eq!(
            ask(&store, ["get", "ratings:0"]),
            Value::Bulk(Some(Bytes::from_static(br#"{"Reviewer1":5,"Reviewer2":4}"#)))
        );
        assert_eq!(ask(&store, ["GET", "ratings:1"]), Value::Bulk(None));
        assert_eq!(ask(&store, ["SET", "ratings:1", "{}"]), Value::Status("OK".into()));
        assert_eq!(ask(&store, ["GET", "ratings:1"]), Value::Bulk(Some(Bytes::from_static(b"{}"))));
        assert_eq!(ask(&store, ["PING"]), Value::Status("PONG".into()));
        assert!(matches!(ask(&store, ["FLUSHALL"]), Value::Error(_)));
    }

    #[test]
    fn the_store_is_bounded() {
        let store = Store::seeded();
        for i in 0..MAX_KEYS {
            store.set(&Bytes::from(format!("k{i}")), &Bytes::new());
        }
        assert!(matches!(ask(&store, ["SET", "one-more", ""]), Value::Error(_)));
        assert_eq!(ask(&store, ["SET", "k1", "still"]), Value::Status("OK".into()));
    }
}
