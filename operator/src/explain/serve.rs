//! The API that people's tools ask: see [`fairlead_operator_api`].

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use fairlead_operator_api::{Answer, EXPLAIN_PATH, Question, Refusal};

use super::{Unanswered, explain};
use crate::index::Index;

/// A question has the head of a request in it, which has 64 KiB at most.
const MAX_QUESTION: usize = 128 * 1024;

/// Answers what may be. Nothing that it does changes anything.
pub fn router(index: Arc<Index>) -> Router {
    Router::new().route(EXPLAIN_PATH, post(answer)).layer(DefaultBodyLimit::max(MAX_QUESTION)).with_state(index)
}

async fn answer(
    State(index): State<Arc<Index>>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Answer>, (StatusCode, Json<Refusal>)> {
    let refusal = |status, error| (status, Json(Refusal { error }));
    let Json(question) = question.map_err(|rejection| refusal(rejection.status(), rejection.body_text()))?;
    if !index.is_ready() {
        let why = "this replica has not listed the cluster yet: ask again in a moment".to_owned();
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    explain(&index, &question).map(Json).map_err(|error| {
        let status = match error {
            Unanswered::Malformed(_) => StatusCode::BAD_REQUEST,
            Unanswered::NoTarget(_) => StatusCode::NOT_FOUND,
            Unanswered::Depends(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        refusal(status, error.to_string())
    })
}
