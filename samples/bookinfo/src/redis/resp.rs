//! The Redis protocol, version 2: values to bytes and back. Pure; the connections are in the modules beside.

use bytes::{Buf, Bytes, BytesMut};

/// Longest value that is read. A peer that announces more is not one of the sample's.
pub const MAX_BULK: usize = 64 * 1024;
/// Most entries that an array may announce.
const MAX_ENTRIES: usize = 16;
/// Longest line: a status, an error, a number.
const MAX_LINE: usize = 1024;
/// Arrays within arrays. A command has one level, an answer of the sample none.
const MAX_DEPTH: u8 = 2;

/// One value of the protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// `+OK`
    Status(String),
    /// `-ERR reason`
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3 foo`; `None` is the null answer.
    Bulk(Option<Bytes>),
    /// `*2 …`
    Array(Vec<Value>),
}

/// Bytes that are not the protocol, or more than this side takes.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the Redis protocol: {0}")]
pub struct Malformed(&'static str);

/// Takes one value from the front of `input`. `None`: more bytes are needed, and none were taken.
///
/// # Errors
/// Bytes that no further input can turn into a value; the connection is then of no use.
pub fn take(input: &mut BytesMut) -> Result<Option<Value>, Malformed> {
    let mut cursor = Cursor { rest: input };
    let Some(value) = cursor.value(0)? else {
        return Ok(None);
    };
    let used = input.len() - cursor.rest.len();
    input.advance(used);
    Ok(Some(value))
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn value(&mut self, depth: u8) -> Result<Option<Value>, Malformed> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let (kind, line) = line.split_first().ok_or(Malformed("an empty line"))?;
        let text = || String::from_utf8_lossy(line).into_owned();
        match kind {
            b'+' => Ok(Some(Value::Status(text()))),
            b'-' => Ok(Some(Value::Error(text()))),
            b':' => Ok(Some(Value::Integer(number(line)?))),
            b'$' => match number(line)? {
                -1 => Ok(Some(Value::Bulk(None))),
                length => Ok(self.bulk(within(length, MAX_BULK)?)?.map(|bytes| Value::Bulk(Some(bytes)))),
            },
            b'*' => {
                if depth >= MAX_DEPTH {
                    return Err(Malformed("arrays nested too deeply"));
                }
                let count = within(number(line)?, MAX_ENTRIES)?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    let Some(entry) = self.value(depth + 1)? else {
                        return Ok(None);
                    };
                    entries.push(entry);
                }
                Ok(Some(Value::Array(entries)))
            }
            _ => Err(Malformed("an unknown kind of value")),
        }
    }

    fn line(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let window = &self.rest[..self.rest.len().min(MAX_LINE)];
        match window.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => {
                let line = &self.rest[..end];
                self.rest = &self.rest[end + 2..];
                Ok(Some(line))
            }
            None if window.len() == MAX_LINE => Err(Malformed("a line without end")),
            None => Ok(None),
        }
    }

    fn bulk(&mut self, length: usize) -> Result<Option<Bytes>, Malformed> {
        if self.rest.len() < length + 2 {
            return Ok(None);
        }
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest.strip_prefix(b"\r\n").ok_or(Malformed("a value longer than announced"))?;
        Ok(Some(Bytes::copy_from_slice(bytes)))
    }
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(Malformed("a number was expected"))
}

fn within(number: i64, most: usize) -> Result<usize, Malformed> {
    usize::try_from(number).ok().filter(|n| *n <= most).ok_or(Malformed("a length out of bounds"))
}

impl Value {
    /// A command, such as `GET key`.
    pub fn command<const N: usize>(words: [Bytes; N]) -> Self {
        Self::Array(words.into_iter().map(|word| Self::Bulk(Some(word))).collect())
    }

    /// Appends the bytes of the value.
    pub fn put(&self, output: &mut BytesMut) {
        match self {
            Self::Status(text) => put_line(output, b'+', text.as_bytes()),
            Self::Error(text) => put_line(output, b'-', text.as_bytes()),
            Self::Integer(number) => put_line(output, b':', number.to_string().as_bytes()),
            Self::Bulk(None) => put_line(output, b'$', b"-1"),
            Self::Bulk(Some(bytes)) => {
                put_line(output, b'$', bytes.len().to_string().as_bytes());
                output.extend_from_slice(bytes);
                output.extend_from_slice(b"\r\n");
            }
            Self::Array(entries) => {
                put_line(output, b'*', entries.len().to_string().as_bytes());
                for entry in entries {
                    entry.put(output);
                }
            }
        }
    }
}

fn put_line(output: &mut BytesMut, kind: u8, line: &[u8]) {
    output.extend_from_slice(&[kind]);
    // A line break inside would start a value of its own.
    output.extend(line.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<Value>, Malformed> {
        take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn values_survive_the_round_trip_however_they_are_cut() {
        let values = [
            Value::Status("OK".into()),
            Value::Error("ERR no".into()),
            Value::Integer(-7),
            Value::Bulk(None),
            Value::Bulk(Some(Bytes::from_static(b"a\r\nb"))),
            Value::command([Bytes::from_static(b"GET"), Bytes::from_static(b"")]),
        ];
        let mut wire = BytesMut::new();
        for value in &values {
            value.put(&mut wire);
        }
        let mut input = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            input.extend_from_slice(&[byte]);
            while let Some(value) = take(&mut input).unwrap() {
                seen.push(value);
            }
        }
        assert_eq!(seen, values);
        assert!(input.is_empty());
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$1\r\nabc\r\n",
            b":\r\n",
            b"*1\r\n*1\r\n*1\r\n",
        ] {
            assert!(parse(bad).is_err(), "{:?} was accepted", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_read() {
        assert!(parse(b"$65537\r\n").is_err());
        assert!(parse(b"*17\r\n").is_err());
        assert!(parse(&[b'+'; MAX_LINE]).is_err());
    }

    #[test]
    fn a_line_break_cannot_smuggle_a_value() {
        let mut wire = BytesMut::new();
        Value::Error("ERR unknown\r\n+OK".into()).put(&mut wire);
        assert_eq!(&wire[..], b"-ERR unknown  +OK\r\n");
    }
}
