//! The writes, each of one Secret: whoever comes second takes what the first one wrote.

use k8s_openapi::api::core::v1::Secret;
use time::OffsetDateTime;

use super::{ISSUER_SECRET, Keeper, KeeperError, NEXT_ROOT_SECRET, Outcome, ROOT_SECRET, ROTATION};
use crate::ca::material::{MaterialError, Root, Serial};
use crate::ca::renewal::{RENEWAL, Renewal};
use crate::ca::rotation::Record;
use crate::ca::secrets::{self, Offer};

impl Keeper {
    pub(super) async fn restore_root(
        &mut self,
        has_issuer: bool,
        offer: Option<&Offer>,
        now: OffsetDateTime,
    ) -> Result<Outcome, KeeperError> {
        let secret = match self.remembered.get(ROOT_SECRET) {
            Some(known) => secrets::again(known.clone()),
            None if has_issuer => {
                return Err(KeeperError::RootMissing { namespace: self.secrets.namespace.clone() });
            }
            None => {
                let data = match offer {
                    Some(offer) => secrets::root_data(&offer.root),
                    None => secrets::root_data(&Root::new(&Serial::random()?, now)?),
                };
                secrets::new(ROOT_SECRET, data)
            }
        };
        self.secrets.create(ROOT_SECRET, secret).await?;
        Ok(Outcome::Wrote)
    }

    /// From memory; says whether that was possible.
    pub(super) async fn restore_next(&self, record: &Record) -> Result<bool, KeeperError> {
        let known = self.remembered.get(NEXT_ROOT_SECRET).filter(|known| {
            secrets::root(known).is_ok_and(|root| record.next.as_deref() == Some(&root.id().to_string()))
        });
        let Some(known) = known else { return Ok(false) };
        self.secrets.create(NEXT_ROOT_SECRET, secrets::again(known.clone())).await?;
        Ok(true)
    }

    /// The one that is offered, or one of our own.
    pub(super) async fn make_next(
        &self,
        present: Option<&Secret>,
        offer: Option<&Offer>,
        now: OffsetDateTime,
    ) -> Result<(), KeeperError> {
        let data = match offer {
            Some(offer) => secrets::root_data(&offer.root),
            None => secrets::root_data(&Root::new(&Serial::random()?, now)?),
        };
        match present {
            Some(present) => {
                let secret = Secret { data: Some(data), ..present.clone() };
                self.secrets.replace(NEXT_ROOT_SECRET, &secret, "the root that comes was made anew").await
            }
            None => self.secrets.create(NEXT_ROOT_SECRET, secrets::new(NEXT_ROOT_SECRET, data)).await,
        }
    }

    pub(super) async fn write_record(&self, mut secret: Secret, record: &Record) -> Result<(), KeeperError> {
        secrets::keep(&mut secret, ROTATION, record);
        tracing::info!(phase = record.phase.name(), sequence = record.sequence, "rotation of the root");
        self.secrets.replace(ROOT_SECRET, &secret, "rotation recorded").await
    }

    /// Puts an intermediate below `above` in place: what is offered for it, or a new one.
    pub(super) async fn sign(
        &self,
        present: Option<&Secret>,
        above: &Root,
        offer: Option<&Offer>,
        renewal: &Renewal,
        now: OffsetDateTime,
    ) -> Result<(), KeeperError> {
        let data = if let Some(intermediate) = offer.and_then(|offer| offer.intermediate.as_ref()) {
            secrets::intermediate_data(intermediate, above)
        } else {
            let signer = offer.map(|offer| &offer.root).filter(|root| root.has_key());
            let made = signer.unwrap_or(above).new_intermediate(&Serial::random()?, now);
            let made = made.map_err(|problem| match problem {
                MaterialError::NoRootKey => {
                    KeeperError::NoSigner { namespace: self.secrets.namespace.clone(), left: present.is_some() }
                }
                problem => KeeperError::issuer(&self.secrets.namespace, above, problem),
            })?;
            secrets::intermediate_data(&made, above)
        };
        match present {
            Some(present) => {
                let mut secret = Secret { data: Some(data), ..present.clone() };
                secrets::keep(&mut secret, RENEWAL, renewal);
                self.secrets.replace(ISSUER_SECRET, &secret, "intermediate renewed").await
            }
            None => self.secrets.create(ISSUER_SECRET, secrets::new(ISSUER_SECRET, data)).await,
        }
    }

    pub(super) async fn note(&self, present: Option<&Secret>, renewal: &Renewal) -> Result<(), KeeperError> {
        let Some(present) = present else { return Ok(()) };
        let mut secret = present.clone();
        secrets::keep(&mut secret, RENEWAL, renewal);
        self.secrets.replace(ISSUER_SECRET, &secret, "every leaf is to be renewed").await
    }
}
