//! Parameters of a query and cookies, as requests write them.

use std::borrow::Cow;

/// The value of the first parameter of this name, decoded; one without `=` has an empty value.
pub fn query_param<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key).as_ref() == name.as_bytes()).then(|| decode(value))
    })
}

/// The value of the first cookie of this name, over all lines of the `cookie` header: HTTP/2 may send one line for each.
pub fn cookie<'a>(lines: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    lines.flat_map(|line| line.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at] == *name.as_bytes()).then_some(&pair[at + 1..])
    })
}

/// As forms write them: `%41` for `A` and `+` for a space. What is no escape stays as it is.
fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(16 * nibble(*high) + nibble(*low));
                rest = after;
            }
            _ => decoded.push(*first),
        }
    }
    Cow::Owned(decoded)
}

/// Of a hexadecimal digit.
pub(super) const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        for (query, expected) in [
            ("a=1", Some("1")),
            ("b=2&a=1&a=3", Some("1")),
            ("a", Some("")),
            ("a=", Some("")),
            ("a=x%20y+z", Some("x y z")),
            ("%61=1", Some("1")),
            ("a=100%", Some("100%")),
            ("a=%zz%4", Some("%zz%4")),
            ("A=1", None),
            ("aa=1", None),
            ("", None),
        ] {
            let value = query_param(query, "a");
            assert_eq!(value.as_deref(), expected.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn the_first_cookie_of_a_name_counts() {
        for (lines, expected) in [
            (&["a=1"][..], Some("1")),
            (&["b=2; a=1; a=3"], Some("1")),
            (&["b=2", "a=x=y"], Some("x=y")),
            (&["aa=1;A=2"], None),
            (&["a"], None),
            (&[], None),
        ] {
            let value = cookie(lines.iter().map(|line| line.as_bytes()), "a");
            assert_eq!(value, expected.map(str::as_bytes), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_encoded_is_read_back(value: Vec<u8>) {
            let mut encoded = String::new();
            for byte in &value {
                let _ = write!(encoded, "%{byte:02x}");
            }
            prop_assert_eq!(decode(&encoded).into_owned(), value);
        }

        #[test]
        fn nothing_makes_it_fail(query: String, name: String) {
            query_param(&query, &name);
            cookie(std::iter::once(query.as_bytes()), &name);
        }
    }
}
