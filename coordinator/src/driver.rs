//! Feeds membership with what happens, and carries out what it says. Decides nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};
use vrc_cluster::{
    client::Quiet,
    membership::{Action, Event, Level, LinkId, Membership, Notice, Now, Status},
    topology::PlacementKind,
};

use crate::{
    Config,
    bus::Bus,
    master::{Answer, Answers, Master, Request},
    node::{Command, Link},
};

/// Events that wait for the driver. Whoever brings more waits with it.
const EVENTS_MAX: usize = 1_024;
/// Answers to operators that wait for the master: far more than there are operators. There is one for each wish that is heard, whoever says it.
const ANSWERS_MAX: usize = 1_024;
/// Commands that wait for a node: membership has one PING and one flush under way.
const COMMANDS_MAX: usize = 16;
/// Events taken in before the next deadline is computed.
const BATCH_MAX: usize = 256;
/// The state is shown at most this often: making it takes time that grows with the number of nodes, and when one of many is lost an answer
/// of each of the others is waited for.
const SHOWN_EVERY: Duration = Duration::from_millis(20);

pub(crate) struct Driver {
    membership: Membership,
    started: Instant,
    coordination_db: i64,
    guest_databases: bool,
    master_timeout: Duration,
    events: mpsc::Receiver<Event>,
    event_sender: mpsc::Sender<Event>,
    /// Has no bound of its own, since none may be lost: whoever asks waits for the answer. Membership has one of a kind under way, and what
    /// nobody answers it wants a few times a second at most, of a master that answers.
    requests: mpsc::UnboundedSender<Request>,
    answers: mpsc::Sender<Answer>,
    links: HashMap<LinkId, OpenLink>,
    status: watch::Sender<Status>,
    quiet: Quiet,
    /// Set when the lease is being given up.
    released: Option<oneshot::Receiver<()>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

struct OpenLink {
    name: String,
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Driver {
    /// Starts the tasks that talk to the master.
    pub(crate) fn new(config: &Config, status: watch::Sender<Status>) -> Self {
        let coordination_db = config.master.database();
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (requests, request_receiver) = mpsc::unbounded_channel();
        let (answers, answer_receiver) = mpsc::channel(ANSWERS_MAX);
        let master = Master {
            url: config.master.clone(),
            timeout: config.master_timeout,
            legacy_bus: config.legacy_bus,
            placement: if config.guest_databases { PlacementKind::Slots } else { PlacementKind::Legacy },
            requests: request_receiver,
            answers: Answers::new(answer_receiver),
            events: event_sender.clone(),
        };
        let bus = Bus {
            url: config.master.clone(),
            timeout: config.master_timeout,
            ping_interval: config.ping_interval,
            events: event_sender.clone(),
        };
        let instance = format!("{:016x}", rand::random::<u64>());
        info!(%instance, "coordinator started; the lease in the master decides who leads");
        Driver {
            membership: Membership::new(instance, config.options()),
            started: Instant::now(),
            coordination_db,
            guest_databases: config.guest_databases,
            master_timeout: config.master_timeout,
            events,
            event_sender,
            requests,
            answers,
            links: HashMap::new(),
            status,
            quiet: Quiet::default(),
            released: None,
            _tasks: [AbortOnDropHandle::new(tokio::spawn(master.run())), AbortOnDropHandle::new(tokio::spawn(bus.run()))],
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        // When the state was shown last, and whether it may be another by now.
        let (mut shown_at, mut is_stale) = (None::<Instant>, false);
        loop {
            let now = self.now();
            let pause = Duration::from_millis(self.membership.deadline_ms(now).saturating_sub(now.mono_ms));
            let until_shown = shown_at.map_or(Duration::ZERO, |at| SHOWN_EVERY.saturating_sub(at.elapsed()));
            let pause = if is_stale { pause.min(until_shown) } else { pause };
            let event = tokio::select! {
                () = shutdown.cancelled() => break,
                // There is always a sender: our own.
                Some(event) = self.events.recv() => event,
                () = sleep(pause) => Event::Tick,
            };
            self.step(event);
            for _ in 0..BATCH_MAX {
                let Ok(event) = self.events.try_recv() else { break };
                self.step(event);
            }
            is_stale |= self.membership.take_touched();
            if is_stale && shown_at.is_none_or(|at| at.elapsed() >= SHOWN_EVERY) {
                (shown_at, is_stale) = (Some(Instant::now()), false);
                let status = self.membership.status(self.now());
                self.status.send_if_modified(|shown| {
                    let is_news = *shown != status;
                    *shown = status;
                    is_news
                });
            }
        }
        self.step(Event::Shutdown);
        self.status.send_replace(self.membership.status(self.now()));
        if let Some(released) = self.released.take() {
            // If the master does not answer, the lease runs out by itself.
            let _ = tokio::time::timeout(self.master_timeout, released).await;
        }
    }

    fn now(&self) -> Now {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
        Now { mono_ms: ms(self.started.elapsed()), unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms) }
    }

    fn step(&mut self, event: Event) {
        if let Event::LinkLost { link, .. } = &event {
            self.links.remove(link);
        }
        for action in self.membership.step(self.now(), event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { name, link, endpoint } => {
                let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
                let (coordination_db, guest_databases) = (self.coordination_db, self.guest_databases);
                let task = Link { name: name.clone(), link, endpoint, coordination_db, guest_databases };
                let task = tokio::spawn(task.run(receiver, self.event_sender.clone())).abort_handle();
                self.links.insert(link, OpenLink { name, commands, task });
            }
            Action::Disconnect { link, .. } => _ = self.links.remove(&link),
            Action::Ping { link, .. } => self.tell(link, Command::Ping),
            Action::Flush { link, flush, scope, .. } => self.tell(link, Command::Flush { flush, scope }),
            Action::Lease { request, instance, term, ttl_ms } => {
                self.ask(Request::Lease { request, instance, term, ttl_ms });
            }
            Action::ReadMap { request } => self.ask(Request::Read { request }),
            Action::Write(write) => self.ask(Request::Write(write)),
            Action::ReadProxies { request } => self.ask(Request::ReadProxies { request }),
            Action::DropProxies { ids } => self.ask(Request::DropProxies { ids }),
            Action::OrderPurge { token, orders, forgotten } => self.ask(Request::OrderPurge { token, orders, forgotten }),
            Action::Release { token } => {
                let (done, released) = oneshot::channel();
                self.released = Some(released);
                self.ask(Request::Release { token, done });
            }
            Action::TellNotes { token, notes, kept_ms } => self.ask(Request::TellNotes { token, notes, kept_ms }),
            Action::Answer { id, answer } => self.say(Answer { id, answer }),
            Action::Notice(notice) => self.log(&notice),
        }
    }

    fn tell(&mut self, link: LinkId, command: Command) {
        let Some(open) = self.links.get(&link) else { return };
        if open.commands.try_send(command).is_err() {
            // It ended, and its last word is on its way; or it does nothing of what it is told, which a PING will show.
            warn!(node = open.name, "a connection takes no more commands");
        }
    }

    fn ask(&self, request: Request) {
        // Fails only when the task has ended that talks to the master, which it does after us.
        let _ = self.requests.send(request);
    }

    fn say(&mut self, answer: Answer) {
        if self.answers.try_send(answer).is_err() {
            // No operators, but some program gone wild. Who waits for it says the wish again.
            if let Some(left_out) = self.quiet.may_say("answers") {
                warn!("more than {ANSWERS_MAX} answers to wishes wait for the master; one is left out{left_out}");
            }
        }
    }

    fn log(&mut self, notice: &Notice) {
        match (notice.repeats(), notice.level()) {
            (Some(kind), _) => {
                if let Some(left_out) = self.quiet.may_say(&kind) {
                    warn!("{notice}{left_out}");
                }
            }
            (None, Level::Info) => info!("{notice}"),
            (None, Level::Warn) => warn!("{notice}"),
        }
    }
}
