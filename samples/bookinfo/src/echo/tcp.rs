//! Raw TCP of the echo role: one port that speaks first, as mail and database servers do, and one that only answers.

use std::io;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{self, Stop};

/// Longest line of the greeter port.
const MAX_LINE: u64 = 64 * 1024;

/// How the greeting begins; the pod's name follows.
pub const GREETING: &str = "220 welcome to";

/// Serves the port where the server speaks first.
///
/// # Errors
/// See [`server::serve_tcp`].
pub async fn serve_greeter(listener: TcpListener, pod: String, stop: Stop) -> Result<()> {
    let closing = stop.clone();
    server::serve_tcp(listener, "echo, server first", stop, move |stream| {
        greet(stream, format!("{GREETING} {pod}\r\n"), closing.clone())
    })
    .await
}

/// Serves the port where the client speaks first.
///
/// # Errors
/// See [`server::serve_tcp`].
pub async fn serve_plain(listener: TcpListener, stop: Stop) -> Result<()> {
    let closing = stop.clone();
    server::serve_tcp(listener, "echo, client first", stop, move |stream| repeat(stream, closing.clone())).await
}

async fn greet(mut stream: TcpStream, greeting: String, stop: Stop) -> io::Result<()> {
    stream.write_all(greeting.as_bytes()).await?;
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut read).take(MAX_LINE);
        let count = tokio::select! {
            count = bounded.read_until(b'\n', &mut line) => count?,
            () = stop.closing() => return Ok(()),
        };
        if count == 0 {
            return Ok(());
        }
        write.write_all(&line).await?;
    }
}

async fn repeat(mut stream: TcpStream, stop: Stop) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = tokio::select! {
            count = stream.read(&mut buffer) => count?,
            () = stop.closing() => return Ok(()),
        };
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}
