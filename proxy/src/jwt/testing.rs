//! Issuers with keys that everybody knows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::Issuer;

pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const AUDIENCE: &str = "shop";
/// What time it is, in seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("every seed makes a key")
}

/// With the one key of a seed.
pub(super) fn key_set(seed: u8, id: &str) -> String {
    let x = encoded(pair(seed).public_key());
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{x}"}}]}}"#)
}

/// Whatever header and payload are, signed by the key of a seed.
pub(super) fn signed(seed: u8, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let text = format!("{}.{}", encoded(header), encoded(payload));
    let signature = encoded(pair(seed).sign(text.as_bytes()));
    format!("{text}.{signature}").into_bytes()
}

/// Seed 1, `kid` `ours`.
pub(super) fn ours() -> Issuer {
    Issuer::compile(ISSUER, &[AUDIENCE.to_owned()], &key_set(1, "ours"), false).expect("a key set that holds")
}
