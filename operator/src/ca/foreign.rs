//! Other meshes: the roots of their trust domains, from `ConfigMap`s in the operator's namespace. Those of the leader's look are copied beside our root,
//! so that every replica publishes the same under one number.

use std::collections::BTreeMap;

use fairlead_identity::verifier;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::TrustDomain;
use super::material::pem;

/// Names the trust domain whose roots a `ConfigMap` holds, under the key `ca.crt`.
pub const TRUST_DOMAIN_LABEL: &str = "fairlead.dev/trust-domain";
const KEY: &str = "ca.crt";
/// What proxies take.
const MAX_DOMAINS: usize = 64;
/// Of one domain; what proxies take.
const MAX_ROOTS: usize = 16;

/// Roots by trust domain, DER, in a fixed order.
pub type Foreign = BTreeMap<String, Vec<Vec<u8>>>;

/// What the `ConfigMap`s say, and a sentence for each that cannot be used. Of a domain that has such a one the roots of `before` stay: a slip of the pen must
/// not cut a mesh off.
pub(super) fn read(maps: &[ConfigMap], own: &TrustDomain, before: &Foreign) -> (Foreign, Vec<String>) {
    let (mut foreign, mut complaints) = (Foreign::new(), Vec::new());
    for map in maps {
        let Some(domain) = map.labels().get(TRUST_DOMAIN_LABEL) else { continue };
        let outcome = match TrustDomain::parse(domain) {
            Err(error) => Err(error.to_string()),
            Ok(parsed) if parsed == *own => Err("this is the mesh's own trust domain".to_owned()),
            Ok(_) => roots(map.data.as_ref().and_then(|data| data.get(KEY)).map_or("", String::as_str)),
        };
        match outcome {
            Ok(roots) => {
                let known = foreign.entry(domain.clone()).or_default();
                known.extend(roots);
                known.sort_unstable();
                known.dedup();
            }
            Err(why) => {
                complaints.push(format!(
                    "ConfigMap {} with the roots of trust domain {domain}: {why}; what was known of that domain stays in use",
                    map.name_any()
                ));
                if let Some(roots) = before.get(domain) {
                    foreign.entry(domain.clone()).or_default().extend(roots.iter().cloned());
                }
            }
        }
    }
    while foreign.len() > MAX_DOMAINS {
        if let Some((domain, _)) = foreign.pop_last() {
            complaints.push(format!("more than {MAX_DOMAINS} other trust domains: {domain} is left out"));
        }
    }
    for (domain, roots) in &mut foreign {
        roots.sort_unstable();
        roots.dedup();
        if roots.len() > MAX_ROOTS {
            roots.truncate(MAX_ROOTS);
            complaints.push(format!("trust domain {domain} has more than {MAX_ROOTS} roots: the others are left out"));
        }
    }
    (foreign, complaints)
}

fn roots(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).take(MAX_ROOTS + 1).collect();
    let found = found.map_err(|error| format!("{KEY} is not PEM ({error:?})"))?;
    if found.is_empty() {
        return Err(format!("{KEY} holds no certificate"));
    }
    for root in &found {
        verifier::anchor(root).map_err(|error| format!("{KEY} holds what cannot be a root ({error})"))?;
    }
    Ok(found.into_iter().map(|root| root.to_vec()).collect())
}

/// As they lie beside our root: PEM by domain, so that people can read it.
pub(super) fn to_json(foreign: &Foreign) -> Vec<u8> {
    let text: BTreeMap<_, String> = foreign
        .iter()
        .map(|(domain, roots)| (domain, roots.iter().map(|root| pem("CERTIFICATE", root)).collect()))
        .collect();
    serde_json::to_vec(&text).unwrap_or_default()
}

/// What [`to_json`] wrote; what is no longer readable is nobody.
pub(super) fn from_json(json: &[u8]) -> Foreign {
    let text: BTreeMap<String, String> = serde_json::from_slice(json).unwrap_or_default();
    text.into_iter().filter_map(|(domain, pem)| Some((domain, roots(&pem).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::authority::tests::parts;
    use super::*;

    fn map(name: &str, domain: &str, text: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.labels = Some([(TRUST_DOMAIN_LABEL.to_owned(), domain.to_owned())].into());
        map.data = Some([(KEY.to_owned(), text.to_owned())].into());
        map
    }

    fn own() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    #[test]
    fn each_domain_has_the_roots_of_all_its_config_maps() {
        let (a, b) = (parts().0, parts().0);
        let both = format!("{}{}", a.certificate_pem(), b.certificate_pem());
        let maps = [
            map("one", "other.example", &a.certificate_pem()),
            map("two", "other.example", &both),
            map("three", "third.example", &b.certificate_pem()),
            ConfigMap::default(),
        ];
        let (foreign, complaints) = read(&maps, &own(), &Foreign::new());
        assert_eq!(complaints, Vec::<String>::new());
        assert_eq!((foreign.len(), foreign["other.example"].len(), foreign["third.example"].len()), (2, 2, 1));
        assert_eq!(from_json(&to_json(&foreign)), foreign);
        assert_eq!(from_json(b"{"), Foreign::new());
    }

    #[test]
    fn what_cannot_be_used_is_told_and_what_was_known_stays() {
        let root = parts().0.certificate_pem();
        let (before, _) = read(&[map("one", "other.example", &root)], &own(), &Foreign::new());
        for (domain, text, why) in [
            ("other.example", "", "holds no certificate"),
            ("other.example", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "cannot be a root"),
            ("cluster.local", root.as_str(), "own trust domain"),
            ("Other.Example", root.as_str(), "trust domain must be"),
        ] {
            let (foreign, complaints) = read(&[map("one", domain, text)], &own(), &before);
            assert!(complaints.len() == 1 && complaints[0].contains(why), "{complaints:?}");
            assert_eq!(foreign.contains_key(domain), domain == "other.example", "{domain}");
            assert_eq!(foreign.get("other.example"), before.get(domain));
        }
        let (foreign, _) = read(&[], &own(), &before);
        assert!(foreign.is_empty(), "a ConfigMap that is gone takes its domain along");
    }

    #[test]
    fn no_more_than_proxies_take() {
        let root = parts().0.certificate_pem();
        let maps: Vec<_> = (0..=MAX_DOMAINS).map(|n| map("m", &format!("d{n:03}.example"), &root)).collect();
        let (foreign, complaints) = read(&maps, &own(), &Foreign::new());
        assert_eq!((foreign.len(), complaints.len()), (MAX_DOMAINS, 1));
    }
}
