//! A run from its beginning to its end.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::ValueEnum;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vrc_cluster::topology::{PlacementOptions, Topology};

use crate::{
    cluster::{COORDINATORS, Cluster, PROXIES, TIMEOUT_MS, vrc_program},
    detection::detection,
    fault::Faults,
    history::Clock,
    judge::{Evidence, judge},
    network::{Network, Party},
    observer::{Observed, Observer},
    options::{Kind, Options},
    plan::Plan,
    random::Random,
    report::{Report, count_errors, unavailability},
    traffic::Traffic,
};

/// For the cluster to come up, or to be well again.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a busy machine may add to the proxy's time limit.
const SLACK_MS: u64 = 15_000;
/// Traffic goes on for so long when all is well again.
const AFTER: Duration = Duration::from_millis(500);

/// Runs.
///
/// # Errors
/// If the cluster cannot be started, or a process ends by itself.
pub async fn run(options: &Options, talkative: bool) -> anyhow::Result<Report> {
    let from_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64 % 1_000_000);
    let seed = options.seed.unwrap_or_else(from_clock);
    let mut random = Random::new(seed);
    let nodes = usize::from(options.nodes);
    let parties: Vec<Party> = [Party::Master]
        .into_iter()
        .chain((0..COORDINATORS).map(Party::Coordinator))
        .chain((0..PROXIES).map(Party::Proxy))
        .chain((0..nodes).map(Party::Node))
        .collect();
    let network = Network::lay(options.network, &parties).await?;
    let (network_kind, cuts_pairs) = (network.kind(), network.cuts_pairs());
    if talkative {
        println!("seed {seed}; network of {network_kind}");
    }
    let mut cluster = Cluster::start(nodes, network, &vrc_program(options.vrc.clone())?).await?;
    let (clock, stop) = (Clock::start(), CancellationToken::new());
    let observer = Observer::start(&cluster.socket(Party::Master), &cluster.proxy_sockets(), clock, &stop);
    let outcome = async {
        well(&mut cluster, &observer, nodes, clock).await.context("the cluster did not come up")?;
        let kinds = if options.kinds.is_empty() { Kind::value_variants().to_vec() } else { options.kinds.clone() };
        let plan = Plan::new(Random::new(random.next()), kinds, nodes, cuts_pairs);
        let mut faults = Faults::new(plan, clock, options.at_once.into(), options.pause, talkative);
        let traffic = Traffic::start(&cluster.proxy_sockets(), clock, &mut random);
        sleep(AFTER).await;
        faults.play(&mut cluster, options.duration).await?;
        let ended = Instant::now();
        let unhealed = well(&mut cluster, &observer, nodes, clock).await.err().map(|error| error.to_string());
        let healed_after_ms = ended.elapsed().as_millis() as u64;
        sleep(AFTER).await;
        let errors = traffic.errors.clone();
        let ops = traffic.stop().await?;
        // So that the last commands lie between two samples.
        sleep(Duration::from_millis(50)).await;
        let mut flushes = Vec::new();
        for flush in faults.flushes {
            flushes.push(flush.await?);
        }
        let observed = observer.observed();
        let lines = unavailability(&ops, &faults.played, homes(&observed));
        let (ops_count, errors) = (ops.len(), count_errors(&ops, &errors.kinds()));
        let (maps, detected) = (observed.maps.len(), detection(&observed, &faults.played, &faults.deeds, &cluster.instances()));
        let answer_us_max = (TIMEOUT_MS + SLACK_MS) * 1_000;
        let verdict = judge(&Evidence { ops, flushes, observed, deeds: faults.deeds, answer_us_max });
        anyhow::Ok(Report {
            seed,
            network: network_kind,
            verdict,
            unhealed,
            healed_after_ms,
            maps,
            ops: ops_count,
            errors,
            faults: lines,
            detected,
            logs: None,
        })
    }
    .await;
    stop.cancel();
    let good = outcome.as_ref().is_ok_and(Report::holds);
    let keep = options.keep || !good;
    if keep {
        cluster.dir.disable_cleanup(true);
    }
    let dir = cluster.dir.path().to_owned();
    outcome
        .map(|report| Report { logs: keep.then_some(dir.clone()), ..report })
        .with_context(|| format!("logs: {}", dir.display()))
}

/// Waits till every proxy serves every node.
async fn well(cluster: &mut Cluster, observer: &Observer, nodes: usize, clock: Clock) -> anyhow::Result<()> {
    let (deadline, since_us) = (Instant::now() + PATIENCE, clock.now_us());
    while !observer.all_is_well(nodes, since_us) {
        cluster.check()?;
        let observed = observer.observed();
        let shown = || {
            let last = observed.maps.last_key_value();
            let up = last.map(|(epoch, seen)| (epoch, seen.map.values().filter(|node| node.up).count()));
            let samples: Vec<_> = observed.samples.iter().map(|samples| samples.last().map(|sample| sample.epoch)).collect();
            format!(
                "not all {nodes} nodes served by all proxies within {PATIENCE:?}: map and nodes up {up:?}, proxies' maps {samples:?}"
            )
        };
        anyhow::ensure!(Instant::now() < deadline, shown());
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Which node a key is at home at, by the last map.
fn homes(observed: &Observed) -> impl Fn(&str) -> usize {
    let topology = observed.maps.last_key_value().map(|(epoch, seen)| {
        Topology::build(&seen.map, *epoch, &PlacementOptions { guest_databases: true, ..PlacementOptions::default() }, 0)
    });
    move |key| topology.as_ref().and_then(|topology| topology.locate(key.as_bytes()).home).map_or(0, usize::from)
}
