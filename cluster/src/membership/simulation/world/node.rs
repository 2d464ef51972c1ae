//! Nodes and their agents.

use serde_json::Map;

use super::{What, World, proxy::Store};
use crate::{
    contract::{AgentBusMessage, Announcement, Endpoint, Epoch},
    membership::{Event, FlushId, LinkId, Loss, Scope, Server, simulation::reads::KEYS},
};

pub(super) struct Node {
    pub(super) name: String,
    pub(super) run_id: Option<String>,
    /// What answers to coordinators in its place.
    stranger: Option<String>,
    pub(super) paused_until_ms: u64,
    pub(super) cut_until_ms: Vec<u64>,
    /// It removes what it was told to, and does nothing else meanwhile.
    busy_until_ms: u64,
    /// When all connections to it were last cut.
    pub(super) reset_at_ms: u64,
    pub(super) silent_until_ms: u64,
    /// Until then its agent waits for the answer of a master that hangs, and says nothing more.
    unanswered_until_ms: u64,
    pub(super) store: Store,
    /// The last order to purge that was carried out, and on which process.
    pub(super) purged: Option<(String, Epoch)>,
    /// The one that is being carried out.
    pub(super) purging: Option<(String, Epoch)>,
    /// The keys' homes when that began, where a rule is broken.
    pub(super) purging_by: Option<[Option<String>; KEYS]>,
    pub(super) purges: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Command {
    Ping,
    Flush { flush: FlushId, scope: Scope, sent_ms: u64 },
}

impl Node {
    pub(super) fn new(number: usize, run_id: String, coordinators: usize) -> Self {
        Node {
            name: format!("n{number}:1"),
            run_id: Some(run_id),
            stranger: None,
            paused_until_ms: 0,
            cut_until_ms: vec![0; coordinators],
            busy_until_ms: 0,
            reset_at_ms: 0,
            silent_until_ms: 0,
            unanswered_until_ms: 0,
            store: Store::default(),
            purged: None,
            purging: None,
            purging_by: None,
            purges: 0,
        }
    }

    /// Until then its redis does nothing of what it is told.
    pub(super) fn held_until_ms(&self) -> u64 {
        self.paused_until_ms.max(self.busy_until_ms)
    }
}

impl World {
    pub(super) fn new_process(&mut self) -> String {
        self.numbers += 1;
        format!("run{}", self.numbers)
    }

    pub(super) fn restart(&mut self, node: usize) {
        if self.nodes[node].run_id.is_none() {
            let run_id = self.new_process();
            self.note(|| format!("n{node} starts as {run_id}"));
            self.nodes[node].run_id = Some(run_id);
            self.nodes[node].busy_until_ms = 0;
            self.may_lose_keys(node);
            // Some find what the one before had saved.
            if self.random.below(3) > 0 {
                self.nodes[node].store = Store::default();
                self.key_homes.emptied(node as u8);
            }
        }
    }

    /// Coordinators that look for the node find another redis from now on: its host's name leads there, say.
    pub(super) fn stranger_comes(&mut self, node: usize) {
        let run_id = self.new_process();
        self.note(|| format!("{run_id} answers in the place of n{node}"));
        self.checker.is_nobodys(&run_id);
        self.nodes[node].stranger = Some(run_id);
        self.reset_links(|_, other| other == node);
    }

    pub(super) fn stranger_goes(&mut self, node: usize) {
        self.nodes[node].stranger = None;
        self.reset_links(|_, other| other == node);
    }

    pub(super) fn connecting(&mut self, number: usize, node: usize, link: LinkId) {
        if !self.coordinators[number].links.contains_key(&link) {
            return;
        }
        let name = self.nodes[node].name.clone();
        let held_ms = self.nodes[node].held_until_ms().max(self.nodes[node].cut_until_ms[number]);
        let event = match self.nodes[node].stranger.as_ref().or(self.nodes[node].run_id.as_ref()) {
            // It is waited for until the coordinator has had enough.
            _ if held_ms > self.now_ms => return self.after(held_ms, number, What::Connecting { node, link }),
            None => {
                self.coordinators[number].links.remove(&link);
                Event::LinkLost { name, link, reason: "connection refused".to_owned(), loss: Loss::Refused }
            }
            Some(run_id) => {
                let run_id = run_id.clone();
                self.coordinators[number].links.insert(link, (node, run_id.clone()));
                Event::LinkOpened { name, link, server: Server { run_id, version: None, uptime_ms: None } }
            }
        };
        self.step(number, event);
    }

    pub(super) fn tell(&mut self, number: usize, link: LinkId, command: Command) {
        let Some((node, run_id)) = self.coordinators[number].links.get(&link).cloned() else { return };
        let at_ms = self.now_ms + self.latency();
        let last_ms = self.coordinators[number].last_to_node_ms.entry(link).or_default();
        *last_ms = at_ms.max(*last_ms);
        let at_ms = *last_ms;
        self.after(at_ms, number, What::AtNode { node, link, run_id, command });
    }

