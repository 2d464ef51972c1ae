//! Tells the coordinator, through the master, what is seen of the node.
//!
//! Messages on a pub/sub channel may be lost, and nothing depends on a single one: what was said last is said again after each
//! reconnect, and a node that answers is announced again and again.

use std::time::Duration;

use redis::{Client, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use vrc_cluster::{
    client::{Backoff, connect},
    contract::{AGENT_BUS, AgentBusMessage},
};

use crate::{config::Config, leaving, link::Lifeline, purger::Purged, watcher::Sighting};

/// A thousand agents that lost the master together are back within this, evenly spread, if it is.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the master was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The last sighting that was announced, over whichever connection.
    pub(crate) up: Option<Sighting>,
    /// Why nothing can be said to it now.
    pub(crate) trouble: Option<String>,
}

/// Announces what is `seen` until `shutdown`, then says good-bye, which takes no longer than the configured time.
pub(crate) async fn announce(
    config: &Config,
    seen: watch::Receiver<Sighting>,
    purged: watch::Receiver<Option<Purged>>,
    told: watch::Sender<Told>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut announcer = Announcer { config, seen, purged, told, publisher: None, unheard: 0 };
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = announcer.keep_announcing() => match never {},
    }
    match timeout(config.leave_timeout, announcer.leave()).await {
        Ok(Ok(0)) => {}
        Ok(Ok(_)) => announcer.await_unused().await,
        Ok(Err(error)) => warn!(master = %config.master, %error, "could not say that the node leaves"),
        Err(_) => warn!(master = %config.master, "could not say that the node leaves within {:?}", config.leave_timeout),
    }
    Ok(())
}

struct Announcer<'a> {
    config: &'a Config,
    seen: watch::Receiver<Sighting>,
    purged: watch::Receiver<Option<Purged>>,
    told: watch::Sender<Told>,
    publisher: Option<MultiplexedConnection>,
    /// How many announcements in a row reached no coordinator.
    unheard: u32,
}

