//! The side of a connection that is called.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::{
    Conn, Framing, H1Body, Parsed, Refusal, head,
    write::{self, Broken, Writer},
};
use crate::{
    http::{
        Reason,
        body::{Body, Incoming},
        fields::Fields,
        interim::Interim,
        message::{Request, Response},
        patience::Taking,
        respond,
        server::Service,
        upgrade::{self, Switch},
    },
    tcp::{Stream, buffers},
};

/// How long a connection may rest between two requests. Longer than any client keeps one, so that it is the client who ends it and no
/// request meets a closing connection.
const IDLE: Duration = Duration::from_secs(3600);

/// How long a head may take from its first byte to its last. A head is one packet or a few; this is what slow networks may need, and far
/// less than an attacker who holds connections open would like.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long a client that wants no other request is given to close first. It does so at once; whoever closes first has to remember the
/// connection for a minute, and the ports of a busy client would run out on our side.
const AFTER_YOU: Duration = Duration::from_millis(50);

/// How long what a client still sends is read after an answer that it did not wait for: closed at once, the answer would be lost with it.
const LINGER: Duration = Duration::from_secs(1);

/// How much of it.
const LINGER_BYTES: usize = 256 * 1024;

/// Serves requests until the client closes or `draining` is cancelled; then what is in flight is still answered.
pub(crate) async fn serve<S: Service>(stream: Stream, draining: &CancellationToken, service: &S) -> io::Result<()> {
    let conn = Arc::new(Mutex::new(Conn::new(stream)));
    let drained = pin!(draining.cancelled());
    let mut waiting = Waiting { drained, clock: None };
    loop {
        // In a box, as long as it lasts: a connection that rests is not charged for it.
        let exchange = match waiting.next(&conn).await? {
            Next::End => return close(&conn).await,
            Next::Request(parsed) => Box::pin(exchange(&conn, Ok(parsed), draining, service)),
            Next::Refused(reason, detail) => Box::pin(exchange(&conn, Err((reason, detail)), draining, service)),
        };
        match exchange.await? {
            Then::Next => {}
            Then::End => return Ok(()),
            Then::Switch(answer) => return Box::pin(switched(conn, answer)).await,
        }
    }
}

/// What follows an exchange.
enum Then {
    Next,
    End,
    Switch(Box<(Response<()>, Switch)>),
}

/// Has a request answered, or answers what was none.
async fn exchange<S: Service>(
    conn: &Arc<Mutex<Conn>>,
    parsed: Result<Parsed, (Reason, &'static str)>,
    draining: &CancellationToken,
    service: &S,
) -> io::Result<Then> {
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err((reason, detail)) => {
            service.refused(reason);
            let (head, mut body) = respond(reason, detail, false).into_parts();
            answer(conn, &head, &mut body, &Asking::default(), false).await?;
            return linger(conn).await.map(|()| Then::End);
        }
    };
    let asking = Asking {
        head: parsed.head.method == Method::HEAD,
        connect: parsed.head.method == Method::CONNECT,
        old: parsed.old,
    };
    let may_switch = asking.connect || parsed.upgrade;
    let request = {
        let body = H1Body::new(conn, parsed.framing, true).map_or(Incoming::Empty, Incoming::Http1);
        let interim =
            if parsed.old { Interim::None } else { Interim::Http1 { conn: conn.clone(), expects: parsed.expects } };
        Request { head: parsed.head, body, interim }
    };
    let answered = {
        let mut handling = pin!(service.handle(request));
        poll_fn(|cx| {
            if let Poll::Ready(answered) = handling.as_mut().poll(cx) {
                return Poll::Ready(Some(answered));
            }
            let mut conn = conn.lock();
            if conn.has_out() {
                // Of an interim answer.
                let _ = conn.poll_flush(cx);
            }
            conn.poll_gone(cx).map(|()| None)
        })
        .await
    };
    let Some(answered) = answered else { return Ok(Then::End) };
    let (mut head, mut body) = answered.into_parts();
    let own_end = closes(&mut head);
    if let Body::Switched(switch) = body {
        return Ok(Then::Switch(Box::new((head, *switch))));
    }
    let early = may_switch && !conn.lock().rest.is_empty();
    // What was sent ahead of a switch that did not come is not a request, whatever it looks like.
    let keep = parsed.keep_alive && !own_end && !draining.is_cancelled() && !early && !asking.connect;
    let keep = answer(conn, &head, &mut body, &asking, keep).await?;
    drop(body);
    let unread = conn.lock().unread;
    if unread || (!keep && (own_end || early)) {
        return linger(conn).await.map(|()| Then::End);
    }
    if keep {
        return Ok(Then::Next);
    }
    if !parsed.keep_alive {
        let gone = poll_fn(|cx| conn.lock().poll_gone(cx));
        let _ = timeout(AFTER_YOU, gone).await;
    }
    close(conn).await.map(|()| Then::End)
}

