//! The ratings role: stars per reviewer, kept in Redis as one JSON object per product under `ratings:<id>`.

use std::collections::BTreeMap;

use anyhow::Result;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::redis::client::{Redis, RedisError};
use crate::server::{self, Identity, Stop, problem};

/// Reviewers that one product may have; far more than the sample shows, and still a small value.
const MAX_REVIEWERS: usize = 100;

/// Options of the ratings role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What every role over HTTP shares.
    #[command(flatten)]
    pub server: server::Options,
    /// Version told in the header x-version.
    #[arg(long, env = "BOOKINFO_VERSION", default_value = "v1")]
    pub version: HeaderValue,
    /// Where Redis listens, as host:port.
    #[arg(long, value_name = "HOST:PORT", env = "BOOKINFO_REDIS", default_value = "redis:6379")]
    pub redis: String,
}

/// What the role answers.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ratings {
    /// The product.
    pub id: u32,
    /// Stars by reviewer, 0 to 5.
    pub ratings: BTreeMap<String, u8>,
}

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let stop = Stop::on_signal(args.server.common.lameduck)?;
    let listener = server::bind(args.server.listen).await?;
    let identity = Identity { role: "ratings", version: args.version, pod: args.server.common.pod };
    server::serve(listener, routes(Redis::new(args.redis)), identity, stop).await
}

/// The routes of the role.
pub fn routes(redis: Redis) -> Router {
    Router::new()
        .route("/ratings/{id}", get(read).post(write))
        .layer(DefaultBodyLimit::max(16 * 1024))
        .with_state(redis)
}

async fn read(State(redis): State<Redis>, Path(id): Path<u32>) -> Response {
    match redis.get(&key(id)).await {
        Ok(Some(value)) => match serde_json::from_slice(&value) {
            Ok(ratings) => Json(Ratings { id, ratings }).into_response(),
            Err(error) => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the value of {} in Redis is not a JSON object of stars: {error}", key(id)),
            ),
        },
        Ok(None) => problem(StatusCode::NOT_FOUND, format!("nobody has rated product {id}")),
        Err(error) => no_redis(&error),
    }
}

async fn write(State(redis): State<Redis>, Path(id): Path<u32>, Json(ratings): Json<BTreeMap<String, u8>>) -> Response {
    if ratings.len() > MAX_REVIEWERS || ratings.values().any(|stars| *stars > 5) {
        return problem(
            StatusCode::BAD_REQUEST,
            format!("write up to {MAX_REVIEWERS} reviewers with 0 to 5 stars each, like {{\"Reviewer1\": 5}}"),
        );
    }
    let value = match serde_json::to_vec(&ratings) {
        Ok(value) => value,
        Err(error) => return problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match redis.set(&key(id), value.into()).await {
        Ok(()) => Json(Ratings { id, ratings }).into_response(),
        Err(error) => no_redis(&error),
    }
}

/// The key under which a product's ratings are kept.
pub fn key(id: u32) -> String {
    format!("ratings:{id}")
}

fn no_redis(error: &RedisError) -> Response {
    tracing::warn!(%error, "no answer from Redis");
    problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
