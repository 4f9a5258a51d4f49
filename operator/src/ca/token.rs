//! Whether a pod is who its token says: pure decisions over what the API server and the index answered.

use std::net::IpAddr;

use fairlead_proxy_api::TOKEN_AUDIENCE;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;

use super::PodInfo;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Whom a reviewed token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) pod_name: String,
    pub(super) pod_uid: String,
}

/// Why a caller gets no certificate. None of these sentences holds a part of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the token was refused: {0}")]
    Token(String),
    #[error("pod {0} is not known")]
    UnknownPod(String),
    #[error("pod {0} is another one than the token was made for (its UID differs)")]
    OtherPod(String),
    #[error("pod {0} does not run under the token's service account")]
    OtherServiceAccount(String),
    #[error("pod {0} is being deleted")]
    Terminating(String),
    #[error("the token of pod {pod} came from {source_address}, which is not its address")]
    OtherAddress { pod: String, source_address: IpAddr },
    #[error("the address of pod {0} is not known yet; try again")]
    NoAddressYet(String),
}

/// Reads the answer to a token review. Only a token of ours that is bound to a pod is good for anything: not a node's, a user's, an old token from
/// a Secret, nor one that was made for the API server.
pub(super) fn claims(status: &TokenReviewStatus) -> Result<Claims, Refusal> {
    let refuse = |why: &str| Refusal::Token(why.to_owned());
    if status.authenticated != Some(true) {
        return Err(refuse(status.error.as_deref().unwrap_or("it is not authentic, or expired")));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(refuse("it is not made for the audience fairlead.dev"));
    }
    let user = status.user.as_ref().ok_or_else(|| refuse("it names nobody"))?;
    let account = user.username.as_deref().and_then(|name| name.strip_prefix(SERVICE_ACCOUNT_PREFIX));
    let (namespace, service_account) =
        account.and_then(|account| account.split_once(':')).ok_or_else(|| refuse("it is not a service account's"))?;
    let extra = |key: &str| match user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(refuse("it is not bound to a pod")),
    };
    Ok(Claims {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod_name: extra(POD_NAME)?,
        pod_uid: extra(POD_UID)?,
    })
}

/// Compares a token's claims with the pod that bears its name, and with where the call came from.
pub(super) fn admit(claims: &Claims, pod: Option<&PodInfo>, source: IpAddr) -> Result<(), Refusal> {
    let name = || format!("{}/{}", claims.namespace, claims.pod_name);
    let pod = pod.ok_or_else(|| Refusal::UnknownPod(name()))?;
    if pod.uid != claims.pod_uid {
        return Err(Refusal::OtherPod(name()));
    }
    if pod.service_account != claims.service_account {
        return Err(Refusal::OtherServiceAccount(name()));
    }
    if pod.terminating {
        return Err(Refusal::Terminating(name()));
    }
    if pod.ips.is_empty() {
        return Err(Refusal::NoAddressYet(name()));
    }
    let source = source.to_canonical();
    if !pod.ips.iter().any(|ip| ip.to_canonical() == source) {
        return Err(Refusal::OtherAddress { pod: name(), source_address: source });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    pub(crate) fn good() -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:bookinfo:reviews".to_owned()),
                extra: Some(BTreeMap::from([
                    (POD_NAME.to_owned(), vec!["reviews-1".to_owned()]),
                    (POD_UID.to_owned(), vec!["uid-1".to_owned()]),
                ])),
                ..UserInfo::default()
            }),
        }
    }

    pub(crate) fn pod() -> PodInfo {
        PodInfo {
            uid: "uid-1".to_owned(),
            service_account: "reviews".to_owned(),
            ips: vec!["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            terminating: false,
        }
    }

    #[test]
    fn a_bound_token_of_our_audience_names_its_pod() {
        let claims = claims(&good()).unwrap();
        assert_eq!((claims.namespace.as_str(), claims.service_account.as_str()), ("bookinfo", "reviews"));
        assert_eq!((claims.pod_name.as_str(), claims.pod_uid.as_str()), ("reviews-1", "uid-1"));
    }

    #[test]
    fn other_tokens_are_refused() {
        let with = |change: &dyn Fn(&mut TokenReviewStatus)| {
            let mut status = good();
            change(&mut status);
            claims(&status).unwrap_err().to_string()
        };
        let user =
            |status: &mut TokenReviewStatus, name: &str| status.user.as_mut().unwrap().username = Some(name.to_owned());
        assert!(with(&|status| status.authenticated = None).contains("expired"));
        assert!(
            with(&|status| {
                status.authenticated = Some(false);
                status.error = Some("token has been invalidated".to_owned());
            })
            .contains("invalidated")
        );
        // What the API server says of a token that is not valid yet, and of one whose service account is gone.
        for error in ["service account token is not valid yet", "serviceaccounts \"reviews\" not found"] {
            let refused = with(&|status| {
                *status = TokenReviewStatus { error: Some(error.to_owned()), ..TokenReviewStatus::default() };
            });
            assert!(refused.contains(error), "{refused}");
        }
        for audiences in [None, Some(vec![]), Some(vec!["https://kubernetes.default.svc".to_owned()])] {
            assert!(with(&|status| status.audiences.clone_from(&audiences)).contains("audience"));
        }
        assert!(with(&|status| status.user = None).contains("nobody"));
        for name in ["system:node:a", "admin", "system:serviceaccount:bookinfo", "SYSTEM:serviceaccount:a:b"] {
            assert!(with(&|status| user(status, name)).contains("service account"), "{name}");
        }
        // A token from a Secret is bound to no pod.
        assert!(with(&|status| status.user.as_mut().unwrap().extra = None).contains("bound to a pod"));
        for values in [vec![], vec![String::new()], vec!["a".to_owned(), "b".to_owned()]] {
            let status = with(&|status| {
                status.user.as_mut().unwrap().extra.as_mut().unwrap().insert(POD_UID.to_owned(), values.clone());
            });
            assert!(status.contains("bound to a pod"));
        }
    }

    #[test]
    fn the_pod_must_be_the_one_that_calls() {
        let claims = claims(&good()).unwrap();
        let ask = |change: &dyn Fn(&mut PodInfo), source: &str| {
            let mut pod = pod();
            change(&mut pod);
            admit(&claims, Some(&pod), source.parse().unwrap())
        };
        let name = || "bookinfo/reviews-1".to_owned();
        assert_eq!(ask(&|_| (), "10.1.0.7"), Ok(()));
        assert_eq!(ask(&|_| (), "::ffff:10.1.0.7"), Ok(()));
        assert_eq!(ask(&|_| (), "fd00::7"), Ok(()));
        assert_eq!(admit(&claims, None, "10.1.0.7".parse().unwrap()), Err(Refusal::UnknownPod(name())));
        assert_eq!(ask(&|pod| pod.uid = "uid-2".to_owned(), "10.1.0.7"), Err(Refusal::OtherPod(name())));
        assert_eq!(
            ask(&|pod| pod.service_account = "default".to_owned(), "10.1.0.7"),
            Err(Refusal::OtherServiceAccount(name()))
        );
        assert_eq!(ask(&|pod| pod.terminating = true, "10.1.0.7"), Err(Refusal::Terminating(name())));
        assert_eq!(ask(&|pod| pod.ips.clear(), "10.1.0.7"), Err(Refusal::NoAddressYet(name())));
        let replayed = ask(&|_| (), "10.1.0.8");
        assert!(matches!(replayed, Err(Refusal::OtherAddress { .. })), "{replayed:?}");
    }
}
