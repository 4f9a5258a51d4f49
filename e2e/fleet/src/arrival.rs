//! Thousands of proxies that start at once, and a policy that changes for a hundred of them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::operator::{self, Operator};
use crate::proxies::{self, Proxy, Start};

/// Proxies that a changed policy is for.
pub(crate) const POLICY_PROXIES: u32 = 100;
/// How often it is changed.
const CHANGES: usize = 200;
/// For one change.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(50);

/// Starts everything, measures, and says what came of it.
pub(crate) async fn measure(operator: &Path, folder: &Path, count: u32) -> Result<Value> {
    let api = Api::new();
    operator::cluster(&api);
    let operator = Operator::start(operator, &api, folder).await?;
    operator::write_roots(&api, folder)?;
    let alone = operator.memory()?.1;
    let begun = Instant::now();
    let proxies = proxies::begin(&api, &Start::new(folder)?, count).await?;
    let seconds =
        |at: fn(&Proxy) -> Instant| proxies.iter().map(|proxy| (at(proxy) - begun).as_secs_f64()).fold(0.0, f64::max);
    let (certified, configured) = (seconds(|proxy| proxy.certified), seconds(|proxy| proxy.configured));
    let milliseconds = policies(&api, &proxies).await?;
    let (peak, now) = operator.memory()?;
    Ok(json!({
        "proxies": count, "certifiedSeconds": certified, "configuredSeconds": configured,
        "policyProxies": POLICY_PROXIES, "policyMilliseconds": milliseconds,
        "operatorMib": {"alone": alone, "peak": peak, "now": now},
    }))
}

/// Changes the policy of the few again and again; for each change the milliseconds until the last of them decides by it.
async fn policies(api: &Api, proxies: &[Proxy]) -> Result<Vec<f64>> {
    let path = format!("/apis/fairlead.dev/v1alpha1/namespaces/{}/peerauths/few", proxies::NAMESPACE);
    let few: Vec<&Proxy> = proxies.iter().filter(|proxy| proxy.number < POLICY_PROXIES).collect();
    let versions = || few.iter().map(|proxy| proxy.store.workload.programmed().version).collect::<Vec<_>>();
    let mut before = versions();
    let mut milliseconds = Vec::new();
    for change in 0..CHANGES {
        let begun = Instant::now();
        api.put(
            &path,
            json!({
                "apiVersion": "fairlead.dev/v1alpha1", "kind": "PeerAuth",
                "metadata": {"namespace": proxies::NAMESPACE, "name": "few", "generation": change + 1},
                "spec": {
                    "selector": {"matchLabels": {"group": "few"}},
                    "mtls": {"mode": "Strict"},
                    "rules": [{"name": "all", "action": "Allow", "to": [{"paths": [format!("/{change}")]}]}],
                },
            }),
        );
        loop {
            let missing = versions().iter().zip(&before).filter(|(now, before)| now == before).count();
            if missing == 0 {
                break;
            }
            ensure!(begun.elapsed() < LONGEST, "{missing} proxies did not follow change {change} of the policy");
            sleep(Duration::from_millis(1)).await;
        }
        milliseconds.push(begun.elapsed().as_secs_f64() * 1000.0);
        before = versions();
        sleep(PAUSE).await;
    }
    Ok(milliseconds)
}
