//! What an auditor would try on a token.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        KeyPair as _,
    },
};
use serde_json::{Value, json};

use super::{
    testing::{AUDIENCE, ISSUER, NOW, encoded, key_set, now, ours, signed},
    *,
};

const OTHER: &str = "https://other.example";

/// Made by openssl: header, payload and signature of the key below.
const RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiamFzb24iLCJhdWQiOiJzaG9wIiwiZXhwIjo0MTAyNDQ0ODAwLCJncm91cHMiOlsiZGV2Iiwib3BzIl0sInNjb3BlIjoicmVhZCB3cml0ZSIsImVtYWlsIjoiamFzb25AaXNzdWVyLmV4YW1wbGUiLCJlbWFpbF92ZXJpZmllZCI6dHJ1ZX0.gnJnduIfF5i4e1hqHFbSM8L48Op4S2cv6gG38ZJN3OIColQLBv0O-JMZpoW7bLO1wG4-niWs0Fr-Spc3KA19qSDdfzSqZ6zCm-V0LcLWysiJIpXPsuBklvxwphJQLuUoFnrQ3G1oEikmPVSbupsy0NQUG1UpBT220D5q0iQiPQ-4yYhE4964XHCbbFqX1WAAJ5uivuq3l8QNoR9dPbx3z4wYSkN_QaU1YpQAzHZR_wjUQICZcEMug1n95vE9Aw-AZ-byaE-VJzRbL0wSbO_oeuyQXkCdC_ayAoVmr6OYYMaPFkCv5xcNzZ4VtEfJvN0BF1F8on3eaixTAJ1MZWxOcQ";
const RSA_MODULUS: &str = "hEcgTB_XVo9a75XQ2Xzo6muHqI4mMb5XU0fy8uK6weD-HsbGfIvSEkLEBvFcrrY_i_7Gu72TWQ-DMpruyF3FazqFQbF7r4OTjtFJ91RkPeUWDs1qpQjLquy72vGaYXjhcjVdKVixxJljN1pZ3Oe6nbc5tm47-AeQrXDm4VbGCzWiSXVOqrIpPwjWv59HhYWwzr_XHUd6hFyPZms92pInTA-RLn_eOkzRu98lF4zc3U-uA8RHzTvS-upD98l8xnDVBTWlc2Ea9yMArdjmIkWyALPwcKh6KgvTmsd5Sezz7ai3JgFpkXujJnf2cDdhSYP-ukR6WquvhdrhtkyDA44U-Q";

fn rsa() -> Issuer {
    let keys = json!({"keys": [{"kty": "RSA", "kid": "rsa", "use": "sig", "n": RSA_MODULUS, "e": "AQAB"}]});
    Issuer::compile(ISSUER, &[AUDIENCE.to_owned()], &keys.to_string(), true).unwrap()
}

/// What our issuer says as a rule.
fn payload() -> Value {
    json!({"iss": ISSUER, "sub": "jason", "aud": AUDIENCE, "exp": NOW + 300, "iat": NOW})
}

fn with(changes: &Value) -> Value {
    let mut payload = payload();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            payload.as_object_mut().unwrap().remove(name);
        } else {
            payload[name] = value.clone();
        }
    }
    payload
}

/// By our issuer.
fn token(header: &Value, payload: &Value) -> Vec<u8> {
    signed(1, header.to_string().as_bytes(), payload.to_string().as_bytes())
}

fn good() -> Vec<u8> {
    token(&json!({"alg": "EdDSA", "kid": "ours"}), &payload())
}

fn refused(token: &[u8]) -> Refusal {
    let refusal = verify(&[ours(), rsa()], token, now()).unwrap_err();
    assert_eq!(Issuers::new(vec![ours(), rsa()]).verify(token, now()), Err(refusal));
    refusal
}

fn claims(changes: &Value) -> Claims {
    verify(&[ours()], &token(&json!({"alg": "EdDSA"}), &with(changes)), now()).unwrap()
}

#[test]
fn what_the_issuer_says_is_believed() {
    let claims = verify(&[ours()], &good(), now()).unwrap();
    assert_eq!((claims.issuer(), claims.subject(), claims.forward()), (ISSUER, Some("jason"), false));
    assert!(claims.has("sub", "jason") && !claims.has("sub", "jaso") && !claims.has("groups", "dev"));
}

