use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairlead_crds::{Duration as CrdDuration, OUTBOUND_LABEL, Prometheus, SecretKey};
use serde_json::json;

use super::super::standing::LAPSES;
use super::super::testing::{Answer, Server, asked, names, outbound, seconds, until};
use super::*;
use crate::fake_api::FakeApi;

fn looks(api: &FakeApi) -> Arc<Looks> {
    Looks::new(outbound(), Arc::new(Secrets::new(api.client())), Metrics::default())
}

fn metric(url: String) -> Metric {
    Metric {
        name: "orders".into(),
        prometheus: Prometheus {
            url,
            query: "sum(a{d=\"{{canary}}\"}) + 1".into(),
            timeout: CrdDuration::from_millis(5_000),
            token: None,
        },
        min: Some(1.0),
        max: Some(10.0),
    }
}

fn number(number: &str) -> Answer {
    Answer::Body(json!({"status": "success", "data": {"resultType": "scalar", "result": [1, number]}}).to_string())
}

fn secret(labels: &serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"labels": labels}, "data": {"token": STANDARD.encode("s3cr3t")}})
}

/// What the first look said.
async fn first(looks: &Looks) -> Look {
    let done = |look: &Look| look.value.is_some() || look.error.is_some();
    until("the first look", || looks.seen(&asked()).first().is_some_and(done)).await;
    looks.seen(&asked()).remove(0)
}

#[tokio::test(start_paused = true)]
async fn numbers_are_looked_at_every_ten_seconds_and_counted_where_they_are_outside() {
    let answers = ["1", "11", "10.5", "?", "0.5", "10", "11"];
    let answers = answers.map(|answer| if answer == "?" { Answer::Status(503) } else { number(answer) });
    let server = Server::start(answers).await;
    let looks = looks(&FakeApi::default());
    assert_eq!(looks.seen(&asked()), []);
    let wanted = [metric(server.url("/prometheus/"))];
    looks.begin(&asked(), &wanted, &names());
    let blank = Look { name: "orders".into(), ..Look::default() };
    assert_eq!(looks.seen(&asked()), std::slice::from_ref(&blank));
    let failed = format!("{} was answered with 503 Service Unavailable", server.url("/prometheus/"));
    for (value, error, outside_in_a_row) in [
        (Some(1.0), None, 0),
        (Some(11.0), None, 1),
        (Some(10.5), None, 2),
        // It says nothing, and forgives nothing.
        (None, Some(failed), 2),
        (Some(0.5), None, 3),
        (Some(10.0), None, 0),
        (Some(11.0), None, 1),
    ] {
        let expected = [Look { value, error, outside_in_a_row, ..blank.clone() }];
        until("the next look", || looks.seen(&asked()) == expected).await;
        looks.begin(&asked(), &wanted, &names());
        let before = server.count();
        seconds(9).await;
        assert_eq!(server.count(), before);
        seconds(1).await;
        until("it is looked again", || server.count() > before).await;
    }
    let heard = server.heard().remove(0);
    assert_eq!(heard.line, "POST /prometheus/api/v1/query");
    assert_eq!(heard.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(heard.body, "query=sum%28a%7Bd%3D%22reviews-canary%22%7D%29+%2B+1");
    assert!(!heard.headers.contains_key("authorization"));
    // And no longer than somebody asks.
    seconds(LAPSES.as_secs()).await;
    let end = server.count();
    seconds(30).await;
    assert_eq!(server.count(), end);
    assert_eq!(looks.seen(&asked()), []);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_sent_where_its_owner_agreed_and_nowhere_else() {
    let elsewhere = Server::start([number("5")]).await;
    let server = Server::start([Answer::Redirect(elsewhere.url("/")), number("5")]).await;
    let api = FakeApi::default();
    let path = "/api/v1/namespaces/shop/secrets/prometheus";
    api.put(path, secret(&json!({})));
    let looks = looks(&api);
    let mut wanted = metric(server.url("?key=s3cr3t"));
    wanted.prometheus.url.truncate(wanted.prometheus.url.len() - "?key=s3cr3t".len());
    wanted.prometheus.token = Some(SecretKey { name: "prometheus".into(), key: "token".into() });
    looks.begin(&asked(), &[wanted], &names());
    let error = first(&looks).await.error.unwrap();
    assert!(
        error.starts_with("Secret shop/prometheus is not for this: label it fairlead.dev/outbound=true"),
        "{error}"
    );
    assert_eq!(server.count(), 0);
    api.put(path, secret(&json!({OUTBOUND_LABEL: "true"})));
    seconds(10).await;
    until("it is asked", || server.count() == 1).await;
    let said = format!("{} was answered with a redirect", server.url(""));
    let redirected = |look: &Look| look.error.as_ref().is_some_and(|error| error.starts_with(&said));
    until("a redirect is not followed", || redirected(&looks.seen(&asked())[0])).await;
    assert_eq!(elsewhere.count(), 0);
    seconds(10).await;
    until("it is seen", || looks.seen(&asked())[0].value == Some(5.0)).await;
    assert_eq!(server.heard()[1].headers["authorization"], "Bearer s3cr3t");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_number_is_said_without_being_repeated() {
    let large = json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "5"]}, "s3cr3t": "a".repeat(65_536)});
    for (answer, expected) in [
        (Answer::Body(large.to_string()), "was answered with more than 64 KiB"),
        (Answer::Body("s3cr3t".into()), "what answers is no Prometheus: its API has another form"),
        (Answer::Status(400), "was answered with 400 Bad Request"),
        (number("NaN"), "the query's result is NaN, not a number"),
    ] {
        let server = Server::start([answer]).await;
        let looks = looks(&FakeApi::default());
        looks.begin(&asked(), &[metric(server.url(""))], &names());
        let error = first(&looks).await.error.unwrap();
        assert!(error.contains(expected) && !error.contains("s3cr3t"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_slow_holds_up_no_other() {
    let (slow, quick) = (Server::start([Answer::Silence]).await, Server::start([number("5")]).await);
    let looks = looks(&FakeApi::default());
    looks.begin(&asked(), &[metric(slow.url("")), metric(quick.url(""))], &names());
    until("one is seen", || looks.seen(&asked())[1].value == Some(5.0)).await;
    until("the other is asked", || slow.count() == 1).await;
    assert_eq!(looks.seen(&asked())[0].error, None);
    seconds(5).await;
    let expected = Some(format!("{} was not answered in 5 s", slow.url("")));
    until("it is said why", || looks.seen(&asked())[0].error == expected).await;
}

#[test]
fn queries_are_asked_below_what_the_user_says() {
    for url in ["http://prometheus.monitoring:9090", "https://thanos.example/team/"] {
        assert!(api(url).is_ok(), "{url}");
    }
    assert_eq!(api("http://a/?b=c").unwrap_err().to_string(), "has a query: write where the API begins");
    assert_eq!(api("ftp://a").unwrap_err().to_string(), "is neither an http nor an https URL");
}
