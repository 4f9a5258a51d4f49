//! Bodies in chunks.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Refusal::{self, Malformed};

/// Bytes of extensions and trailers in one body at most. Extensions say nothing to anybody, trailers are a few sums and states.
const MAX_EXTRA: usize = 16 * 1024;

/// Lines of trailers at most.
const MAX_TRAILERS: usize = 64;

/// What comes next in a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// Nothing yet: more bytes are needed.
    More,
    /// So many bytes of data begin here.
    Data(usize),
    /// The body ended, with these trailers.
    End(Option<HeaderMap>),
}

/// Where in a chunked body the bytes are.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    extra: usize,
    trailers: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// In a size of so many digits.
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    /// Before the line feed behind a size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataEnd,
    /// In the section behind the last chunk.
    Trailers,
    #[default]
    Begin,
    Done,
}

impl Chunked {
    /// Looks at `bytes`, of which the first ones (as many as the number says) are thereby dealt with; what [`Item::Data`] names comes behind them
    /// and counts as taken as well.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, Item), Refusal> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match &mut self.state {
                State::Begin => self.state = State::Size { size: 0, digits: 0 },
                State::Size { size, digits } => {
                    if let Some(digit) = char::from(byte).to_digit(16) {
                        if *digits == 15 {
                            return Err(Malformed("a chunk's size is too large"));
                        }
                        *size = *size * 16 + u64::from(digit);
                        *digits += 1;
                    } else {
                        let size = *size;
                        self.state = match byte {
                            _ if *digits == 0 => return Err(Malformed("a chunk without a size")),
                            b'\r' => State::SizeEnd { size },
                            b';' => State::Extension { size },
                            _ => return Err(Malformed("a chunk's size is not a number")),
                        };
                    }
                    at += 1;
                }
                State::Extension { size } => {
                    let size = *size;
                    self.extra += 1;
                    if self.extra > MAX_EXTRA {
                        return Err(Malformed("too many chunk extensions"));
                    }
                    match byte {
                        b'\r' => self.state = State::SizeEnd { size },
                        b'\t' | b' '..=b'~' | 0x80.. => {}
                        _ => return Err(Malformed("a chunk extension is malformed")),
                    }
                    at += 1;
                }
                State::SizeEnd { size } => {
                    if byte != b'\n' {
                        return Err(Malformed("a carriage return alone behind a chunk's size"));
                    }
                    self.state = if *size == 0 { State::Trailers } else { State::Data { left: *size } };
                    at += 1;
                }
                State::Data { left } => {
                    let here = (*left).min((bytes.len() - at) as u64);
                    *left -= here;
                    if *left == 0 {
                        self.state = State::DataReturn;
                    }
                    return Ok((at, Item::Data(here as usize)));
                }
                State::DataReturn | State::DataEnd => {
                    let (expected, next) = match self.state {
                        State::DataReturn => (b'\r', State::DataEnd),
                        _ => (b'\n', State::Begin),
                    };
                    if byte != expected {
                        return Err(Malformed("a chunk is longer than it says"));
                    }
                    self.state = next;
                    at += 1;
                }
                State::Trailers => {
                    at += 1;
                    self.trailers.push(byte);
                    if self.trailers.len() + self.extra > MAX_EXTRA {
                        return Err(Refusal::HeadTooLarge);
                    }
                    if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                        let section = std::mem::take(&mut self.trailers);
                        self.state = State::Done;
                        return Ok((at, Item::End(trailers(&section)?)));
                    }
                }
                State::Done => break,
            }
        }
        Ok((at, if self.state == State::Done { Item::End(None) } else { Item::More }))
    }

    /// Whether the last byte was seen.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }
}

/// The trailer section with the empty line behind it.
fn trailers(section: &[u8]) -> Result<Option<HeaderMap>, Refusal> {
    if section == b"\r\n" {
        return Ok(None);
    }
    let mut space = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(httparse::Status::Complete((_, lines))) = httparse::parse_headers(section, &mut space) else {
        return Err(Malformed("the trailers are malformed"));
    };
    // The parser takes a line feed alone for a line end; others do not.
    if section.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || section[at - 1] != b'\r')) {
        return Err(Malformed("a trailer that ends without a carriage return"));
    }
    let mut map = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(line.name.as_bytes()), HeaderValue::from_bytes(line.value))
        else {
            return Err(Malformed("the trailers are malformed"));
        };
        if FORBIDDEN.contains(&name) {
            return Err(Malformed("a trailer that belongs into the head"));
        }
        map.append(name, value);
    }
    Ok(Some(map))
}

/// Framing, routing and what concerns one connection: whoever merges trailers into the head must not find these (RFC 9110 section 6.5.1).
const FORBIDDEN: [HeaderName; 9] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::AUTHORIZATION,
    crate::http::MARK,
];
