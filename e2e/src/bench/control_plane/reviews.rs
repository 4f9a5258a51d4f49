//! What the API server takes to review a token: the part of a certificate's way that is not the operator's.

use anyhow::Result;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use crate::bench::{Figure, quantile};
use crate::kit::Mesh;

/// As a sidecar's token has it.
const AUDIENCE: &str = "fairlead.dev";
/// One after the other.
const REVIEWS: usize = 200;

/// Has one token reviewed again and again.
pub(super) async fn measure(mesh: &Mesh, namespace: &str) -> Result<Vec<Figure>> {
    let accounts: Api<ServiceAccount> = Api::namespaced(mesh.client(), namespace);
    let wanted = TokenRequestSpec { audiences: vec![AUDIENCE.to_owned()], ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: wanted, ..TokenRequest::default() };
    let issued = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    let token = issued.status.map(|status| status.token);
    let spec = TokenReviewSpec { token, audiences: Some(vec![AUDIENCE.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews: Api<TokenReview> = Api::all(mesh.client());
    let mut samples = Vec::new();
    for _ in 0..REVIEWS {
        let begun = Instant::now();
        let reviewed = reviews.create(&PostParams::default(), &review).await?;
        anyhow::ensure!(
            reviewed.status.is_some_and(|status| status.authenticated == Some(true)),
            "the token was not believed"
        );
        samples.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let figure = |metric, share, samples: &mut Vec<f64>| {
        Figure::measured("token review by the API server", "kubernetes", metric, "ms", vec![quantile(samples, share)])
    };
    Ok(vec![figure("p50", 0.5, &mut samples), figure("p99", 0.99, &mut samples)])
}
