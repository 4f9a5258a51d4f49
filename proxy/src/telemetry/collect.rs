//! Writes the counters out when somebody scrapes.

use std::{
    fmt::Error,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::access::AccessLog;
use super::{Direction, Handshake, LATENCY_BOUNDS, Refusal, Requests, Tables, Tls, Transport};
use super::{
    cut_off::CUT_OFF,
    limits::OVER_LIMIT,
    mirrored::MIRRORED,
    outliers::OUTLIER_EVENTS,
    tries::{RETRIES, RETRIES_REFUSED},
};
use crate::http::Reason;

/// Registered once; reads the tables at each scrape and leaves out series that never counted.
#[derive(Debug)]
pub(super) struct Collect {
    pub(super) tables: Arc<Tables>,
    pub(super) access: AccessLog,
}

const CLASS_NAMES: [&str; super::CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Collector for Collect {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        self.requests(&mut encoder)?;
        self.latency(&mut encoder)?;
        self.delays(&mut encoder)?;
        self.families(&mut encoder)?;
        self.connections(&mut encoder)?;
        self.events(&mut encoder)?;
        self.tables.authorized.encode(&mut encoder)?;
        encoder
            .encode_descriptor(
                "access_log_dropped",
                "Lines of the access log that found no room, because what was written is not read",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, u64, u64>(&self.access.dropped(), None)
    }
}

impl Collect {
    fn requests(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let mut metric = encoder.encode_descriptor(
            "requests",
            "Requests by where they went and how they were answered; reason is set where the proxy itself answered",
            None,
            MetricType::Counter,
        )?;
        for ((direction, service), requests) in self.tables.services.read().iter() {
            for tls in Tls::ALL {
                let answered =
                    requests.answered[*tls as usize].iter().zip(CLASS_NAMES).map(|(count, class)| (count, class, ""));
                let own = requests.own[*tls as usize].iter().zip(Reason::ALL).flat_map(|(classes, reason)| {
                    classes.iter().zip(CLASS_NAMES).map(move |(count, class)| (count, class, reason.as_str()))
                });
                for (count, class, reason) in answered.chain(own) {
                    let count = count.load(Relaxed);
                    if count > 0 {
                        let labels = [
                            ("direction", direction.as_str()),
                            ("service", service),
                            ("tls", tls.as_str()),
                            ("class", class),
                            ("reason", reason),
                        ];
                        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn families(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let services = self.tables.services.read();
        let services = services.iter().map(|((direction, service), requests)| (*direction, &**service, &**requests));
        MIRRORED.encode(encoder, services.clone())?;
        RETRIES.encode(encoder, services.clone())?;
        RETRIES_REFUSED.encode(encoder, services.clone())?;
        OUTLIER_EVENTS.encode(encoder, services.clone())?;
        OVER_LIMIT.encode(encoder, services.clone())?;
        CUT_OFF.encode(encoder, services)
    }

    fn latency(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let mut metric = encoder.encode_descriptor(
            "request_duration_seconds",
            "From the first byte of a request to the last of the response head",
            None,
            MetricType::Histogram,
        )?;
        for ((direction, service), requests) in self.tables.services.read().iter() {
            let (sum, count, buckets) = histogram(requests);
            let labels = [("direction", direction.as_str()), ("service", service.as_ref())];
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn delays(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let mut metric = encoder.encode_descriptor(
            "fault_delays",
            "Requests that were held up on purpose; those that were failed on purpose are requests with reason fault-abort",
            None,
            MetricType::Counter,
        )?;
        for ((direction, service), requests) in self.tables.services.read().iter() {
            let count = requests.delayed.load(Relaxed);
            if count > 0 {
                let labels = [("direction", direction.as_str()), ("service", service.as_ref())];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn connections(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let places = || {
            Direction::ALL.iter().flat_map(|direction| {
                Transport::ALL
                    .iter()
                    .flat_map(move |transport| Tls::ALL.iter().map(move |tls| (*direction, *transport, *tls)))
            })
        };
        let labels = |(direction, transport, tls): (Direction, Transport, Tls)| {
            [("direction", direction.as_str()), ("protocol", transport.as_str()), ("tls", tls.as_str())]
        };
        let counters = &self.tables.counters;
        let mut metric = encoder.encode_descriptor("connections", "Connections accepted", None, MetricType::Counter)?;
        for (d, t, m) in places() {
            let count = counters.connections[d as usize][t as usize][m as usize].load(Relaxed);
            if count > 0 {
                metric.encode_family(&labels((d, t, m)))?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        let mut metric =
            encoder.encode_descriptor("connections_open", "Connections open now", None, MetricType::Gauge)?;
        for (d, t, m) in places() {
            let count = &counters.connections[d as usize][t as usize][m as usize];
            if count.load(Relaxed) > 0 {
                let open = counters.open[d as usize][t as usize][m as usize].load(Relaxed);
                metric.encode_family(&labels((d, t, m)))?.encode_gauge(&open)?;
            }
        }
        Ok(())
    }

    fn events(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let counters = &self.tables.counters;
        let refusals: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        by_reason(encoder, "connections_refused", "Connections that were not served", &counters.refused, &refusals)?;
        let failures: Vec<_> = Handshake::ALL.iter().map(|why| why.as_str()).collect();
        by_reason(
            encoder,
            "handshakes_failed",
            "TLS handshakes that failed, between proxies or with an endpoint outside the mesh",
            &counters.handshakes,
            &failures,
        )?;
        let mut metric = encoder.encode_descriptor(
            "opaque_bytes",
            "Bytes of opaque connections, as the one who connected sees them",
            None,
            MetricType::Counter,
        )?;
        for direction in Direction::ALL {
            for (way, count) in [("sent", &counters.received), ("received", &counters.sent)] {
                metric
                    .encode_family(&[("direction", direction.as_str()), ("way", way)])?
                    .encode_counter::<NoLabelSet, u64, u64>(&count[*direction as usize].load(Relaxed), None)?;
            }
        }
        encoder
            .encode_descriptor(
                "handovers",
                "Plain callers of this canary that were handed to the stable version",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, u64, u64>(&counters.handovers.load(Relaxed), None)
    }
}

fn by_reason<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &'static str,
    help: &str,
    counts: &[[std::sync::atomic::AtomicU64; N]; 2],
    reasons: &[&'static str],
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for direction in Direction::ALL {
        for (count, reason) in counts[*direction as usize].iter().zip(reasons) {
            metric
                .encode_family(&[("direction", direction.as_str()), ("reason", reason)])?
                .encode_counter::<NoLabelSet, u64, u64>(&count.load(Relaxed), None)?;
        }
    }
    Ok(())
}

/// Sum in seconds, count, and the counts of each bucket by its bound (the encoder makes them cumulative).
fn histogram(requests: &Requests) -> (f64, u64, Vec<(f64, u64)>) {
    let latency = &requests.latency;
    let buckets: Vec<_> = LATENCY_BOUNDS
        .into_iter()
        .chain([f64::MAX])
        .zip(&latency.buckets)
        .map(|(bound, count)| (bound, count.load(Relaxed)))
        .collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    (latency.micros.load(Relaxed) as f64 / 1e6, count, buckets)
}
