use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

use super::*;

const MESSAGE: &[u8] = b"header.payload";

/// Of a 1024-bit key.
const SMALL: &str = "vjZvgxlaFC_hjBJ3PVXcWGi9Qlz46WXGKEvxpKkmCq3HdltahlfYMw9avG14kSHFhEGW3STxaAE0_v6C5RxsjTN463hnOLK2xzvR1bRtCYk1Lu9TBa2ZFukLbKFxAAGAsCz0EhqafVXWCPGzG4iGftK_tC_zvq0ozXSSn6Ecpc8";

const ALL: [Algorithm; 9] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// For tests alone: nothing else knows it.
fn rsa() -> RsaKeyPair {
    RsaKeyPair::from_der(include_bytes!("rsa.der")).unwrap()
}

fn public() -> RsaPublicKeyComponents<Vec<u8>> {
    rsa().public().into()
}

fn rsa_jwk() -> Value {
    let RsaPublicKeyComponents { n, e } = public();
    json!({"kty": "RSA", "kid": "rsa", "n": encoded(&n), "e": encoded(&e)})
}

fn rsa_signed(how: &'static dyn RsaEncoding) -> Vec<u8> {
    let key = rsa();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(how, &SystemRandom::new(), MESSAGE, &mut signature).unwrap();
    signature
}

fn ec(how: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let document = EcdsaKeyPair::generate_pkcs8(how, &SystemRandom::new()).unwrap();
    EcdsaKeyPair::from_pkcs8(how, document.as_ref(), &SystemRandom::new()).unwrap()
}

fn ec_jwk(curve: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "kid": "ec", "crv": curve, "x": encoded(x), "y": encoded(y)})
}

fn ec_signed(key: &EcdsaKeyPair) -> Vec<u8> {
    key.sign(&SystemRandom::new(), MESSAGE).unwrap().as_ref().to_vec()
}

fn ed(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn ed_jwk(seed: u8) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(ed(seed).public_key().as_ref())})
}

fn set(keys: &[Value]) -> KeySet {
    parse(keys).unwrap()
}

fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(&json!({"keys": keys}).to_string())
}

/// `jwk` with members in place of others, or without those that are null.
fn with(mut jwk: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            jwk.as_object_mut().unwrap().remove(name);
        } else {
            jwk[name] = value.clone();
        }
    }
    jwk
}

#[test]
fn each_key_verifies_its_own_algorithms_and_no_other() {
    let (p256, p384) = (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), ec(&ECDSA_P384_SHA384_FIXED_SIGNING));
    let rsa = set(&[rsa_jwk()]);
    let (es256, es384) = (set(&[ec_jwk("P-256", &p256)]), set(&[ec_jwk("P-384", &p384)]));
    let eddsa = set(&[ed_jwk(1)]);
    for (set, algorithm, signature) in [
        (&rsa, Algorithm::Rs256, rsa_signed(&RSA_PKCS1_SHA256)),
        (&rsa, Algorithm::Rs384, rsa_signed(&RSA_PKCS1_SHA384)),
        (&rsa, Algorithm::Rs512, rsa_signed(&RSA_PKCS1_SHA512)),
        (&rsa, Algorithm::Ps256, rsa_signed(&RSA_PSS_SHA256)),
        (&rsa, Algorithm::Ps384, rsa_signed(&RSA_PSS_SHA384)),
        (&rsa, Algorithm::Ps512, rsa_signed(&RSA_PSS_SHA512)),
        (&es256, Algorithm::Es256, ec_signed(&p256)),
        (&es384, Algorithm::Es384, ec_signed(&p384)),
        (&eddsa, Algorithm::EdDsa, ed(1).sign(MESSAGE).as_ref().to_vec()),
    ] {
        for tried in ALL {
            let holds = set.verify(tried, None, MESSAGE, &signature);
            assert_eq!(holds.is_ok(), tried == algorithm, "{tried:?} on a signature of {algorithm:?}: {holds:?}");
        }
        assert_eq!(set.verify(algorithm, None, b"header.other", &signature), Err(SignatureError::Wrong));
    }
}

#[test]
fn a_signature_is_two_numbers_and_not_der() {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let der =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &SystemRandom::new()).unwrap();
    let raw =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &SystemRandom::new()).unwrap();
    let set = set(&[ec_jwk("P-256", &raw)]);
    assert_eq!(set.verify(Algorithm::Es256, None, MESSAGE, &ec_signed(&raw)), Ok(()));
    assert_eq!(set.verify(Algorithm::Es256, None, MESSAGE, &ec_signed(&der)), Err(SignatureError::Wrong));
}

