//! The reviews role: what readers say. v1 knows no stars, v2 shows black ones, v3 red ones.

use anyhow::Result;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use crate::client::{Client, handed_on};
use crate::details::PRODUCT;
use crate::fault::Fault;
use crate::ratings::Ratings;
use crate::server::{self, Identity, Stop, problem};
use crate::units;

/// Options of the reviews role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What every role over HTTP shares.
    #[command(flatten)]
    pub server: server::Options,
    /// Version to play.
    #[arg(long, env = "BOOKINFO_VERSION", default_value = "v1")]
    pub version: Version,
    /// Where ratings are asked for (v2, v3).
    #[arg(long, env = "BOOKINFO_RATINGS_URL", default_value = "http://ratings:9080", value_parser = units::http_url)]
    pub ratings_url: Uri,
    /// How it fails on purpose.
    #[command(flatten)]
    pub fault: Fault,
}

/// The versions of the role.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Version {
    /// Text only.
    V1,
    /// Black stars.
    V2,
    /// Red stars.
    V3,
}

impl Version {
    /// The name that headers and labels carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    /// The colour of the stars, if the version shows any.
    pub fn colour(self) -> Option<Colour> {
        match self {
            Self::V1 => None,
            Self::V2 => Some(Colour::Black),
            Self::V3 => Some(Colour::Red),
        }
    }
}

/// The colour of stars.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// That of v2.
    Black,
    /// That of v3.
    Red,
}

/// What the role answers.
#[derive(Debug, Deserialize, Serialize)]
pub struct Reviews {
    /// The product.
    pub id: u32,
    /// The pod that answered.
    pub podname: String,
    /// The version that answered.
    pub version: String,
    /// One entry per reviewer.
    pub reviews: Vec<Review>,
}

/// What one reader says.
#[derive(Debug, Deserialize, Serialize)]
pub struct Review {
    /// The reader.
    pub reviewer: String,
    /// The opinion.
    pub text: String,
    /// Stars, from v2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rating: Option<Rating>,
}

/// Stars, or why there are none.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rating {
    /// Stars that the reader gave.
    Stars {
        /// How many, of five.
        stars: u8,
        /// Their colour.
        color: Colour,
    },
    /// The ratings service did not tell.
    Missing {
        /// A sentence for the person who reads the page.
        error: String,
    },
}

const OPINIONS: [(&str, &str); 2] = [
    ("Reviewer1", "Two pairs of twins, one harbour, one day: I lost count of who was who and laughed all the same."),
    (
        "Reviewer2",
        "Every misunderstanding is earned. Read it aloud with friends; it is shorter than a voyage and merrier.",
    ),
];

/// What a request needs.
#[derive(Clone, Debug)]
pub struct Service {
    version: Version,
    pod: String,
    ratings_url: Uri,
    fault: Fault,
    client: Client,
}

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let stop = Stop::on_signal(args.server.common.lameduck)?;
    let listener = server::bind(args.server.listen).await?;
    let version = HeaderValue::from_static(args.version.name());
    let identity = Identity { role: "reviews", version, pod: args.server.common.pod };
    if args.fault.error_rate > 0.0 || !args.fault.latency.is_zero() {
        tracing::warn!(error_rate = args.fault.error_rate, latency = ?args.fault.latency, "faulty on purpose");
    }
    let service = Service::new(args.version, identity.pod_name(), args.ratings_url, args.fault);
    server::serve(listener, routes(service), identity, stop).await
}

impl Service {
    /// A service that asks `ratings_url` for stars if its version has any.
    pub fn new(version: Version, pod: &str, ratings_url: Uri, fault: Fault) -> Self {
        Self { version, pod: pod.to_owned(), ratings_url, fault, client: Client::new() }
    }
}

/// The routes of the role.
pub fn routes(service: Service) -> Router {
    Router::new().route("/reviews/{id}", get(reviews)).with_state(service)
}

async fn reviews(State(service): State<Service>, Path(id): Path<u32>, headers: HeaderMap) -> Response {
    tokio::time::sleep(service.fault.latency).await;
    if service.fault.fails(rand::random()) {
        return problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("reviews {} failed on purpose (--error-rate)", service.version.name()),
        );
    }
    if id != PRODUCT {
        return problem(StatusCode::NOT_FOUND, format!("nobody has reviewed product {id}; try product {PRODUCT}"));
    }
    let ratings = match service.version.colour() {
        None => None,
        Some(colour) => {
            let path = format!("/ratings/{id}");
            let answer = service.client.get_json::<Ratings>(&service.ratings_url, &path, handed_on(&headers)).await;
            if let Err(error) = &answer {
                tracing::warn!(%error, "reviews without stars");
            }
            Some((colour, answer.map(|(ratings, _)| ratings).ok()))
        }
    };
    Json(Reviews {
        id,
        podname: service.pod,
        version: service.version.name().to_owned(),
        reviews: OPINIONS
            .into_iter()
            .map(|(reviewer, text)| Review {
                reviewer: reviewer.to_owned(),
                text: text.to_owned(),
                rating: ratings.as_ref().map(|(colour, known)| rating(reviewer, *colour, known.as_ref())),
            })
            .collect(),
    })
    .into_response()
}

/// The stars of one reviewer. `known` is what the ratings service said, if it answered.
fn rating(reviewer: &str, color: Colour, known: Option<&Ratings>) -> Rating {
    match known.map(|ratings| ratings.ratings.get(reviewer)) {
        Some(Some(stars)) => Rating::Stars { stars: (*stars).min(5), color },
        Some(None) => Rating::Missing { error: "This reader gave no stars.".into() },
        None => Rating::Missing { error: "Ratings are not available right now.".into() },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn stars_are_those_of_the_reviewer() {
        let known = Ratings { id: 0, ratings: BTreeMap::from([("Reviewer1".into(), 4), ("Reviewer2".into(), 9)]) };
        let stars = |stars| Rating::Stars { stars, color: Colour::Red };
        assert_eq!(rating("Reviewer1", Colour::Red, Some(&known)), stars(4));
        assert_eq!(rating("Reviewer2", Colour::Red, Some(&known)), stars(5), "there are five stars at most");
        assert!(matches!(rating("Nobody", Colour::Red, Some(&known)), Rating::Missing { .. }));
        assert!(matches!(rating("Reviewer1", Colour::Red, None), Rating::Missing { .. }));
    }

    #[test]
    fn json_is_that_of_bookinfo() {
        let review = Review {
            reviewer: "Reviewer1".into(),
            text: "fine".into(),
            rating: Some(Rating::Stars { stars: 5, color: Colour::Black }),
        };
        assert_eq!(
            serde_json::to_value(review).unwrap(),
            serde_json::json!({"reviewer": "Reviewer1", "text": "fine", "rating": {"stars": 5, "color": "black"}})
        );
    }
}
