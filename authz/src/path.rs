//! What servers may take a path for.
//!
//! The bytes of a path go to the application as they came, and applications read them in their own ways: some decode before they compare, some merge
//! slashes, some cut parameters off. A rule that protects something must hold whichever way that is. So it is asked about every reading that
//! common servers have; and where readings would multiply, because a path has what no good client sends (dot segments, encoded slashes,
//! backslashes, escapes in escapes), it holds without being asked. A rule that opens something must hold for all of them.
//!
//! Case counts: it does for nearly all servers.

use std::borrow::Cow;

/// Whether `holds` is true of any way to read `path`.
pub fn any_reading(path: &str, mut holds: impl FnMut(&[u8]) -> bool) -> bool {
    let Some(decoded) = plain(path) else { return true };
    let merged = merged(&decoded);
    if holds(&decoded) || merged.as_deref().is_some_and(&mut holds) {
        return true;
    }
    let Some(bare) = without_parameters(&decoded) else { return false };
    holds(&bare) || self::merged(&bare).as_deref().is_some_and(holds)
}

/// Whether `holds` is true of every way to read `path`; it is not where readings would multiply.
pub fn every_reading(path: &str, mut holds: impl FnMut(&[u8]) -> bool) -> bool {
    !any_reading(path, |reading| !holds(reading))
}

/// The path as it is, where one pass over it shows that everybody reads it so, which nearly all are; `None`: that takes a closer look.
pub(crate) fn clear(path: &str) -> Option<&[u8]> {
    let bytes = path.as_bytes();
    let mut before = None;
    for byte in bytes {
        match byte {
            b'%' | b'\\' | b';' | 0 => return None,
            // What begins with a full stop may lead elsewhere.
            b'.' if matches!(before, None | Some(b'/')) => return None,
            b'/' if before == Some(b'/') => return None,
            _ => before = Some(*byte),
        }
    }
    Some(bytes)
}

/// With its escapes decoded, which all servers do alike; `None`: what it means they do not agree about.
pub fn plain(path: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = path.as_bytes();
    let decoded = if bytes.contains(&b'%') { Cow::Owned(decoded(bytes)?) } else { Cow::Borrowed(bytes) };
    let clear = !decoded.contains(&b'\\') && !decoded.contains(&0) && !decoded.split(|byte| *byte == b'/').any(is_dots);
    clear.then_some(decoded)
}

/// `None`: an escape is none, stands for what parts a path, or makes another escape.
fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let byte = escape(tail)?;
        if byte == b'/' {
            return None;
        }
        decoded.push(byte);
        rest = &tail[2..];
    }
    let again = (0..decoded.len()).any(|at| decoded[at] == b'%' && escape(&decoded[at + 1..]).is_some());
    (!again).then_some(decoded)
}

/// What two digits behind a percent sign stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    match digits {
        [high, low, ..] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(16 * digit(*high)? + digit(*low)?).ok()
        }
        _ => None,
    }
}

/// Whether an element, without its parameters, leads elsewhere.
fn is_dots(element: &[u8]) -> bool {
    matches!(element.split(|byte| *byte == b';').next(), Some(b"." | b".."))
}

/// With one slash for several in a row; `None`: there are none.
fn merged(path: &[u8]) -> Option<Vec<u8>> {
    let doubled = path.windows(2).any(|pair| pair == b"//");
    doubled.then(|| {
        let mut merged = path.to_vec();
        merged.dedup_by(|next, last| *next == b'/' && *last == b'/');
        merged
    })
}

