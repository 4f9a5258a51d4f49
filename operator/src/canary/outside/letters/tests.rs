use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairlead_crds::{NotifyFormat, OUTBOUND_LABEL, SecretKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::super::about::ApiVersion;
use super::super::testing::{Answer, Server, outbound, seconds, settle, until};
use super::*;
use crate::fake_api::FakeApi;

fn letters(api: &FakeApi) -> Arc<Letters> {
    Letters::new(outbound(), Arc::new(Secrets::new(api.client())), Metrics::default())
}

fn to(url: String) -> Notify {
    Notify { url: Some(url), url_from: None, format: NotifyFormat::Json }
}

fn told(namespace: &str, event: &str) -> Told {
    Told {
        api_version: ApiVersion::default(),
        namespace: namespace.into(),
        canary: "reviews".into(),
        workload: "reviews".into(),
        revision: "5d8f".into(),
        event: event.into(),
        message: "A sentence.".into(),
        warning: false,
        at: Time(Timestamp::UNIX_EPOCH),
    }
}

/// What the server heard, in order.
fn events(server: &Server) -> Vec<String> {
    let event = |body: &str| serde_json::from_str::<Value>(body).unwrap()["event"].as_str().unwrap().to_owned();
    server.heard().iter().map(|heard| event(&heard.body)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_is_told_in_order_however_often_it_takes() {
    let busy = Server::start([Answer::Status(503), Answer::Status(429), Answer::Status(204)]).await;
    let quick = Server::start([Answer::Status(200)]).await;
    let letters = letters(&FakeApi::default());
    let receivers = [to(busy.url("/a")), to(quick.url("/b"))];
    letters.post(&receivers, &told("shop", "Started"));
    letters.post(&receivers, &told("shop", "Succeeded"));
    until("the other does not wait", || events(&quick) == ["Started", "Succeeded"]).await;
    until("the first try", || events(&busy) == ["Started"]).await;
    seconds(1).await;
    until("the second try", || events(&busy) == ["Started", "Started"]).await;
    seconds(4).await;
    assert_eq!(busy.count(), 2);
    seconds(1).await;
    until("the third try, and what follows", || events(&busy) == ["Started", "Started", "Started", "Succeeded"]).await;
    until("all are delivered", || letters.metrics.notifications("delivered") == 4).await;
    settle().await;
    assert!(letters.waiting.lock().lanes.is_empty(), "who is told nothing more costs nothing");
}

#[tokio::test(start_paused = true)]
async fn one_who_does_not_hear_is_given_up() {
    let answers = [Answer::Status(500), Answer::Silence, Answer::Status(502), Answer::Status(500), Answer::Status(200)];
    let server = Server::start(answers).await;
    let letters = letters(&FakeApi::default());
    letters.post(&[to(server.url("/"))], &told("shop", "Started"));
    letters.post(&[to(server.url("/"))], &told("shop", "Succeeded"));
    for (tries, pause) in [(1, 1), (2, 10 + 5), (3, 25)] {
        until("a try", || server.count() == tries).await;
        settle().await;
        if tries == 2 {
            seconds(10).await;
        }
        seconds(if tries == 2 { 5 } else { pause }).await;
    }
    until("the next one", || events(&server).last().is_some_and(|event| event == "Succeeded")).await;
    assert_eq!(server.count(), 5);
    assert_eq!(letters.metrics.notifications("status"), 1);
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final_and_the_log_keeps_the_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let elsewhere = Server::start([Answer::Status(200)]).await;
    let letters = letters(&FakeApi::default());
    for answer in [Answer::Status(404), Answer::Redirect(elsewhere.url("/s3cr3t"))] {
        let server = Server::start([answer]).await;
        letters.post(&[to(server.url("/s3cr3t?s3cr3t"))], &told("shop", "Started"));
        until("it is heard", || server.count() == 1).await;
        seconds(60).await;
        assert_eq!(server.count(), 1);
    }
    letters.post(&[to("https://169.254.169.254/s3cr3t".into())], &told("shop", "Started"));
    until("it is given up", || letters.metrics.notifications("forbidden_address") == 1).await;
    assert_eq!(elsewhere.count(), 0);
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert_eq!(log.matches("given up").count(), 3, "{log}");
    assert!(log.contains("gate.shop") && log.contains("404") && !log.contains("s3cr3t"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_url_may_be_a_secret_that_its_owner_gives() {
    let server = Server::start([Answer::Status(200)]).await;
    let api = FakeApi::default();
    let path = "/api/v1/namespaces/shop/secrets/slack";
    let secret =
        |labels: Value| json!({"metadata": {"labels": labels}, "data": {"url": STANDARD.encode(server.url("/hook"))}});
    api.put(path, secret(json!({})));
    let letters = letters(&api);
    let key = SecretKey { name: "slack".into(), key: "url".into() };
    letters.post(&[Notify { url: None, url_from: Some(key), format: NotifyFormat::Slack }], &told("shop", "Started"));
    settle().await;
    assert_eq!(server.count(), 0);
    api.put(path, secret(json!({OUTBOUND_LABEL: "true"})));
    seconds(1).await;
    until("it is heard", || server.count() == 1).await;
    let heard = server.heard().remove(0);
    assert_eq!(heard.line, "POST /hook");
    assert!(heard.body.starts_with("{\"text\":"), "{}", heard.body);
}

#[tokio::test(start_paused = true)]
async fn whoever_floods_loses_its_own() {
    let server = Server::start([Answer::Silence]).await;
    let letters = letters(&FakeApi::default());
    letters.post(&[to(server.url("/"))], &told("quiet", "Started"));
    let many: Vec<_> = (0..30).map(|path| to(server.url(&format!("/{path}")))).collect();
    for _ in 0..4 {
        letters.post(&many, &told("loud", "Started"));
    }
    let waiting = letters.waiting.lock();
    assert_eq!(waiting.len(), MAX_WAITING);
    assert!(waiting.lanes.len() <= MAX_WAITING);
    assert_eq!(letters.metrics.notifications("dropped"), 21);
    assert!(waiting.lanes.iter().any(|lane| lane.namespace == "quiet"));
    // The oldest of them.
    let numbers = waiting.lanes.iter().flat_map(|lane| &lane.letters).map(|letter| letter.number);
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1].into_iter().chain(23..=121).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_on_its_way_is_not_tried_again() {
    let server = Server::start([Answer::Status(503)]).await;
    let letters = letters(&FakeApi::default());
    letters.post(&[to(server.url("/"))], &told("shop", "Started"));
    until("the first try", || server.count() == 1).await;
    settle().await;
    for _ in 0..MAX_WAITING {
        letters.post(&[to(server.url("/"))], &told("shop", "Succeeded"));
    }
    seconds(1).await;
    until("the next one", || server.count() == 2).await;
    assert_eq!(events(&server), ["Started", "Succeeded"]);
}
