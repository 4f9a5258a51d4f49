//! Who claims to be someone else: with a certificate that the mesh did not issue, or with the token of another pod.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fairlead_e2e::cluster;
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::outside::connect_from;
use fairlead_e2e::kit::{Mesh, OPERATOR, OPERATOR_NAMESPACE, TempNamespace, eventually, text};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::{call_ok, client, mesh};

/// What a proxy says follows, for HTTP/1.
const MESH: &[u8] = b"fairlead/h1";

#[tokio::test]
async fn a_certificate_that_the_mesh_did_not_issue_is_refused_in_the_handshake_and_counted() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "forgery").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    let application = address(&mesh, ns.name(), "app=echo", 9080).await?;
    let operator = address(&mesh, OPERATOR_NAMESPACE, OPERATOR, 8443).await?;
    let someone = format!("spiffe://cluster.local/ns/{}/sa/default", ns.name());
    let (genuine, foreign) = (Authority::of_the_mesh(&mesh).await?, Authority::foreign()?);

    // The same caller with a certificate of the mesh's is let in, so what follows is refused for its certificate.
    let mut stream = shake_hands(application, MESH, Some(genuine.leaf(&someone, |_| ())?))?;
    stream.write_all(b"GET /status/204 HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"HTTP/1.1 204", "a genuine certificate is not let in: {:?}", String::from_utf8_lossy(&answer));

    let expired = |params: &mut CertificateParams| {
        params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
        params.not_after = OffsetDateTime::now_utc() - Duration::days(1);
    };
    let authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    };
    let elsewhere = "spiffe://other.example/ns/a/sa/b";
    let forged = [
        ("none at all", None),
        ("one of a foreign authority", Some(foreign.leaf(&someone, |_| ())?)),
        ("one that signed itself", Some(self_signed(&someone)?)),
        ("one of another trust domain", Some(genuine.leaf(elsewhere, |_| ())?)),
        ("one of no identity", Some(genuine.leaf("https://example.com", |_| ())?)),
        ("one that has expired", Some(genuine.leaf(&someone, expired)?)),
        ("an authority's", Some(genuine.leaf(&someone, authority)?)),
    ];
    for (what, certificate) in forged {
        let before = refused_by_proxy(&mesh, ns.name()).await?;
        refused(shake_hands(application, MESH, certificate.clone()), what, "a proxy")?;
        eventually(&format!("the proxy to count {what}"), || async {
            let after = refused_by_proxy(&mesh, ns.name()).await?;
            ensure!(after == before + 1, "{before} handshakes were refused before, {after} after");
            Ok(())
        })
        .await?;
        // Without a certificate one may ask the operator, namely for a certificate.
        if certificate.is_some() {
            let before = refused_by_operator(&mesh).await?;
            refused(shake_hands(operator, b"h2", certificate), what, "the operator")?;
            eventually(&format!("the operator to count {what}"), || async {
                let after = refused_by_operator(&mesh).await?;
                ensure!(after > before, "{before} handshakes were refused before, {after} after");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_of_another_pod_or_of_nobody_gets_no_certificate() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "token").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.rolled_out(ns.name(), "client").await?;
    let token = token_of(&mesh, ns.name()).await?;

    // A pod as the injector would make it, of the same service account even, but with that token in place of its own.
    refused_to_thief(&mesh, ns.name(), "thief", &token, "which is not its address").await?;

    // Three that say the same and are not signed by the cluster: by nobody, by somebody else, and by somebody else in another's name.
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { bail!("the token has {} parts", parts.len()) };
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let mut elsewhere: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    elsewhere["iss"] = json!("https://kubernetes.other.example");
    let elsewhere = URL_SAFE_NO_PAD.encode(elsewhere.to_string());
    let foreign: String = signature.chars().rev().collect();
    for (name, forged) in [
        ("thief-unsigned", format!("{unsigned}.{claims}.")),
        ("thief-foreign-key", format!("{header}.{claims}.{foreign}")),
        ("thief-foreign-issuer", format!("{header}.{elsewhere}.{signature}")),
    ] {
        refused_to_thief(&mesh, ns.name(), name, &forged, "the token was refused").await?;
    }
    // Whose token it is does not notice.
    call_ok(&mesh, ns.name(), &["http://echo:9080/"]).await?;
    Ok(())
}

/// A token of the pod of `echo`, as its own proxy has one.
async fn token_of(mesh: &Mesh, namespace: &str) -> Result<String> {
    let victim = mesh.running_pod(namespace, "app=echo").await?;
    let pod = mesh.get("Pod", namespace, &victim).await?.context("the pod is gone")?;
    let uid = text(&pod["metadata"]["uid"]);
    let token = ["create", "token", "default", "--audience=fairlead.dev", "--bound-object-kind=Pod", "-n", namespace];
    let bound = [format!("--bound-object-name={victim}"), format!("--bound-object-uid={uid}")];
    let token = mesh.kubectl().run(&[&token[..], &[&bound[0], &bound[1]]].concat()).await?.ok()?;
    Ok(token.trim().to_owned())
}

/// Makes the pod `name` with this token, and sees its proxy told `why` it gets no certificate.
async fn refused_to_thief(mesh: &Mesh, namespace: &str, name: &str, token: &str, why: &str) -> Result<()> {
    mesh.apply(&secret(namespace, name, &json!({"token": STANDARD.encode(token)})).to_string()).await?;
    mesh.apply(&thief(mesh, namespace, name).await?.to_string()).await?;
    eventually(&format!("the proxy of {name} to be refused"), || async {
        let log = mesh.kubectl().run(&["logs", "-n", namespace, name, "-c", "fairlead-proxy"]).await?.ok()?;
        ensure!(log.contains(why), "its log does not say so: {log}");
        Ok(())
    })
    .await?;
    let thief = mesh.get("Pod", namespace, name).await?.context("the thief is gone")?;
    let proxies = thief["status"]["initContainerStatuses"].as_array().cloned().unwrap_or_default();
    let proxy = proxies.iter().find(|status| status["name"] == "fairlead-proxy").context("the thief has no proxy")?;
    ensure!(proxy["started"] == false, "the proxy with that token has started: {proxy:#}");
    Ok(())
}

/// A pod with the token of the Secret that is named like it.
async fn thief(mesh: &Mesh, namespace: &str, name: &str) -> Result<Value> {
    let template = App::echo(name).template(0);
    let yaml = format!("apiVersion: v1\nkind: Pod\n{template}");
    let yaml = yaml.replacen("metadata:\n", &format!("metadata:\n  name: {name}\n  namespace: {namespace}\n"), 1);
    let dry = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let mut pod: Value = serde_json::from_str(&mesh.kubectl().with_input(&dry, &yaml).await?.ok()?)?;
    pod["metadata"] = json!({"name": name, "namespace": namespace, "labels": {"fairlead.dev/inject": "disabled"}});
    pod["status"] = Value::Null;
    let volumes = pod["spec"]["volumes"].as_array_mut().context("the injected pod has no volumes")?;
    let own = volumes.iter_mut().find(|volume| volume["name"] == "fairlead-token").context("it has no token")?;
    *own = json!({"name": "fairlead-token", "secret": {"secretName": name}});
    Ok(pod)
}

fn secret(namespace: &str, name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data})
}

