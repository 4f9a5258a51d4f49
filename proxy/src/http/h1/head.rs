//! Heads of HTTP/1 messages.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri, header, uri::PathAndQuery};
use httparse::Status;

use super::{Framing, decimal};
use crate::http::{
    MAX_HEAD,
    fields::{Fields, Line, Lines, Span},
    message::Head,
};

/// Lines of a head at most.
const MAX_LINES: usize = 100;

/// Names that `Connection` may list. Honest messages list one or two.
const MAX_OPTIONS: usize = 16;

/// What `Connection` may not take away: without these the message would mean something else.
const PROTECTED: [&str; 4] = ["host", "content-length", "content-type", "te"];

/// Why a message is not looked at any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It breaks the rules of its protocol; says which.
    Malformed(&'static str),
    /// Its head has too many lines, or too long ones.
    HeadTooLarge,
    /// Its target alone is too long.
    TargetTooLong,
}

use Refusal::Malformed;

/// A request's head.
#[derive(Debug)]
pub struct Parsed {
    /// What is sent on.
    pub head: Head,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the client wants to go on with the connection.
    pub keep_alive: bool,
    /// Whether the client speaks 1.0 and so knows no chunks and no interim answers.
    pub old: bool,
    /// Whether the client may wait for a 100 before it sends the body.
    pub expects: bool,
    /// Whether an upgrade is asked for, and passed on.
    pub upgrade: bool,
}

/// A response's head.
#[derive(Debug)]
pub struct Answered {
    /// 100 to 999.
    pub status: StatusCode,
    /// What is written behind the status, if it is not what everybody writes.
    pub reason: Option<Bytes>,
    /// What is sent on.
    pub headers: Fields,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the server goes on with the connection.
    pub keep_alive: bool,
}

/// What was asked, as far as it decides how the answer ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The method was `HEAD`.
    pub head: bool,
    /// The method was `CONNECT`.
    pub connect: bool,
    /// An upgrade was offered.
    pub upgrade: bool,
}

/// Reads a request's head from the beginning of `bytes`; `None`: it is not there whole. The number says how long it is.
pub fn request(bytes: &[u8]) -> Result<Option<(Parsed, usize)>, Refusal> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_LINES];
    let mut parsed = httparse::Request::new(&mut []);
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    let status = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, &mut space);
    let len = match status.map_err(refusal)? {
        Status::Complete(len) => len,
        Status::Partial if bytes.len() < MAX_HEAD => return Ok(None),
        // A target that never ends is told from lines that do not.
        Status::Partial if parsed.version.is_none() && parsed.method.is_some() => return Err(Refusal::TargetTooLong),
        Status::Partial => return Err(Refusal::HeadTooLarge),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed("no request line"));
    };
    let old = minor == 0;
    let start = offset(bytes, method.as_bytes());
    if !matches!(&bytes[..start], b"" | b"\r\n" | b"\r\n\r\n") {
        return Err(Malformed("something before the request line"));
    }
    let raw = Bytes::copy_from_slice(&bytes[..len]);
    let scan = Scan::of(&raw, bytes, parsed.headers)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Malformed("the method is not a token"))?;
    let at = offset(bytes, target.as_bytes());
    let uri = target_of(&method, raw.slice(at..at + target.len()))?;
    match (scan.hosts, &scan.host) {
        (0, _) if old => {}
        (0, _) => return Err(Malformed("no Host header")),
        (1, Some(host)) if host_is_valid(host) => {}
        (1, _) => return Err(Malformed("the Host header is not a host")),
        _ => return Err(Malformed("more than one Host header")),
    }
    let framing = match (scan.codings, scan.lengths) {
        (0, 0) => Framing::None,
        (0, 1) => match scan.length {
            None => return Err(Malformed("Content-Length is not a number")),
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        },
        (0, _) => return Err(Malformed("more than one Content-Length")),
        (_, 1..) => return Err(Malformed("both Content-Length and Transfer-Encoding")),
        _ if old => return Err(Malformed("Transfer-Encoding in HTTP/1.0")),
        (1, 0) if scan.chunked => Framing::Chunked,
        // They end here: the application would take a compressed body for a plain one.
        _ => return Err(Malformed("a transfer coding other than chunked")),
    };
    if method == Method::CONNECT && framing != Framing::None {
        return Err(Malformed("a body in a CONNECT request"));
    }
    let upgrade = scan.upgrade && !old && method != Method::CONNECT;
    let keep_alive = if old { scan.keep_alive && !scan.close } else { !scan.close };
    let expects = scan.expects && !old;
    let headers = scan.into_fields(raw, upgrade);
    let head = Head { method, uri, headers, protocol: None };
    Ok(Some((Parsed { head, framing, keep_alive, old, expects, upgrade }, len)))
}

