//! What membership costs the master of a large cluster, and how readers behave: a real master, the real coordinator, the real
//! readers of proxies (`TopologyWatch`), all on one machine. The nodes are sockets that answer as a redis does, since a thousand redis
//! servers would not fit beside all that; agents and proxies are what they say to the master, word for word.
//!
//! `cargo run --release -p vrc-benches --example membership -- [NODES [READERS [PROXIES]]]`, 1,000 nodes and readers unless told, and no
//! proxies: these are processes (the program is looked for in `target/release`), which say less of the master and more of how far apart they are.

mod nodes;
mod proxies;

use std::{
    collections::HashMap,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::{runtime::Runtime, sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_cluster::{
    client::{MasterUrl, TopologyWatch, WatchOptions},
    contract::{AGENT_BUS, AgentBusMessage, CLIENT_BUS, CONFIRM_EVERY_MS, Confirmation, Epoch, PROXIES_KEY, PURGE_KEY, TELLERS},
    topology::{PlacementOptions, Topology},
};
use vrc_coordinator::{Config, Coordinator};

use nodes::{Nodes, announcement};

/// How often an agent announces its node, and looks for an order.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);
/// How long a steady state is looked at.
const STEADY: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(3_600);
/// All processes are on one machine here, which has better things to do than to be on time.
const PATIENT: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let nodes = numbers.next().transpose()?.unwrap_or(1_000);
    let readers = numbers.next().transpose()?.unwrap_or(1_000);
    let proxies = numbers.next().transpose()?.unwrap_or(0);
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits })?;
    // What watches the nodes is a process of its own elsewhere, and does not wait for readers.
    let (control, reading) = (runtime(1)?, runtime(2)?);
    control.block_on(measure(nodes, readers, proxies, &reading))?;
    reading.shutdown_background();
    Ok(())
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

async fn measure(count: usize, readers: usize, proxies: usize, reading: &Runtime) -> anyhow::Result<()> {
    let options =
        SpawnOptions { directives: vec![("maxclients".to_owned(), vec!["15000".to_owned()])], ..SpawnOptions::default() };
    let master = RedisProcess::start(&options).await?;
    let mut nodes = Nodes::start(count).await?;
    let ports = nodes.ports();
    let url = MasterUrl::new(master.host(), master.port())?;
    let mut meter = Meter::new(&url).await?;

    let config = Config {
        ping_timeout: PATIENT,
        lease: Duration::from_secs(10),
        master_timeout: Duration::from_secs(9),
        ..Config::new(url.clone())
    };
    let leader = Coordinator::start(&config, CancellationToken::new())?;
    until("it leads", || async { leader.status().borrow().leading }).await?;
    let _standby = Coordinator::start(&config, CancellationToken::new())?;
    let _agents = tokio::spawn(announce_all(url.clone(), ports.clone()));
    until("all nodes are up", || async { leader.status().borrow().published_up() == count }).await?;
    println!("{count} nodes, {readers} readers, two coordinators; bytes as the master counts them, in both directions\n");
    println!("steady state");
    meter.steady("leader, standby and agents").await?;

    if proxies > 0 {
        let children = proxies::start(proxies, &url)?;
        println!("\n{proxies} proxies, each a process; one node dies");
        for victim in &ports[2..12.min(count - 2)] {
            proxies::one_dies(&mut nodes, *victim, &children, &mut meter.0).await?;
        }
        if readers == 0 {
            return Ok(());
        }
    }
    let wanted = leader.status().borrow().epoch;
    let all_hold_it = async |watches: &[TopologyWatch]| {
        until("all readers hold the map", || async { watches.iter().all(|watch| watch.topology().epoch() >= wanted) }).await
    };
    let every = Duration::from_millis(CONFIRM_EVERY_MS);
    let watches = follow_all(&url, readers, WatchOptions::default().read_every, reading);
    all_hold_it(&watches).await?;
    meter.steady("and readers that follow the map").await?;
    let confirmers = confirm_all(&url, &watches, every, reading);
    sleep(2 * every).await;
    meter.steady("and their confirmations").await?;
    drop((watches, confirmers));
    sleep(every).await;

    // Who is busy with a new map says less of what would be said anyway. That would blur what the map costs, so little is said: a
    // proxy confirms just often enough to be known as alive.
    let watches = follow_all(&url, readers, NEVER, reading);
    all_hold_it(&watches).await?;
    let _confirmers = confirm_all(&url, &watches, Duration::from_secs(8), reading);
    // Until all purges are told.
    sleep(config.proxy_grace * 2).await;
    println!("\none node dies, while readers say little else");
    let rate = meter.steady("anyway").await?;
    let mut scene = Scene { nodes, watches, meter, rate, reading };
    for victim in [ports[0], ports[count / 2]] {
        scene.one_dies(victim, 0).await?;
    }
    println!("and every reader's proxy notices that it cannot use it");
    scene.one_dies(ports[count - 1], readers).await?;
    let mut old_client = url.client().await?.get_async_pubsub().await?;
    old_client.subscribe(CLIENT_BUS).await?;
    println!("and with one old client that listens for whole maps");
    scene.one_dies(ports[1], 0).await?;
    drop(old_client);

    restart(master, &options, &scene.watches, &url).await
}

