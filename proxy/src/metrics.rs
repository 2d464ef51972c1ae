//! The proxy's metrics, in the OpenMetrics text form that Prometheus reads.
//!
//! What workers count stands there twice: summed, and by worker under names that begin with `vrc_worker_`, so that neither is
//! counted into the other. Nothing is kept between two looks.

use std::{collections::HashMap, fmt::Error, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use vrc_cluster::topology::Topology;

use crate::{
    latency::{AllHistograms, CLASSES, class_us_max},
    stats::{Counters, Kind, Reading},
};

/// What [`Metrics::write`] writes.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that is measured, as it was at one moment.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By worker.
    pub(crate) workers: Vec<Counters>,
    pub(crate) sum: Counters,
    /// How long commands took, where that is counted.
    pub(crate) histograms: AllHistograms,
    pub(crate) topology: Arc<Topology>,
    /// Whether the master is followed without trouble; none where there is no master.
    pub(crate) master_followed: Option<bool>,
}

impl Metrics {
    /// The whole text.
    pub(crate) fn write(self) -> Result<String, Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Metrics {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        to.encode_descriptor("vrc_build", "Which program this is.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        self.encode_counters(&mut to)?;
        self.encode_durations(&mut to)?;
        self.encode_topology(&mut to)?;
        if let Some(followed) = self.master_followed {
            let help = "Whether the master can be read and has a node map; while it has not, the last map stands.";
            gauge(&mut to, "vrc_master_followed", help)?.encode_gauge(&u64::from(followed))?;
        }
        Ok(())
    }
}

impl Metrics {
    fn encode_counters(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        for sum in self.sum.each() {
            let name = format!("vrc_{}", family(&sum));
            put(&mut to.encode_descriptor(&name, sum.help, None, metric_type(sum.kind))?, &sum)?;
        }
        let mut workers: Vec<_> = self.workers.iter().map(Counters::each).collect();
        for sum in self.sum.each() {
            let name = format!("vrc_worker_{}", family(&sum));
            let mut of_workers = to.encode_descriptor(&name, sum.help, None, metric_type(sum.kind))?;
            // The same counters in the same order for the sum and for each worker.
            for (number, reading) in workers.iter_mut().filter_map(Iterator::next).enumerate() {
                put(&mut of_workers.encode_family(&[("worker", number)])?, &reading)?;
            }
        }
        Ok(())
    }

    fn encode_durations(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut called = self.histograms.each().peekable();
        if called.peek().is_none() {
            return Ok(());
        }
        let help = "How long commands took until their reply was there, while latency-tracking is on.";
        let mut durations = to.encode_descriptor("vrc_command_duration_seconds", help, None, MetricType::Histogram)?;
        for (command, histogram) in called {
            let bounds =
                (0..CLASSES).map(|class| if class + 1 < CLASSES { class_us_max(class) as f64 / 1e6 } else { f64::INFINITY });
            let buckets: Vec<_> = bounds.zip(histogram.classes).collect();
            let sum_s = histogram.sum_us as f64 / 1e6;
            durations.encode_family(&[("command", command)])?.encode_histogram(
                sum_s,
                histogram.calls(),
                &buckets,
                None::<&HashMap<usize, Exemplar<[(&str, &str); 0], f64>>>,
            )?;
        }
        Ok(())
    }

    fn encode_topology(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let nodes = self.topology.nodes();
        let up = nodes.iter().filter(|node| node.up).count();
        gauge(to, "vrc_epoch", "Epoch of the node map; 0 where it has none.")?.encode_gauge(&self.topology.epoch())?;
        gauge(to, "vrc_nodes_known", "Nodes in the map, up or down.")?.encode_gauge(&(nodes.len() as u64))?;
        gauge(to, "vrc_nodes_up", "Nodes that keys may be sent to.")?.encode_gauge(&(up as u64))?;
        let mut ups = gauge(to, "vrc_node_up", "Whether keys may be sent to the node.")?;
        for node in nodes {
            ups.encode_family(&[("node", &*node.name)])?.encode_gauge(&u64::from(node.up))?;
        }
        let mut shares = gauge(to, "vrc_node_share", "What part of all keys the node holds, from 0 to 1.")?;
        for (node, share) in nodes.iter().zip(self.topology.shares()) {
            shares.encode_family(&[("node", &*node.name)])?.encode_gauge(&share)?;
        }
        Ok(())
    }
}

/// A counter's name without the `_total` that the text form ends every counter's name with by itself.
fn family(reading: &Reading) -> &'static str {
    reading.name.strip_suffix("_total").unwrap_or(reading.name)
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    }
}

