use super::*;

const STABLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstable";
const BETA: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbeta";

fn exact(name: &str, value: &str) -> v1::HeaderMatch {
    v1::HeaderMatch { name: name.into(), kind: Some(v1::header_match::Kind::Exact(value.into())), not: false }
}

async fn beta_for(entry: v1::Match) -> Sidecar {
    let route = v1::Route { matches: vec![entry], backends: vec![backend(1, 1)], ..v1::Route::default() };
    routed(vec![route], &[STABLE, BETA]).await
}

#[tokio::test]
async fn a_parameter_of_the_query_picks_the_route() {
    let client = beta_for(v1::Match { query_params: vec![exact("be ta", "1")], ..v1::Match::default() }).await;
    assert!(get(client.outbound, "/?x=2&be%20ta=1", "").await.ends_with("beta"));
    assert!(get(client.outbound, "/?beta=1", "").await.ends_with("stable"));
    assert!(get(client.outbound, "/", "").await.ends_with("stable"));
}

#[tokio::test]
async fn a_cookie_picks_the_route() {
    let client = beta_for(v1::Match { cookies: vec![exact("group", "b")], ..v1::Match::default() }).await;
    assert!(get(client.outbound, "/", "Cookie: a=1; group=b\r\n").await.ends_with("beta"));
    assert!(get(client.outbound, "/", "Cookie: group=a\r\n").await.ends_with("stable"));
}

#[tokio::test]
async fn a_call_of_grpc_picks_the_route() {
    let grpc = Some(v1::GrpcMatch { service: "bookinfo.Reviews".into(), method: String::new() });
    let client = beta_for(v1::Match { grpc, ..v1::Match::default() }).await;
    let grpc = "Content-Type: application/grpc\r\n";
    assert!(get(client.outbound, "/bookinfo.Reviews/Get", grpc).await.ends_with("beta"));
    assert!(get(client.outbound, "/bookinfo.Ratings/Get", grpc).await.ends_with("stable"));
    assert!(get(client.outbound, "/bookinfo.Reviews/Get", "").await.ends_with("stable"));
}
