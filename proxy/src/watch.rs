//! Where the topology comes from: a master's node map, or a fixed list. Only this replaces the topology.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch as signal},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use vrc_cluster::{
    client::{MasterConnection, MasterUrl, Quiet, TopologyWatch, WatchOptions, within},
    contract::{AGENT_BUS, AgentBusMessage, Epoch, NodeMap, PROXIES_KEY, TELLERS},
    topology::{PlacementOptions, Topology},
};

use crate::{
    config::{FixedNode, Source},
    vigil::Vigil,
};

/// Suspicions that may wait to be told; more than that says nothing new.
pub(crate) const SUSPICIONS_MAX: usize = 64;

/// How long a node that was told of is not told of again: the coordinator looks at once, and once is enough.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// When it is told by those who leave it to others to do so at once, half as much more or less: a map that shows it down is here by then.
const TELL_LATER: Duration = Duration::from_secs(1);
/// What the task is called that hears of nodes that cannot be used.
const REPORTER: &str = "what tells of nodes that cannot be used";
/// Longest that telling may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(3);

/// A worker could not use a node.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) node: Arc<str>,
    pub(crate) reason: String,
}

/// The topology as it is kept up to date.
pub(crate) struct Watched {
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    /// The epoch of `topology`; changes whenever that does.
    pub(crate) changes: signal::Receiver<Epoch>,
    /// What follows the master, if there is one.
    pub(crate) follower: Option<Arc<TopologyWatch>>,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

/// Starts to follow a source.
pub(crate) fn start(
    source: &Source,
    placement: &PlacementOptions,
    suspected: mpsc::Receiver<Suspicion>,
    own_name: String,
    vigil: &Vigil,
) -> Watched {
    match source {
        Source::Nodes(nodes) => fixed(nodes, placement, suspected, vigil),
        Source::Master(master) => followed(master, placement, suspected, own_name, vigil),
    }
}

/// The topology that a master's node map gives.
fn followed(
    master: &MasterUrl,
    placement: &PlacementOptions,
    suspected: mpsc::Receiver<Suspicion>,
    name: String,
    vigil: &Vigil,
) -> Watched {
    let options = WatchOptions { placement: placement.clone(), ..WatchOptions::default() };
    let watch = Arc::new(TopologyWatch::start(master.clone(), options));
    let (topology, changes) = (watch.shared(), watch.changes());
    let reporter = Reporter {
        connection: MasterConnection::new(master.clone(), TELL_TIMEOUT),
        name,
        topology: topology.clone(),
        told: HashMap::new(),
        later: Vec::new(),
        quiet: Quiet::default(),
    };
    let kept = watch.clone();
    let task = vigil.spawn(REPORTER, async move {
        reporter.run(suspected).await;
        drop(kept);
    });
    Watched { topology, changes, follower: Some(watch), tasks: vec![task] }
}

/// Tells the coordinator of nodes that could not be used.
struct Reporter {
    connection: MasterConnection,
    name: String,
    topology: Arc<ArcSwap<Topology>>,
    /// When each node was last told of.
    told: HashMap<Arc<str>, Instant>,
    /// What is told then, unless the map shows the node down by that time.
    later: Vec<(Instant, Suspicion)>,
    /// A node that only this proxy cannot reach is heard of for as long as that lasts.
    quiet: Quiet,
}

impl Reporter {
    async fn run(mut self, mut suspected: mpsc::Receiver<Suspicion>) {
        loop {
            let next = self.later.iter().map(|(at, _)| *at).min();
            tokio::select! {
                suspicion = suspected.recv() => match suspicion {
                    Some(suspicion) => self.hear(suspicion).await,
                    None => return,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.tell_what_is_due().await,
            }
        }
    }

    async fn hear(&mut self, suspicion: Suspicion) {
        let node = &suspicion.node;
        if self.told.get(node).is_some_and(|told| told.elapsed() < TELL_AGAIN_AFTER)
            || self.later.iter().any(|(_, later)| later.node == *node)
        {
            return;
        }
        log(&mut self.quiet, &suspicion);
        match within(TELL_TIMEOUT, self.proxies()).await {
            Ok(proxies) if !tells_at_once(proxies, rand::random()) => {
                self.later.push((Instant::now() + TELL_LATER.mul_f64(rand::random_range(0.5..=1.5)), suspicion));
            }
            Ok(_) => self.tell(&suspicion).await,
            Err(_) => {
                self.connection.give_up();
                self.tell(&suspicion).await;
            }
        }
    }

    async fn tell_what_is_due(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.later.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, suspicion) in due {
            let topology = self.topology.load_full();
            if topology.index_of(&suspicion.node).is_some_and(|index| topology.nodes()[usize::from(index)].up) {
                self.tell(&suspicion).await;
            }
        }
    }

    /// How many proxies there are.
    async fn proxies(&mut self) -> redis::RedisResult<u64> {
        redis::cmd("HLEN").arg(PROXIES_KEY).query_async(self.connection.get().await?).await
    }

    async fn tell(&mut self, suspicion: &Suspicion) {
        self.told.insert(suspicion.node.clone(), Instant::now());
        if let Err(error) = within(TELL_TIMEOUT, self.try_tell(suspicion)).await {
            tracing::debug!("the coordinator could not be told: {error}");
            self.connection.give_up();
        }
    }