/// Reads a response's head from the beginning of `bytes`, in the same way.
pub fn response(bytes: &[u8], asked: Asked) -> Result<Option<(Answered, usize)>, Refusal> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_LINES];
    let mut parsed = httparse::Response::new(&mut []);
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut space);
    let len = match status.map_err(refusal)? {
        Status::Complete(len) => len,
        Status::Partial if bytes.len() < MAX_HEAD => return Ok(None),
        Status::Partial => return Err(Refusal::HeadTooLarge),
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Malformed("no status line"));
    };
    if !bytes.starts_with(b"HTTP/1.") {
        return Err(Malformed("something before the status line"));
    }
    let status = StatusCode::from_u16(code).map_err(|_| Malformed("the status is no status"))?;
    let raw = Bytes::copy_from_slice(&bytes[..len]);
    let reason = parsed.reason.filter(|reason| !reason.is_empty() && status.canonical_reason() != Some(reason));
    let reason = reason.map(|reason| {
        let at = offset(bytes, reason.as_bytes());
        raw.slice(at..at + reason.len())
    });
    let mut scan = Scan::of(&raw, bytes, parsed.headers)?;
    let old = minor == 0;
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    if switching && !(asked.upgrade && scan.upgrade) {
        return Err(Malformed("a switch of protocols that was not asked for"));
    }
    let bodiless = asked.head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (asked.connect && status.is_success());
    let mut keep_alive = if old { scan.keep_alive && !scan.close } else { !scan.close };
    let framing = match (scan.codings, scan.lengths) {
        (0, 0) => Framing::Close,
        (0, 1) => match scan.length {
            None => return Err(Malformed("Content-Length is not a number")),
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        },
        (0, _) => return Err(Malformed("more than one Content-Length")),
        _ if old => return Err(Malformed("Transfer-Encoding in HTTP/1.0")),
        (1, _) if scan.chunked => {
            if scan.lengths > 0 {
                // It was not the length (RFC 9112 section 6.3), and whoever wrote both is not asked again.
                scan.drop_lengths(&raw);
                keep_alive = false;
            }
            Framing::Chunked
        }
        _ => return Err(Malformed("a transfer coding other than chunked")),
    };
    let framing = if bodiless {
        if !asked.head && status != StatusCode::NOT_MODIFIED {
            scan.drop_lengths(&raw);
        }
        Framing::None
    } else {
        keep_alive &= framing != Framing::Close;
        framing
    };
    let headers = scan.into_fields(raw, switching);
    Ok(Some((Answered { status, reason, headers, framing, keep_alive }, len)))
}

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::HeaderName => Malformed("a header's name is malformed"),
        httparse::Error::HeaderValue => Malformed("a header's value is malformed"),
        httparse::Error::Version => Malformed("the version is neither 1.0 nor 1.1"),
        httparse::Error::Status => Malformed("the status is malformed"),
        httparse::Error::NewLine => Malformed("a line end is malformed"),
        httparse::Error::Token => Malformed("the first line is malformed"),
    }
}

/// Whether a head of which the first `looked` bytes were read without success may be whole by now: who sends it byte by byte must not have it
/// parsed as often.
pub(super) fn may_end(bytes: &[u8], looked: usize) -> bool {
    looked == 0
        || bytes.len() >= MAX_HEAD
        || bytes[looked.saturating_sub(3)..].windows(2).any(|pair| pair == b"\n\r" || pair == b"\n\n")
}

/// Where `part` of `whole` begins.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// The lines of a head, looked at once.
#[derive(Default)]
struct Scan {
    lines: Vec<Line>,
    hosts: u32,
    host: Option<Bytes>,
    lengths: u32,
    length: Option<u64>,
    codings: u32,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
    /// `Connection` announces an upgrade, and it is one that may be passed on.
    upgrade: bool,
    upgrades: Vec<Line>,
}

