//! The application as a person sees it: every role on loopback, asked for the page.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use axum::Json;
use axum::routing::get as route_get;
use common::{ask, get, listener, nobody, productpage, ratings, reviews, serve, serve_redis};
use fairlead_bookinfo::details;
use fairlead_bookinfo::fault::Fault;
use fairlead_bookinfo::reviews::Version;
use fairlead_bookinfo::server::Stop;
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpListener;

#[tokio::test]
async fn the_page_shows_the_stars_of_the_version_that_answers() {
    let (redis_listener, redis) = listener().await;
    serve_redis(redis_listener, Stop::default());
    let ratings = ratings(redis).await;
    let details = serve("details", "v1", details::routes()).await;
    for (version, stars) in [(Version::V1, None), (Version::V2, Some("stars black")), (Version::V3, Some("stars red"))]
    {
        let page = productpage(&details, &reviews(version, &ratings, Fault::NONE).await).await;
        for path in ["/", "/productpage"] {
            let answer = get(&page, path).await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.header("x-version"), "v1", "the page says its own version");
            assert_eq!(answer.header("x-reviews-version"), version.name());
            assert!(answer.text.contains("William Shakespeare"), "details are missing: {}", answer.text);
            assert!(answer.text.contains(&format!("reviews-{}-pod", version.name())), "{}", answer.text);
            match stars {
                Some(class) => assert!(
                    answer.text.contains(&format!("class=\"{class}\" title=\"4 of 5\">★★★★☆")),
                    "no {class}: {}",
                    answer.text
                ),
                None => assert!(!answer.text.contains('★'), "v1 shows stars: {}", answer.text),
            }
        }
    }
}

#[tokio::test]
async fn who_signs_in_is_known_to_every_service_below() {
    let below = serve(
        "reviews",
        "v2",
        axum::Router::new().route(
            "/reviews/0",
            route_get(async |headers: HeaderMap| {
                let told = |name: &str| headers.get(name).map_or("nobody", |value| value.to_str().unwrap()).to_owned();
                let told = format!("{} {}", told("end-user"), told("traceparent"));
                Json(serde_json::json!({"id": 0, "podname": told, "version": "v2", "reviews": []}))
            }),
        ),
    )
    .await;
    let page = productpage(&nobody().await, &below).await;

    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = ask(Method::POST, &page, "/login", &form, "user=jason").await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/productpage"));
    let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
    assert_eq!(cookie, "user=jason");

    let signed_in = [("cookie", cookie.as_str()), ("traceparent", "00-trace-01")];
    let answer = ask(Method::GET, &page, "/productpage", &signed_in, "").await;
    assert!(answer.text.contains("Signed in as <b>jason</b>"), "{}", answer.text);
    assert!(answer.text.contains("jason 00-trace-01"), "reviews was not told: {}", answer.text);
    let answer = ask(Method::GET, &page, "/productpage", &[("end-user", "ann")], "").await;
    assert!(answer.text.contains("ann nobody"), "a program may sign in by header: {}", answer.text);
    let answer = get(&page, "/productpage").await;
    assert!(answer.text.contains("nobody nobody"), "{}", answer.text);

    let answer = ask(Method::POST, &page, "/login", &form, "user=%3Cscript%3E").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = ask(Method::POST, &page, "/logout", &[], "").await;
    assert!(answer.header("set-cookie").contains("Max-Age=0"), "{answer:?}");
}

#[tokio::test]
async fn a_missing_service_costs_its_own_part_of_the_page_only() {
    let details = serve("details", "v1", details::routes()).await;
    let page = productpage(&details, &nobody().await).await;
    let answer = get(&page, "/productpage").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text.contains("Reviews of this book are not available right now"), "{}", answer.text);
    assert!(answer.text.contains("William Shakespeare"), "{}", answer.text);
    assert_eq!(answer.header("x-reviews-version"), "");

    let always = Fault { error_rate: 100.0, ..Fault::NONE };
    let page = productpage(&details, &reviews(Version::V3, &nobody().await, always).await).await;
    let answer = get(&page, "/productpage").await;
    assert!(answer.text.contains("failed on purpose"), "the page tells the cause: {}", answer.text);
}

#[tokio::test]
async fn stars_come_back_with_redis() {
    let (redis_listener, redis) = listener().await;
    let stop = Stop::default();
    let serving = serve_redis(redis_listener, stop.clone());
    let ratings = ratings(redis).await;
    let reviews = reviews(Version::V3, &ratings, Fault::NONE).await;
    assert!(get(&reviews, "/reviews/0").await.text.contains("\"stars\":5"));

    stop.begin(Duration::ZERO).await;
    serving.await.unwrap();
    let broken = get(&ratings, "/ratings/0").await;
    assert_eq!(broken.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(broken.text.contains(&redis.to_string()), "the answer names the address: {}", broken.text);
    let starless = get(&reviews, "/reviews/0").await;
    assert_eq!(starless.status, StatusCode::OK);
    assert!(starless.text.contains("Ratings are not available"), "{}", starless.text);

    serve_redis(TcpListener::bind(redis).await.unwrap(), Stop::default());
    assert!(get(&reviews, "/reviews/0").await.text.contains("\"stars\":5"), "no stars after Redis returned");
}

#[tokio::test]
async fn ratings_are_written_to_redis_and_read_from_it() {
    let (redis_listener, redis) = listener().await;
    serve_redis(redis_listener, Stop::default());
    let ratings = ratings(redis).await;
    assert_eq!(get(&ratings, "/ratings/1").await.status, StatusCode::NOT_FOUND);
    let json = [("content-type", "application/json")];
    let answer = ask(Method::POST, &ratings, "/ratings/1", &json, "{\"Reviewer1\": 2}").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let answer = get(&ratings, "/ratings/1").await;
    assert_eq!(answer.text, "{\"id\":1,\"ratings\":{\"Reviewer1\":2}}");
    let answer = ask(Method::POST, &ratings, "/ratings/1", &json, "{\"Reviewer1\": 6}").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}
