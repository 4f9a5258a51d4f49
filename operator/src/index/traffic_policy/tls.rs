//! What a policy says of TLS towards endpoints outside the mesh.

use fairlead_crds::{Tls, TlsMode};
use rustls::pki_types::DnsName;

use crate::model::ObjectName;

/// TLS whose authorities are still a name.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct OriginationRule {
    pub server_name: String,
    /// A `ConfigMap`.
    pub authorities: ObjectName,
}

/// Of a policy in `namespace`, which cannot name what is in another: whoever may write a policy decides whom its callers believe.
pub(super) fn parse(namespace: &str, tls: Tls) -> Result<OriginationRule, String> {
    let Tls { mode: TlsMode::Originate, sni, ca_ref } = tls;
    // The schema says it more strictly. A proxy must not be sent what it cannot use.
    DnsName::try_from(sni.as_str()).map_err(|_| format!("tls.sni: {sni:?} is no name of DNS"))?;
    Ok(OriginationRule { server_name: sni, authorities: ObjectName::new(namespace, ca_ref.name) })
}
