//! How the authority stands, for people: where a rotation is and what it waits for, when each certificate ends, and what is wrong.

use time::OffsetDateTime;

use super::material::{Intermediate, MaterialError, Root, RootId, Validity};
use super::rotation::{Phase, Record, Waiting};
use super::secrets::{ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, USER_SECRET};
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
    /// `root`, `next root` or `intermediate`.
    pub name: &'static str,
    /// Where it lies.
    pub secret: &'static str,
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

    fn running_out(certificate: &Certificate, can_renew: bool, by_requests: bool) -> Self {
        let Certificate { name, secret, validity, .. } = certificate;
        let help = if can_renew {
            "it should have been renewed at half of its life: the operator's log says why it was not"
        } else if by_requests {
            "it is yours to renew: add its successor to ConfigMap fairlead-roots"
        } else {
            "it is yours to renew: put its successor into Secret fairlead-ca"
        };
        Self {
            reason: "Expiring",
            secret,
            sentence: format!(
                "the {name} in Secret {secret} ends at {}, and less than a third of its life is left; {help}",
                validity.not_after
            ),
        }
    }
}

/// Who signs.
pub(super) enum Signing<'a> {
    Here(&'a Intermediate),
    Requests(&'a IssuerRef),
}

impl Standing {
    /// Of what was read.
    pub(super) fn new(
        record: &Record,
        root: &Root,
        next: Option<&Root>,
        signer: &Signing<'_>,
        waiting: Option<Waiting>,
        mut complaints: Vec<Complaint>,
        now: OffsetDateTime,
    ) -> Self {
        let of_root =
            |name, secret, root: &Root| Certificate { name, secret, validity: root.validity, root: Some(root.id()) };
        let mut certificates = vec![of_root("root", ROOT_SECRET, root)];
        certificates.extend(next.map(|next| of_root("next root", NEXT_ROOT_SECRET, next)));
        let by_requests = matches!(signer, Signing::Requests(_));
        let signer = match signer {
            Signing::Here(intermediate) => {
                certificates.push(Certificate {
                    name: "intermediate",
                    secret: ISSUER_SECRET,
                    validity: intermediate.validity,
                    root: None,
                });
                format!("this operator, with the key in Secret {ISSUER_SECRET}")
            }
            Signing::Requests(issuer) => format!("{issuer}, asked by CertificateRequests"),
        };
        let running_out = certificates.iter().filter(|certificate| certificate.validity.is_running_out(now));
        complaints
            .extend(running_out.map(|certificate| Complaint::running_out(certificate, root.has_key(), by_requests)));
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