    async fn try_tell(&mut self, suspicion: &Suspicion) -> redis::RedisResult<()> {
        let message = AgentBusMessage::NodeSuspect {
            name: suspicion.node.to_string(),
            reporter: self.name.clone(),
            reason: suspicion.reason.clone(),
        };
        let text = serde_json::to_string(&message).expect("a message of strings");
        redis::cmd("PUBLISH").arg(AGENT_BUS).arg(text).exec_async(self.connection.get().await?).await
    }
}

/// Whether one of so many tells of a node at once. The coordinator looks when it is told once, and it need not hear a thousand; but
/// where it sees nothing itself, one has to tell it. `chance` is drawn from 0 to 1.
fn tells_at_once(proxies: u64, chance: f64) -> bool {
    chance * proxies as f64 <= TELLERS as f64
}

/// Of a node, what is found first and then one line in a while.
fn log(quiet: &mut Quiet, Suspicion { node, reason }: &Suspicion) {
    if let Some(left_out) = quiet.may_say(node) {
        tracing::warn!(%node, "cannot be used: {reason}{left_out}");
    }
}

/// A topology that never changes.
fn fixed(nodes: &[FixedNode], placement: &PlacementOptions, mut suspected: mpsc::Receiver<Suspicion>, vigil: &Vigil) -> Watched {
    let map: NodeMap = nodes.iter().map(|node| (node.name.clone(), node.into())).collect();
    let topology = Arc::new(ArcSwap::from_pointee(Topology::build(&map, 0, placement, 0)));
    let (changed, changes) = signal::channel(0);
    // Nobody is there to be told, but the log has it.
    let task = vigil.spawn(REPORTER, async move {
        let _changed = changed;
        let mut quiet = Quiet::default();
        while let Some(suspicion) = suspected.recv().await {
            log(&mut quiet, &suspicion);
        }
    });
    Watched { topology, changes, follower: None, tasks: vec![task] }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use vrc_agent::spawn::{RedisProcess, SpawnOptions};
    use vrc_cluster::contract::Endpoint;

    use super::*;

    #[test]
    fn of_few_proxies_all_tell_at_once_and_of_many_about_as_many() {
        assert!((0..=TELLERS).all(|proxies| tells_at_once(proxies, 1.0)));
        for proxies in [100, 1_000, 10_000] {
            let tellers = (0..proxies).filter(|number| tells_at_once(proxies, (*number as f64 + 0.5) / proxies as f64)).count();
            assert_eq!(tellers as u64, TELLERS);
        }
    }

    #[tokio::test]
    async fn what_was_left_to_others_is_told_later_if_the_map_still_shows_it_up() {
        let master = RedisProcess::start(&SpawnOptions::default()).await.unwrap();
        let url = MasterUrl::new(master.host(), master.port()).unwrap();
        let client = url.client().await.unwrap();
        let mut heard = client.get_async_pubsub().await.unwrap();
        heard.subscribe(AGENT_BUS).await.unwrap();
        // Without a limit of the library's own: a busy machine is no error.
        let unlimited = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut commands = client.get_multiplexed_async_connection_with_config(&unlimited).await.unwrap();
        // So many that the chance to be among those who tell at once is next to nothing.
        for some in 0..40 {
            let mut fleet = redis::cmd("HSET");
            fleet.arg(PROXIES_KEY);
            (0..5_000).for_each(|number| _ = fleet.arg(some * 5_000 + number).arg(""));
            fleet.exec_async(&mut commands).await.unwrap();
        }

        let node = |name: &str| FixedNode { name: name.to_owned(), endpoint: Endpoint::new(name, 1), weight: 1.0 };
        let mut map: NodeMap = ["a", "b", "c"].map(|name| (name.to_owned(), (&node(name)).into())).into();
        map.get_mut("a").unwrap().up = false;
        let topology = Topology::build(&map, 1, &PlacementOptions::default(), 0);
        let mut reporter = Reporter {
            connection: MasterConnection::new(url, Duration::from_secs(60)),
            name: "proxy".to_owned(),
            topology: Arc::new(ArcSwap::from_pointee(topology)),
            told: HashMap::new(),
            later: Vec::new(),
            quiet: Quiet::default(),
        };
        let suspicion = |name: &str| Suspicion { node: name.into(), reason: "lost".to_owned() };
        for name in ["a", "b", "b"] {
            reporter.hear(suspicion(name)).await;
        }
        assert_eq!(reporter.later.len(), 2, "each once");
        reporter.later.iter_mut().for_each(|(at, _)| *at = Instant::now());
        reporter.tell_what_is_due().await;
        redis::cmd("DEL").arg(PROXIES_KEY).exec_async(&mut commands).await.unwrap();
        reporter.hear(suspicion("c")).await;
        let told: Vec<String> = heard.on_message().take(2).map(|message| message.get_payload().unwrap()).collect().await;
        assert!(told[0].contains(r#""name":"b""#) && told[1].contains(r#""name":"c""#), "{told:?}");
    }
}