#[test]
fn a_token_of_another_implementation_is_read() {
    let claims = verify(&[ours(), rsa()], RS256.as_bytes(), now()).unwrap();
    assert!(claims.forward());
    for (claim, value, expected) in [
        ("groups", "dev", true),
        ("groups", "ops", true),
        ("groups", "de", false),
        ("scope", "write", true),
        ("scope", "read write", false),
        ("email_verified", "true", true),
        ("email_verified", "false", false),
        ("exp", "4102444800", true),
        ("none", "", false),
    ] {
        assert_eq!(claims.has(claim, value), expected, "{claim} {value}");
    }
}

#[test]
fn a_claim_is_compared_as_it_is_written() {
    for (claim, yes, no) in [
        (json!("a"), &["a"][..], &["A", "a ", ""][..]),
        (json!("read write"), &["read write"], &["read"]),
        (json!(7), &["7"], &["07", "+7", "7.0", "7e0"]),
        (json!(-7), &["-7"], &["7"]),
        (json!(u64::MAX), &["18446744073709551615"], &["18446744073709551614"]),
        (json!(1.5), &[], &["1.5"]),
        (json!(true), &["true"], &["1", "false"]),
        (json!(["a", 1, true]), &["a", "1", "true"], &["", "a,1", "[\"a\",1,true]"]),
        (json!([["a"], {"a": "a"}]), &[], &["a"]),
        (json!({"a": "b"}), &[], &["a", "b", "{\"a\":\"b\"}"]),
    ] {
        let claims = claims(&json!({"x": claim}));
        for value in yes {
            assert!(claims.has("x", value), "{claim} is {value}");
        }
        for value in no {
            assert!(!claims.has("x", value), "{claim} is not {value}");
        }
    }
    let scope = |scope| claims(&json!({"scope": scope}));
    assert!(scope(json!("read  write")).has("scope", "write") && !scope(json!("readwrite")).has("scope", "read"));
    assert!(scope(json!(["read", "write"])).has("scope", "read"));
    let null =
        signed(1, br#"{"alg":"EdDSA"}"#, with(&json!({"x": "?"})).to_string().replace("\"?\"", "null").as_bytes());
    assert!(!verify(&[ours()], &null, now()).unwrap().has("x", "null"));
}

#[test]
fn a_token_without_signature_or_with_a_secret_is_refused() {
    let unsigned = |alg: &str| {
        let header = encoded(json!({"alg": alg}).to_string());
        format!("{header}.{}.", encoded(payload().to_string())).into_bytes()
    };
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        assert_eq!(refused(&unsigned(alg)), Refusal::Algorithm, "{alg}");
    }
    assert_eq!(verify(&[ours()], &unsigned("EdDSA"), now()), Err(SignatureError::Wrong.into()));
    // The public key of RSA as the secret of HMAC: its modulus, and the whole of it.
    for secret in [RSA_MODULUS.as_bytes(), key_set(1, "ours").as_bytes()] {
        let text = format!("{}.{}", encoded(r#"{"alg":"HS256","kid":"rsa"}"#), encoded(payload().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
        for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
            let header = encoded(json!({"alg": alg, "kid": "rsa"}).to_string());
            let forged = format!("{header}.{}.{}", encoded(payload().to_string()), encoded(tag));
            let why = refused(forged.as_bytes());
            assert!(matches!(why, Refusal::Algorithm | Refusal::Signature(_)), "{alg}: {why}");
        }
    }
}

#[test]
fn the_key_decides_the_algorithm() {
    for alg in ["RS256", "PS256", "ES256", "ES384"] {
        let why = refused(&token(&json!({"alg": alg, "kid": "ours"}), &payload()));
        assert_eq!(why, Refusal::Signature(SignatureError::NoKey), "{alg}");
    }
    for alg in ["ES512", "ES256K", "RS1", "dir", "eddsa"] {
        assert_eq!(refused(&token(&json!({"alg": alg}), &payload())), Refusal::Algorithm, "{alg}");
    }
    assert!(verify(&[ours()], &token(&json!({"alg": "Ed25519"}), &payload()), now()).is_ok());
}

#[test]
fn keys_of_others_do_not_count() {
    let other = Issuer::compile(OTHER, &[], &key_set(2, "theirs"), false).unwrap();
    let issuers = [ours(), other];
    let shown = |seed, header: &Value, payload: &Value| {
        verify(&issuers, &signed(seed, header.to_string().as_bytes(), payload.to_string().as_bytes()), now())
    };
    let theirs = json!({"alg": "EdDSA", "kid": "theirs"});
    // Theirs in our name, by their own key's name, by ours, and without one.
    assert_eq!(shown(2, &theirs, &payload()), Err(SignatureError::NoKey.into()));
    assert_eq!(shown(2, &json!({"alg": "EdDSA", "kid": "ours"}), &payload()), Err(SignatureError::Wrong.into()));
    assert_eq!(shown(2, &json!({"alg": "EdDSA"}), &payload()), Err(SignatureError::Wrong.into()));
    // What they say in their own name is theirs to say.
    assert_eq!(shown(2, &theirs, &with(&json!({"iss": OTHER}))).unwrap().issuer(), OTHER);
    // A key that the token brings along, or says where to find.
    let jwk: Value = serde_json::from_str(&key_set(3, "mine")).unwrap();
    let brought = json!({"alg": "EdDSA", "jwk": jwk["keys"][0], "jku": "https://evil.example", "x5u": "https://evil.example", "x5c": ["AA"]});
    assert_eq!(shown(3, &brought, &payload()), Err(SignatureError::Wrong.into()));
    assert!(shown(1, &brought, &payload()).is_ok(), "they are not read");
}

#[test]
fn of_issuers_of_one_name_any_may_vouch() {
    let compile = |audience: &str, seed| Issuer::compile(ISSUER, &[audience.to_owned()], &key_set(seed, "ours"), false);
    let issuers = [compile("other", 1).unwrap(), compile(AUDIENCE, 2).unwrap(), compile(AUDIENCE, 1).unwrap()];
    assert!(verify(&issuers, &good(), now()).is_ok());
    assert_eq!(verify(&issuers[..1], &good(), now()), Err(Refusal::Audience));
    assert_eq!(verify(&issuers[..2], &good(), now()), Err(SignatureError::Wrong.into()));
    assert_eq!(verify(&[], &good(), now()), Err(Refusal::Issuer));
}

#[test]
fn issuer_audience_and_time_must_be_right() {
    let far = u64::MAX;
    for (changes, expected) in [
        (json!({}), Ok(())),
        (json!({"iss": OTHER}), Err(Refusal::Issuer)),
        (json!({"iss": format!("{ISSUER}/")}), Err(Refusal::Issuer)),
        (json!({"iss": ISSUER.to_uppercase()}), Err(Refusal::Issuer)),
        (json!({"iss": [ISSUER]}), Err(Refusal::Issuer)),
        (json!({"iss": null}), Err(Refusal::Issuer)),
        (json!({"aud": ["x", AUDIENCE]}), Ok(())),
        (json!({"aud": ["x"]}), Err(Refusal::Audience)),
        (json!({"aud": []}), Err(Refusal::Audience)),
        (json!({"aud": "SHOP"}), Err(Refusal::Audience)),
        (json!({"aud": "shop "}), Err(Refusal::Audience)),
        (json!({"aud": [[AUDIENCE]]}), Err(Refusal::Audience)),
        (json!({"aud": {"shop": true}}), Err(Refusal::Audience)),
        (json!({"aud": null}), Err(Refusal::Audience)),
        (json!({"exp": null}), Err(Refusal::NoExpiry)),
        (json!({"exp": NOW - 59}), Ok(())),
        (json!({"exp": NOW - 60}), Err(Refusal::Expired)),
        (json!({"exp": 0}), Err(Refusal::Expired)),
        (json!({"exp": NOW as f64 + 0.5}), Ok(())),
        (json!({"exp": far}), Ok(())),
        (json!({"exp": 1e300}), Err(Refusal::Malformed)),
        (json!({"exp": -1}), Err(Refusal::Malformed)),
        (json!({"exp": (NOW + 300).to_string()}), Err(Refusal::Malformed)),
        (json!({"exp": [NOW + 300]}), Err(Refusal::Malformed)),
        (json!({"nbf": NOW + 60}), Ok(())),
        (json!({"nbf": NOW + 61}), Err(Refusal::NotYetValid)),
        (json!({"nbf": far}), Err(Refusal::NotYetValid)),
        (json!({"nbf": "now"}), Err(Refusal::Malformed)),
        (json!({"iat": NOW + 60}), Ok(())),
        (json!({"iat": NOW + 61}), Err(Refusal::NotYetValid)),
        (json!({"iat": NOW + 61, "nbf": NOW}), Err(Refusal::NotYetValid)),
        (json!({"iat": null}), Ok(())),
    ] {
        let verdict = verify(&[ours()], &token(&json!({"alg": "EdDSA"}), &with(&changes)), now()).map(drop);
        assert_eq!(verdict, expected, "{changes}");
    }
    let any = Issuer::compile(ISSUER, &[], &key_set(1, "ours"), false).unwrap();
    for audience in [json!("other"), json!(null)] {
        let token = token(&json!({"alg": "EdDSA"}), &with(&json!({"aud": audience})));
        assert!(verify(std::slice::from_ref(&any), &token, now()).is_ok(), "{audience}");
    }
}

#[test]
fn a_token_has_one_spelling() {
    let good = String::from_utf8(good()).unwrap();
    let parts: Vec<_> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("{parts:?}") };
    for malformed in [
        String::new(),
        "..".to_owned(),
        ".".to_owned(),
        header.to_owned(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(".{good}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}==.{signature}"),
        format!("{good} "),
        format!("{good}\n"),
        good.replacen('.', "..", 1),
        good.replace('.', "%2E"),
        format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+")) + "/",
        // Bits behind the last byte: another text for the same signature.
        format!("{header}.{payload}.{}B", &signature[..signature.len() - 1]),
    ] {
        assert_eq!(refused(malformed.as_bytes()), Refusal::Malformed, "{malformed}");
    }
    for end in 0..good.len() {
        refused(&good.as_bytes()[..end]);
    }
    assert_eq!(refused(b"\xff.\xff.\xff"), Refusal::Malformed);
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let plain = payload().to_string();
    let inner = plain.trim_start_matches('{');
    for (header, payload, expected) in [
        (r#"{"alg":"none","alg":"EdDSA"}"#.to_owned(), plain.clone(), Refusal::Duplicate),
        (r#"{"alg":"EdDSA","kid":"theirs","kid":"ours"}"#.to_owned(), plain.clone(), Refusal::Duplicate),
        (r#"{"alg":"EdDSA","x":1,"x":1}"#.to_owned(), plain.clone(), Refusal::Duplicate),
        (r#"{"alg":"EdDSA","\u0061lg":"EdDSA"}"#.to_owned(), plain.clone(), Refusal::Duplicate),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!(r#"{{"sub":"admin",{inner}"#), Refusal::Duplicate),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!(r#"{{"\u0073ub":"admin",{inner}"#), Refusal::Duplicate),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!(r#"{{"exp":1,{inner}"#), Refusal::Duplicate),
        (r#"{"alg":"EdDSA","crit":["exp"],"exp":1}"#.to_owned(), plain.clone(), Refusal::Critical),
        (r#"{"alg":"EdDSA","crit":[]}"#.to_owned(), plain.clone(), Refusal::Critical),
        (r#"{"alg":"EdDSA","crit":null,"b64":false}"#.to_owned(), plain.clone(), Refusal::Critical),
        (r#"{"alg":["EdDSA"]}"#.to_owned(), plain.clone(), Refusal::Malformed),
        (r#"{"alg":null}"#.to_owned(), plain.clone(), Refusal::Malformed),
        (r#"{"ALG":"EdDSA"}"#.to_owned(), plain.clone(), Refusal::Malformed),
        (r#"{"alg":"EdDSA","kid":1}"#.to_owned(), plain.clone(), Refusal::Malformed),
        (r#"{"alg":"EdDSA","kid":null}"#.to_owned(), plain.clone(), Refusal::Malformed),
        (r#"["EdDSA"]"#.to_owned(), plain.clone(), Refusal::Malformed),
        (r#"{"alg":"EdDSA"} {}"#.to_owned(), plain.clone(), Refusal::Malformed),
        ("{'alg':'EdDSA'}".to_owned(), plain.clone(), Refusal::Malformed),
        ("\u{feff}{\"alg\":\"EdDSA\"}".to_owned(), plain.clone(), Refusal::Malformed),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!("{plain}x"), Refusal::Malformed),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!("{plain}\0"), Refusal::Malformed),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!("[{plain}]"), Refusal::Malformed),
        (r#"{"alg":"EdDSA"}"#.to_owned(), format!("{{{inner},"), Refusal::Malformed),
        (r#"{"alg":"EdDSA"}"#.to_owned(), "null".to_owned(), Refusal::Malformed),
        (r#"{"alg":"EdDSA"}"#.to_owned(), String::new(), Refusal::Malformed),
    ] {
        let token = signed(1, header.as_bytes(), payload.as_bytes());
        assert_eq!(refused(&token), expected, "{header} {payload}");
    }
    // What is no text or number is none further down either, where nothing is compared.
    let begun = &plain.as_bytes()[..plain.len() - 1];
    for end in [
        &b",\"x\":\"\xff\"}"[..],
        b",\"x\":{\"a\":\"\xff\"}}",
        b",\"x\":{\"\xff\":1}}",
        b",\"x\":{\"a\":[{\"a\":\"\\ud800\"}]}}",
        b",\"x\":{\"a\":1e999}}",
        b",\"x\":{\"a\":\"\n\"}}",
    ] {
        let payload = [begun, end].concat();
        let token = signed(1, br#"{"alg":"EdDSA"}"#, &payload);
        assert_eq!(refused(&token), Refusal::Malformed, "{}", payload.escape_ascii());
    }
}

#[test]
fn large_and_deep_tokens_are_refused_or_cost_little() {
    let padded = |len: usize| token(&json!({"alg": "EdDSA"}), &with(&json!({"x": "x".repeat(len)})));
    assert_eq!(refused(&padded(MAX_TOKEN)), Refusal::TooLong);
    assert!(verify(&[ours()], &padded(5000), now()).is_ok());
    assert_eq!(refused(&vec![b'a'; 1 << 20]), Refusal::TooLong);
    let inner = payload().to_string();
    let nested = |open: &str, close: &str| {
        let payload = format!(r#"{},"x":{}1{}}}"#, &inner[..inner.len() - 1], open.repeat(500), close.repeat(500));
        verify(&[ours()], &signed(1, br#"{"alg":"EdDSA"}"#, payload.as_bytes()), now()).map(drop)
    };
    assert_eq!(nested("[", "]"), Err(Refusal::Malformed));
    for (open, close) in [("{\"a\":", "}"), ("{\"a\":[", "]}"), ("[{\"a\":", "}]")] {
        assert_eq!(nested(open, close), Err(Refusal::Malformed), "{open}");
    }
}

fn ec(document: &[u8], how: &'static EcdsaSigningAlgorithm, text: &str) -> (EcdsaKeyPair, String) {
    let key = EcdsaKeyPair::from_pkcs8(how, document, &SystemRandom::new()).unwrap();
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    (key, format!("{text}.{}", encoded(signature)))
}

#[test]
fn a_signature_of_es256_is_raw() {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let text = format!("{}.{}", encoded(r#"{"alg":"ES256"}"#), encoded(payload().to_string()));
    let (key, raw) = ec(document.as_ref(), &ECDSA_P256_SHA256_FIXED_SIGNING, &text);
    let (_, der) = ec(document.as_ref(), &ECDSA_P256_SHA256_ASN1_SIGNING, &text);
    let point = &key.public_key().as_ref()[1..];
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encoded(&point[..32]), "y": encoded(&point[32..])});
    let issuer = Issuer::compile(ISSUER, &[], &json!({"keys": [jwk]}).to_string(), false).unwrap();
    assert!(verify(std::slice::from_ref(&issuer), raw.as_bytes(), now()).is_ok());
    assert_eq!(verify(&[issuer], der.as_bytes(), now()), Err(SignatureError::Wrong.into()));
}

#[test]
fn an_issuer_that_cannot_vouch_is_said_in_a_sentence() {
    for (issuer, keys, expected) in [
        ("", key_set(1, "a"), "an issuer without a name vouches for nobody"),
        (
            ISSUER,
            "{}".to_owned(),
            "the key set of issuer https://issuer.example is not a JSON Web Key Set (line 1, column 2)",
        ),
        (ISSUER, r#"{"keys":[]}"#.to_owned(), "the key set of issuer https://issuer.example has no key"),
        (
            ISSUER,
            r#"{"keys":[{"kty":"oct","k":"AA"}]}"#.to_owned(),
            "the key set of issuer https://issuer.example has no key that can be used: key 1 is symmetric: whoever could verify with it could sign",
        ),
    ] {
        assert_eq!(Issuer::compile(issuer, &[], &keys, false).unwrap_err(), expected);
    }
}

#[test]
fn a_refusal_says_nothing_of_the_token() {
    let secret = token(&json!({"alg": "EdDSA"}), &with(&json!({"aud": "s3cr3t", "sub": "s3cr3t"})));
    let refusal = refused(&secret);
    assert!(!format!("{refusal} {refusal:?}").contains("s3cr3t"));
}

#[test]
fn what_was_verified_lately_ends_with_its_time() {
    let issuers = Issuers::new(vec![ours()]);
    let first = issuers.verify(&good(), now()).unwrap();
    let again = issuers.verify(&good(), now() + Duration::from_secs(359)).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "it is not verified twice");
    assert_eq!(issuers.verify(&good(), now() + Duration::from_secs(360)), Err(Refusal::Expired));
    assert_eq!(issuers.verify(&good(), UNIX_EPOCH), Err(Refusal::NotYetValid));
    // Another signature for the same words is another token.
    let mut forged = good();
    let at = forged.len() - 10;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    assert_eq!(issuers.verify(&forged, now()), Err(SignatureError::Wrong.into()));
    // With other keys it is looked at again.
    let other = Issuer::compile(ISSUER, &[], &key_set(2, "ours"), false).unwrap();
    assert_eq!(Issuers::new(vec![other]).verify(&good(), now()), Err(SignatureError::Wrong.into()));
}

#[test]
fn what_is_remembered_is_bounded_and_junk_takes_no_place() {
    let issuers = Issuers::new(vec![ours()]);
    let numbered = |number: usize, exp: u64| token(&json!({"alg": "EdDSA"}), &with(&json!({"n": number, "exp": exp})));
    for number in 0..2 * lately::MOST {
        issuers.verify(&numbered(number, NOW + 300), now()).unwrap();
        issuers.verify(&numbered(number, 1), now()).unwrap_err();
    }
    let full = issuers.lately.len();
    assert!((lately::MOST / 2..=lately::MOST).contains(&full), "{full}");
    for claim in [json!("x".repeat(4096)), json!(vec![1; 256])] {
        let large = token(&json!({"alg": "EdDSA"}), &with(&json!({"x": claim})));
        let (first, again) = (issuers.verify(&large, now()).unwrap(), issuers.verify(&large, now()).unwrap());
        assert!(!Arc::ptr_eq(&first, &again) && first == again);
    }
    // When all of them have ended there is room.
    let later = NOW + 1000;
    for number in 0..lately::MOST {
        issuers.verify(&numbered(number, later + 300), UNIX_EPOCH + Duration::from_secs(later)).unwrap();
    }
    assert!(issuers.lately.len() <= lately::MOST);
}

/// A member that mostly is as it should be, and else another, missing, or twice.
fn member(name: &'static str, good: &'static str, bad: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let written = move |value: &str| format!("\"{name}\":{value}");
    prop_oneof![
        20 => Just(vec![written(good)]),
        2 => prop::sample::select(bad).prop_map(move |bad| vec![written(bad)]),
        1 => Just(vec![]),
        1 => Just(vec![written(good), written(good)]),
    ]
}

fn nearly_a_header() -> impl Strategy<Value = String> {
    let name = member("kid", "\"ours\"", &["\"theirs\"", "1", "null"]);
    let alg = member("alg", "\"EdDSA\"", &["\"Ed25519\"", "\"none\"", "\"HS256\"", "\"ES256\"", "[]"]);
    let crit = prop_oneof![9 => Just(vec![]), 1 => Just(vec!["\"crit\":[]".to_owned()])];
    (alg, crit, name).prop_map(|(alg, crit, name)| format!("{{{}}}", [alg, crit, name].concat().join(",")))
}

fn nearly_a_payload() -> impl Strategy<Value = String> {
    let aud = member("aud", "\"shop\"", &["[\"shop\"]", "[]", "\"shops\"", "null"]);
    let exp =
        member("exp", "1800000300", &["1799999940", "1799999940.5", "1799999941", "-1", "1e99", "1e400", "\"1\""]);
    let iat = member("iat", "1800000000", &["1800000060.5", "1800000061", "{}"]);
    let iss = member(
        "iss",
        "\"https://issuer.example\"",
        &["\"https://other.example\"", "\"https://issuer.example\\u0000\"", "0"],
    );
    let nbf = member("nbf", "1800000000.0", &["1800000061", "false"]);
    (aud, exp, iat, iss, nbf)
        .prop_map(|(aud, exp, iat, iss, nbf)| format!("{{{}}}", [aud, exp, iat, iss, nbf].concat().join(",")))
}

proptest! {
    #[test]
    fn a_changed_token_is_never_believed(at: prop::sample::Index, to: u8, kind in 0..3) {
        let good = good();
        let at = at.index(good.len());
        let mut changed = good.clone();
        match kind {
            0 => changed[at] = to,
            1 => { changed.remove(at); }
            _ => changed.insert(at, to),
        }
        prop_assume!(changed != good);
        prop_assert!(verify(&[ours()], &changed, now()).is_err(), "{}", changed.escape_ascii());
    }

    #[test]
    fn parts_of_several_tokens_make_none(parts in prop::collection::vec(0..3_usize, 3)) {
        let tokens = [good(), token(&json!({"alg": "Ed25519"}), &with(&json!({"sub": "b"}))), RS256.as_bytes().to_vec()];
        prop_assume!(parts.iter().any(|part| *part != parts[0]));
        let part = |at: usize| tokens[parts[at]].split(|byte| *byte == b'.').nth(at).unwrap();
        let mixed = [part(0), part(1), part(2)].join(&b'.');
        prop_assert!(verify(&[ours(), rsa()], &mixed, now()).is_err());
    }

    #[test]
    fn nothing_makes_it_fail(bytes: Vec<u8>, header: String, payload: String) {
        prop_assert!(verify(&[ours()], &bytes, now()).is_err());
        prop_assert!(verify(&[ours()], &signed(1, header.as_bytes(), payload.as_bytes()), now()).is_err());
    }

    #[test]
    fn what_is_fuzzed_holds_of_what_is_nearly_a_token(header in nearly_a_header(), payload in nearly_a_payload()) {
        fuzz::tokens(format!("{header}\n{payload}").as_bytes());
    }

    #[test]
    fn a_token_holds_from_its_beginning_to_its_end(begins in 0_u64..1000, lives in 0_u64..1000, at in 0_u64..3000) {
        let token = token(&json!({"alg": "EdDSA"}), &with(&json!({"iat": null, "nbf": 1000 + begins, "exp": 1000 + begins + lives})));
        let verdict = verify(&[ours()], &token, UNIX_EPOCH + Duration::from_secs(at)).map(drop);
        let expected = if at >= 1000 + begins + lives + 60 {
            Err(Refusal::Expired)
        } else if at + 60 < 1000 + begins {
            Err(Refusal::NotYetValid)
        } else {
            Ok(())
        };
        prop_assert_eq!(verdict, expected);
    }
}

/// What decision 40 says of time: `cargo test -p fairlead-proxy --release jwt -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn what_a_token_costs() {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let text = format!("{}.{}", encoded(r#"{"alg":"ES256"}"#), encoded(payload().to_string()));
    let (key, es256) = ec(document.as_ref(), &ECDSA_P256_SHA256_FIXED_SIGNING, &text);
    let point = &key.public_key().as_ref()[1..];
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encoded(&point[..32]), "y": encoded(&point[32..])});
    let ec = Issuer::compile(ISSUER, &[], &json!({"keys": [jwk]}).to_string(), false).unwrap();
    for (name, issuer, token) in
        [("RS256", rsa(), RS256.as_bytes().to_vec()), ("ES256", ec, es256.into_bytes()), ("EdDSA", ours(), good())]
    {
        let issuers = Issuers::new(vec![issuer.clone()]);
        let each = |run: &dyn Fn()| {
            let begin = tokio::time::Instant::now();
            (0..5000).for_each(|_| run());
            begin.elapsed().as_secs_f64() * 1e6 / 5000.0
        };
        let verified = each(&|| drop(verify(std::slice::from_ref(&issuer), &token, now()).unwrap()));
        let remembered = each(&|| drop(issuers.verify(&token, now()).unwrap()));
        println!("{name}, {} bytes: {verified:.1} µs verified, {remembered:.2} µs remembered", token.len());
    }
}
