//! What happens as time goes by: what is overdue, idle clients, and what others see of the counters.

use super::{
    Core, Effect,
    backend::{Backend, State},
    client::Unblocking,
    private::Hold,
    session::{Pause, SessionId},
};
use crate::limits::{IDLE_LOOK_MS, IDLE_MS, SWEPT_A_TICK};

impl Core {
    /// Tells the time, in us since some start. To be called before what came at that time is handed over, once for all of it.
    pub(crate) fn set_now(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.now_ms = now_us / 1000;
        self.slow_now = 0;
        if self.settings.live.version() != self.live_version {
            self.follow_live_settings();
        }
    }

    /// Looks for what is overdue. To be called every [`crate::limits::TICK_MS`].
    pub(crate) fn tick(&mut self, now_us: u64) {
        self.set_now(now_us);
        let now_ms = self.now_ms;
        let deadline_ms = now_ms.saturating_sub(self.settings.timeout_ms);
        // A large value may be on its way for longer than that, but not where a new map waits for it: whoever counts on all having left the
        // former one waits no longer for this proxy than it may take to notice that a node is silent.
        let is_late = self.settled().is_none() && self.taken_up_ms < deadline_ms;
        let excused_from_ms = if is_late { self.taken_up_ms + 1 } else { 0 };
        for index in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[index as usize];
            let overdue = match backend.hold {
                Some(Hold::Waiting { until_ms, .. }) if backend.state == State::Up => until_ms < now_ms,
                _ => backend.has_timed_out(deadline_ms, excused_from_ms),
            };
            let incarnation = backend.incarnation;
            match backend.state {
                _ if overdue && backend.hold.is_some() => self.private_overdue(index),
                State::Up if overdue => {
                    self.effects.push(Effect::Disconnect { backend: index });
                    self.backend_lost(index, incarnation, &format!("no answer within {} ms", self.settings.timeout_ms));
                }
                State::Retired { until_ms } if until_ms < now_ms => {
                    self.effects.push(Effect::Disconnect { backend: index });
                    self.backend_lost(index, incarnation, "it left the cluster");
                }
                State::Idle | State::Connecting if overdue => {
                    let reason = backend.unreachable.as_ref().map_or("no connection yet", |(_, reason)| reason);
                    let text = format!(
                        "NODEDOWN node {} could not be reached within {} ms ({reason}); nothing was sent",
                        backend.node, self.settings.timeout_ms
                    );
                    let expired = backend.expire_unsent(deadline_ms);
                    self.fail_all(expired, &text);
                }
                _ => {}
            }
        }
        self.expire_client_pause();
        self.hear_out_the_stalled();
        self.unblock_overdue();
        self.put_back_again();
        self.cut_off_if_missed();
        self.expire_subscribes(deadline_ms);
        self.expire_broadcasts(deadline_ms);
        self.ask_again();
        self.ping_listeners();
        self.ask_the_silent();
        self.close_idle();
        self.sweep();
        self.publish();
    }

    /// Closes those who have said nothing for too long, if anybody wants that. Who listens or waits may be silent.
    fn close_idle(&mut self) {
        let idle_ms = self.live.idle_s_max.saturating_mul(1000);
        if idle_ms == 0 || self.now_ms < self.idle_looked_ms + IDLE_LOOK_MS {
            return;
        }
        self.idle_looked_ms = self.now_ms;
        for index in 0..self.sessions.len() as u32 {
            let session = &self.sessions[index as usize];
            let is_idle = session.open && self.now_ms.saturating_sub(session.active_ms) > idle_ms;
            if is_idle && session.subscriptions.is_none() && session.paused.is_none() && session.replies.pending() == 0 {
                self.effects.push(Effect::Close { session: self.session_id(index) });
            }
        }
    }

    /// Takes from clients that have said nothing for a while the memory that they do not need meanwhile; looks at some in each tick.
    fn sweep(&mut self) {
        for _ in 0..SWEPT_A_TICK.min(self.sessions.len()) {
            self.swept = (self.swept + 1) % self.sessions.len();
            let session = &mut self.sessions[self.swept];
            if session.active_ms.saturating_add(IDLE_MS) < self.now_ms {
                session.let_go();
            }
        }
    }

    /// The epoch of the topology, if whatever was sent by an earlier one has been answered, or will not be.
    pub(crate) fn settled(&mut self) -> Option<vrc_cluster::contract::Epoch> {
        if self.unsettled {
            let by_earlier_ms = self.taken_up_ms + 1;
            self.unsettled = self.backends.iter_mut().any(|backend| {
                // Whoever waits for data does so at the right node still, or was told.
                !matches!(backend.hold, Some(Hold::Waiting { .. })) && backend.is_overdue(by_earlier_ms)
            });
        }
        (!self.unsettled).then(|| self.topology.epoch())
    }

    /// Has others see how many clients there are and wait, if that has changed. To be called once what there was to write was written.
    pub(crate) fn publish_clients(&mut self) {
        if std::mem::take(&mut self.clients_changed) {
            self.publish();
        }
    }

    pub(super) fn publish(&mut self) {
        self.counters.backends_up = self.backends.iter().filter(|backend| backend.state == State::Up).count() as u64;
        self.counters.paused = self.paused.len() as u64;
        self.counters.tracking_keys = self.tracked_sizes.keys as u64;
        self.counters.tracking_items = self.tracked_sizes.items as u64;
        self.counters.tracking_prefixes = self.broadcasts.prefixes() as u64;
        // Whoever sees that a client is blocked may count on it that its command is at the node.
        let is_sent = |backend: &Backend| backend.state == State::Up && backend.output().is_empty();
        let waits = |backend: &&Backend| {
            matches!(backend.hold, Some(Hold::Waiting { unblocking, .. }) if unblocking != Some(Unblocking::Killed))
                && is_sent(backend)
        };
        let is_held_back = |id: &&SessionId| {
            let session = &self.sessions[id.index as usize];
            session.generation == id.generation && matches!(session.paused, Some(Pause::HeldBack { .. }))
        };
        let held_back = if self.client_pause.is_on() { self.paused.iter().filter(is_held_back).count() } else { 0 };
        self.counters.blocked = (self.backends.iter().filter(waits).count() + held_back) as u64;
        self.stats.publish(&self.counters);
    }
}
