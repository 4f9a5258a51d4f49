//! HTTP/2 by hand: frames that no library would send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::support::*;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// GET `http://server/attack`, as HPACK writes it with its static table.
pub const GET: &[u8] = b"\x82\x86\x04\x07/attack\x01\x06server";

/// POST, the rest the same.
pub const POST: &[u8] = b"\x83\x86\x04\x07/attack\x01\x06server";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The stream number of the n-th request.
pub fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// A connection that has said who it is, with these settings.
pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> TcpStream {
    let mut connection = connect(address).await;
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()).collect();
    hello.extend(frame(SETTINGS, 0, 0, &settings));
    connection.write_all(&hello).await.unwrap();
    connection
}

/// How a flood ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The proxy closed the connection.
    Closed,
    /// It reads no more.
    Stalled,
    /// All of it was sent.
    Sent,
}

/// When a proxy that takes nothing has stopped to read.
const STALL: Duration = Duration::from_secs(2);

/// Writes `pieces` and never reads.
pub async fn flood(connection: &mut TcpStream, pieces: impl Iterator<Item = Vec<u8>>) -> End {
    // A flood that still gets through by then was not stopped.
    let until = Instant::now() + SOON / 2;
    for piece in pieces {
        match timeout_at(until.min(Instant::now() + STALL), connection.write_all(&piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Closed,
            Err(_) => return End::Stalled,
        }
    }
    End::Sent
}

/// The frames that still come until the proxy closes the connection: kind, stream and payload. Fails if it does not.
pub async fn until_closed(mut connection: TcpStream) -> Vec<(u8, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let until = Instant::now() + SOON;
    // A reset is an end as well.
    let _ = timeout_at(until, connection.read_to_end(&mut bytes)).await.expect("the connection ends");
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, s0, s1, s2, s3, tail @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((payload, tail)) = tail.split_at_checked(length) else { break };
        frames.push((*kind, u32::from_be_bytes([*s0, *s1, *s2, *s3]), payload.to_vec()));
        rest = tail;
    }
    frames
}
