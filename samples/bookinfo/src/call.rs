//! The call role: one exchange in any of the protocols, for people and for tests that `exec` into a pod.
//!
//! The answer goes to stdout, why there is none to stderr. Exit code 0: a 2xx answer, or everything echoed. 1: an answer,
//! but not that. 3 (from `main`): no answer.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::grpc::{self, Decoder};
use crate::units;

/// Longest answer that is printed.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Options of the call role.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// Another protocol than HTTP.
    #[command(subcommand)]
    pub protocol: Option<Protocol>,
    /// The HTTP request.
    #[command(flatten)]
    pub http: Option<Http>,
    /// How long the whole exchange may take.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    pub timeout: Duration,
}

/// One HTTP request.
#[derive(Debug, clap::Args)]
pub struct Http {
    /// Address to call, such as `http://reviews:9080/reviews/0`.
    #[arg(value_parser = units::http_url)]
    pub url: Uri,
    /// Method.
    #[arg(long, default_value = "GET")]
    pub method: Method,
    /// Header as name=value; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = units::header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Body of the request.
    #[arg(long, default_value = "")]
    pub body: String,
    /// Speak HTTP/2 without TLS (h2c) instead of HTTP/1.1.
    #[arg(long)]
    pub http2: bool,
}

/// Exchanges other than a plain HTTP request.
#[derive(Debug, clap::Subcommand)]
pub enum Protocol {
    /// Open a WebSocket, send a message, print what comes back, close.
    Ws {
        /// Address to call, such as `ws://echo:9080/ws`.
        #[arg(value_parser = units::ws_url)]
        url: Uri,
        /// Text to send.
        message: String,
        /// Send it this many times, waiting for each answer.
        #[arg(long, default_value_t = 1)]
        messages: u32,
    },
    /// Open a gRPC stream, send messages one after the other, and wait for each to come back before the next.
    Grpc {
        /// Server to call, such as `http://echo:9080`.
        #[arg(value_parser = units::http_url)]
        url: Uri,
        /// How many messages.
        #[arg(long, default_value_t = 1)]
        messages: u32,
    },
    /// Open a TCP connection, send a line, print the line that comes back.
    Tcp {
        /// Where to connect.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// Wait for the server's greeting before sending anything.
        #[arg(long)]
        server_first: bool,
        /// Line to send.
        #[arg(long, default_value = "hello")]
        line: String,
    },
    /// Open a TCP connection, send bytes that need not mean anything, print what comes back until the server closes it.
    Raw {
        /// Where to connect.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// What to send; `\r`, `\n`, `\\` and `\xff` stand for bytes.
        #[arg(value_parser = units::bytes)]
        bytes: Bytes,
        /// Close our direction after that, for servers that end with their client.
        #[arg(long)]
        end: bool,
    },
}

/// Makes the exchange and prints it.
///
/// # Errors
/// No connection, a broken exchange, or no answer in time.
pub async fn run(args: Args) -> Result<ExitCode> {
    let exchange = async {
        match (args.protocol, args.http) {
            (Some(Protocol::Ws { url, message, messages }), _) => websocket(&url, &message, messages).await,
            (Some(Protocol::Grpc { url, messages }), _) => grpc_stream(&url, messages).await,
            (Some(Protocol::Tcp { address, server_first, line }), _) => tcp(&address, server_first, &line).await,
            (Some(Protocol::Raw { address, bytes, end }), _) => raw(&address, &bytes, end).await,
            (None, Some(call)) => http(call).await,
            (None, None) => bail!("nothing to call: give an address, or see `call --help`"),
        }
    };
    let good = tokio::time::timeout(args.timeout, exchange)
        .await
        .with_context(|| format!("no complete answer within {:?}", args.timeout))??;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    Ok(stream)
}

async fn http(call: Http) -> Result<bool> {
    let authority = units::authority(&call.url);
    let io = TokioIo::new(connect(&authority).await?);
    let mut request = Request::new(Full::new(Bytes::from(call.body)));
    *request.method_mut() = call.method;
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for (name, value) in call.headers {
        headers.append(name, value);
    }
    let url = call.url;
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let asked = || format!("call {url}");
    let response = if call.http2 {
        *request.uri_mut() = url.clone();
        *request.version_mut() = Version::HTTP_2;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.with_context(asked)?;
        tokio::spawn(connection);
        sender.send_request(request).await.with_context(asked)?
    } else {
        *request.uri_mut() = url.path_and_query().map_or("/", |path| path.as_str()).parse().with_context(asked)?;
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, host.parse().with_context(asked)?);
        }
        let (mut sender, connection) = http1::handshake(io).await.with_context(asked)?;
        tokio::spawn(connection);
        sender.send_request(request).await.with_context(asked)?
    };
    let status = response.status();
    println!("{:?} {status}", response.version());
    print_headers("", response.headers());
    println!();
    let mut body = response.into_body();
    let mut stdout = tokio::io::stdout();
    let mut length = 0;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.context("read the body")?.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                ensure!(length <= MAX_ANSWER, "the body has more than {MAX_ANSWER} bytes");
                stdout.write_all(&data).await.context("print the body")?;
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    stdout.write_all(b"\n").await.context("print the body")?;
    stdout.flush().await.context("print the body")?;
    if let Some(trailers) = trailers {
        print_headers("trailer ", &trailers);
    }
    Ok(status.is_success())
}

