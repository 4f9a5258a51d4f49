//! Buffers of a thread, so that no connection holds one while it rests.
//!
//! [`read`] reads into the thread's buffer and hands out what came as a part of it: nothing is copied, and as soon as that part is dropped
//! its place is used again. Whoever keeps bytes for long keeps a copy of their own size ([`settle`]).

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    thread::LocalKey,
};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// What one read takes at most. Large reads make bulk transfers cheaper by a fifth compared with 4 KiB; as there is one such buffer per
/// thread, its size costs nothing per connection. Bodies are powers of two: one of 64 KiB comes in one read together with its head and with
/// what TLS adds.
pub(crate) const READ: usize = 72 * 1024;

/// Less room than this is not worth a system call while the rest of the buffer is in use.
const WORTH: usize = 16 * 1024;

/// What is kept as a part of the thread's buffer: more would cost more to copy than the buffer that it holds.
const KEPT: usize = 16 * 1024;

/// Buffers for writing that a thread keeps for the next message.
const SPARE: usize = 4;

thread_local! {
    static PLAIN: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static SEALED: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static WRITE_FROM: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Reads once. Nothing: the stream ended.
pub(crate) fn read<R: AsyncRead + ?Sized>(from: Pin<&mut R>, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
    read_into(&PLAIN, from, cx)
}

/// The same for what TLS will open, while somebody is in [`read`].
pub(super) fn read_sealed<R: AsyncRead + ?Sized>(
    from: Pin<&mut R>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<BytesMut>> {
    read_into(&SEALED, from, cx)
}

fn read_into<R: AsyncRead + ?Sized>(
    place: &'static LocalKey<RefCell<BytesMut>>,
    from: Pin<&mut R>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<BytesMut>> {
    let mut buffer = place.take();
    if !buffer.try_reclaim(READ) && buffer.capacity() < WORTH {
        buffer.reserve(READ);
    }
    let read = poll_read_buf(from, cx, &mut buffer);
    let piece = buffer.split();
    place.set(buffer);
    ready!(read)?;
    Poll::Ready(Ok(piece))
}

/// Gives what waits for long a place of its own.
pub(crate) fn settle(bytes: &mut BytesMut) {
    if bytes.is_empty() {
        *bytes = BytesMut::new();
    } else if bytes.len() < KEPT {
        *bytes = BytesMut::from(&bytes[..]);
    }
}

/// An empty buffer to gather a message in.
pub(crate) fn take() -> Vec<u8> {
    WRITE_FROM.with_borrow_mut(|spare| spare.pop().unwrap_or_default())
}

/// It was written.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if (1..=READ).contains(&buffer.capacity()) {
        buffer.clear();
        WRITE_FROM.with_borrow_mut(|spare| {
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        });
    }
}
