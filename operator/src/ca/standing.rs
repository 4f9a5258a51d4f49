//! How the authority stands, for people: where a rotation is and what it waits for, when each certificate ends, and what is wrong.

use time::OffsetDateTime;

use super::material::{Intermediate, MaterialError, Root, RootId, Validity};
use super::rotation::{Phase, Record, Waiting};
use super::secrets::{ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, ROOTS_MAP, USER_SECRET};
use crate::settings::IssuerRef;

/// See the head of this file. Equal as long as there is nothing new to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of the rotation.
    pub phase: Phase,
    /// Since when, unix seconds; 0: there was no rotation yet.
    pub since: i64,
    /// Of the trust bundle.
    pub sequence: u64,
    /// The last rotation was aborted.
    pub aborted: bool,
    /// `None`: nothing, or this replica does not lead.
    pub waiting: Option<Waiting>,
    /// Who signs leaves.
    pub signer: String,
    /// Of the authority; the serving certificate is each replica's own.
    pub certificates: Vec<Certificate>,
    /// What somebody should look at.
    pub complaints: Vec<Complaint>,
}

/// One certificate of the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `root`, `next root`, `intermediate` or `issuer`: the own one of whoever is asked to sign.
    pub name: &'static str,
    /// Where it lies; `None`: not here.
    pub secret: Option<&'static str>,
    /// From when to when it is good.
    pub validity: Validity,
    /// Of a root.
    pub root: Option<RootId>,
}

/// Something that will hurt, though it does not yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Complaint {
    /// In `PascalCase`, for an Event.
    pub reason: &'static str,
    /// The Secret that it is about.
    pub secret: &'static str,
    /// What is wrong, and what to do.
    pub sentence: String,
}

impl Complaint {
    pub(super) fn unusable(namespace: &str, secret: &'static str, problem: &MaterialError) -> Self {
        Self {
            reason: "Unusable",
            secret,
            sentence: format!(
                "Secret {namespace}/{secret}: {problem}; it is ignored until that is mended, and what was in use stays in use"
            ),
        }
    }

    pub(super) fn foreign(sentence: String) -> Self {
        Self { reason: "Unusable", secret: ROOT_SECRET, sentence }
    }

    /// A Secret of the user's, or a `ConfigMap`, that something else takes the place of.
    pub(super) fn ignored(sentence: &str) -> Self {
        Self { reason: "Ignored", secret: USER_SECRET, sentence: sentence.to_owned() }
    }

    /// A request that is not acted on: `sentence` is what the record of the rotation says of it.
    pub(super) fn refused(sentence: &str) -> Self {
        Self { reason: "RotationRefused", secret: ROOT_SECRET, sentence: sentence.to_owned() }
    }

    /// The key in `secret` could go on signing what everybody believes, though `issuer` signs.
    pub(super) fn key_left(namespace: &str, secret: &'static str, issuer: &IssuerRef) -> Self {
        let to_do = if secret == ROOT_SECRET { "" } else { "delete the Secret, and " };
        Self {
            reason: "KeyLeft",
            secret,
            sentence: format!(
                "{issuer} signs now, but what the key in Secret {namespace}/{secret} signs is believed by every proxy as well: {to_do}rotate the root to be rid of that key (put another root of the issuer's below the present one in ConfigMap {namespace}/{ROOTS_MAP})"
            ),
        }
    }

    fn running_out(certificate: &Certificate, help: &str) -> Self {
        let Certificate { name, secret, validity, .. } = certificate;
        let place = secret.map(|secret| format!(" in Secret {secret}")).unwrap_or_default();
        Self {
            reason: "Expiring",
            secret: secret.unwrap_or(ROOT_SECRET),
            sentence: format!(
                "the {name}{place} ends at {}, and less than a third of its life is left; {help}",
                validity.not_after
            ),
        }
    }
}

/// Who signs.
pub(super) enum Signing<'a> {
    Here(&'a Intermediate),
    /// And from when to when it can.
    Requests(&'a IssuerRef, Option<Validity>),
}

/// Whose the roots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The mesh's own.
    Mesh,
    /// The user's, in Secret `fairlead-ca`.
    User,
    /// Of the issuer that is asked to sign.
    Issuer,
}

impl Owner {
    fn renewed_by(self) -> &'static str {
        match self {
            Self::Mesh => "it should have been renewed at half of its life: the operator's log says why it was not",
            Self::User => "it is yours to renew: put its successor into Secret fairlead-ca",
            Self::Issuer => "it is yours to renew: add its successor to ConfigMap fairlead-roots",
        }
    }
}

impl Standing {
    /// Of what was read.
    pub(super) fn new(
        record: &Record,
        (root, next): (&Root, Option<&Root>),
        (signer, owner): (&Signing<'_>, Owner),
        waiting: Option<Waiting>,
        mut complaints: Vec<Complaint>,
        now: OffsetDateTime,
    ) -> Self {
        let of_root = |name, secret, root: &Root| Certificate {
            name,
            secret: Some(secret),
            validity: root.validity,
            root: Some(root.id()),
        };
        let mut certificates = vec![of_root("root", ROOT_SECRET, root)];
        certificates.extend(next.map(|next| of_root("next root", NEXT_ROOT_SECRET, next)));
        complaints.extend(
            certificates
                .iter()
                .filter(|certificate| certificate.validity.is_running_out(now))
                .map(|certificate| Complaint::running_out(certificate, owner.renewed_by())),
        );
        let (signer, below) = match *signer {
            Signing::Here(intermediate) => {
                let secret = Some(ISSUER_SECRET);
                let own = Certificate { name: "intermediate", secret, validity: intermediate.validity, root: None };
                let help = if root.has_key() { Owner::Mesh } else { Owner::User }.renewed_by();
                (format!("this operator, with the key in Secret {ISSUER_SECRET}"), Some((own, help.to_owned())))
            }
            Signing::Requests(issuer, validity) => {
                let of = |validity| Certificate { name: "issuer", secret: None, validity, root: None };
                let help = format!(
                    "it is the own certificate of {issuer}, or above it: renew it there, for what would outlive it is not taken"
                );
                (format!("{issuer}, asked by CertificateRequests"), validity.map(|validity| (of(validity), help)))
            }
        };
        if let Some((certificate, help)) = below {
            if certificate.validity.is_running_out(now) {
                complaints.push(Complaint::running_out(&certificate, &help));
            }
            certificates.push(certificate);
        }
        Self {
            phase: record.phase,
            since: record.since,
            sequence: record.sequence,
            aborted: record.aborted,
            waiting,
            signer,
            certificates,
            complaints,
        }
    }
}