/// Ends a connection on which nothing is left to be said.
async fn close(conn: &Mutex<Conn>) -> io::Result<()> {
    // Whoever closed does not wait for a goodbye.
    if conn.lock().ended {
        return Ok(());
    }
    poll_fn(|cx| conn.lock().poll_shutdown(cx)).await
}

/// What an answer has to respect of the question.
#[derive(Default)]
struct Asking {
    head: bool,
    connect: bool,
    old: bool,
}

/// Writes an answer; says whether the connection can go on.
async fn answer(
    conn: &Mutex<Conn>,
    head: &Response<()>,
    body: &mut Body,
    asking: &Asking,
    keep: bool,
) -> io::Result<bool> {
    let status = head.status();
    let bodiless = asking.head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (asking.connect && status.is_success());
    let framing = match body.size_hint().exact() {
        _ if bodiless || body.is_end_stream() => Framing::None,
        Some(length) => Framing::Length(length),
        None if asking.old => Framing::Close,
        None => Framing::Chunked,
    };
    let keep = keep && framing != Framing::Close;
    let connection: &[u8] = match (keep, asking.old) {
        (false, _) => b"connection: close\r\n",
        (true, true) => b"connection: keep-alive\r\n",
        (true, false) => b"",
    };
    write::response(conn.lock().out(), head, framing, bodiless, connection);
    let mut writer = Writer::new(framing);
    let (mut taking, mut taken) = (Taking::default(), 0);
    let written = poll_fn(|cx| {
        if let Poll::Ready(written) = writer.poll(cx, conn, body) {
            return Poll::Ready(written);
        }
        let (blocked, so_far) = {
            let conn = conn.lock();
            (writer.is_blocked(&conn), conn.taken)
        };
        if !blocked || so_far > taken {
            taking.moved();
        }
        taken = so_far;
        if blocked && taking.poll_over(cx, body.wait()).is_ready() {
            conn.lock().reset();
            return Poll::Ready(Err(Broken::Sink(body.unread())));
        }
        // A caller who left does not want the rest; whoever makes it must hear of that.
        conn.lock().poll_gone(cx).map(|()| Err(Broken::Sink(io::ErrorKind::ConnectionAborted.into())))
    })
    .await;
    match written {
        Ok(()) => Ok(keep),
        Err(Broken::Sink(error)) => Err(error),
        Err(Broken::Source(error)) => {
            // An end without the announced length, or without the last chunk, is seen; one of a body that ends with the connection is not.
            if framing == Framing::Close {
                conn.lock().reset();
            }
            Err(error)
        }
    }
}

/// Whether the answer itself says that it is the last one.
fn closes(head: &mut Response<()>) -> bool {
    match head.headers_mut() {
        Fields::Map(map) => map.remove(header::CONNECTION).is_some_and(|option: HeaderValue| option == "close"),
        // What came over a connection says nothing of another.
        Fields::Lines(_) => false,
    }
}