impl Scan {
    /// `bytes` is what `headers` point into; `raw` the same for keeping. Lines that concern the connection alone (RFC 9110 section 7.6.1) are
    /// not kept. `Proxy-Authorization` and its kin are: they are for a proxy that the application addressed, and this one is invisible.
    fn of(raw: &Bytes, bytes: &[u8], headers: &[httparse::Header<'_>]) -> Result<Self, Refusal> {
        let mut scan = Self { lines: Vec::with_capacity(headers.len() + 1), ..Self::default() };
        let len = raw.len();
        let starts = headers.iter().map(|header| offset(bytes, header.name.as_bytes()));
        let ends = starts.clone().skip(1).chain([len - 2]);
        let first = starts.clone().next().unwrap_or(len - 2);
        // The parser takes a line feed alone for a line end; others do not.
        if !raw[..first].ends_with(b"\r\n") || !raw.ends_with(b"\r\n") {
            return Err(Malformed("a line that ends without a carriage return"));
        }
        let mut options: Vec<Bytes> = Vec::new();
        let mut asks_upgrade = false;
        let mut upgradable = true;
        for ((header, start), end) in headers.iter().zip(starts).zip(ends) {
            if !raw[..end].ends_with(b"\r\n") {
                return Err(Malformed("a line that ends without a carriage return"));
            }
            let name_end = start + header.name.len();
            let (value, value_end) = match header.value {
                [] => (end - 2, end - 2),
                value => (offset(bytes, value), offset(bytes, value) + value.len()),
            };
            let span = Span {
                start: start as u32,
                name_end: name_end as u32,
                value: value as u32,
                value_end: value_end as u32,
                end: end as u32,
            };
            let line = Line::Read(span);
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                2 if is("te") => {
                    if listed(header.value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")) {
                        scan.lines.push(Line::written(&header::TE, HeaderValue::from_static("trailers")));
                    }
                    continue;
                }
                4 if is("host") => {
                    scan.hosts += 1;
                    scan.host = Some(raw.slice(value..value_end));
                }
                6 if is("expect") => scan.expects |= header.value.eq_ignore_ascii_case(b"100-continue"),
                7 if is("upgrade") => {
                    // An upgrade to HTTP/2 would carry requests past the proxy's rules as bytes; servers answer its request in HTTP/1
                    // without complaint.
                    upgradable &= !header.value.to_ascii_lowercase().windows(3).any(|word| word == b"h2c");
                    scan.upgrades.push(line);
                    continue;
                }
                10 if is("connection") => {
                    for option in listed(header.value) {
                        if option.eq_ignore_ascii_case(b"close") {
                            scan.close = true;
                        } else if option.eq_ignore_ascii_case(b"keep-alive") {
                            // A list with other characters is none for some, who then end the connection.
                            scan.keep_alive |= header.value.is_ascii();
                        } else if option.eq_ignore_ascii_case(b"upgrade") {
                            asks_upgrade = true;
                        } else if options.len() == MAX_OPTIONS {
                            return Err(Malformed("Connection lists too much"));
                        } else {
                            options.push(raw.slice(offset(bytes, option)..offset(bytes, option) + option.len()));
                        }
                    }
                    continue;
                }
                10 if is("keep-alive") => continue,
                14 if is("content-length") => {
                    scan.lengths += 1;
                    scan.length = decimal(header.value);
                }
                14 if is("http2-settings") => continue,
                16 if is("proxy-connection") => continue,
                17 if is("transfer-encoding") => {
                    scan.codings += 1;
                    scan.chunked = header.value.eq_ignore_ascii_case(b"chunked");
                    continue;
                }
                _ => {}
            }
            scan.lines.push(line);
        }
        for option in options {
            let protected = PROTECTED.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()));
            if !protected {
                scan.lines.retain(|line| !line.name(raw).eq_ignore_ascii_case(&option));
            }
        }
        scan.upgrade = asks_upgrade && upgradable && !scan.upgrades.is_empty();
        Ok(scan)
    }

    fn drop_lengths(&mut self, raw: &[u8]) {
        if self.lengths > 0 {
            self.lines.retain(|line| !line.name(raw).eq_ignore_ascii_case(b"content-length"));
        }
    }

    /// With `upgrade` an announced upgrade stays announced.
    fn into_fields(mut self, raw: Bytes, upgrade: bool) -> Fields {
        if upgrade {
            self.lines.append(&mut self.upgrades);
            self.lines.push(Line::written(&header::CONNECTION, HeaderValue::from_static("upgrade")));
        }
        Fields::Lines(Lines::new(raw, self.lines))
    }
}

/// The elements of a list, without the spaces around them and without empty ones.
fn listed(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// What RFC 3986 allows in a host and a port, and nothing of user information.
pub(crate) fn host_is_valid(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte))
}

fn target_of(method: &Method, target: Bytes) -> Result<Uri, Refusal> {
    const WRONG: Refusal = Malformed("the target is malformed");
    if target.contains(&b'#') {
        // Some would cut it off there, some not.
        return Err(Malformed("a fragment in the target"));
    }
    let origin = target.first() == Some(&b'/');
    let asterisk = &target[..] == b"*";
    let slash = target.ends_with(b"/");
    let uri = Uri::from_maybe_shared(target).map_err(|_| WRONG)?;
    if *method == Method::CONNECT {
        let authority = uri.authority().filter(|authority| authority.port().is_some());
        let userinfo = authority.is_some_and(|authority| authority.as_str().contains('@'));
        return if uri.scheme().is_none() && authority.is_some() && !userinfo { Ok(uri) } else { Err(WRONG) };
    }
    if let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) {
        // It will be the Host header.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if !host_is_valid(host.as_bytes()) {
            return Err(WRONG);
        }
        let server = *method == Method::OPTIONS && !slash;
        return with_path(uri, server).ok_or(WRONG);
    }
    if origin || (asterisk && *method == Method::OPTIONS) { Ok(uri) } else { Err(WRONG) }
}

/// A target in absolute form need not have a path; what is sent on of it must (RFC 9112 sections 3.2.1 and 3.2.4). With `server` one without
/// asks about the server as a whole.
fn with_path(uri: Uri, server: bool) -> Option<Uri> {
    let mut parts = uri.into_parts();
    let written = parts.path_and_query.as_ref().map_or("", |path| path.as_str());
    if written.starts_with('?') {
        parts.path_and_query = Some(format!("/{written}").parse().ok()?);
    } else if server && written == "/" {
        parts.path_and_query = Some(PathAndQuery::from_static("*"));
    }
    Uri::from_parts(parts).ok()
}
