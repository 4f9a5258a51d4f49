//! A line for each request, with the words of the metrics.

use std::{io, sync::mpsc, time::Duration};

use fairlead_proxy::telemetry::access::{AccessLog, Which};
use fairlead_proxy_api::v1;
use serde_json::Value;

use crate::support::*;

struct Hand(mpsc::Sender<Vec<u8>>);

impl io::Write for Hand {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> (AccessLog, impl Fn() -> Value) {
    let (sender, lines) = mpsc::channel();
    let log = AccessLog::new(Which::Share(1.0), Hand(sender)).unwrap();
    // Lines come before or right after the answer.
    let next = move || serde_json::from_slice(&lines.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap();
    (log, next)
}

#[tokio::test]
async fn both_sides_say_what_became_of_a_request() {
    let app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp").await;
    let authority = Authority::new();
    let ((server_log, server_line), (client_log, client_line)) = (log(), log());
    let server = Pod {
        application: app.address,
        workload: workload(v1::MtlsMode::Strict),
        access_log: server_log,
        ..Pod::new(authority.identity("server"))
    }
    .start();
    let mut to_server = service(vec![vec![endpoint(server.inbound, "server")], vec![]]);
    let nowhere = v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/nowhere".into())) };
    let matches = vec![v1::Match { path: Some(nowhere), ..v1::Match::default() }];
    to_server.routes.insert(0, v1::Route { matches, backends: vec![backend(1, 1)], ..v1::Route::default() });
    let client = Pod {
        service: Some(v1::destination::Kind::Service(to_server)),
        access_log: client_log,
        ..Pod::new(authority.identity("client"))
    }
    .start();

    assert_eq!(status(&get(client.outbound, "/a?token=secret", "").await), 200);
    let (out, inside) = (client_line(), server_line());
    for (line, key, value) in [
        (&out, "direction", "outbound"),
        (&out, "service", "test/server:9080"),
        (&inside, "direction", "inbound"),
        (&inside, "caller", "spiffe://cluster.local/ns/test/sa/client"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    for line in [&out, &inside] {
        assert_eq!(
            (&line["method"], &line["host"], &line["path"]),
            (&"GET".into(), &"server".into(), &"/a".into()),
            "{line}"
        );
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &Value::Null), "{line}");
    }

    assert_eq!(status(&get(client.outbound, "/nowhere", "").await), 503);
    let line = client_line();
    assert_eq!((&line["status"], &line["reason"]), (&503.into(), &"no-endpoints".into()), "{line}");
}
