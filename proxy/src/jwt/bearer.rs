//! Where a request carries a token: `Authorization: Bearer …` (RFC 6750 section 2.1), and nowhere else.
//!
//! Tokens in queries and forms are not looked for: the one would be in every log, the other would make a body part of a decision.

use super::Refusal;

const SCHEME: &[u8] = b"bearer";

/// The token among all lines of `Authorization`; `None`: there is none, as without the line or with another scheme.
///
/// Of two lines the application might believe the other one, so there must be one. What begins like the scheme and goes on otherwise than a token does
/// is refused: it is not left to the application to find one in it.
pub fn bearer<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Option<Result<&'a [u8], Refusal>> {
    let line = lines.next()?.trim_ascii();
    if lines.next().is_some() {
        return Some(Err(Refusal::SeveralHeaders));
    }
    let (scheme, rest) = line.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || rest.first().is_some_and(|next| is_of_a_word(*next)) {
        return None;
    }
    let token = rest.trim_ascii_start();
    let separated = rest.first() == Some(&b' ');
    let whole = !token.is_empty() && !token.iter().any(u8::is_ascii_whitespace);
    Some(if separated && whole { Ok(token) } else { Err(Refusal::NoToken) })
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&'static str]) -> Option<Result<&'static str, Refusal>> {
        let found = bearer(lines.iter().map(|line| line.as_bytes()));
        found.map(|found| found.map(|token| std::str::from_utf8(token).unwrap()))
    }

    #[test]
    fn one_line_of_the_scheme_has_a_token() {
        for (lines, expected) in [
            (&[][..], None),
            (&["Bearer a.b.c"], Some(Ok("a.b.c"))),
            (&["bearer a.b.c"], Some(Ok("a.b.c"))),
            (&["BEARER   a.b.c"], Some(Ok("a.b.c"))),
            (&[" Bearer a.b.c "], Some(Ok("a.b.c"))),
            (&["Basic YTpi"], None),
            (&["Bearers a"], None),
            (&["Bear a"], None),
            (&["Bearer-x a"], None),
            (&[""], None),
            (&["Bearer"], Some(Err(Refusal::NoToken))),
            (&["Bearer "], Some(Err(Refusal::NoToken))),
            (&["Bearer a b"], Some(Err(Refusal::NoToken))),
            (&["Bearer a, Bearer b"], Some(Err(Refusal::NoToken))),
            (&["Bearer\ta"], Some(Err(Refusal::NoToken))),
            (&["Bearer,a"], Some(Err(Refusal::NoToken))),
            (&["Bearer=a"], Some(Err(Refusal::NoToken))),
            (&["Bearer a", "Bearer a"], Some(Err(Refusal::SeveralHeaders))),
            (&["Basic YTpi", "Bearer a"], Some(Err(Refusal::SeveralHeaders))),
            (&["Basic YTpi", "Basic YTpi"], Some(Err(Refusal::SeveralHeaders))),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn a_token_is_found_however_the_scheme_is_written(
            scheme in "[bB][eE][aA][rR][eE][rR]", spaces in " {1,4}", token in "[A-Za-z0-9._~+/=-]{1,40}",
        ) {
            let line = format!("{scheme}{spaces}{token}");
            prop_assert_eq!(bearer(std::iter::once(line.as_bytes())), Some(Ok(token.as_bytes())));
        }

        #[test]
        fn nothing_else_is_taken_for_one(line: Vec<u8>) {
            if let Some(Ok(token)) = bearer(std::iter::once(&line[..])) {
                prop_assert!(line.trim_ascii().to_ascii_lowercase().starts_with(b"bearer "));
                prop_assert!(line.trim_ascii().ends_with(token) && !token.is_empty());
            }
        }
    }
}
