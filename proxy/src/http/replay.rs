//! A request's body that several attempts read, one after the other.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::{body::Incoming, idle::Activity, patience::Patience};

/// What is kept of one body at most so that it can be sent again: what a form or an API's request takes. A longer one is sent once.
pub const MAX_KEPT: usize = 64 * 1024;

/// Frames that are kept at most, because each takes memory of its own however little is in it.
const MAX_FRAMES: usize = 256;

/// A body, what was read of it so far if that is kept, and who reads.
#[derive(Debug)]
pub struct Held {
    // Never contended: an attempt ends before the next one begins.
    source: Mutex<Source>,
    /// Of the attempt that reads now; earlier ones get nothing more.
    reader: AtomicU32,
    /// Bytes that may be kept; 0: none.
    limit: AtomicUsize,
    activity: OnceLock<Arc<Activity>>,
}

#[derive(Debug)]
struct Source {
    body: Incoming,
    whole: SizeHint,
    kept: Vec<Kept>,
    size: usize,
    touched: bool,
    /// Something was read and not kept.
    lost: bool,
    ended: bool,
    /// With the caller, until there is an answer.
    patience: Option<Patience>,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Held {
    /// Not read from yet, and nothing is kept.
    pub fn new(body: Incoming) -> Self {
        let whole = body.size_hint();
        let (kept, size) = (Vec::new(), 0);
        let source = Source { body, whole, kept, size, touched: false, lost: false, ended: false, patience: None };
        Self {
            source: Mutex::new(source),
            reader: AtomicU32::new(0),
            limit: AtomicUsize::new(0),
            activity: OnceLock::new(),
        }
    }

    /// Keeps what is read from now on, up to `limit` bytes.
    pub fn keep(&self, limit: usize) {
        self.limit.fetch_max(limit, Relaxed);
    }

    /// Notes there when something of it moves.
    pub fn watch(&self, activity: Arc<Activity>) {
        let _ = self.activity.set(activity);
    }

    /// Gives it up with [`TimedOut`](io::ErrorKind::TimedOut) where the caller keeps it waiting for longer.
    pub fn bound(&self, wait: Duration) {
        let mut source = self.source.lock();
        source.patience = Some(Patience::with_body(wait, source.whole.exact().is_some()));
    }

    /// There is an answer, so whoever answers wants the rest in its own time, or not at all.
    pub fn unbound(&self) {
        self.source.lock().patience = None;
    }

    /// Whether another attempt can send it whole.
    pub fn repeatable(&self) -> bool {
        let source = self.source.lock();
        !source.touched || !source.lost
    }

    /// All of it, if it has ended and was kept; without trailers.
    pub fn whole(&self) -> Option<Bytes> {
        let source = self.source.lock();
        let ended = source.touched && (source.ended || source.body.is_end_stream());
        let kept = ended && !source.lost && self.limit.load(Relaxed) > 0;
        kept.then(|| {
            let data = source.kept.iter().filter_map(|kept| match kept {
                Kept::Data(data) => Some(data.as_ref()),
                Kept::Trailers(_) => None,
            });
            data.collect::<Vec<_>>().concat().into()
        })
    }

    /// For the next attempt, from the beginning; whoever read before gets nothing more.
    pub fn read(self: &Arc<Self>) -> Reader {
        Reader { held: self.clone(), number: self.reader.fetch_add(1, Relaxed) + 1, position: 0 }
    }
}

/// One attempt's view of the body.
#[derive(Debug)]
pub struct Reader {
    held: Arc<Held>,
    number: u32,
    position: usize,
}

impl Reader {
    /// Whether there is nothing more.
    pub fn is_end_stream(&self) -> bool {
        let source = self.held.source.lock();
        self.position >= source.kept.len() && (source.ended || source.body.is_end_stream())
    }

    /// Of what is left, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        let source = self.held.source.lock();
        // It is asked for before the first frame, to say how long the body is.
        if self.position == 0 { source.whole } else { SizeHint::default() }
    }

    /// The next frame, kept or new.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.held.reader.load(Relaxed) != self.number {
            return Poll::Ready(Some(Err(io::Error::other("another attempt took over"))));
        }
        let mut guard = self.held.source.lock();
        let source = &mut *guard;
        if let Some(kept) = source.kept.get(self.position).filter(|_| !source.lost) {
            self.position += 1;
            return Poll::Ready(Some(Ok(match kept.clone() {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        source.touched = true;
        let frame = match Pin::new(&mut source.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(patience) = &mut source.patience else { return Poll::Pending };
                ready!(patience.poll_over(cx));
                Some(Err(io::Error::new(io::ErrorKind::TimedOut, "it came too slowly, or not at all")))
            }
        };
        if let (Some(patience), Some(Ok(frame))) = (&mut source.patience, &frame) {
            patience.moved(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        if let Some(activity) = self.held.activity.get() {
            activity.moved();
        }
        match &frame {
            None => source.ended = true,
            // The caller broke off: nobody can have it whole.
            Some(Err(_)) => source.lost = true,
            Some(Ok(frame)) => source.keep(frame, self.held.limit.load(Relaxed)),
        }
        if !source.lost {
            self.position = source.kept.len();
        }
        Poll::Ready(frame)
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>, limit: usize) {
        if self.lost {
            return;
        }
        let kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.size += data.len();
                Kept::Data(data.clone())
            }
            (None, Some(trailers)) => Kept::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if self.size > limit || limit == 0 || self.kept.len() >= MAX_FRAMES {
            self.lost = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(kept);
        }
    }
}
