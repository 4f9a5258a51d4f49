//! HTTP and HTTPS probes, made as the kubelet makes them: the certificate is not looked at, redirects within the host are followed, one
//! that leads away counts as success.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::{MAX_BODY, Outcome, connect, probes, probes::Http, unreachable_app};

/// As many as Go's client follows.
const MAX_REDIRECTS: usize = 10;

/// Where the next request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    tls: bool,
    port: u16,
    path: PathAndQuery,
}

pub(super) async fn ask(probe: &Http, port: u16, pod: IpAddr, user_agent: Option<&HeaderValue>) -> Outcome {
    let host = probe.host.clone().unwrap_or_else(|| pod.to_string());
    let mut target = Target { tls: probe.tls, port, path: probe.path.clone() };
    for _ in 0..=MAX_REDIRECTS {
        let request = match request(probe, &host, &target, user_agent) {
            Ok(request) => request,
            Err(error) => return Outcome::new(StatusCode::BAD_GATEWAY, format!("{error}\n")),
        };
        let response = match send(probe.host.as_deref(), &target, pod, request).await {
            Ok(response) => response,
            Err(error) => return unreachable_app(&error),
        };
        if !response.status.is_redirection() {
            return response.outcome();
        }
        match response.location.and_then(|to| redirected(&host, &target, &to)) {
            Some(next) => target = next,
            None => {
                return Outcome::new(StatusCode::OK, "redirected elsewhere, which counts as success\n");
            }
        }
    }
    Outcome::new(StatusCode::BAD_GATEWAY, "stopped after 10 redirects\n")
}

fn request(
    probe: &Http,
    host: &str,
    target: &Target,
    user_agent: Option<&HeaderValue>,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let authority =
        if host.contains(':') { format!("[{host}]:{}", target.port) } else { format!("{host}:{}", target.port) };
    let mut request = Request::get(target.path.as_str())
        .header(header::HOST, authority)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())?;
    let headers = request.headers_mut();
    let default = HeaderValue::from_static(concat!("fairlead-proxy/", env!("CARGO_PKG_VERSION")));
    headers.insert(header::USER_AGENT, user_agent.cloned().unwrap_or(default));
    // What is declared wins over what is usual; a name that is declared twice is sent twice.
    for (name, _) in &probe.headers {
        headers.remove(name);
    }
    for (name, value) in &probe.headers {
        headers.append(name, value.clone());
    }
    Ok(request)
}

/// The part of an answer that matters.
struct Answered {
    status: StatusCode,
    location: Option<HeaderValue>,
    body: Bytes,
}

impl Answered {
    fn outcome(self) -> Outcome {
        Outcome::new(self.status, self.body)
    }
}

async fn send(
    host: Option<&str>,
    target: &Target,
    pod: IpAddr,
    request: Request<Empty<Bytes>>,
) -> io::Result<Answered> {
    let tcp = connect(host, target.port, pod).await?;
    if !target.tls {
        return exchange(tcp, request).await;
    }
    let name = match host {
        Some(host) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        None => ServerName::IpAddress(pod.into()),
    };
    let config = UNVERIFIED.clone().map_err(io::Error::other)?;
    let tls = TlsConnector::from(config).connect(name, tcp).await?;
    exchange(tls, request).await
}

/// Ends the connection's task with the probe.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> io::Result<Answered> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let _driver = Driver(tokio::spawn(async move {
        // What goes wrong here, the request reports.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (parts, body) = Response::into_parts(response);
    Ok(Answered {
        status: parts.status,
        location: parts.headers.get(header::LOCATION).cloned(),
        body: beginning(body).await,
    })
}

/// Reads no more than is passed on; a body that breaks off is as good as its beginning.
async fn beginning(mut body: Incoming) -> Bytes {
    let mut beginning = Vec::new();
    while beginning.len() < MAX_BODY
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(data) = frame.data_ref() {
            let room = MAX_BODY - beginning.len();
            beginning.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    beginning.into()
}

/// Where a redirect leads; `None`: to another host, or nowhere that can be understood.
fn redirected(host: &str, from: &Target, location: &HeaderValue) -> Option<Target> {
    let location = location.to_str().ok()?;
    if location.contains("://") {
        let uri: Uri = location.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let to = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        if !to.eq_ignore_ascii_case(host) {
            return None;
        }
        return Some(Target {
            tls,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path_and_query().cloned()?,
        });
    }
    if location.starts_with("//") {
        return None;
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        // Relative to the folder of the current path.
        let folder = from.path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{location}")
    };
    Some(Target { path: probes::path_and_query(&path).ok()?, ..from.clone() })
}

/// The kubelet does not look at certificates, since those of applications are rarely for their pods' addresses.
static UNVERIFIED: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::ALL_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
});

#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_within_the_host_alone() {
        let from = Target { tls: false, port: 8080, path: PathAndQuery::from_static("/health/live?x=1") };
        let to = |location: &str| {
            let location = HeaderValue::from_str(location).unwrap();
            redirected("10.0.0.1", &from, &location).map(|to| (to.tls, to.port, to.path.to_string()))
        };
        let plain = |path: &str| Some((false, 8080, path.to_owned()));
        assert_eq!(to("/login?a=b"), plain("/login?a=b"));
        assert_eq!(to("ready"), plain("/health/ready"));
        assert_eq!(to("https://10.0.0.1/ok"), Some((true, 443, "/ok".into())));
        assert_eq!(to("http://10.0.0.1:81"), Some((false, 81, "/".into())));
        for elsewhere in [
            "https://login.example/",
            "//login.example/",
            "http://10.0.0.1.example/",
            "http://10.0.0.1@evil.example/",
            "ftp://10.0.0.1/",
            "http://",
        ] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
    }
}
