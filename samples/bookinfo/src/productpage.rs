//! The productpage role: composes the page from details and reviews, and knows who is signed in.
//!
//! Signing in sets a cookie `user`; calls to other services then carry it as the header `end-user`, by which a
//! `TrafficPolicy` can route. A caller that sends `end-user` itself is believed too: this is a sample, not a login.

use anyhow::Result;
use axum::Form;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;

use crate::client::{Client, END_USER, handed_on};
use crate::details::{Details, PRODUCT};
use crate::page::{self, Page};
use crate::reviews::Reviews;
use crate::server::{self, Identity, Stop, X_VERSION, problem};
use crate::units;

/// Header that names the version of reviews on the page, for programs that count.
pub const X_REVIEWS_VERSION: HeaderName = HeaderName::from_static("x-reviews-version");

/// Options of the productpage role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What every role over HTTP shares.
    #[command(flatten)]
    pub server: server::Options,
    /// Version told in the header x-version.
    #[arg(long, env = "BOOKINFO_VERSION", default_value = "v1")]
    pub version: HeaderValue,
    /// Where details are asked for.
    #[arg(long, env = "BOOKINFO_DETAILS_URL", default_value = "http://details:9080", value_parser = units::http_url)]
    pub details_url: Uri,
    /// Where reviews are asked for.
    #[arg(long, env = "BOOKINFO_REVIEWS_URL", default_value = "http://reviews:9080", value_parser = units::http_url)]
    pub reviews_url: Uri,
}

/// What a request needs.
#[derive(Clone, Debug)]
pub struct Service {
    /// Who makes the page.
    pub identity: Identity,
    /// Base address of details.
    pub details_url: Uri,
    /// Base address of reviews.
    pub reviews_url: Uri,
    /// The client for both.
    pub client: Client,
}

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let stop = Stop::on_signal(args.server.common.lameduck)?;
    let listener = server::bind(args.server.listen).await?;
    let identity = Identity { role: "productpage", version: args.version, pod: args.server.common.pod };
    let service = Service {
        identity: identity.clone(),
        details_url: args.details_url,
        reviews_url: args.reviews_url,
        client: Client::new(),
    };
    server::serve(listener, routes(service), identity, stop).await
}

/// The routes of the role.
pub fn routes(service: Service) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/productpage", get(show))
        .route("/login", post(sign_in))
        .route("/logout", post(sign_out))
        .layer(DefaultBodyLimit::max(4 * 1024))
        .with_state(service)
}

async fn show(State(service): State<Service>, headers: HeaderMap) -> Response {
    let mut along = handed_on(&headers);
    if let Some(user) = signed_in(&headers).and_then(|user| HeaderValue::from_str(user).ok()) {
        along.insert(END_USER, user);
    }
    let details_path = format!("/details/{PRODUCT}");
    let reviews_path = format!("/reviews/{PRODUCT}");
    let (details, reviews) = tokio::join!(
        service.client.get_json::<Details>(&service.details_url, &details_path, along.clone()),
        service.client.get_json::<Reviews>(&service.reviews_url, &reviews_path, along.clone()),
    );
    for error in [details.as_ref().err(), reviews.as_ref().err()].into_iter().flatten() {
        tracing::warn!(%error, "page without a part");
    }
    let reviews_version = reviews.as_ref().ok().and_then(|(_, headers)| headers.get(X_VERSION).cloned());
    let html = page::render(&Page {
        user: along.get(END_USER).and_then(|user| user.to_str().ok()),
        details: details.map(|(details, _)| details).map_err(|error| error.to_string()),
        reviews: reviews.map(|(reviews, _)| reviews).map_err(|error| error.to_string()),
        pod: service.identity.pod_name(),
        version: service.identity.version_name(),
    });
    let mut response = ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response();
    if let Some(version) = reviews_version {
        response.headers_mut().insert(X_REVIEWS_VERSION, version);
    }
    response
}

#[derive(Debug, Deserialize)]
struct SignIn {
    user: String,
}

async fn sign_in(Form(form): Form<SignIn>) -> Response {
    if !is_name(&form.user) {
        return problem(StatusCode::BAD_REQUEST, "a name has 1 to 32 letters, digits, dots, dashes or underscores");
    }
    let cookie = format!("user={}; Path=/; HttpOnly; SameSite=Lax", form.user);
    ([(header::SET_COOKIE, cookie)], Redirect::to("/productpage")).into_response()
}

async fn sign_out() -> Response {
    let cookie = "user=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0";
    ([(header::SET_COOKIE, cookie)], Redirect::to("/productpage")).into_response()
}

/// The name in the cookie `user`, if it is one that signing in would have accepted.
fn signed_in(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix("user="))
        .find(|name| is_name(name))
}

fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(text))])
    }

    #[test]
    fn the_cookie_tells_who_is_signed_in() {
        assert_eq!(signed_in(&cookie("theme=dark; user=jason")), Some("jason"));
        assert_eq!(signed_in(&cookie("user=")), None);
        assert_eq!(signed_in(&cookie("superuser=root")), None);
        assert_eq!(signed_in(&cookie("user=a b<c")), None);
        assert_eq!(signed_in(&HeaderMap::new()), None);
    }
}
