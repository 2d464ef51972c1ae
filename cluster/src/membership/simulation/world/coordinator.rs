//! A coordinator, and what membership is told and wants done.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use super::{Command, Profile, Request, START_UNIX_MS, What, World, shown};
use crate::membership::{Action, Event, LinkId, Membership, Now, RequestId};

pub(super) struct Coordinator {
    /// Another life, another number: what was meant for the one before does not reach it.
    pub(super) life: u64,
    pub(super) membership: Membership,
    pub(super) running: bool,
    pub(super) paused_until_ms: u64,
    pub(super) cut_from_master_until_ms: u64,
    pub(super) clock_offset_ms: i64,
    pub(super) master: Option<u64>,
    pub(super) connected_at_ms: u64,
    pub(super) asked: BTreeSet<RequestId>,
    /// Its connection to the master's channels, which has a number.
    pub(super) bus: Option<u64>,
    pub(super) buses: u64,
    pub(super) links: HashMap<LinkId, (usize, String)>,
    pub(super) ticks: u64,
    /// Messages on one connection arrive in their order.
    pub(super) last_to_master_ms: u64,
    pub(super) last_from_master_ms: u64,
    pub(super) last_to_node_ms: HashMap<LinkId, u64>,
}

impl World {
    pub(super) fn coordinator(&mut self, number: usize) -> Coordinator {
        self.numbers += 1;
        let clock_offset_ms = if self.profile == Profile::WrongClocks { self.random.signed(100_000) } else { 0 };
        Coordinator {
            life: self.numbers,
            membership: Membership::new(format!("c{number}.{}", self.numbers), self.options.clone()),
            running: true,
            paused_until_ms: 0,
            cut_from_master_until_ms: 0,
            clock_offset_ms,
            master: None,
            connected_at_ms: 0,
            asked: BTreeSet::new(),
            bus: None,
            buses: 0,
            links: HashMap::new(),
            ticks: 0,
            last_to_master_ms: 0,
            last_from_master_ms: 0,
            last_to_node_ms: HashMap::new(),
        }
    }

    /// It has started.
    pub(super) fn begin(&mut self, number: usize) {
        self.after(self.now_ms, number, What::ConnectMaster);
        self.after(self.now_ms, number, What::BusBack);
        self.after(self.now_ms, number, What::Tick(0));
    }

    pub(super) fn step(&mut self, number: usize, event: Event) {
        let coordinator = &mut self.coordinators[number];
        if let Event::MapHeard { map, .. } | Event::MapRead { map, .. } = &event
            && !map.is_empty()
            // By which it is reckoned what may be forgotten.
            && self.profile != Profile::WrongClocks
        {
            self.checker.knows((number, coordinator.life), map);
        }
        if let Event::ProxiesRead { proxies, .. } = &event {
            self.key_homes.heard((number, coordinator.life), proxies);
        }
        let learns = matches!(event, Event::DeltaHeard(_) | Event::Wrote { .. }) && self.profile != Profile::WrongClocks;
        let unix_ms = START_UNIX_MS + self.now_ms as i64 + coordinator.clock_offset_ms;
        let now = Now { mono_ms: self.now_ms, unix_ms: unix_ms as u64 };
        let shown = self.logging.then(|| shown::event(&event));
        let before = learns.then(|| coordinator.membership.status(now).epoch);
        let actions = coordinator.membership.step(now, event);
        // One that could not apply a delta does not know what it says.
        let after = learns.then(|| coordinator.membership.status(now).epoch);
        if let Some(epoch) = after.filter(|_| after != before) {
            self.checker.knows_map_of((number, coordinator.life), epoch);
        }
        coordinator.ticks += 1;
        let (ticks, deadline_ms) = (coordinator.ticks, coordinator.membership.deadline_ms(now));
        assert!(deadline_ms > self.now_ms);
        if let Some(shown) = shown
            && !actions.iter().all(|action| matches!(action, Action::Ping { .. } | Action::Lease { .. }))
        {
            let actions: Vec<String> = actions.iter().map(shown::action).collect();
            self.note(|| format!("c{number} {shown:.300} -> {}", actions.join(", ")));
        }
        let late_ms = self.random.between(0, self.paces.tick_late_ms);
        self.after(deadline_ms + late_ms, number, What::Tick(ticks));
        for action in actions {
            self.act(number, action);
        }
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Connect { name, link, .. } => {
                // Of another name there is none, and nobody answers.
                let Some(node) = self.nodes.iter().position(|node| node.name == name) else { return };
                let at_ms = self.now_ms + self.latency();
                // Known from here on, so that its end can be told.
                self.coordinators[number].links.insert(link, (node, String::new()));
                self.after(at_ms, number, What::Connecting { node, link });
            }
            Action::Disconnect { link, .. } => _ = self.coordinators[number].links.remove(&link),
            Action::Ping { link, .. } => self.tell(number, link, Command::Ping),
            Action::Flush { link, flush, scope, .. } => {
                self.tell(number, link, Command::Flush { flush, scope, sent_ms: self.now_ms })
            }
            Action::Lease { request, instance, term, ttl_ms } => {
                self.ask(number, request, Request::Lease { request, instance, term, ttl_ms });
            }
            Action::ReadMap { request } => self.ask(number, request, Request::Read { request }),
            Action::Write(write) => {
                let heard = Rc::new(self.key_homes.heard_by((number, self.coordinators[number].life)));
                self.ask(number, write.request, Request::Write { write, sent_ms: self.now_ms, heard });
            }
            Action::Release { token } => self.ask(number, 0, Request::Release { token }),
            Action::ReadProxies { request } => self.ask(number, request, Request::ReadProxies { request }),
            Action::DropProxies { ids } => self.ask(number, 0, Request::DropProxies { ids }),
            Action::OrderPurge { token, orders, .. } => self.ask(number, 0, Request::OrderPurge { token, orders }),
            Action::Answer { .. } | Action::TellNotes { .. } | Action::Notice(_) => {}
        }
    }
}