    pub(super) fn at_node(&mut self, number: usize, life: u64, node: usize, link: LinkId, run_id: String, command: Command) {
        let is_stranger = self.nodes[node].stranger.as_ref() == Some(&run_id);
        if !is_stranger && self.nodes[node].run_id.as_ref() != Some(&run_id) {
            return;
        }
        let held_ms = self.nodes[node].held_until_ms().max(self.nodes[node].cut_until_ms[number]);
        if held_ms > self.now_ms {
            let what = What::AtNode { node, link, run_id, command };
            self.queue.push(held_ms, (number, life, what));
            return;
        }
        let name = self.nodes[node].name.clone();
        let event = match command {
            Command::Ping => Event::Ponged { name, link },
            Command::Flush { flush, .. } if self.nodes_fail() && self.random.below(20) == 0 => {
                Event::FlushFailed { name, flush, reason: "MISCONF".to_owned() }
            }
            Command::Flush { flush, scope, sent_ms } if is_stranger => {
                let outcome = self.checker.flushed(&name, &run_id, scope, sent_ms, self.now_ms);
                self.check(outcome);
                Event::Flushed { name, flush }
            }
            Command::Flush { flush, scope, sent_ms } => {
                let outcome = self.checker.flushed(&name, &run_id, scope, sent_ms, self.now_ms);
                // A master that forgets whose the lease is may give it to another while the one who has it does not look.
                let lease_was_kept = self.master.died_at_ms.is_none_or(|at_ms| at_ms + self.options.lease_ms < sent_ms);
                if lease_was_kept {
                    self.check(outcome);
                }
                self.nodes[node].store.flush(scope);
                if !matches!(scope, Scope::Guests | Scope::GuestsButCoordination) {
                    self.key_homes.emptied(node as u8);
                }
                self.may_lose_keys(node);
                self.flush_takes(node);
                Event::Flushed { name, flush }
            }
        };
        if self.coordinators[number].life == life {
            let at_ms = self.now_ms.max(self.nodes[node].busy_until_ms) + self.latency();
            self.after(at_ms, number, What::NodeAnswers { link, event });
        }
    }

    /// Nobody sees anything of the node before it has removed all. What has been emptied is not shown up before that is known, and much may
    /// happen meanwhile.
    fn flush_takes(&mut self, node: usize) {
        if self.nodes_fail() && self.random.below(self.paces.flush_one_in) == 0 {
            self.nodes[node].busy_until_ms = self.now_ms + self.random.below(self.paces.flush_ms);
        }
    }

    /// What is done to a node just now may cost it keys.
    pub(super) fn may_lose_keys(&mut self, node: usize) {
        self.reads.loses(node as u8, self.now_ms);
    }

    pub(super) fn link_reset(&mut self, number: usize, link: LinkId) {
        if let Some((node, _)) = self.coordinators[number].links.remove(&link) {
            let name = self.nodes[node].name.clone();
            self.step(number, Event::LinkLost { name, link, reason: "reset".to_owned(), loss: Loss::Broken });
        }
    }

    pub(super) fn announce(&mut self, node: usize) {
        let next_ms = self.now_ms + self.paces.announce_ms + self.random.between(0, self.paces.announce_ms / 3);
        self.after(next_ms, 0, What::Announce { node });
        let Node { name, run_id: Some(run_id), silent_until_ms, paused_until_ms, .. } = &self.nodes[node] else { return };
        let held_ms = self.nodes[node].unanswered_until_ms.max(*silent_until_ms).max(*paused_until_ms);
        if !self.master.up || held_ms > self.now_ms {
            return;
        }
        let purged = self.nodes[node].purged.as_ref().filter(|(of, _)| of == run_id).map(|(_, order)| *order);
        let (host, port) = name.split_once(':').expect("host:port");
        let mut announcement = announcement(Endpoint::new(host, port.parse().expect("a port")));
        // Old agents do not say.
        announcement.run_id = (node != 0).then(|| run_id.clone());
        announcement.purged = purged;
        self.say(AgentBusMessage::NodeUp { node: announcement });
        self.nodes[node].unanswered_until_ms = self.master.hung_until_ms;
        if self.master.hung_until_ms <= self.now_ms {
            self.obey(node);
        }
    }

    pub(super) fn reset_links(&mut self, wanted: impl Fn(usize, usize) -> bool) {
        for number in 0..self.coordinators.len() {
            let links: Vec<(LinkId, usize)> =
                self.coordinators[number].links.iter().map(|(link, (node, _))| (*link, *node)).collect();
            let mut links: Vec<_> = links.into_iter().filter(|(_, node)| wanted(number, *node)).collect();
            links.sort_unstable();
            for (link, node) in links {
                // A reset does not come through a cut.
                let at_ms = (self.now_ms + self.latency()).max(self.nodes[node].cut_until_ms[number]);
                self.after(at_ms, number, What::LinkReset { link });
            }
        }
    }

    /// Something that no agent of now would say: an announcement that makes no sense, or the death of a process that is long gone.
    pub(super) fn say_nonsense(&mut self, node: usize) {
        let name = self.nodes[node].name.clone();
        let announcement = |name: &str, weight: f64, port: u16| Announcement {
            weight,
            name: Some(name.to_owned()),
            ..announcement(Endpoint::new("n", port))
        };
        let message = match self.random.below(4) {
            0 => AgentBusMessage::NodeUp { node: announcement("", 1.0, 1) },
            1 => AgentBusMessage::NodeUp { node: announcement(&name, f64::NAN, 1) },
            2 => AgentBusMessage::NodeUp { node: announcement("\n", 1.0, 1) },
            _ => AgentBusMessage::NodeDown { name, run_id: Some("run0".to_owned()), reason: "died".to_owned() },
        };
        self.note(|| format!("somebody says {message:?}"));
        self.say(message);
    }
}

fn announcement(config: Endpoint) -> Announcement {
    Announcement { config, weight: 1.0, name: None, run_id: None, version: None, purged: None, other: Map::new() }
}
