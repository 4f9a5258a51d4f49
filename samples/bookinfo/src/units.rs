//! Words of the command line: durations as the Gateway API writes them, percentages, base addresses, headers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri};

/// Reads a duration such as `5s`, `250ms` or `1m30s`; `0s` is zero.
///
/// # Errors
/// A sentence that names the input and the form, for clap to show.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write it like 5s, 250ms or 1m30s");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        // Five digits at most, as in the Gateway API: nothing here can overflow.
        if number.len() > 5 {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(wrong()),
        };
        rest = tail;
    }
    Ok(total)
}

/// Reads a percentage, 0 to 100, decimals allowed.
///
/// # Errors
/// A sentence that names the input and the range.
pub fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is not a percentage: write a number from 0 to 100")),
    }
}

/// Reads an absolute `http://host[:port][/path]` address.
///
/// # Errors
/// A sentence that names the input and the form.
pub fn http_url(text: &str) -> Result<Uri, String> {
    url(text, "http")
}

/// Reads an absolute `ws://host[:port][/path]` address.
///
/// # Errors
/// A sentence that names the input and the form.
pub fn ws_url(text: &str) -> Result<Uri, String> {
    url(text, "ws")
}

fn url(text: &str, scheme: &str) -> Result<Uri, String> {
    let wrong = || format!("`{text}` is not an address: write it like {scheme}://reviews:9080/reviews/0");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    (uri.scheme_str() == Some(scheme) && uri.host().is_some_and(|host| !host.is_empty()))
        .then_some(uri)
        .ok_or_else(wrong)
}

/// The `host:port` to dial for an address; the port defaults to that of `http`.
pub fn authority(uri: &Uri) -> String {
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80))
}

/// Reads a header written `name=value`.
///
/// # Errors
/// A sentence that names the input and the form.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{text}` is not a header: write it like end-user=jason");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.parse().map_err(|_| wrong())?, value.parse().map_err(|_| wrong())?))
}

/// Reads bytes in which `\r`, `\n`, `\\` and `\x` with two hexadecimal digits stand for one each.
///
/// # Errors
/// A sentence that names the form.
pub fn bytes(text: &str) -> Result<Bytes, String> {
    let wrong = || "after a backslash comes r, n, x and two hexadecimal digits, or another backslash".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let (byte, length) = match after.as_bytes().first() {
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b'\\') => (b'\\', 1),
            Some(b'x') => {
                let digits = after.get(1..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
                (digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?, 3)
            }
            _ => return Err(wrong()),
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes.extend(rest.as_bytes());
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_the_gateway_api() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h1m30s"), Ok(Duration::from_secs(3690)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "5 s", "-5s", "1.5s", "5x", "999999s"] {
            assert!(duration(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn percentages_stay_within_their_range() {
        assert_eq!(percent("20"), Ok(20.0));
        assert_eq!(percent("0.5"), Ok(0.5));
        for bad in ["-1", "100.1", "NaN", "inf", "ten", ""] {
            assert!(percent(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn addresses_need_scheme_and_host() {
        assert_eq!(authority(&http_url("http://reviews/reviews/0").unwrap()), "reviews:80");
        assert_eq!(authority(&ws_url("ws://echo:9080/ws").unwrap()), "echo:9080");
        assert_eq!(authority(&http_url("http://[::1]:9080").unwrap()), "[::1]:9080");
        for bad in ["reviews:9080", "https://reviews", "/reviews", "http://"] {
            assert!(http_url(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let (name, value) = header("End-User=jason=x").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("end-user", &b"jason=x"[..]));
        for bad in ["end-user", "=x", "a b=c", "a=b\nc"] {
            assert!(header(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn bytes_may_be_written_as_escapes() {
        assert_eq!(bytes(r"GET / HTTP/1.1\r\n\x00\xfF\\n").unwrap(), &b"GET / HTTP/1.1\r\n\x00\xff\\n"[..]);
        assert_eq!(bytes("").unwrap(), "");
        for text in [r"\", r"\q", r"\x", r"\x1", r"\x+1", r"\xé"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
