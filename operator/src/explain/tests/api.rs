use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{StatusCode, header};
use fairlead_operator_api::{EXPLAIN_PATH, Refusal};
use tower::ServiceExt as _;

use super::super::router;
use super::*;

async fn post(index: &Arc<Index>, body: String) -> (StatusCode, Vec<u8>) {
    let request = axum::http::Request::post(EXPLAIN_PATH).header(header::CONTENT_TYPE, "application/json");
    let response = router(Arc::clone(index)).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    (response.status(), to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
}

async fn refused(index: &Arc<Index>, question: &Question) -> (StatusCode, String) {
    let (status, body) = post(index, serde_json::to_string(question).unwrap()).await;
    (status, serde_json::from_slice::<Refusal>(&body).unwrap().error)
}

#[tokio::test]
async fn a_question_is_answered_once_the_cluster_is_known() {
    let index = Arc::new(index());
    web(&index);
    index.apply(peer_auth(NS, "web", readers()));
    assert_eq!(refused(&index, &question("/")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    index.set_ready();
    let (status, body) = post(&index, serde_json::to_string(&question("/items/1")).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    let answered: Answer = serde_json::from_slice(&body).unwrap();
    assert_eq!(answered, answer(&index, &question("/items/1")));

    let unknown = Question { to: to("nobody"), ..question("/") };
    assert_eq!(refused(&index, &unknown).await.0, StatusCode::NOT_FOUND);
    assert_eq!(refused(&index, &question("x")).await.0, StatusCode::BAD_REQUEST);
    let near = json!({"rules": [{"name": "near", "action": "Deny", "from": [{"cidrs": ["10.0.0.0/8"]}]}]});
    index.apply(peer_auth(NS, "near", near));
    assert_eq!(refused(&index, &question("/")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let index = Arc::new(index());
    index.set_ready();
    for body in ["", "{", "[]", r#"{"from": "plain", "to": {"namespace": "a", "name": "b"}, "more": 1}"#] {
        let (status, body) = post(&index, body.to_owned()).await;
        assert!(status.is_client_error(), "{status}");
        serde_json::from_slice::<Refusal>(&body).unwrap();
    }
    let (status, _) = post(&index, " ".repeat(200 * 1024)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}
