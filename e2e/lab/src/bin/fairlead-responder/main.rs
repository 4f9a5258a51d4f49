//! Answers `/1k` and `/64k` with bodies of that length: HTTP/1.1 on port 8080, HTTP/2 with prior knowledge on 8081, where a gRPC call gets a
//! message of 1 KiB and trailers; on 9000 again HTTP/1.1, for a proxy that is told that it is opaque.
//!
//! One thread: it must cost little beside what is measured, not scale. It trusts its callers, which are load generators.

mod http1;
mod http2;

use std::io;

use tokio::net::{TcpListener, TcpStream};

/// Connections that may wait to be accepted; scenarios open some hundred at once.
const BACKLOG: u32 = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let (one, two, opaque) = (bind(8080)?, bind(8081)?, bind(9000)?);
    loop {
        tokio::select! {
            accepted = one.accept() => start(accepted, http1::serve),
            accepted = two.accept() => start(accepted, http2::serve),
            accepted = opaque.accept() => start(accepted, http1::serve),
        }
    }
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([0, 0, 0, 0], port).into())?;
    socket.listen(BACKLOG)
}

fn start<F>(accepted: io::Result<(TcpStream, std::net::SocketAddr)>, serve: impl FnOnce(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    if let Ok((stream, _)) = accepted {
        // Without it an answer is late, not wrong.
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream));
    }
}
