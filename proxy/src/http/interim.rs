//! What an endpoint says before its answer: 100 Continue, 103 Early Hints.

use std::{sync::Arc, task::Context};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;

use super::{fields::Fields, h1::Conn};

/// Interim answers to one request at most: enough for hints that come one by one.
pub(super) const MAX_INTERIM: u32 = 32;

/// Passes interim answers on to the caller.
#[derive(Clone, Debug, Default)]
pub enum Interim {
    /// They are for the proxy alone.
    #[default]
    None,
    /// To a caller that speaks HTTP/1.1.
    Http1 {
        /// Its connection.
        conn: Arc<Mutex<Conn>>,
        /// Whether it waits for 100.
        expects: bool,
    },
    /// To a caller that speaks HTTP/2.
    Http2(Arc<Mutex<h2::server::SendResponse<Bytes>>>),
}

impl Interim {
    /// Passes one on. A caller that cannot be told will notice by itself.
    pub(super) fn send(&self, cx: &mut Context<'_>, status: StatusCode, headers: &Fields) {
        match self {
            Self::None => {}
            Self::Http1 { expects: false, .. } if status == StatusCode::CONTINUE => {}
            Self::Http1 { conn, .. } => {
                let mut conn = conn.lock();
                super::h1::write_interim(conn.out(), status, headers);
                let _ = conn.poll_flush(cx);
            }
            Self::Http2(caller) => {
                let mut response = http::Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers.to_map();
                let _ = caller.lock().send_informational(response);
            }
        }
    }
}
