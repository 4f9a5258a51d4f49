//! A pooled client for the two commands that ratings needs.
//!
//! A pooled connection may have died since its last use, so a command that fails on one is sent once more on a fresh
//! connection: both commands may safely run twice.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::resp::{self, Value};

/// Connections in use at once; further requests wait for one.
const CONNECTIONS: usize = 8;
/// Time for a command with connecting and waiting for a connection. Less than what a caller of ratings waits.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A client. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    input: BytesMut,
}

/// Why a command brought no result. Each names the address.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// No connection, or it broke.
    #[error("Redis at {address} cannot be reached: {cause}")]
    Connection {
        /// What was dialled.
        address: String,
        /// The system's error.
        cause: io::Error,
    },
    /// No answer in time.
    #[error("Redis at {address} did not answer within {TIMEOUT:?}")]
    Late {
        /// What was dialled.
        address: String,
    },
    /// An answer, but not one to this command.
    #[error("Redis at {address} answered {answer:?}")]
    Unexpected {
        /// What was dialled.
        address: String,
        /// The answer.
        answer: Value,
    },
}

impl Redis {
    /// A client of the server at `host:port`. Connects when first used.
    pub fn new(address: String) -> Self {
        let permits = Semaphore::new(CONNECTIONS);
        Self { shared: Arc::new(Shared { address, permits, idle: Mutex::default() }) }
    }

    /// The value of a key, `None` if it has none.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, RedisError> {
        match self
            .command(&Value::command([Bytes::from_static(b"GET"), Bytes::copy_from_slice(key.as_bytes())]))
            .await?
        {
            Value::Bulk(value) => Ok(value),
            answer => Err(self.unexpected(answer)),
        }
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub async fn set(&self, key: &str, value: Bytes) -> Result<(), RedisError> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        match self.command(&Value::command([Bytes::from_static(b"SET"), key, value])).await? {
            Value::Status(_) => Ok(()),
            answer => Err(self.unexpected(answer)),
        }
    }

    async fn command(&self, command: &Value) -> Result<Value, RedisError> {
        let address = || self.shared.address.clone();
        tokio::time::timeout(TIMEOUT, self.on_some_connection(command))
            .await
            .map_err(|_| RedisError::Late { address: address() })?
            .map_err(|cause| RedisError::Connection { address: address(), cause })
    }

    async fn on_some_connection(&self, command: &Value) -> io::Result<Value> {
        // The semaphore is never closed.
        let _permit = self.shared.permits.acquire().await.map_err(io::Error::other)?;
        let pooled = self.shared.idle.lock().pop();
        if let Some(connection) = pooled
            && let Ok(answer) = self.exchange(connection, command).await
        {
            return Ok(answer);
        }
        let stream = TcpStream::connect(&self.shared.address).await?;
        stream.set_nodelay(true)?;
        self.exchange(Connection { stream, input: BytesMut::new() }, command).await
    }

    /// Sends and receives; the connection returns to the pool only if both went well.
    async fn exchange(&self, mut connection: Connection, command: &Value) -> io::Result<Value> {
        let mut output = BytesMut::new();
        command.put(&mut output);
        connection.stream.write_all(&output).await?;
        loop {
            match resp::take(&mut connection.input) {
                Ok(Some(answer)) => {
                    self.shared.idle.lock().push(connection);
                    return Ok(answer);
                }
                Ok(None) => {}
                Err(malformed) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, malformed));
                }
            }
            if connection.stream.read_buf(&mut connection.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn unexpected(&self, answer: Value) -> RedisError {
        RedisError::Unexpected { address: self.shared.address.clone(), answer }
    }
}