/// A cluster in which nothing happens, but for what is done to it.
struct Scene<'a> {
    nodes: Nodes,
    watches: Vec<TopologyWatch>,
    meter: Meter,
    /// Bytes a second that are said although nothing happens.
    rate: f64,
    reading: &'a Runtime,
}

impl Scene<'_> {
    /// What so many proxies say of a node that they cannot use, when the map comes before those speak who have left it to others.
    async fn report(&mut self, name: &str, proxies: usize) -> anyhow::Result<()> {
        let master = &mut self.meter.0;
        for number in 0..proxies {
            redis::cmd("HLEN").arg(PROXIES_KEY).exec_async(master).await?;
            if number < TELLERS as usize {
                let (reporter, reason) = (format!("proxy of process {}", 10_000 + number), "the connection was lost".to_owned());
                let suspect = AgentBusMessage::NodeSuspect { name: name.to_owned(), reporter, reason };
                redis::cmd("PUBLISH").arg(AGENT_BUS).arg(serde_json::to_string(&suspect)?).exec_async(master).await?;
            }
        }
        Ok(())
    }

    /// Kills a node, has so many proxies report it, and waits until all readers have noticed and said so.
    async fn one_dies(&mut self, port: u16, reports: usize) -> anyhow::Result<()> {
        let name = format!("127.0.0.1:{port}");
        let is_down = |topology: &Topology, name: &str| topology.nodes().iter().any(|node| &*node.name == name && !node.up);
        let mut switches = JoinSet::new();
        for watch in &self.watches {
            let (mut changes, shared, name) = (watch.changes(), watch.shared(), name.clone());
            let switched = async move {
                let _ = changes.wait_for(|_| is_down(&shared.load(), &name)).await;
                Instant::now()
            };
            switches.spawn_on(switched, self.reading.handle());
        }
        let (before, began) = (self.meter.bytes().await?, Instant::now());
        self.nodes.kill(port);
        self.report(&name, reports).await?;
        let mut switched = tokio::time::timeout(PATIENT, switches.join_all()).await.context("readers that never switch")?;
        switched.sort_unstable();
        // Confirmations follow at once.
        sleep(Duration::from_millis(500)).await;
        let bytes = self.meter.bytes().await? - before;
        let steady = self.rate * began.elapsed().as_secs_f64();
        println!(
            "  {:.0} KB, of which {:.0} KB would have been said anyway; switched {} to {} ms after the death",
            bytes as f64 / 1e3,
            steady / 1e3,
            (switched[0] - began).as_millis(),
            (switched[switched.len() - 1] - began).as_millis(),
        );
        Ok(())
    }
}

/// Kills the master, starts it again half a second later, and looks when readers come back.
async fn restart(
    mut master: RedisProcess,
    options: &SpawnOptions,
    watches: &[TopologyWatch],
    url: &MasterUrl,
) -> anyhow::Result<()> {
    println!("\nthe master is killed, and is back, empty, half a second later");
    let options = SpawnOptions { port: Some(master.port()), ..options.clone() };
    let pid = Pid::from_raw(master.pid().try_into()?).context("a process id")?;
    kill_process(pid, Signal::KILL)?;
    master.exited().await?;
    let lost = Instant::now();
    sleep(Duration::from_millis(500)).await;
    let _master = RedisProcess::start(&options).await?;
    let back = Instant::now();
    let mut meter = Meter::new(url).await?;
    let mut came = Vec::new();
    while came.last().is_none_or(|(_, all)| *all < watches.len()) {
        ensure!(back.elapsed() < PATIENT, "readers that never come back: {} of {}", watches.len(), came.len());
        let following =
            watches.iter().filter(|watch| watch.trouble().is_none_or(|trouble| trouble.contains("no node map"))).count();
        came.push((back.elapsed(), following));
        sleep(Duration::from_millis(50)).await;
    }
    println!("  answers {} ms after it was lost; readers that follow it again:", (back - lost).as_millis());
    for part in [10, 50, 90, 100] {
        let (after, _) = came.iter().find(|(_, count)| *count * 100 >= watches.len() * part).context("so many came")?;
        println!("  {part:>4} %  {:>5} ms after it was back", after.as_millis());
    }
    let mut most = 0;
    for pair in came.windows(2) {
        most = most.max(pair[1].1.saturating_sub(pair[0].1));
    }
    println!("  most within 50 ms: {most}; bytes until all were back: {:.1} MB", meter.bytes().await? as f64 / 1e6);
    Ok(())
}

