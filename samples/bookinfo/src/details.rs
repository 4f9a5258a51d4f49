//! The details role: facts about the book.

use anyhow::Result;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::server::{self, Identity, Stop, problem};

/// The only product of the shop.
pub const PRODUCT: u32 = 0;

/// Options of the details role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What every role over HTTP shares.
    #[command(flatten)]
    pub server: server::Options,
    /// Version told in the header x-version.
    #[arg(long, env = "BOOKINFO_VERSION", default_value = "v1")]
    pub version: HeaderValue,
}

/// What the role answers.
#[derive(Debug, Deserialize, Serialize)]
pub struct Details {
    /// The product.
    pub id: u32,
    /// Who wrote it.
    pub author: String,
    /// Year of the first performance.
    pub year: u32,
    /// Kind of binding.
    #[serde(rename = "type")]
    pub binding: String,
    /// Number of pages.
    pub pages: u32,
    /// Who printed it.
    pub publisher: String,
    /// Its language.
    pub language: String,
    /// The shorter number of the book trade.
    #[serde(rename = "ISBN-10")]
    pub isbn_10: String,
    /// The longer one.
    #[serde(rename = "ISBN-13")]
    pub isbn_13: String,
}

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let stop = Stop::on_signal(args.server.common.lameduck)?;
    let listener = server::bind(args.server.listen).await?;
    let identity = Identity { role: "details", version: args.version, pod: args.server.common.pod };
    server::serve(listener, routes(), identity, stop).await
}

/// The routes of the role.
pub fn routes() -> Router {
    Router::new().route("/details/{id}", get(details))
}

async fn details(Path(id): Path<u32>) -> Response {
    if id != PRODUCT {
        return problem(StatusCode::NOT_FOUND, format!("there is no product {id}; the shop sells product {PRODUCT}"));
    }
    Json(Details {
        id,
        author: "William Shakespeare".into(),
        year: 1594,
        binding: "paperback".into(),
        pages: 200,
        publisher: "Quayside Press".into(),
        language: "English".into(),
        isbn_10: "1234567890".into(),
        isbn_13: "123-1234567890".into(),
    })
    .into_response()
}
