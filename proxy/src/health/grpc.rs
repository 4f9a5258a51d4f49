//! gRPC probes: `grpc.health.v1.Health/Check` in plain text, as the kubelet makes them.

use std::net::SocketAddr;

use http::{StatusCode, uri::PathAndQuery};
use tonic::{Code, Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::Outcome;

/// The health protocol's answer is a single number.
const MAX_ANSWER: usize = 4 * 1024;
/// `ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

pub(super) async fn ask(service: &str, address: SocketAddr) -> Outcome {
    match check(service, address).await {
        Ok(SERVING) => Outcome::new(StatusCode::OK, "SERVING\n"),
        Ok(other) => {
            let reason = format!("the application says serving status {other}\n");
            Outcome::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        }
        Err(status) if status.code() == Code::Unimplemented => {
            Outcome::new(StatusCode::SERVICE_UNAVAILABLE, "the application does not serve grpc.health.v1.Health\n")
        }
        Err(status) => {
            let reason = format!("{:?}: {}\n", status.code(), status.message());
            Outcome::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }
}

async fn check(service: &str, address: SocketAddr) -> Result<i32, tonic::Status> {
    let unavailable = |error: tonic::transport::Error| tonic::Status::unavailable(error.to_string());
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(unavailable)?
        .connect()
        .await
        .map_err(unavailable)?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    client.ready().await.map_err(unavailable)?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = client.unary(Request::new(request), path, codec).await?;
    Ok(answer.into_inner().status)
}
