//! The fields of a message: the lines that came over HTTP/1, or a map from HTTP/2.
//!
//! Lines stay bytes of the head they came in, so what no rule touches is written as it was read: order, case, and the spaces around values.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields by name; names are compared without regard to case.
#[derive(Clone, Debug)]
pub enum Fields {
    /// As they came over HTTP/1.
    Lines(Lines),
    /// As HTTP/2 has them, and the proxy's own answers.
    Map(HeaderMap),
}

impl Default for Fields {
    fn default() -> Self {
        Self::Map(HeaderMap::new())
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        Self::Map(map)
    }
}

/// Lines of one head, in order.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    head: Bytes,
    lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// Bytes of the head; with its line end it goes from `start` to `end`.
    Read(Span),
    /// The proxy's; the name in the case it had, if there was one.
    Written(Box<(Bytes, HeaderValue)>),
}

/// Where a line is in its head. Heads are shorter than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) name_end: u32,
    pub(super) value: u32,
    pub(super) value_end: u32,
    pub(super) end: u32,
}

impl Line {
    pub(super) fn name<'a>(&'a self, head: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Read(span) => &head[span.start as usize..span.name_end as usize],
            Self::Written(line) => &line.0,
        }
    }

    fn value<'a>(&'a self, head: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Read(span) => &head[span.value as usize..span.value_end as usize],
            Self::Written(line) => line.1.as_bytes(),
        }
    }

    fn is(&self, head: &[u8], name: &HeaderName) -> bool {
        self.name(head).eq_ignore_ascii_case(name.as_str().as_bytes())
    }

    /// One that the proxy adds.
    pub(super) fn written(name: &HeaderName, value: HeaderValue) -> Self {
        Self::Written(Box::new((Bytes::copy_from_slice(name.as_str().as_bytes()), value)))
    }
}

impl Lines {
    pub(super) fn new(head: Bytes, lines: Vec<Line>) -> Self {
        Self { head, lines }
    }

    fn position(&self, name: &HeaderName) -> Option<usize> {
        self.lines.iter().position(|line| line.is(&self.head, name))
    }
}

impl Fields {
    /// The value of the first line of this name.
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        match self {
            Self::Lines(lines) => lines.position(name).map(|index| lines.lines[index].value(&lines.head)),
            Self::Map(map) => map.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// The values of all lines of this name, in order.
    pub fn get_all<'a, 'n>(&'a self, name: &'n HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let (lines, map) = match self {
            Self::Lines(lines) => (Some(lines), None),
            Self::Map(map) => (None, Some(map)),
        };
        let lines = lines.into_iter().flat_map(move |lines| {
            let of_name = lines.lines.iter().filter(move |line| line.is(&lines.head, name));
            of_name.map(|line| line.value(&lines.head))
        });
        lines.chain(map.into_iter().flat_map(move |map| map.get_all(name).iter().map(HeaderValue::as_bytes)))
    }

    /// Whether there is a line of this name.
    pub fn contains_key(&self, name: &HeaderName) -> bool {
        match self {
            Self::Lines(lines) => lines.position(name).is_some(),
            Self::Map(map) => map.contains_key(name),
        }
    }

    /// Names, as they were written, and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (lines, map) = match self {
            Self::Lines(lines) => (Some(lines), None),
            Self::Map(map) => (None, Some(map)),
        };
        let lines = lines
            .into_iter()
            .flat_map(|lines| lines.lines.iter().map(|line| (line.name(&lines.head), line.value(&lines.head))));
        let map = map
            .into_iter()
            .flat_map(|map| map.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
        lines.chain(map)
    }