/// Says that the connection carries something else now, and carries it.
async fn switched(conn: Arc<Mutex<Conn>>, answer: Box<(Response<()>, Switch)>) -> io::Result<()> {
    let (head, switch) = *answer;
    write::response(conn.lock().out(), &head, Framing::None, true, b"");
    poll_fn(|cx| conn.lock().poll_flush(cx)).await?;
    let Some(caller) = Arc::into_inner(conn) else {
        return Err(io::Error::other("a switched connection is still in use"));
    };
    upgrade::join(caller.into_inner(), switch).await
}

/// Ends the connection so that the last answer is not lost to what the client still sends.
async fn linger(conn: &Mutex<Conn>) -> io::Result<()> {
    poll_fn(|cx| conn.lock().poll_shutdown(cx)).await?;
    let mut left = LINGER_BYTES;
    let drained = poll_fn(|cx| {
        let mut conn = conn.lock();
        while !conn.ended && left > 0 {
            left = left.saturating_sub(ready!(conn.poll_fill(cx))?);
            conn.rest.clear();
        }
        Poll::Ready(io::Result::Ok(()))
    });
    timeout(LINGER, drained).await.unwrap_or(Ok(()))
}

/// What a connection waits for between requests.
struct Waiting<'a, 'token> {
    drained: Pin<&'a mut WaitForCancellationFuture<'token>>,
    /// Set again only when it has run out, so that a request costs no timer.
    clock: Option<Pin<Box<Sleep>>>,
}

#[allow(clippy::large_enum_variant, reason = "moved once; a box would be an allocation for each request")]
enum Next {
    Request(Parsed),
    End,
    Refused(Reason, &'static str),
}

impl Waiting<'_, '_> {
    async fn next(&mut self, conn: &Mutex<Conn>) -> io::Result<Next> {
        let mut since = None;
        // So much of the head was looked at without finding its end.
        let mut looked = 0;
        poll_fn(|cx| {
            let mut conn = conn.lock();
            loop {
                let len = conn.rest.len();
                if len > 0 && head::may_end(&conn.rest, looked) {
                    match head::request(&conn.rest) {
                        Ok(Some((parsed, len))) => {
                            conn.rest.advance(len);
                            buffers::settle(&mut conn.rest);
                            return Poll::Ready(Ok(Next::Request(parsed)));
                        }
                        Ok(None) => {}
                        Err(refusal) => {
                            let (reason, detail) = refused(refusal);
                            return Poll::Ready(Ok(Next::Refused(reason, detail)));
                        }
                    }
                }
                if looked == 0 && len > 0 {
                    since = None;
                }
                looked = len;
                match conn.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Next::End)),
                    Poll::Ready(Ok(_)) => {}
                    // A client that resets a connection that rests has done with it.
                    Poll::Ready(Err(_)) if conn.rest.is_empty() => return Poll::Ready(Ok(Next::End)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        buffers::settle(&mut conn.rest);
                        return self.poll_overdue(cx, &mut since, conn.rest.is_empty()).map(Ok);
                    }
                }
            }
        })
        .await
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>, since: &mut Option<Instant>, idle: bool) -> Poll<Next> {
        if idle && self.drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Next::End);
        }
        let since = *since.get_or_insert_with(Instant::now);
        let due = since + if idle { IDLE } else { HEAD_TIME };
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if clock.deadline() > due {
            clock.as_mut().reset(due);
        }
        while clock.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(if idle {
                    Next::End
                } else {
                    Next::Refused(Reason::HeadTimeout, "the request's head did not come in time")
                });
            }
            clock.as_mut().reset(due);
        }
        Poll::Pending
    }
}

fn refused(refusal: Refusal) -> (Reason, &'static str) {
    match refusal {
        Refusal::Malformed(why) => (Reason::MalformedRequest, why),
        Refusal::HeadTooLarge => (Reason::HeadTooLarge, "the request's head is too large"),
        Refusal::TargetTooLong => (Reason::TargetTooLong, "the request's target is too long"),
    }
}
