//! What the operator and the proxies count, in the Prometheus text format.

use anyhow::{Context, Result};

use super::apps::{BINARY, CONTAINER};
use super::{Mesh, OPERATOR, OPERATOR_NAMESPACE};

/// One reading of somebody's metrics.
#[derive(Debug, Clone)]
pub struct Metrics(pub String);

impl Mesh {
    /// The operator's metrics, asked through the API server.
    pub async fn operator_metrics(&self) -> Result<Metrics> {
        let pod = self.running_pod(OPERATOR_NAMESPACE, OPERATOR).await?;
        let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:9090/proxy/metrics");
        self.kubectl().run(&["get", "--raw", &path]).await?.ok().map(Metrics)
    }

    /// The metrics of the sidecar of a pod with the label `app`, asked from within that pod.
    pub async fn sidecar_metrics(&self, namespace: &str, app: &str) -> Result<Metrics> {
        let ask = [BINARY, "call", "http://127.0.0.1:15000/metrics"];
        self.exec(namespace, &format!("app={app}"), CONTAINER, &ask).await?.ok().map(Metrics)
    }
}

impl Metrics {
    /// The sum of the counters of this name whose labels contain all of these.
    ///
    /// # Errors
    ///
    /// There is no such series: it was never counted, or its name is another.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Result<u64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            labels.iter().all(|label| rest.contains(label)).then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
        });
        values.reduce(|a, b| a + b).with_context(|| format!("{name} with {labels:?} is not among the metrics"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_are_added_up() {
        let metrics =
            Metrics("# TYPE a counter\na{x=\"1\",y=\"1\"} 5\na{x=\"1\",y=\"2\"} 2\na{x=\"2\"} 1\nab 9\nb 0\n".into());
        assert_eq!(metrics.sum("a", &["x=\"1\""]).unwrap(), 7);
        assert_eq!(metrics.sum("a", &[]).unwrap(), 8);
        assert_eq!(metrics.sum("b", &[]).unwrap(), 0);
        assert!(metrics.sum("c", &[]).is_err() && metrics.sum("a", &["z"]).is_err());
    }
}
