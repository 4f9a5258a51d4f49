//! What must hold of every message.

use std::net::SocketAddr;

use http::{Method, Uri};

use super::{
    Asked, Framing, Refusal,
    head::may_end,
    request, response,
    view::{self, Asking, unchunked},
    write,
};
use crate::http::{Fields, exchange::complete_http1};

/// Requests one after the other on a connection.
///
/// # Panics
/// If hyper sees other requests in the same bytes than this module, if a head is read differently in pieces, or if what is written of it is not
/// read as the same again.
pub(crate) fn requests(bytes: &[u8]) {
    agree(bytes, &view::requests(bytes), view::requests_by_hyper(bytes));
    match request(bytes) {
        Ok(Some((mut parsed, len))) => {
            whole(bytes, len, |piece| request(piece).map(|read| read.is_some()));
            in_pieces(&bytes[len..], parsed.framing);
            complete_http1(&mut parsed.head, SocketAddr::from(([10, 0, 0, 1], 80)));
            let mut out = Vec::new();
            write::request(&mut out, &parsed.head, parsed.framing, None);
            let Ok(Some((again, len))) = request(&out) else { panic!("written and refused: {}", out.escape_ascii()) };
            assert_eq!((len, again.framing, &again.head.method), (out.len(), parsed.framing, &parsed.head.method));
            assert_eq!(lines(&again.head.headers), lines(&parsed.head.headers));
            if parsed.head.method != Method::CONNECT {
                let target = |uri: &Uri| uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
                assert_eq!(target(&again.head.uri), target(&parsed.head.uri));
            }
        }
        Ok(None) => assert!(bytes.len() < crate::http::MAX_HEAD),
        Err(_) => {}
    }
}

/// An answer; the first byte says to what.
///
/// # Panics
/// As [`requests`].
pub(crate) fn answers(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let asked = Asked { head: first & 1 != 0, connect: first & 3 == 2, upgrade: first & 4 != 0 };
    if let Some(ours) = view::answer(bytes, asked) {
        let theirs = view::answer_by_hyper(bytes, asked, ours.len);
        let theirs = theirs.unwrap_or_else(|| panic!("no answer for hyper: {ours:?} {asked:?}"));
        assert_eq!((ours.status, &ours.body, &ours.trailers), (theirs.status, &theirs.body, &theirs.trailers));
        contained(&ours.lines, &theirs.lines);
    }
    if let Ok(Some((answered, len))) = response(bytes, asked) {
        whole(bytes, len, |piece| response(piece, asked).map(|read| read.is_some()));
        in_pieces(&bytes[len..], answered.framing);
    }
}

/// All of `ours` are among `theirs`, in order.
pub(super) fn agree(bytes: &[u8], ours: &[Asking], theirs: Vec<Asking>) {
    assert!(theirs.len() >= ours.len(), "{}: {ours:?} and {theirs:?}", bytes.escape_ascii());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!((&ours.method, &ours.target, &ours.body), (&theirs.method, &theirs.target, &theirs.body));
        contained(&ours.lines, &theirs.lines);
    }
}

pub(super) fn contained(ours: &[(String, Vec<u8>)], theirs: &[(String, Vec<u8>)]) {
    for line in ours {
        assert!(theirs.contains(line), "{line:?} is not among {theirs:?}");
    }
}

/// A head of `len` bytes is not there before its last byte, and is looked for when that comes.
fn whole(bytes: &[u8], len: usize, read: impl Fn(&[u8]) -> Result<bool, Refusal>) {
    assert!(len <= bytes.len() && read(&bytes[..len]) == Ok(true));
    // As often as a sender in pieces would have it read; all of them would take too long for a long head.
    for end in (len.saturating_sub(8)..len).chain((0..len).step_by(1 + len / 16)) {
        assert_eq!(read(&bytes[..end]), Ok(false), "at {end} of {len}");
        assert!(end == 0 || may_end(&bytes[..len], end), "at {end} of {len}");
    }
}

/// A body in chunks is the same wherever reads end.
fn in_pieces(bytes: &[u8], framing: Framing) {
    if framing != Framing::Chunked {
        return;
    }
    let at_once = unchunked(bytes, bytes.len().max(1));
    for step in [1, 2, 7] {
        assert_eq!(unchunked(bytes, step), at_once, "in pieces of {step}");
    }
}

fn lines(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}