fn gauge<'a>(to: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Result<MetricEncoder<'a>, Error> {
    to.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn put(to: &mut MetricEncoder<'_>, reading: &Reading) -> Result<(), Error> {
    match reading.kind {
        Kind::Counter => to.encode_counter(&reading.value, None::<&Exemplar<[(&str, &str); 0], u64>>),
        Kind::Gauge => to.encode_gauge(&reading.value),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vrc_cluster::{
        contract::{Endpoint, Node, NodeMap},
        topology::PlacementOptions,
    };

    use super::*;
    use crate::latency::Histograms;

    fn text(nodes: &[&str]) -> String {
        let node = |name: &str| Node {
            config: Endpoint::new("h", 1),
            weight: 1.0,
            up: true,
            state_change_time: 1,
            name: name.to_owned(),
            last_ping: None,
            run_id: None,
            version: None,
            upkeep: Default::default(),
            other: Default::default(),
        };
        let map: NodeMap = nodes.iter().map(|name| ((*name).to_owned(), node(name))).collect();
        let topology = Arc::new(Topology::build(&map, 42, &PlacementOptions::default(), 0));
        let workers = [3, 4].map(|commands_total| Counters { clients: 1, commands_total, ..Counters::default() });
        let sum = Counters { clients: 2, commands_total: 7, ..Counters::default() };
        let of_worker = Histograms::default();
        let get = vrc_cluster::command::lookup(b"get").unwrap().id();
        [1, 1, 5_000].into_iter().for_each(|us| of_worker.add(get, us));
        let histograms = AllHistograms::sum([&of_worker].into_iter());
        Metrics { workers: workers.to_vec(), sum, histograms, topology, master_followed: Some(true) }.write().unwrap()
    }

    #[test]
    fn sums_and_workers_stand_apart() {
        let text = text(&["a"]);
        for line in [
            "vrc_commands_total 7",
            "vrc_worker_commands_total{worker=\"0\"} 3",
            "vrc_worker_commands_total{worker=\"1\"} 4",
            "# TYPE vrc_commands counter",
            "# TYPE vrc_worker_commands counter",
            "# TYPE vrc_clients gauge",
            "vrc_clients 2",
            "vrc_worker_clients{worker=\"1\"} 1",
            "vrc_epoch 42",
            "vrc_nodes_up 1",
            "vrc_node_up{node=\"a\"} 1",
            "vrc_node_share{node=\"a\"} 1.0",
            "vrc_master_followed 1",
            "vrc_command_duration_seconds_sum{command=\"get\"} 0.005002",
            "vrc_command_duration_seconds_count{command=\"get\"} 3",
            "vrc_command_duration_seconds_bucket{le=\"0.000001\",command=\"get\"} 2",
            "vrc_command_duration_seconds_bucket{le=\"+Inf\",command=\"get\"} 3",
            concat!("vrc_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn names_are_unique_prefixed_and_explained() {
        let text = text(&["a", "b"]);
        let mut families = BTreeSet::new();
        let mut samples = BTreeSet::new();
        let mut family = "";
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                assert!(name.starts_with("vrc_") && is_plain && !name.ends_with("_total"), "{name}");
                assert!(help.ends_with('.') && help.len() > 1, "{line}");
                assert!(families.insert(name), "{name} stands there twice");
                family = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                assert_eq!(kind.split(' ').next(), Some(family), "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let suffix = sample.split('{').next().unwrap().strip_prefix(family);
                assert!(matches!(suffix, Some("" | "_total" | "_info" | "_sum" | "_count" | "_bucket")), "{line} under {family}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(samples.insert(sample), "{sample} stands there twice");
            }
        }
        assert_eq!(families.len(), Counters::default().each().count() * 2 + 8);
    }

    #[test]
    fn operators_can_read_of_each() {
        let document = include_str!("../../docs/operations.md");
        for line in text(&["a"]).lines().filter(|line| !line.starts_with('#')) {
            let sample = line.split(['{', ' ']).next().unwrap();
            let name = ["_sum", "_count", "_bucket"].into_iter().find_map(|suffix| sample.strip_suffix(suffix)).unwrap_or(sample);
            let is_there = [format!("`{name}`"), format!("`{name}{{")].iter().any(|shown| document.contains(shown));
            assert!(is_there || name.starts_with("vrc_worker_"), "{name} is not in docs/operations.md");
        }
    }

    #[test]
    fn a_node_may_be_called_anything() {
        let text = text(&["a\"} 1\nvrc_fake 1 # \\"]);
        assert!(text.contains(r#"vrc_node_up{node="a\"} 1\nvrc_fake 1 # \\"} 1"#), "{text}");
    }
}