/// Without what follows a semicolon in each element, as servers of Java read it; `None`: nothing does.
fn without_parameters(path: &[u8]) -> Option<Vec<u8>> {
    path.contains(&b';').then(|| {
        let mut parameter = false;
        let mut bare = path.to_vec();
        bare.retain(|byte| {
            parameter = *byte == b';' || (parameter && *byte != b'/');
            !parameter
        });
        bare
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    fn is_admin(path: &[u8]) -> bool {
        path.strip_prefix(b"/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    #[test]
    fn no_spelling_gets_round_a_rule() {
        for path in [
            "/admin",
            "/admin/",
            "/admin/x",
            "//admin",
            "///admin//x",
            "/%61dmin",
            "/%61%64%6D%69%6e",
            "/./admin",
            "/x/../admin",
            "/%2e/admin",
            "/x/%2E%2e/admin",
            "/x/.%2e/admin",
            "/..;/admin",
            "/x/..;a=b/admin",
            "/admin;",
            "/admin;x=1/y",
            "/;x/admin",
            "/admin%3Bx",
            "/admin%2Fx",
            "/x%2f..%2fadmin",
            "/\\admin",
            "/x\\..\\admin",
            "/%5cadmin",
            "/%2561dmin",
            "/x/%252e%252e/admin",
            "/admin%00",
            "/admin%",
            "/%adm%in",
            "/admin/..",
            "/public/../admin",
        ] {
            assert!(any_reading(path, is_admin), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not_taken_for_it() {
        for path in [
            "/",
            "/public",
            "/administrator",
            "/public/admin",
            "/public//admin",
            "/a.b/..c/...",
            "/shop;color=red/x",
            "/100%25",
            "/100%25x",
            "/a%20b",
            "/caf%C3%A9",
            "/ADMIN",
            "/x;/admin",
            "*",
            "",
        ] {
            assert!(!any_reading(path, is_admin), "{path}");
        }
    }

    /// A path that everybody reads alike.
    fn clean() -> impl Strategy<Value = String> {
        prop::collection::vec("[a-z0-9_~-]{1,8}", 0..5).prop_map(|elements| format!("/{}", elements.join("/")))
    }

    /// Another way to write one byte of a path, or something that many servers read as nothing.
    fn disguised(path: &str, tricks: &[(u8, usize)]) -> String {
        let mut text: Vec<String> = path.chars().map(String::from).collect();
        for (trick, at) in tricks {
            let at = at % text.len();
            let piece = &mut text[at];
            let slash = piece == "/";
            *piece = match (trick % 8, slash) {
                (0, true) => "//".into(),
                (1, true) => "/./".into(),
                (2, true) => "/x/../".into(),
                (3, true) => "/%2e/".into(),
                (4, true) => ";p=1/".into(),
                (5, true) => "%2F".into(),
                (6, true) => "\\".into(),
                (_, false) if piece.len() == 1 => format!("%{:02X}", piece.as_bytes()[0]),
                (7, false) => piece.replace('%', "%25"),
                _ => continue,
            };
        }
        text.concat()
    }

    proptest! {
        #[test]
        fn a_disguise_is_seen_through(path in clean(), tricks in prop::collection::vec((any::<u8>(), any::<usize>()), 0..6)) {
            let path = format!("/admin{path}");
            let disguised = disguised(&path, &tricks);
            prop_assert!(any_reading(&disguised, is_admin), "{}", disguised);
        }

        #[test]
        fn a_clean_path_has_one_reading(path in clean()) {
            let read = RefCell::new(Vec::new());
            any_reading(&path, |reading| {
                read.borrow_mut().push(reading.to_vec());
                false
            });
            prop_assert_eq!(read.into_inner(), [path.into_bytes()]);
        }

        #[test]
        fn there_are_at_most_four_readings_and_none_is_longer(path in "[/a.;%25eF\\\\-]{0,40}") {
            let count = RefCell::new(0);
            any_reading(&path, |reading| {
                *count.borrow_mut() += 1;
                assert!(reading.len() <= path.len());
                false
            });
            prop_assert!(count.into_inner() <= 4);
        }

        #[test]
        fn what_is_clear_has_one_reading(path in "[/a.;%25eF\\\\]{0,12}|(/[a.]{0,2}){0,4}") {
            let Some(reading) = clear(&path) else { return Ok(()) };
            let read = RefCell::new(Vec::new());
            any_reading(&path, |reading| {
                read.borrow_mut().push(reading.to_vec());
                false
            });
            prop_assert_eq!(read.into_inner(), [reading.to_vec()]);
        }
    }
}