impl Announcer<'_> {
    async fn keep_announcing(&mut self) -> std::convert::Infallible {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut complaint = None;
        loop {
            match self.connect().await {
                Ok((client, mut lifeline)) => {
                    info!(master = %self.config.master, "connected to the master");
                    (complaint, self.unheard) = (None, 0);
                    self.told.send_modify(|told| told.trouble = None);
                    backoff.reset();
                    if let Err(error) = self.announce_over(&client, &mut lifeline).await {
                        self.told.send_modify(|told| told.trouble = Some(error.to_string()));
                        warn!(master = %self.config.master, %error, "lost the master");
                    }
                }
                Err(error) => {
                    let reason = error.to_string();
                    self.told.send_modify(|told| told.trouble = Some(reason.clone()));
                    if complaint.as_ref() != Some(&reason) {
                        warn!(master = %self.config.master, reason, "cannot reach the master, retrying");
                        complaint = Some(reason);
                    }
                }
            }
            self.publisher = None;
            sleep(backoff.pause()).await;
        }
    }

    async fn connect(&mut self) -> RedisResult<(Client, Lifeline)> {
        let client = self.config.master.client().await?;
        let mut lifeline = Lifeline::open(&client, self.config.connect_timeout).await?;
        // A master that accepts connections and no more must not reset the pauses.
        lifeline.ping(self.config.connect_timeout).await?;
        self.publisher = Some(connect(&client, self.config.connect_timeout).await?);
        Ok((client, lifeline))
    }

    /// Returns when the connection is lost, or is to be left.
    async fn announce_over(&mut self, client: &Client, lifeline: &mut Lifeline) -> RedisResult<()> {
        let mut next = Instant::now();
        loop {
            let sighting = self.seen.borrow_and_update().clone();
            self.purged.mark_unchanged();
            if let Some(message) = self.message(&sighting) {
                self.say(&message).await?;
                if matches!(sighting, Sighting::Up { .. }) {
                    self.told.send_modify(|told| told.up = Some(sighting.clone()));
                }
            }
            next = next.max(Instant::now()) + self.config.announce_interval;
            loop {
                tokio::select! {
                    () = lifeline.lost() => return Err(redis::RedisError::from((redis::ErrorKind::Io, "connection lost"))),
                    () = self.config.master.moved(client) => {
                        return Err(std::io::Error::other("another redis is the master now").into());
                    }
                    // Fails only when nobody watches any more, and then this is about to be dropped.
                    Ok(()) = self.seen.changed() => break,
                    Ok(()) = self.purged.changed() => break,
                    () = tokio::time::sleep_until(next) => {
                        // A death is said once; afterwards it is the coordinator's to find out what it wants to know.
                        if matches!(sighting, Sighting::Up { .. }) {
                            break;
                        }
                        next = Instant::now() + self.config.announce_interval;
                    }
                }
            }
        }
    }

    fn message(&self, sighting: &Sighting) -> Option<AgentBusMessage> {
        match sighting.clone() {
            Sighting::Nothing => None,
            Sighting::Up { run_id, version } => {
                let purged = self.purged.borrow().clone().filter(|purged| Some(&purged.run_id) == run_id.as_ref());
                let mut node = self.config.announcement(run_id, version);
                node.purged = purged.map(|purged| purged.order);
                Some(AgentBusMessage::NodeUp { node })
            }
            Sighting::Down { run_id, reason } => {
                Some(AgentBusMessage::NodeDown { name: self.config.node_name(), run_id, reason })
            }
        }
    }

    /// Returns how many heard it.
    async fn say(&mut self, message: &AgentBusMessage) -> RedisResult<u64> {
        let Some(publisher) = &mut self.publisher else {
            return Err(redis::RedisError::from((redis::ErrorKind::Io, "not connected")));
        };
        let text = serde_json::to_string(message)
            .map_err(|error| redis::RedisError::from((redis::ErrorKind::Client, "cannot write a message", error.to_string())))?;
        let hearers: u64 = redis::cmd("PUBLISH").arg(AGENT_BUS).arg(text).query_async(publisher).await?;
        debug!(hearers, "said {}", kind(message));
        match message {
            AgentBusMessage::NodeUp { .. } if hearers == 0 => self.unheard = self.unheard.saturating_add(1),
            _ if hearers > 0 => self.unheard = 0,
            _ => return Ok(hearers),
        }
        // The first may come before the coordinator of a cluster that is just starting.
        if self.unheard == 2 {
            warn!(master = %self.config.master, "no coordinator is subscribed to the agents' channel");
        }
        Ok(hearers)
    }

    /// Says that the node leaves, over a new connection if there is none. Returns how many heard it; 0 if there was nothing to say.
    async fn leave(&mut self) -> RedisResult<u64> {
        let sighting = self.seen.borrow().clone();
        if sighting == Sighting::Nothing {
            return Ok(0);
        }
        let run_id = sighting.run_id().cloned();
        let message = AgentBusMessage::NodeLeaving { name: self.config.node_name(), run_id };
        if self.publisher.is_some()
            && let Ok(hearers) = self.say(&message).await
        {
            return Ok(hearers);
        }
        self.publisher = Some(connect(&self.config.master.client().await?, self.config.connect_timeout).await?);
        self.say(&message).await
    }

    /// Until the node can be stopped without anybody noticing, as far as that can be known in time.
    async fn await_unused(&mut self) {
        let (Some(master), limit) = (&mut self.publisher, self.config.leave_wait) else { return };
        if limit.is_zero() || !matches!(*self.seen.borrow(), Sighting::Up { .. }) {
            return;
        }
        match timeout(limit, leaving::wait(master, &self.config.node_name())).await {
            Ok(Ok(())) => info!(node = %self.config.node, "nobody uses it any more"),
            Ok(Err(error)) => warn!(node = %self.config.node, %error, "cannot tell whether it is still used"),
            Err(_) => warn!(node = %self.config.node, "it may still be used after {limit:?}"),
        }
    }
}

fn kind(message: &AgentBusMessage) -> &'static str {
    match message {
        AgentBusMessage::NodeUp { .. } => "node_up",
        AgentBusMessage::NodeDown { .. } => "node_down",
        AgentBusMessage::NodeLeaving { .. } => "node_leaving",
        AgentBusMessage::NodeSuspect { .. } => "node_suspect",
        AgentBusMessage::NodeWish { .. } => "node_wish",
        AgentBusMessage::LeaderLeft {} => "leader_left",
    }
}
