//! How a proxy gets a certificate: it makes a key, and shows the operator its service-account token with a signing request.
//!
//! [`Certifier::certify`] does it once. [`renew::keep`](super::renew::keep) calls it again and again.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use fairlead_proxy_api::v1::{CertifyRequest, identity_client::IdentityClient};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{
    Leaf, Operator, SpiffeId, TrustBundle,
    bundle::BundleError,
    leaf::IssuedError,
    operator::{OperatorError, read_bounded},
};

/// The operator asks the API server, and where another authority signs it waits for that; each has seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A chain of two and a few roots are below 10 KiB.
const MAX_RESPONSE: usize = 256 * 1024;

/// A certificate and the bundle that came with it.
#[derive(Debug)]
pub struct Issued {
    /// Ours.
    pub leaf: Leaf,
    /// What the operator trusted when it signed.
    pub bundle: TrustBundle,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The operator is away, or is not the operator.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The projected token is missing.
    #[error("the token file {0} is not a token: is the projected volume with audience \"fairlead.dev\" mounted?")]
    Token(PathBuf),
    /// The key or request cannot be made.
    #[error("cannot make a key and signing request: {0}")]
    Request(#[from] rcgen::Error),
    /// The operator said no.
    #[error("the operator refuses a certificate for {own}: {status}")]
    Refused {
        /// This pod.
        own: SpiffeId,
        /// What it said.
        status: Box<tonic::Status>,
    },
    /// The answer is unusable.
    #[error(transparent)]
    Issued(#[from] IssuedError),
    /// No bundle, or a bad one.
    #[error("the operator sent an unusable trust bundle: {0}")]
    Bundle(#[from] BundleError),
}

/// A signing request for `own`, DER.
///
/// It states one name, and nothing else. An operator that signs by itself takes the public key alone and makes the name of what the token says; one that passes
/// the request on to another authority, which believes what it reads, first compares the two.
pub fn request(own: &SpiffeId, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(own.as_str().try_into()?)];
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Asks the operator for certificates.
#[derive(Debug, Clone)]
pub struct Certifier {
    /// Who is asked.
    pub operator: Operator,
    /// Who asks.
    pub own: SpiffeId,
    /// The projected token. Read anew each time: the kubelet replaces it.
    pub token_path: PathBuf,
}

impl Certifier {
    /// Makes a new key and gets a certificate for it. `known` is the identity so far, whose bundle may be fresher than the mounted one.
    ///
    /// The client stays anonymous in TLS even then: the token is what proves who asks, also when the old certificate has expired.
    pub async fn certify(&self, known: Option<&TrustBundle>) -> Result<Issued, CertifyError> {
        let token = self.token().await?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = request(&self.own, &key)?;
        let channel = self.operator.connect_anonymous(known).await?;
        let mut client = IdentityClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let mut request = tonic::Request::new(CertifyRequest { csr, token });
        request.set_timeout(TIMEOUT);
        let answer = tokio::time::timeout(TIMEOUT, client.certify(request))
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
            .map_err(|status| CertifyError::Refused { own: self.own.clone(), status: Box::new(status) })?
            .into_inner();
        let bundle = TrustBundle::from_proto(answer.trust_bundle.unwrap_or_default())?;
        let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let leaf = Leaf::new(&self.own, key, chain, &bundle, SystemTime::now())?;
        Ok(Issued { leaf, bundle })
    }

    async fn token(&self) -> Result<String, CertifyError> {
        let bytes = read_bounded(&self.token_path).await?;
        let token = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        // A JWT is three base64url parts; anything else is not worth a connection.
        let plausible =
            token.split('.').count() == 3 && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if plausible { Ok(token.to_owned()) } else { Err(CertifyError::Token(self.token_path.clone())) }
    }
}
