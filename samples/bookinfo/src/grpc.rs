//! The framing of gRPC, used by the echo role and by `call grpc`. Messages are opaque bytes, so no code is generated.
//!
//! A message is a byte of flags, a length of four bytes, and the message; the status comes in trailers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest message, gRPC's own default.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The content type of every request and answer.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Trailer with the numeric status.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Trailer with a sentence for people.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Path of the method that echoes a stream, message by message.
pub const ECHO_STREAM: &str = "/fairlead.bookinfo.v1.Echo/Stream";

/// The statuses that this crate uses, by the numbers of the gRPC specification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// A message over [`MAX_MESSAGE`].
    ResourceExhausted = 8,
    /// A method, or a compression, that is not there.
    Unimplemented = 12,
    /// A stream that breaks the framing.
    Internal = 13,
}

/// Trailers that end a stream.
pub fn trailers(code: Code, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(code as u16));
    if !message.is_empty() {
        trailers.insert(MESSAGE, HeaderValue::from_static(message));
    }
    trailers
}

/// Puts a message into its frame.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// Finds messages in a stream of bytes that is cut anywhere.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The status and sentence to end the stream with.
    pub fn take(&mut self) -> Result<Option<Bytes>, (Code, &'static str)> {
        let Some((head, rest)) = self.buffer.split_at_checked(5) else {
            return Ok(None);
        };
        if head[0] != 0 {
            return Err((Code::Unimplemented, "compressed messages are not understood"));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_MESSAGE {
            return Err((Code::ResourceExhausted, "a message may have 4 MiB at most"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether the stream may end here.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        let mut wire = frame(b"one").to_vec();
        wire.extend_from_slice(&frame(b""));
        wire.extend_from_slice(&frame(b"three"));
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in wire {
            decoder.push(&[byte]);
            while let Some(message) = decoder.take().unwrap() {
                seen.push(message);
            }
        }
        assert_eq!(seen, [&b"one"[..], b"", b"three"]);
        assert!(decoder.is_empty());
    }

    #[test]
    fn compressed_and_oversized_messages_are_refused_by_their_head() {
        let refusal = |head: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(head);
            decoder.take().unwrap_err().0
        };
        assert_eq!(refusal(&[1, 0, 0, 0, 1]), Code::Unimplemented);
        assert_eq!(refusal(&[0, 0, 0x40, 0, 1]), Code::ResourceExhausted);
    }

    #[test]
    fn trailers_carry_the_number() {
        let trailers = trailers(Code::Internal, "why");
        assert_eq!((&trailers[STATUS], &trailers[MESSAGE]), (&"13".parse().unwrap(), &"why".parse().unwrap()));
    }
}
