use std::time::Duration as StdDuration;

use fairlead_crds::Duration;
use serde_json::{Value, json};

use super::super::standing::LAPSES;
use super::super::testing::{Answer, Server, asked, body, outbound, seconds, settle, until};
use super::*;

const PHASE: CheckPhase = CheckPhase::Step;

fn checks() -> Arc<Checks> {
    Checks::new(outbound(), Metrics::default())
}

fn check(url: String) -> Check {
    Check { phase: PHASE, url, timeout: Duration::from_millis(10_000) }
}

async fn answered(checks: &Checks) -> CheckAnswer {
    let open = |answer: Option<CheckAnswer>| matches!(answer, None | Some(CheckAnswer::Pending(None)));
    until("the check was tried", || !open(checks.answer(&asked(), PHASE))).await;
    checks.answer(&asked(), PHASE).unwrap()
}

fn pending(reason: String) -> CheckAnswer {
    CheckAnswer::Pending(Some(reason))
}

#[tokio::test(start_paused = true)]
async fn a_gate_hears_what_the_release_is_about_and_lets_it_go_on() {
    let server = Server::start([Answer::Status(204)]).await;
    let checks = checks();
    assert_eq!(checks.answer(&asked(), PHASE), None);
    let wanted = [check(server.url("/gate?key=s3cr3t"))];
    checks.ask(&asked(), PHASE, &wanted, &body());
    assert_eq!(checks.answer(&asked(), PHASE), Some(CheckAnswer::Pending(None)));
    assert_eq!(answered(&checks).await, CheckAnswer::Passed);
    let heard = server.heard().remove(0);
    assert_eq!(heard.line, "POST /gate?key=s3cr3t");
    assert_eq!(heard.headers["content-type"], "application/json");
    assert_eq!(heard.headers["host"], format!("gate.shop:{}", server.port));
    assert!(heard.headers["user-agent"].to_str().unwrap().starts_with("fairlead-operator/"));
    assert_eq!(serde_json::from_str::<Value>(&heard.body).unwrap(), json!(body()));
    seconds(20).await;
    checks.ask(&asked(), PHASE, &wanted, &body());
    settle().await;
    assert_eq!(server.count(), 1, "who let it go on is not asked again");
}

#[tokio::test(start_paused = true)]
async fn one_that_refuses_decides_without_being_repeated() {
    let (refusing, silent) = (Server::start([Answer::Status(403)]).await, Server::start([Answer::Silence]).await);
    let checks = checks();
    let wanted = [check(silent.url("/")), check(refusing.url("/gate?key=s3cr3t"))];
    checks.ask(&asked(), PHASE, &wanted, &body());
    let expected = format!("check http://gate.shop:{}/gate answered 403", refusing.port);
    assert_eq!(answered(&checks).await, CheckAnswer::Refused(expected));
    until("both are asked at once", || silent.count() == 1).await;
    seconds(60).await;
    assert_eq!(refusing.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_asked_for_again() {
    let elsewhere = Server::start([Answer::Status(200)]).await;
    let answers =
        [Answer::Status(503), Answer::Redirect(elsewhere.url("/s3cr3t")), Answer::Silence, Answer::Status(200)];
    let server = Server::start(answers).await;
    let url = server.url("/gate");
    let checks = checks();
    checks.ask(&asked(), PHASE, &[check(format!("{url}?key=s3cr3t"))], &body());
    assert_eq!(answered(&checks).await, pending(format!("check {url} answered 503")));
    seconds(4).await;
    assert_eq!(server.count(), 1);
    for expected in [
        "was answered with a redirect (302 Found), which is not followed: write the URL that it leads to",
        "was not answered in 10 s",
    ] {
        let asked_before = server.count();
        seconds(5).await;
        until("it is asked again", || server.count() > asked_before).await;
        if expected.contains("10 s") {
            seconds(10).await;
        }
        let expected = pending(format!("check {url} {expected}"));
        until("it is said why", || checks.answer(&asked(), PHASE).as_ref() == Some(&expected)).await;
    }
    seconds(5).await;
    until("it passes", || checks.answer(&asked(), PHASE) == Some(CheckAnswer::Passed)).await;
    assert_eq!((server.count(), elsewhere.count()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_reached_is_not() {
    let server = Server::start([Answer::Status(200)]).await;
    let checks = Checks::new(outbound().guarded(), Metrics::default());
    for (number, (url, clause)) in [
        (server.url("/"), "leads to 127.0.0.1, which is loopback: nothing is asked there"),
        (
            "http://169.254.169.254/latest".to_owned(),
            "leads to 169.254.169.254, which is link-local, where metadata services are: nothing is asked there",
        ),
        ("http://gate.shop:22/".to_owned(), "has a port that is neither 80 nor 1024 or higher"),
    ]
    .into_iter()
    .enumerate()
    {
        let asked = Asked { number: number.try_into().unwrap(), ..asked() };
        checks.ask(&asked, PHASE, &[check(url.clone())], &body());
        let expected = Some(pending(format!("check {url} {clause}")));
        until("it is said why", || checks.answer(&asked, PHASE) == expected).await;
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_nobody() {
    let server = Server::start([Answer::Status(500)]).await;
    let checks = checks();
    let wanted = [check(server.url("/"))];
    for _ in 0..30 {
        checks.ask(&asked(), PHASE, &wanted, &body());
        seconds(5).await;
    }
    assert!(server.count() >= 20, "as long as somebody calls: {}", server.count());
    seconds(LAPSES.as_secs()).await;
    let end = server.count();
    for _ in 0..10 {
        seconds(5).await;
    }
    assert_eq!(server.count(), end);
    assert_eq!(checks.answer(&asked(), PHASE), None);
}

#[tokio::test(start_paused = true)]
async fn each_phase_and_each_edit_is_asked_for_itself() {
    let (old, new) = (Server::start([Answer::Silence]).await, Server::start([Answer::Status(200)]).await);
    let checks = checks();
    let wanted = [check(old.url("/"))];
    checks.ask(&asked(), CheckPhase::BeforeStart, &wanted, &body());
    settle().await;
    assert_eq!(checks.answer(&asked(), CheckPhase::BeforeStart), Some(CheckAnswer::Passed), "there is none of it");
    checks.ask(&asked(), PHASE, &wanted, &body());
    until("the first is asked", || old.count() == 1).await;
    checks.ask(&asked(), PHASE, &[check(new.url("/"))], &body());
    assert_eq!(answered(&checks).await, CheckAnswer::Passed);
    tokio::time::advance(StdDuration::from_secs(20)).await;
    settle().await;
    assert_eq!(old.count(), 1, "who is asked no more is forgotten");
}
