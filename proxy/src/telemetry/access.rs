//! The access log: a line of JSON for each request, if somebody wants it.
//!
//! The data path hands a finished line to a bounded queue and goes on; a thread writes. Where nobody reads what is written the queue fills,
//! further lines are dropped and counted, and no request waits. What callers write is escaped and cut, so that it cannot make up lines of
//! its own; queries are left out, because people put secrets into them.

use std::{
    borrow::Cow,
    io::Write,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use http::StatusCode;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Direction;
use crate::{http::Reason, route::RequestHead};

/// Lines that may wait: 1 KB each as a rule, and some KB at most.
const QUEUE: usize = 1024;

/// Characters of what a caller wrote.
const CUT: usize = 512;

/// Which requests get a line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Which {
    /// None.
    #[default]
    Off,
    /// Those that the proxy answered itself, and those that ended with a status from 500.
    Failures,
    /// Failures, and of the others this share, 0 to 1.
    Share(f64),
}

/// Why a text says nothing about which requests get a line.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of off, failures, all, or a percentage such as 1% (of what did not fail)")]
pub struct Unknown(String);

impl FromStr for Which {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text {
            "off" => Ok(Self::Off),
            "failures" => Ok(Self::Failures),
            "all" => Ok(Self::Share(1.0)),
            _ => {
                let percent = text.strip_suffix('%').and_then(|percent| percent.parse::<f64>().ok());
                let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
                percent
                    .map(|percent| Self::Share(percent / 100.0))
                    .ok_or_else(|| Unknown(text.chars().take(CUT).collect()))
            }
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    target: &'static str,
    direction: &'static str,
    service: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    method: Cow<'a, str>,
    host: Cow<'a, str>,
    path: Cow<'a, str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    milliseconds: f64,
}

/// Where lines go.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    which: Which,
    lines: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Lines to `writer`, from a thread of their own, which ends when the log is dropped or cannot be written.
    pub fn new(which: Which, mut writer: impl Write + Send + 'static) -> std::io::Result<Self> {
        if which == Which::Off {
            return Ok(Self::default());
        }
        let (lines, queue) = sync_channel::<Vec<u8>>(QUEUE);
        thread::Builder::new().name("access-log".into()).spawn(move || {
            for line in queue {
                if writer.write_all(&line).and_then(|()| writer.flush()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { which, lines: Some(lines), dropped: Arc::default() })
    }

    /// Whether there is one; asked first, as most have none.
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Notes a request, if it is one of those that are wanted. `service`: the Service (outbound) or port (inbound); `head`: `None` if it could
    /// not be read; `status`: what the caller got, or would have without gRPC; `reason`: set where a proxy answered; `latency`: until the head
    /// of the answer.
    #[allow(clippy::too_many_arguments, reason = "they are the fields of a line")]
    pub fn note(
        &self,
        direction: Direction,
        service: &str,
        caller: Option<&str>,
        head: Option<&RequestHead<'_>>,
        status: StatusCode,
        reason: Option<Reason>,
        latency: Duration,
    ) {
        let Some(lines) = &self.lines else {
            return;
        };
        let failed = reason.is_some() || status.is_server_error();
        let wanted = match self.which {
            Which::Off => false,
            Which::Failures => failed,
            Which::Share(share) => failed || share >= 1.0 || rand::random::<f64>() < share,
        };
        if !wanted {
            return;
        }
        let line = Line {
            timestamp: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            target: "access",
            direction: direction.as_str(),
            service: cut(service.into()),
            caller,
            method: cut(head.map(RequestHead::method).unwrap_or_default().into()),
            host: cut(head.map(RequestHead::host).unwrap_or_default()),
            path: cut(head.map(RequestHead::path).unwrap_or_default().into()),
            status: status.as_u16(),
            reason: reason.map(Reason::as_str),
            milliseconds: (latency.as_secs_f64() * 1e6).round() / 1e3,
        };
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        if lines.try_send(text).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.char_indices().nth(CUT) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use http::{HeaderMap, HeaderValue, Method, Uri};

    use super::*;

    /// Path, status and reason.
    type Request<'a> = (&'a str, u16, Option<Reason>);

    fn note(log: &AccessLog, (path, status, reason): Request<'_>) {
        let (method, uri, headers) = (Method::GET, Uri::try_from(path).unwrap(), HeaderMap::new().into());
        let head = RequestHead::new(&method, &uri, &headers);
        let status = StatusCode::from_u16(status).unwrap();
        let latency = Duration::from_micros(1234);
        log.note(Direction::Outbound, "shop/web:80", None, Some(&head), status, reason, latency);
    }

    /// Hands each write on.
    struct Hand(mpsc::Sender<Vec<u8>>);

    impl Write for Hand {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn texts(which: &str, requests: &[Request<'_>]) -> Vec<String> {
        let (sender, lines) = mpsc::channel();
        let log = AccessLog::new(which.parse().unwrap(), Hand(sender)).unwrap();
        for request in requests {
            note(&log, *request);
        }
        // The thread ends with the last line, and the channel with the thread.
        drop(log);
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn written(which: &str, requests: &[Request<'_>]) -> Vec<serde_json::Value> {
        texts(which, requests).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_says_what_became_of_a_request() {
        let lines = written("all", &[("http://web/a?token=secret", 503, Some(Reason::NoEndpoints))]);
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        for (key, value) in [
            ("target", "access"),
            ("direction", "outbound"),
            ("service", "shop/web:80"),
            ("method", "GET"),
            ("host", "web"),
            ("path", "/a"),
            ("reason", "no-endpoints"),
        ] {
            assert_eq!(line[key], value, "{line}");
        }
        assert_eq!((&line["status"], &line["milliseconds"]), (&503.into(), &1.234.into()));
    }

    #[test]
    fn nothing_that_a_caller_writes_makes_a_second_line_or_a_long_one() {
        let (sender, lines) = mpsc::channel();
        let log = AccessLog::new(Which::Share(1.0), Hand(sender)).unwrap();
        let (method, uri) = (Method::GET, Uri::try_from(format!("/{}", "x".repeat(10_000))).unwrap());
        let mut headers = HeaderMap::new();
        // More than HTTP lets through, should its parser ever be wrong.
        let host = "a\u{85}\u{2028}\"}\u{fe}".repeat(1000);
        headers.insert("host", HeaderValue::from_bytes(host.as_bytes()).unwrap());
        let headers = headers.into();
        let head = RequestHead::new(&method, &uri, &headers);
        log.note(Direction::Inbound, "80\n{}", Some("spiffe://a"), Some(&head), StatusCode::OK, None, Duration::ZERO);
        drop(log);
        let all: Vec<u8> = lines.into_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.len() < 8 * CUT, "{}", text.len());
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&parsed["service"], &parsed["status"]), (&"80\n{}".into(), &200.into()));
    }

    #[test]
    fn what_was_asked_for_is_written_and_nothing_else() {
        let requests = [
            ("/ok", 200, None),
            ("/not-found", 404, None),
            ("/broken", 500, None),
            ("/limited", 429, Some(Reason::RateLimited)),
        ];
        let paths = |which| -> Vec<String> {
            written(which, &requests).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(paths("off"), [""; 0]);
        assert_eq!(paths("failures"), ["/broken", "/limited"]);
        assert_eq!(paths("0%"), ["/broken", "/limited"]);
        assert_eq!(paths("all").len(), 4);
        let many: Vec<Request<'_>> = vec![("/ok", 200, None); 1000];
        let sampled = written("50%", &many).len();
        assert!((350..650).contains(&sampled), "{sampled}");
        for bad in ["", "some", "101%", "-1%", "NaN%"] {
            assert!(bad.parse::<Which>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_that_nobody_reads_costs_lines_and_no_time() {
        /// Waits at the first write until it is dropped by the test.
        struct Stuck(mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = mpsc::channel();
        let log = AccessLog::new(Which::Share(1.0), Stuck(stuck)).unwrap();
        for _ in 0..5000 {
            note(&log, ("/", 200, None));
        }
        // One line may be with the thread.
        assert!(log.dropped() >= 5000 - QUEUE as u64 - 1, "{}", log.dropped());
        drop(release);
    }
}