#[test]
fn what_a_key_says_of_itself_is_honoured() {
    let signature = rsa_signed(&RSA_PKCS1_SHA256);
    for (changes, expected) in [
        (json!({}), Ok(())),
        (json!({"alg": "RS256", "use": "sig", "key_ops": ["verify"], "x5t": "unknown"}), Ok(())),
        (json!({"alg": "PS256"}), Err(SignatureError::NoKey)),
    ] {
        let set = set(&[with(rsa_jwk(), &changes)]);
        assert_eq!(set.verify(Algorithm::Rs256, Some("rsa"), MESSAGE, &signature), expected, "{changes}");
    }
    for (changes, expected) in [
        (json!({"use": "enc"}), "is not for signatures (use)"),
        (json!({"key_ops": ["sign"]}), "is not for verification (key_ops)"),
        (json!({"key_ops": "verify"}), "is not for verification (key_ops)"),
        (json!({"alg": "HS256"}), "has an alg that is not accepted for its kind"),
        (json!({"alg": "none"}), "has an alg that is not accepted for its kind"),
        (json!({"alg": "ES256"}), "has an alg that is not accepted for its kind"),
        (json!({"alg": ["RS256"]}), "has an alg that is not accepted for its kind"),
        (json!({"kid": 1}), "has a kid that is not a string"),
    ] {
        let why = parse(&[with(rsa_jwk(), &changes)]).unwrap_err();
        assert_eq!(why, KeySetError::Unusable { number: 1, why: expected }, "{changes}");
    }
}

#[test]
fn a_name_picks_its_key() {
    let named = |seed, id: &str| with(ed_jwk(seed), &json!({"kid": id}));
    let keys = set(&[named(1, "a"), named(2, "b")]);
    let signature = ed(1).sign(MESSAGE);
    let verify = |set: &KeySet, id| set.verify(Algorithm::EdDsa, id, MESSAGE, signature.as_ref());
    assert_eq!(verify(&keys, Some("a")), Ok(()));
    assert_eq!(verify(&keys, None), Ok(()));
    assert_eq!(verify(&keys, Some("b")), Err(SignatureError::Wrong));
    assert_eq!(verify(&keys, Some("c")), Err(SignatureError::NoKey));
    assert_eq!(verify(&keys, Some("")), Err(SignatureError::NoKey));
    assert_eq!(verify(&set(&[ed_jwk(1)]), Some("a")), Ok(()), "a key without a name may be any");
    let many: Vec<_> = (1..6).map(|seed| named(seed, &seed.to_string())).collect();
    assert_eq!(verify(&set(&many), None), Err(SignatureError::Ambiguous));
    assert_eq!(verify(&set(&many), Some("1")), Ok(()));
}

#[test]
fn keys_of_no_use_are_left_out_and_the_first_is_named_if_there_is_no_other() {
    let p256 = ec_jwk("P-256", &ec(&ECDSA_P256_SHA256_FIXED_SIGNING));
    let modulus = |bytes: usize| encoded(&vec![0xff; bytes]);
    for (jwk, expected) in [
        (json!({"kty": "oct", "k": "c2VjcmV0"}), "is symmetric: whoever could verify with it could sign"),
        (json!({"kty": "future"}), "is of another kind (kty) than RSA, EC and OKP"),
        (json!({}), "is of another kind (kty) than RSA, EC and OKP"),
        (json!({"kty": 7}), "is of another kind (kty) than RSA, EC and OKP"),
        (with(rsa_jwk(), &json!({"n": SMALL})), "is RSA of less than 2048 or more than 4096 bits"),
        (with(rsa_jwk(), &json!({"n": modulus(513)})), "is RSA of less than 2048 or more than 4096 bits"),
        (with(rsa_jwk(), &json!({"n": modulus(2048)})), "is RSA of less than 2048 or more than 4096 bits"),
        (with(rsa_jwk(), &json!({"n": null})), "has no modulus (n)"),
        (with(rsa_jwk(), &json!({"n": "=="})), "has no modulus (n)"),
        (with(rsa_jwk(), &json!({"n": "AAAA"})), "has no modulus (n)"),
        (with(rsa_jwk(), &json!({"e": null})), "has no exponent (e)"),
        (with(rsa_jwk(), &json!({"e": encoded(&[1])})), "has an exponent (e) that is even, 1 or too large"),
        (with(rsa_jwk(), &json!({"e": encoded(&[4])})), "has an exponent (e) that is even, 1 or too large"),
        (with(rsa_jwk(), &json!({"e": encoded(&[1, 0, 0, 0, 1])})), "has an exponent (e) that is even, 1 or too large"),
        (with(p256.clone(), &json!({"crv": "P-384"})), "has coordinates (x, y) of another length than its curve"),
        (with(p256.clone(), &json!({"crv": "P-521"})), "is of another curve than P-256 and P-384"),
        (with(p256.clone(), &json!({"crv": "secp256k1"})), "is of another curve than P-256 and P-384"),
        (with(p256.clone(), &json!({"y": null})), "has coordinates (x, y) of another length than its curve"),
        (with(ed_jwk(1), &json!({"crv": "X25519"})), "is of another curve than Ed25519"),
        (with(ed_jwk(1), &json!({"x": "AA"})), "has coordinates (x, y) of another length than its curve"),
    ] {
        assert_eq!(parse(std::slice::from_ref(&jwk)), Err(KeySetError::Unusable { number: 1, why: expected }), "{jwk}");
        assert_eq!(set(&[jwk.clone(), ed_jwk(1)]).keys.len(), 1, "{jwk}");
    }
    let four_thousand = with(rsa_jwk(), &json!({"n": modulus(512)}));
    assert_eq!(set(&[four_thousand]).keys.len(), 1);
}

