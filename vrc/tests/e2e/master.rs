//! The master dies, hangs, or is cut off: whoever uses the cluster notices nothing.

use rustix::process::Signal;
use vrc_cluster::contract::{Confirmation, EPOCH_KEY, LEASE_KEY, PROXIES_KEY};

use crate::support::{Cluster, Fleet, LONG, Load, PATIENT, Process, RedisServer, Relay, Way, connect, eventually};

/// Replies after which every key was read and written.
const ENOUGH: u64 = 5_000;

/// A cluster under load that reaches its master through a relay, and has another coordinator.
struct Scene {
    cluster: Cluster,
    standby: Process,
    relay: Relay,
    load: Load,
}

/// Name, whether it is up, and its process.
type Standing = Vec<(String, bool, Option<String>)>;

impl Scene {
    fn start() -> Self {
        let master = RedisServer::start();
        let relay = Relay::start(master.port());
        let url = format!("redis://127.0.0.1:{}", relay.port());
        let cluster = Cluster::start_at(&Fleet { proxies: 2, ..Fleet::default() }, master, &url);
        let standby = Process::vrc(&[&["coordinator", "--master", &url], &PATIENT[..]].concat());
        // It knows the map that it would have to write back.
        standby.line_with("stands by", LONG);
        let ports: Vec<u16> = cluster.proxies.iter().map(|proxy| proxy.port).collect();
        let load = Load::start(&ports, 2);
        load.await_replies(ENOUGH);
        Scene { cluster, standby, relay, load }
    }

    fn standing(&self) -> Standing {
        let topology = self.cluster.topology();
        topology.nodes().iter().map(|node| (node.name.to_string(), node.up, node.run_id.clone())).collect()
    }

    fn epoch(&self) -> u64 {
        redis::cmd("GET").arg(EPOCH_KEY).query(&mut connect(self.cluster.master.port())).expect("an epoch")
    }

    /// Plays a fault that lasts until all have lost the master, and waits until they have it back.
    fn while_all_miss_it(&mut self, begin: impl Fn(&mut Self), end: impl Fn(&mut Self)) {
        // A proxy is the last to notice. That a coordinator has lost it is not said each time, but that it is back is.
        let count =
            |outputs: Vec<String>, text: &str| outputs.iter().map(|output| output.matches(text).count()).collect::<Vec<_>>();
        let proxies = |scene: &Self| scene.cluster.proxies.iter().map(|proxy| proxy.process.output()).collect::<Vec<_>>();
        let lost = |scene: &Self| count(proxies(scene), "cannot follow the master");
        let back = |scene: &Self| {
            let coordinators = [&scene.cluster.coordinator, &scene.standby].map(Process::output);
            count([proxies(scene), coordinators.to_vec()].concat(), "the master answers again")
        };
        let all_grew = |now: &[usize], before: &[usize]| now.iter().zip(before).all(|(now, before)| now > before).then_some(());
        let (lost_before, back_before) = (lost(self), back(self));
        begin(self);
        eventually("proxies that miss the master", LONG, || all_grew(&lost(self), &lost_before));
        self.load.await_replies(ENOUGH);
        end(self);
        eventually("proxies and coordinators that have it back", LONG, || all_grew(&back(self), &back_before));
    }

    /// The map stands in the master as it was before, one leads, and the proxies are back, too.
    fn await_restored(&self, nodes: &Standing, epoch: u64) {
        let mut master = connect(self.cluster.master.port());
        eventually("a map that stands as before, a leader, and proxies that go by it", LONG, || {
            let read = redis::pipe().get(EPOCH_KEY).get(LEASE_KEY).hvals(PROXIES_KEY).query(&mut master);
            let (now, lease, proxies): (Option<u64>, Option<String>, Vec<String>) = read.expect("epoch, lease and confirmations");
            let goes_by_it = |text: &String| text.parse().is_ok_and(|said: Confirmation| Some(said.epoch) == now);
            let all_do = proxies.iter().filter(|text| goes_by_it(text)).count() == self.cluster.proxies.len();
            (now? >= epoch && lease.is_some() && all_do && self.standing() == *nodes).then_some(())
        });
        self.load.await_replies(ENOUGH);
    }

    /// Nobody has noticed anything, and what happens from now on is known to all.
    fn end(mut self, nodes: &Standing) {
        let tally = self.load.finish();
        assert!(tally.errors.is_empty() && tally.stale.is_empty(), "{tally:?}");
        assert_eq!(tally.missing, 0, "nothing had to be flushed");
        self.cluster.nodes.get_mut(&nodes[0].0).unwrap().redis.kill();
        self.cluster.await_up(nodes.len() - 1);
        for proxy in &self.cluster.proxies {
            self.cluster.await_served(proxy, LONG);
        }
    }
}

#[test]
fn a_master_that_restarts_empty_is_not_noticed() {
    let mut scene = Scene::start();
    let nodes = scene.standing();
    // Back at once, and back when everybody has lost it.
    let epoch = scene.epoch();
    scene.cluster.master.kill();
    scene.cluster.master.restart();
    scene.await_restored(&nodes, epoch);
    let epoch = scene.epoch();
    scene.while_all_miss_it(|scene| scene.cluster.master.kill(), |scene| scene.cluster.master.restart());
    scene.await_restored(&nodes, epoch);
    scene.end(&nodes);
}

#[test]
fn a_master_that_hangs_is_not_noticed() {
    let mut scene = Scene::start();
    let (nodes, epoch) = (scene.standing(), scene.epoch());
    let signal = |signal| move |scene: &mut Scene| scene.cluster.master.signal(signal);
    scene.while_all_miss_it(signal(Signal::STOP), signal(Signal::CONT));
    scene.await_restored(&nodes, epoch);
    scene.end(&nodes);
}

#[test]
fn a_master_that_is_cut_off_is_not_noticed() {
    let mut scene = Scene::start();
    let nodes = scene.standing();
    // What is said arrives and only the answer does not, or the other way round, or neither.
    for ways in [&[Way::ToClient][..], &[Way::ToServer], &[Way::ToClient, Way::ToServer]] {
        let epoch = scene.epoch();
        scene.while_all_miss_it(|scene| scene.relay.hold(ways), |scene| scene.relay.release());
        scene.await_restored(&nodes, epoch);
    }
    for _ in 0..20 {
        scene.relay.sever();
        scene.load.await_replies(ENOUGH / 20);
    }
    scene.await_restored(&nodes, scene.epoch());
    scene.end(&nodes);
}