/// Follows the map as so many proxies do.
fn follow_all(url: &MasterUrl, readers: usize, read_every: Duration, reading: &Runtime) -> Vec<TopologyWatch> {
    let _on = reading.enter();
    let placement = PlacementOptions { guest_databases: true, ..PlacementOptions::default() };
    let options = WatchOptions { placement, read_every, answer_timeout: PATIENT, ..WatchOptions::default() };
    (0..readers).map(|_| TopologyWatch::start(url.clone(), options.clone())).collect()
}

/// Has all readers' proxies confirm their maps until this is dropped.
fn confirm_all(url: &MasterUrl, watches: &[TopologyWatch], every: Duration, reading: &Runtime) -> JoinSet<()> {
    let _on = reading.enter();
    watches.iter().enumerate().map(|(number, watch)| confirm(url.clone(), number, watch.changes(), every)).collect()
}

/// What all agents say, one after the other, and what they look at. Their nodes have nothing to purge, so they have done so when they are told.
async fn announce_all(url: MasterUrl, ports: Vec<u16>) -> anyhow::Result<()> {
    let pause = ANNOUNCE_EVERY / ports.len() as u32;
    let mut purged = HashMap::<u16, Epoch>::new();
    loop {
        let Ok(mut connection) = connect(&url).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        'connected: loop {
            for port in &ports {
                let mut pipe = redis::pipe();
                pipe.publish(AGENT_BUS, serde_json::to_string(&announcement(*port, purged.get(port).copied()))?).ignore();
                pipe.hget(PURGE_KEY, format!("127.0.0.1:{port}"));
                let Ok((order,)) = pipe.query_async::<(Option<Epoch>,)>(&mut connection).await else { break 'connected };
                purged.extend(order.map(|epoch| (*port, epoch)));
                sleep(pause).await;
            }
        }
    }
}

/// Confirms each map that a reader holds, as its proxy does.
async fn confirm(url: MasterUrl, number: usize, mut changes: watch::Receiver<Epoch>, every: Duration) {
    let (mut connection, mut beat) = (None, 0);
    loop {
        beat += 1;
        let epoch = *changes.borrow_and_update();
        let confirmation = Confirmation { epoch, beat, least: epoch }.to_string();
        if connection.is_none() {
            connection = connect(&url).await.ok();
        }
        if let Some(open) = &mut connection {
            let mut say = redis::cmd("HSET");
            if say.arg(PROXIES_KEY).arg(format!("{number:016x}")).arg(confirmation).exec_async(open).await.is_err() {
                connection = None;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(every) => {}
        }
    }
}

async fn connect(url: &MasterUrl) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENT)).set_response_timeout(Some(PATIENT));
    url.client().await?.get_multiplexed_async_connection_with_config(&config).await
}

async fn until<Holds: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> Holds) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENT * 5;
    while !holds().await {
        ensure!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Reads from the master what it has received and sent.
struct Meter(MultiplexedConnection);

impl Meter {
    async fn new(url: &MasterUrl) -> anyhow::Result<Self> {
        Ok(Meter(connect(url).await?))
    }

    async fn bytes(&mut self) -> anyhow::Result<u64> {
        let info: String = redis::cmd("INFO").arg("stats").query_async(&mut self.0).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim_end().parse::<u64>().ok());
        Ok(field("total_net_input_bytes:").context("input")? + field("total_net_output_bytes:").context("output")?)
    }

    /// Bytes a second, while nothing happens.
    async fn steady(&mut self, what: &str) -> anyhow::Result<f64> {
        let (before, began) = (self.bytes().await?, Instant::now());
        sleep(STEADY).await;
        let rate = (self.bytes().await? - before) as f64 / began.elapsed().as_secs_f64();
        println!("  {:>6.0} KB/s  {what}", rate / 1e3);
        Ok(rate)
    }
}