#[test]
fn a_zero_in_front_of_a_number_is_none() {
    let modulus = [&[0], &public().n[..]].concat();
    let keys = set(&[with(rsa_jwk(), &json!({"n": encoded(&modulus)}))]);
    assert_eq!(keys, set(&[rsa_jwk()]));
}

#[test]
fn what_is_no_set_is_said_without_a_word_of_it() {
    let private = with(ed_jwk(1), &json!({"d": "secret"}));
    let many = vec![ed_jwk(1); MAX_KEYS + 1];
    for (text, expected) in [
        (String::new(), "is not a JSON Web Key Set (line 1, column 0)"),
        ("secret".to_owned(), "is not a JSON Web Key Set (line 1, column 1)"),
        (json!({"secret": []}).to_string(), "is not a JSON Web Key Set (line 1, column 13)"),
        (json!({"keys": "secret"}).to_string(), "is not a JSON Web Key Set (line 1, column 16)"),
        (r#"{"keys": [{"kty": "OKP", "kty": "RSA"}]}"#.to_owned(), "is not a JSON Web Key Set (line 1, column 30)"),
        (format!("{} x", json!({"keys": [ed_jwk(1)]})), "is not a JSON Web Key Set (line 1, column "),
        (json!({"keys": []}).to_string(), "has no key"),
        (json!({"keys": [ed_jwk(2), private]}).to_string(), "holds the private part of key 2"),
        (json!({"keys": many}).to_string(), "has 65 keys, more than 64"),
        (" ".repeat(MAX_SET + 1), "is longer than 64 KiB"),
        ("[".repeat(MAX_SET), "is not a JSON Web Key Set (line 1, column "),
    ] {
        let why = KeySet::parse(&text).unwrap_err().to_string();
        assert!(why.starts_with(expected), "{why}");
        assert!(!why.contains("secret"), "{why}");
    }
    assert_eq!(set(&vec![ed_jwk(1); MAX_KEYS]).keys.len(), MAX_KEYS);
}

proptest! {
    #[test]
    fn a_changed_signature_or_message_does_not_hold(at in 0_usize..64, bit in 0_u32..8, message in any::<bool>()) {
        let (mut signed, mut signature) = (MESSAGE.to_vec(), ed(1).sign(MESSAGE).as_ref().to_vec());
        let changed = if message { &mut signed } else { &mut signature };
        let at = at % changed.len();
        changed[at] ^= 1 << bit;
        prop_assert_eq!(set(&[ed_jwk(1)]).verify(Algorithm::EdDsa, None, &signed, &signature), Err(SignatureError::Wrong));
    }

    #[test]
    fn nothing_makes_it_fail(text in r#"\{"keys": ?\[(\{("(kty|use|n|e|x|crv|kid)": ?("RSA"|"EC"|"AQAB"|1|null|\[\]),? ?){0,5}\},?){0,3}\]\}"#) {
        let _ = KeySet::parse(&text);
    }
}
