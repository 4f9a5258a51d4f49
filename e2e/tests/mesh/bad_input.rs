//! What is not what it should be: answered by the proxy with a reason, or passed on as bytes, never half understood.

use anyhow::{Result, ensure};
use fairlead_e2e::kit::TempNamespace;
use fairlead_e2e::kit::apps::App;

use crate::{call, call_ok, client, mesh};

/// More than a proxy reads of a head.
const TOO_MUCH: usize = 70_000;

#[tokio::test]
async fn malformed_http_gets_400_oversized_431_and_another_protocol_passes_as_bytes() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "bad-input").await?;
    let outside = TempNamespace::plain(&mesh, "bad-input-outside").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    for namespace in [&ns, &outside] {
        mesh.apply(&client().yaml(namespace.name())).await?;
    }
    mesh.rolled_out(ns.name(), "echo").await?;
    let (http, tcp) = (format!("echo.{}:9080", ns.name()), format!("echo.{}:9082", ns.name()));
    let url = format!("http://{http}/");

    // From a pod in the mesh its own proxy answers, from one outside of it the proxy of the pod that is called.
    for namespace in [&ns, &outside] {
        mesh.rolled_out(namespace.name(), "client").await?;
        call_ok(&mesh, namespace.name(), &[&url]).await?;
        let raw = async |address: &str, bytes: &str, more: &[&str]| {
            call(&mesh, namespace.name(), &[&["raw", address, bytes][..], more].concat()).await
        };

        // `raw` succeeds only when the connection was closed after the answer.
        for (what, request) in [
            ("a header without a colon", r"GET / HTTP/1.1\r\nHost: echo\r\nnonsense\r\n\r\n"),
            ("a space before the colon", r"GET / HTTP/1.1\r\nHost: echo\r\nx-a : b\r\n\r\n"),
            ("a NUL in a header", r"GET / HTTP/1.1\r\nHost: echo\r\nx-a: b\x00c\r\n\r\n"),
            ("a version that does not exist", r"GET / HTTP/1.7\r\nHost: echo\r\n\r\n"),
            ("a length that is no number", r"POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: few\r\n\r\n"),
            (
                "two ways to say the length",
                r"POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
        ] {
            let answer = raw(&http, request, &[]).await?;
            ensure!(
                answer.success && answer.stdout.starts_with("HTTP/1.1 400 "),
                "{what}, sent from {}: not 400 and closed, but {:?} {:?}",
                namespace.name(),
                answer.stdout,
                answer.stderr
            );
            // The application would have answered with a date and its name.
            let head = answer.stdout.to_ascii_lowercase();
            ensure!(!head.contains("\r\ndate:") && !head.contains("x-pod"), "{what} reached the application: {head}");
        }

        let header = format!("x-large={}", "a".repeat(TOO_MUCH));
        let large = call(&mesh, namespace.name(), &[&url, "--header", &header]).await?;
        ensure!(
            large.stdout.contains(" 431 "),
            "{TOO_MUCH} bytes of headers from {}: {:?} {:?}",
            namespace.name(),
            large.stdout,
            large.stderr
        );

        // Neither HTTP nor TLS: the application gets it byte by byte, and so does who sent it.
        for (bytes, expected) in [
            (r"\x00\x01\x02\x03 not http \x7f\r\n", "\0\x01\x02\x03 not http \x7f\r\n"),
            (r"EHLO somewhere.example\r\n", "EHLO somewhere.example\r\n"),
        ] {
            let echoed = raw(&tcp, bytes, &["--end"]).await?;
            ensure!(
                echoed.success && echoed.stdout == expected,
                "{bytes} from {} came back as {:?} {:?}",
                namespace.name(),
                echoed.stdout,
                echoed.stderr
            );
        }
        call_ok(&mesh, namespace.name(), &[&url]).await?;
    }
    Ok(())
}
