//! Tokens of users as callers meet them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fairlead_proxy::inbound::policy::compile;
use fairlead_proxy_api::v1;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use crate::support::*;

const ISSUER: &str = "https://issuer.example";

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn issuer(seed: u8, forward: bool) -> v1::JwtIssuer {
    let x = URL_SAFE_NO_PAD.encode(pair(seed).public_key());
    v1::JwtIssuer {
        issuer: ISSUER.into(),
        audiences: vec!["shop".into()],
        jwks: json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string(),
        forward,
        rehearsed: false,
    }
}

/// One line of a request.
fn token(seed: u8, group: &str, expires_in: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = json!({"iss": ISSUER, "aud": "shop", "exp": now + expires_in, "groups": [group]});
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": "k"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(pair(seed).sign(signed.as_bytes()));
    format!("Authorization: Bearer {signed}.{signature}\r\n")
}

/// Lets developers in.
fn developers(issuers: Vec<v1::JwtIssuer>) -> v1::Workload {
    let rule = v1::AuthorizationRule {
        name: "test/server/dev".into(),
        action: v1::AuthorizationAction::Allow.into(),
        when: vec![v1::AuthorizationClaim { name: "groups".into(), values: vec!["dev".into()] }],
        ..v1::AuthorizationRule::default()
    };
    v1::Workload {
        authorization: Some(v1::Authorization { rules: vec![rule], unmatched: 0 }),
        jwt_issuers: issuers,
        ..workload(v1::MtlsMode::Permissive)
    }
}

fn server(app: &App, workload: v1::Workload) -> Sidecar {
    Pod { application: app.address, workload, ..Pod::new(Authority::new().identity("server")) }.start()
}

#[tokio::test]
async fn a_claim_opens_what_it_is_asked_for_and_a_bad_token_opens_nothing() {
    let app = App::mirror().await;
    let server = server(&app, developers(vec![issuer(1, false)]));
    let answer = get(server.inbound, "/", &token(1, "dev", 60)).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(
        !answer.to_ascii_lowercase().contains("\r\nauthorization:"),
        "the token is not for the application: {answer}"
    );
    for (whose, headers) in [("another group", token(1, "ops", 60)), ("nobody", String::new())] {
        assert_eq!(status(&get(server.inbound, "/", &headers).await), 403, "{whose}");
    }
    let valid = token(1, "dev", 60);
    for (why, headers) in [
        ("another key", token(2, "dev", 60)),
        ("expired", token(1, "dev", -3600)),
        ("two of them", format!("{valid}{valid}")),
        ("no token", "Authorization: Bearer\r\n".to_owned()),
        ("no signature", format!("{}.\r\n", valid.trim_end().rsplit_once('.').unwrap().0)),
    ] {
        let answer = get(server.inbound, "/", &headers).await;
        assert_eq!(status(&answer), 401, "{why}: {answer}");
        assert!(answer.contains("fairlead-proxy: token-refused"), "{why}: {answer}");
        assert!(answer.contains("www-authenticate: Bearer error=\"invalid_token\""), "{why}: {answer}");
    }
    let grpc = get(server.inbound, "/", &format!("{}content-type: application/grpc\r\n", token(2, "dev", 60))).await;
    assert!(grpc.contains("grpc-status: 16"), "{grpc}");
}

#[tokio::test]
async fn a_token_goes_on_where_the_policy_says_so() {
    let app = App::mirror().await;
    let server = server(&app, developers(vec![issuer(1, true)]));
    let answer = get(server.inbound, "/", &token(1, "dev", 60)).await;
    assert!(answer.contains("Bearer ey"), "{answer}");
    let basic = get(server.inbound, "/", "Authorization: Basic dXNlcg==\r\n").await;
    assert_eq!(status(&basic), 403, "of another scheme: no claim, and no mistake");
}

#[tokio::test]
async fn keys_that_the_operator_does_not_have_stay_and_others_do_not() {
    let app = App::mirror().await;
    let server = server(&app, developers(vec![issuer(1, false)]));
    let none_yet = v1::JwtIssuer { jwks: String::new(), ..issuer(1, false) };
    let apply = |message| {
        let next = compile(Some(&server.workload.load()), message).unwrap();
        server.workload.store(next.into());
    };
    apply(developers(vec![none_yet.clone()]));
    assert_eq!(status(&get(server.inbound, "/", &token(1, "dev", 60)).await), 200);
    apply(developers(vec![issuer(2, false)]));
    assert_eq!(status(&get(server.inbound, "/", &token(1, "dev", 60)).await), 401, "the key was withdrawn");
    assert_eq!(status(&get(server.inbound, "/", &token(2, "dev", 60)).await), 200);
    apply(developers(vec![v1::JwtIssuer { issuer: "https://another.example".into(), ..none_yet }]));
    assert_eq!(status(&get(server.inbound, "/", &token(2, "dev", 60)).await), 401, "of nobody who is believed");
}

#[tokio::test]
async fn an_issuer_that_is_only_rehearsed_refuses_nobody_and_opens_nothing() {
    let app = App::mirror().await;
    let rehearsed = v1::JwtIssuer { rehearsed: true, ..issuer(1, false) };
    let closed = server(&app, developers(vec![rehearsed.clone()]));
    assert_eq!(status(&get(closed.inbound, "/", &token(1, "dev", 60)).await), 403);
    let rehearsal = v1::Rehearsal {
        mtls: v1::MtlsMode::Permissive.into(),
        authorization: developers(Vec::new()).authorization,
        ..v1::Rehearsal::default()
    };
    let open =
        v1::Workload { jwt_issuers: vec![rehearsed], rehearsal: Some(rehearsal), ..workload(v1::MtlsMode::Permissive) };
    let open = server(&app, open);
    for token in [token(1, "dev", 60), token(2, "dev", 60), token(1, "ops", 60)] {
        let answer = get(open.inbound, "/", &token).await;
        assert_eq!(status(&answer), 200);
        assert!(answer.contains("Bearer ey"), "what is not enforced changes nothing: {answer}");
    }
    let line = r#"fairlead_proxy_authorization_total{outcome="would-deny",rule="default"} 2"#;
    open.counted(line).await;
}