fn print_headers(prefix: &str, headers: &HeaderMap) {
    for (name, value) in headers {
        println!("{prefix}{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
}

async fn websocket(url: &Uri, message: &str, messages: u32) -> Result<bool> {
    let stream = connect(&units::authority(url)).await?;
    let request = url.clone().into_client_request().context("make the WebSocket handshake")?;
    let (mut socket, response) =
        tokio_tungstenite::client_async(request, stream).await.with_context(|| format!("open a WebSocket at {url}"))?;
    println!("{:?} {}", response.version(), response.status());
    print_headers("", response.headers());
    println!();
    let mut good = true;
    for _ in 0..messages {
        socket.send(Message::text(message)).await.context("send a message")?;
        match socket.next().await.context("the server closed before it answered")?.context("receive a message")? {
            Message::Text(text) => {
                println!("{text}");
                good &= text.as_str() == message;
            }
            other => {
                println!("{other:?}");
                good = false;
            }
        }
    }
    socket.close(None).await.context("close the WebSocket")?;
    Ok(good)
}

async fn grpc_stream(url: &Uri, messages: u32) -> Result<bool> {
    let io = TokioIo::new(connect(&units::authority(url)).await?);
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), io).await.with_context(|| format!("speak HTTP/2 with {url}"))?;
    tokio::spawn(connection);
    let (mut requests, body) = Channel::<Bytes>::new(1);
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::post(format!("http://{host}{}", grpc::ECHO_STREAM))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, grpc::CONTENT_TYPE)
        .header(header::TE, "trailers")
        .body(body)
        .context("make the request")?;
    let response = sender.send_request(request).await.with_context(|| format!("call {url}"))?;
    println!("{:?} {}", response.version(), response.status());
    print_headers("", response.headers());
    println!();
    let mut good = response.status().is_success();
    let mut status = response.headers().get(grpc::STATUS).cloned();
    let mut body = response.into_body();
    let mut decoder = Decoder::default();
    for i in 1..=messages {
        if status.is_some() {
            break;
        }
        let message = format!("message {i} of {messages}");
        requests.send_data(grpc::frame(message.as_bytes())).await.context("send a message")?;
        loop {
            match decoder.take() {
                Ok(Some(answer)) => {
                    println!("{}", String::from_utf8_lossy(&answer));
                    good &= answer == message;
                    break;
                }
                Ok(None) => {}
                Err((_, why)) => bail!("the answer is not gRPC: {why}"),
            }
            let frame = body.frame().await.context("the stream ended without a status")?.context("read the stream")?;
            match frame.into_data() {
                Ok(data) => decoder.push(&data),
                Err(frame) => {
                    status = frame.into_trailers().ok().and_then(|trailers| trailers.get(grpc::STATUS).cloned());
                    break;
                }
            }
        }
        good &= status.is_none();
    }
    drop(requests);
    while let Some(frame) = body.frame().await {
        if let Ok(trailers) = frame.context("read the end of the stream")?.into_trailers() {
            print_headers("trailer ", &trailers);
            status = trailers.get(grpc::STATUS).cloned();
        }
    }
    let status = status.context("the stream ended without grpc-status")?;
    Ok(good && status == "0")
}

async fn tcp(address: &str, server_first: bool, line: &str) -> Result<bool> {
    let mut stream = BufReader::new(connect(address).await?);
    if server_first {
        println!("{}", read_line(&mut stream).await.context("wait for the server's greeting")?);
    }
    stream.get_mut().write_all(format!("{line}\n").as_bytes()).await.context("send a line")?;
    let answer = read_line(&mut stream).await.context("wait for the line to come back")?;
    println!("{answer}");
    Ok(answer == line)
}

async fn raw(address: &str, bytes: &[u8], end: bool) -> Result<bool> {
    let mut stream = connect(address).await?;
    stream.write_all(bytes).await.context("send the bytes")?;
    if end {
        stream.shutdown().await.context("close our direction")?;
    }
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await.context("read until the server closes")?;
    let mut stdout = tokio::io::stdout();
    stdout.write_all(&answer).await.context("print the answer")?;
    stdout.flush().await.context("print the answer")?;
    Ok(true)
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    let count = stream.take(MAX_ANSWER).read_line(&mut line).await?;
    ensure!(count > 0, "the server closed the connection");
    Ok(line.trim_end().to_owned())
}
