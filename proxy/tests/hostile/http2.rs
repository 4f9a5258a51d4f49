//! Abuse of HTTP/2.

use std::time::Duration;

use tokio::{io::AsyncReadExt, time::timeout};

use crate::{
    bystander::{Answer, Path, app},
    frames::*,
};

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let path = Path::to(app(Answer::Short).await);
    for (door, address) in path.doors() {
        let frames = path
            .survives(async {
                let mut connection = open(address, &[]).await;
                let pieces = (0..50_000).map(|n| {
                    let mut pair = frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET);
                    pair.extend(frame(RST_STREAM, 0, stream(n), &8_u32.to_be_bytes()));
                    pair
                });
                assert_eq!(flood(&mut connection, pieces).await, End::Closed, "{door}");
                until_closed(connection).await
            })
            .await;
        // Unless it was lost with the reset of the socket, the reason was given.
        for (_, _, payload) in frames.iter().filter(|(kind, ..)| *kind == GOAWAY) {
            assert_eq!(payload[4..8], 11_u32.to_be_bytes(), "{door}: ENHANCE_YOUR_CALM");
        }
    }
}

#[tokio::test]
async fn errors_that_make_the_proxy_reset_streams_end_the_connection() {
    let path = Path::to(app(Answer::Short).await);
    for (door, address) in path.doors() {
        path.survives(async {
            let mut connection = open(address, &[]).await;
            let pieces = (0..50_000).map(|n| {
                let mut pair = frame(HEADERS, END_HEADERS, stream(n), POST);
                // No window grows by nothing: an error of this stream, says RFC 9113 section 6.9.
                pair.extend(frame(WINDOW_UPDATE, 0, stream(n), &0_u32.to_be_bytes()));
                pair
            });
            assert_eq!(flood(&mut connection, pieces).await, End::Closed, "{door}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_gathered() {
    let path = Path::to(app(Answer::Short).await);
    for (door, address) in path.doors() {
        path.survives(async {
            let mut connection = open(address, &[]).await;
            let first = frame(HEADERS, END_STREAM, stream(0), GET);
            // Literal fields without a place in the table, of 16 KB each: 320 MB in all.
            let mut field = b"\x00\x01x\x7f\xfb\x7e".to_vec();
            field.resize(16_384, b'v');
            let more = std::iter::repeat_n(frame(CONTINUATION, 0, stream(0), &field), 20_000);
            assert_eq!(flood(&mut connection, std::iter::once(first).chain(more)).await, End::Closed, "{door}");
        })
        .await;
    }
}

#[tokio::test]
async fn empty_pieces_of_a_head_are_not_taken_for_ever() {
    let path = Path::to(app(Answer::Short).await);
    for (door, address) in path.doors() {
        path.survives(async {
            let mut connection = open(address, &[]).await;
            let first = frame(HEADERS, END_STREAM, stream(0), GET);
            let empty = frame(CONTINUATION, 0, stream(0), b"").repeat(1000);
            let more = std::iter::repeat_n(empty, 5000);
            assert_eq!(flood(&mut connection, std::iter::once(first).chain(more)).await, End::Closed, "{door}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_small_head_that_unpacks_to_a_large_one_is_refused() {
    let path = Path::to(app(Answer::Short).await);
    for (door, address) in path.doors() {
        path.survives(async {
            let mut connection = open(address, &[]).await;
            // One field of 4,000 bytes goes into the table, and is then named 12,000 times at a byte each: 48 MB a request.
            let mut block = GET.to_vec();
            block.extend(b"\x40\x01x\x7f\xa1\x1e");
            block.resize(block.len() + 4000, b'v');
            block.resize(block.len() + 12_000, 0xbe);
            let bombs = (0..64).map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &block));
            flood(&mut connection, bombs).await;
            drop(connection);
        })
        .await;
        assert_eq!(path.attacked(), 0, "{door}: the application was not asked");
    }
}

#[tokio::test]
async fn floods_that_ask_for_answers_nobody_reads_are_not_answered_for_ever() {
    let path = Path::to(app(Answer::Short).await);
    for (_, address) in path.doors() {
        for piece in [frame(SETTINGS, 0, 0, b""), frame(PING, 0, 0, b"12345678")] {
            path.survives(async {
                let mut connection = open(address, &[]).await;
                // 100 MB and more of frames.
                let pieces = std::iter::repeat_n(piece.repeat(10_000), 1000);
                flood(&mut connection, pieces).await;
                drop(connection);
            })
            .await;
        }
    }
}

#[tokio::test]
async fn empty_data_keeps_one_stream_busy_and_nobody_else() {
    let path = Path::to(app(Answer::Short).await);
    for (_, address) in path.doors() {
        path.survives(async {
            let mut connection = open(address, &[]).await;
            let first = frame(HEADERS, END_HEADERS, stream(0), POST);
            let pieces = std::iter::repeat_n(frame(DATA, 0, stream(0), b"").repeat(1000), 500);
            flood(&mut connection, std::iter::once(first).chain(pieces)).await;
            drop(connection);
        })
        .await;
    }
}

#[tokio::test]
async fn answers_that_nobody_makes_room_for_are_not_gathered() {
    let path = Path::to(app(Answer::Large).await);
    for (_, address) in path.doors() {
        path.survives(async {
            let mut connections = Vec::new();
            // 1.6 GB of answers with no room for a byte of them.
            for _ in 0..2 {
                let mut connection = open(address, &[(4, 0)]).await;
                let pieces = (0..100).map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET));
                flood(&mut connection, pieces).await;
                connections.push(connection);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            for mut connection in connections {
                // Heads came, bodies did not.
                let mut read = vec![0; 1 << 20];
                let mut total = 0;
                while let Ok(Ok(n @ 1..)) = timeout(Duration::from_millis(100), connection.read(&mut read)).await {
                    total += n;
                }
                assert!(total < 1 << 20, "{total}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn more_streams_than_were_offered_are_refused() {
    let path = Path::to(app(Answer::Never).await);
    for (door, address) in path.doors() {
        path.survives(async {
            let mut connection = open(address, &[]).await;
            let pieces = (0..5000).map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET));
            flood(&mut connection, pieces).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(connection);
        })
        .await;
        assert!(path.attacked() <= 2 * 256, "{door}: {} reached the application", path.attacked());
    }
}