/// A certificate chain and the key of its leaf.
type Chain = (Vec<CertificateDer<'static>>, Arc<KeyPair>);

/// Someone who signs.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The mesh's own, with the key that only the operator should have.
    async fn of_the_mesh(mesh: &Mesh) -> Result<Self> {
        let secret =
            mesh.get("Secret", OPERATOR_NAMESPACE, "fairlead-issuer").await?.context("no Secret of the issuer")?;
        let pem = |key: &str| anyhow::Ok(String::from_utf8(STANDARD.decode(text(&secret["data"][key]))?)?);
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(pem("tls.crt")?.as_bytes())
            .map_err(|error| anyhow::anyhow!("the issuer's certificate: {error}"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(&pem("tls.key")?)?)?;
        Ok(Self { certificate, issuer })
    }

    /// One that nobody trusts.
    fn foreign() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    fn leaf(&self, identity: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<Chain> {
        let key = KeyPair::generate()?;
        let mut params = leaf(identity)?;
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok((vec![leaf, self.certificate.clone()], Arc::new(key)))
    }
}

fn self_signed(identity: &str) -> Result<Chain> {
    let key = KeyPair::generate()?;
    let leaf = leaf(identity)?.self_signed(&key)?.der().clone();
    Ok((vec![leaf], Arc::new(key)))
}

fn leaf(identity: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    // As long as any of the mesh's.
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(2);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(24);
    Ok(params)
}

/// Shakes hands as a proxy does, from a node. In TLS 1.3 the client is through before its certificate was looked at.
fn shake_hands(
    to: SocketAddr,
    protocol: &[u8],
    certificate: Option<Chain>,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match certificate {
        Some((chain, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
            config.with_client_auth_cert(chain, key)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let mut stream = connect_from(&cluster::nodes()?[0], to)?;
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::IpAddress(to.ip().into()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// That the other side says in TLS that it does not accept the certificate.
fn refused(stream: Result<StreamOwned<ClientConnection, TcpStream>>, what: &str, whom: &str) -> Result<()> {
    let error = match stream {
        Ok(mut stream) => match stream.read(&mut [0; 16]) {
            Ok(count) => bail!("{what} as a certificate was accepted by {whom}: it went on with {count} bytes"),
            Err(error) => error.into(),
        },
        Err(error) => error,
    };
    ensure!(error.to_string().contains("alert"), "{what} as a certificate: {whom} gave no reason, but {error}");
    Ok(())
}

/// Takes whoever answers for the right one.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        Err(rustls::Error::General("only TLS 1.3 was offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn address(mesh: &Mesh, namespace: &str, selector: &str, port: u16) -> Result<SocketAddr> {
    let pod = mesh.running_pod(namespace, selector).await?;
    let pod = mesh.get("Pod", namespace, &pod).await?.context("the pod is gone")?;
    let ip: IpAddr = text(&pod["status"]["podIP"]).parse().context("the pod has no address")?;
    Ok((ip, port).into())
}

/// How many handshakes the proxy of `echo` has refused for the caller's certificate.
async fn refused_by_proxy(mesh: &Mesh, namespace: &str) -> Result<u64> {
    let labels = [r#"direction="inbound""#, r#"reason="certificate""#];
    mesh.sidecar_metrics(namespace, "echo").await?.sum("fairlead_proxy_handshakes_failed_total", &labels)
}

/// How many handshakes the operator has refused where proxies come.
async fn refused_by_operator(mesh: &Mesh) -> Result<u64> {
    mesh.operator_metrics().await?.sum("fairlead_operator_handshakes_failed_total", &[r#"listener="grpc""#])
}