    /// Makes this the only line of its name; it takes the place of the first there was.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        match self {
            Self::Map(map) => {
                map.insert(name, value);
            }
            Self::Lines(lines) => {
                let first = lines.position(&name);
                let Lines { head, lines } = lines;
                let Some(first) = first else {
                    return lines.push(Line::written(&name, value));
                };
                let mut index = 0;
                lines.retain(|line| {
                    index += 1;
                    index - 1 <= first || !line.is(head, &name)
                });
                let as_written = Bytes::copy_from_slice(lines[first].name(head));
                lines[first] = Line::Written(Box::new((as_written, value)));
            }
        }
    }

    /// Adds a line after all others.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        match self {
            Self::Map(map) => {
                map.append(name, value);
            }
            Self::Lines(lines) => lines.lines.push(Line::written(&name, value)),
        }
    }

    /// Removes all lines of this name; says whether there was one.
    pub fn remove(&mut self, name: &HeaderName) -> bool {
        match self {
            Self::Map(map) => map.remove(name).is_some(),
            Self::Lines(lines) => {
                // Mostly there is none, and then nothing is moved.
                let found = lines.position(name).is_some();
                if found {
                    let Lines { head, lines } = lines;
                    lines.retain(|line| !line.is(head, name));
                }
                found
            }
        }
    }

    /// As a map, for HTTP/2.
    pub fn to_map(&self) -> HeaderMap {
        match self {
            Self::Map(map) => map.clone(),
            Self::Lines(_) => self
                .iter()
                .filter_map(|(name, value)| {
                    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
                })
                .collect(),
        }
    }

    /// The same for who needs nothing else any more.
    pub(super) fn into_map(self) -> HeaderMap {
        match self {
            Self::Map(map) => map,
            lines @ Self::Lines(_) => lines.to_map(),
        }
    }

    /// Writes the lines as HTTP/1 has them, without `Content-Length` unless it is this `length`; says whether that was among them.
    pub(super) fn write(&self, out: &mut Vec<u8>, length: Option<u64>) -> bool {
        let mut said = false;
        let mut keep = |name: &[u8], value: &[u8]| {
            if name.len() != 14 || !name.eq_ignore_ascii_case(header::CONTENT_LENGTH.as_str().as_bytes()) {
                return true;
            }
            let right = !said && length.is_some_and(|length| super::h1::decimal(value) == Some(length));
            said |= right;
            right
        };
        match self {
            Self::Map(map) => {
                for (name, value) in map {
                    if keep(name.as_str().as_bytes(), value.as_bytes()) {
                        line(out, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
            }
            Self::Lines(Lines { head, lines }) => {
                // Lines that are neighbours go in one piece.
                let mut run = 0..0;
                for entry in lines {
                    if !keep(entry.name(head), entry.value(head)) {
                        continue;
                    }
                    match entry {
                        Line::Read(span) if span.start as usize == run.end => run.end = span.end as usize,
                        Line::Read(span) => {
                            out.extend_from_slice(&head[run]);
                            run = span.start as usize..span.end as usize;
                        }
                        Line::Written(written) => {
                            out.extend_from_slice(&head[std::mem::take(&mut run)]);
                            line(out, &written.0, written.1.as_bytes());
                        }
                    }
                }
                out.extend_from_slice(&head[run]);
            }
        }
        said
    }
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for piece in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX-One:1\r\nx-TWO:  2  \r\nContent-Length: 3\r\nx-one: b\r\n\r\n";

    fn fields() -> Fields {
        h1::request(HEAD).unwrap().unwrap().0.head.headers
    }

    fn written(fields: &Fields, length: Option<u64>) -> String {
        let mut out = Vec::new();
        fields.write(&mut out, length);
        String::from_utf8(out).unwrap()
    }

    const ONE: HeaderName = HeaderName::from_static("x-one");

    #[test]
    fn what_nobody_touched_is_written_as_it_was_read() {
        let text = written(&fields(), Some(3));
        assert_eq!(text, "Host: a\r\nX-One:1\r\nx-TWO:  2  \r\nContent-Length: 3\r\nx-one: b\r\n");
    }

    #[test]
    fn a_length_that_is_not_the_body_s_is_left_out() {
        assert!(!written(&fields(), None).contains("Length"));
        assert!(!written(&fields(), Some(4)).contains("Length"));
    }

    #[test]
    fn lines_are_found_replaced_and_removed_without_regard_to_case() {
        let mut fields = fields();
        assert_eq!(fields.get(&ONE), Some(&b"1"[..]));
        assert_eq!(fields.get_all(&ONE).collect::<Vec<_>>(), [b"1", b"b"]);
        fields.insert(ONE, HeaderValue::from_static("new"));
        assert_eq!(written(&fields, Some(3)), "Host: a\r\nX-One: new\r\nx-TWO:  2  \r\nContent-Length: 3\r\n");
        assert!(fields.remove(&ONE) && !fields.remove(&ONE) && !fields.contains_key(&ONE));
        fields.append(ONE, HeaderValue::from_static("last"));
        assert!(written(&fields, None).ends_with("x-one: last\r\n"));
    }

    #[test]
    fn lines_become_a_map_for_http2() {
        let map = fields().to_map();
        assert_eq!(map.get_all("x-one").iter().collect::<Vec<_>>(), ["1", "b"]);
        assert_eq!(map["x-two"], "2");
    }
}
