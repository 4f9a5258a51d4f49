//! What must hold of every token.

use std::sync::LazyLock;

use serde_json::Value;

use super::{
    Issuer, bearer,
    testing::{AUDIENCE, ISSUER, NOW, now, ours, signed},
    verify,
};

static ISSUERS: LazyLock<[Issuer; 1]> = LazyLock::new(|| [ours()]);

/// Two lines: a header and a payload, as JSON or not. They are shown unsigned, signed by a stranger, and signed by the issuer.
///
/// # Panics
/// If anything is believed that the issuer did not sign, that is not for this audience and this time, or that another reader of JSON reads
/// otherwise; or if what is as it should be is refused.
pub(crate) fn tokens(bytes: &[u8]) {
    if let Some(Ok(token)) = bearer(std::iter::once(bytes)) {
        assert!(verify(&*ISSUERS, token, now()).is_err(), "nobody signed {}", token.escape_ascii());
    }
    assert!(verify(&*ISSUERS, bytes, now()).is_err(), "nobody signed {}", bytes.escape_ascii());
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(payload)) = (lines.next(), lines.next()) else { return };
    let stranger = verify(&*ISSUERS, &signed(2, header, payload), now());
    assert!(stranger.is_err(), "a stranger signed, and {stranger:?}");
    let believed = verify(&*ISSUERS, &signed(1, header, payload), now());
    let read = (serde_json::from_slice(header), serde_json::from_slice(payload));
    let (Ok(header_read), Ok(payload_read)) = (&read.0, &read.1) else {
        return assert!(believed.is_err(), "what is no JSON is believed: {believed:?}");
    };
    let good = is_header(header_read) && is_payload(payload_read);
    match believed {
        Ok(claims) => {
            assert!(good, "{claims:?} of {header_read} and {payload_read}");
            for (name, value) in payload_read.as_object().into_iter().flatten() {
                if let Value::String(text) = value {
                    assert!(claims.has(name, text) || name == "scope", "{name} is not {text:?} in {claims:?}");
                }
            }
        }
        Err(why) => {
            // Written as this library writes it, nothing occurs twice and no number is unusual.
            let plain = header_read.to_string().as_bytes() == header && payload_read.to_string().as_bytes() == payload;
            let short = bytes.len() < 4096;
            assert!(!(good && plain && short), "{why}, of {header_read} and {payload_read}");
        }
    }
}

fn is_header(header: &Value) -> bool {
    let name = header.get("kid").is_none_or(|kid| kid == "ours");
    header["alg"].as_str().is_some_and(|alg| ["EdDSA", "Ed25519"].contains(&alg))
        && name
        && header.get("crit").is_none()
}

fn is_payload(payload: &Value) -> bool {
    let audience = &payload["aud"];
    let is_for_us =
        audience == AUDIENCE || audience.as_array().is_some_and(|all| all.iter().any(|one| one == AUDIENCE));
    let moment = |name: &str| payload.get(name).map(|value| value.as_f64().filter(|at| (0.0..9e15).contains(at)));
    let ended = moment("exp").is_none_or(|exp| exp.is_none_or(|exp| exp.floor() + 60.0 <= NOW as f64));
    let to_come = |name| moment(name).is_some_and(|at| at.is_none_or(|at| at.floor() - 60.0 > NOW as f64));
    payload["iss"] == ISSUER && is_for_us && !ended && !to_come("nbf") && !to_come("iat")
}
