//! Just as much of HTTP/1.1 as load generators and proxies need of a server that gets requests without bodies.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The head of a request is a few hundred bytes; a connection that sends more without an end is closed.
const BUFFER: usize = 16 * 1024;
/// For the caller to close after it was told that the connection ends: who closes first remembers the connection for a minute.
const LINGER: Duration = Duration::from_secs(1);

static SMALL: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| answers(1024));
static LARGE: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| answers(64 * 1024));

/// One after which the connection goes on, and one with which it ends.
fn answers(length: usize) -> [Vec<u8>; 2] {
    ["", "Connection: close\r\n"].map(|connection| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length:";
        let mut answer = format!("{head} {length}\r\n{connection}\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        answer
    })
}

/// Answers until the caller closes, or asked for the end of the connection.
pub(crate) async fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    while let Ok(1..) = stream.read(&mut buffer[filled..]).await.inspect(|length| filled += length) {
        let mut begin = 0;
        while let Some(length) = end_of_head(&buffer[begin..filled]) {
            let head = &buffer[begin..begin + length];
            begin += length;
            let answers = if head.starts_with(b"GET /64k") { &LARGE } else { &SMALL };
            let last = asks_to_close(head);
            if stream.write_all(&answers[usize::from(last)]).await.is_err() {
                return;
            }
            if last {
                let _ = stream.shutdown().await;
                let _ = tokio::time::timeout(LINGER, stream.read(&mut buffer)).await;
                return;
            }
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
        if filled == buffer.len() {
            return;
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn asks_to_close(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').any(|line| line.trim_ascii().eq_ignore_ascii_case(b"connection: close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_told_apart_and_ends_are_seen() {
        let two = b"GET /1k HTTP/1.1\r\nHost: a\r\n\r\nGET /64k HTTP/1.1\r\nconnection: Close\r\n\r\n";
        let first = end_of_head(two).unwrap();
        assert!(two[first..].starts_with(b"GET /64k"));
        assert!(!asks_to_close(&two[..first]) && asks_to_close(&two[first..]));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n"), None);
    }

    #[tokio::test]
    async fn pipelined_requests_are_answered_in_order() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(serve(listener.accept().await.unwrap().0));
        client.write_all(b"GET /64k HTTP/1.1\r\n\r\nGET /1k HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [&LARGE[0][..], &SMALL[1]].concat());
    }
}
