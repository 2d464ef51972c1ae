//! Watches one redis.
//!
//! A connection is kept open, so that a death is seen as it happens; a redis that merely stalls is found out by PING. A connection
//! that is lost may also have been closed by somebody's CLIENT KILL, and a false alarm costs the node its keys: so the loss is
//! confirmed by one attempt to connect anew, which a dead redis refuses at once. Nor is redis blamed for time in which this process did
//! not run.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};
use vrc_cluster::client::{Backoff, connect};

use crate::{
    admission::{self, Hindrance, Refused},
    config::Config,
    info::Info,
    link::Lifeline,
    standstill,
};

/// Attempts in a row that somebody may break off in the middle, or that we may sleep through.
const DOUBTS_MAX: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The present state of the redis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sighting {
    /// Not seen yet.
    Nothing,
    /// It answers.
    Up {
        /// Its run id, if it says.
        run_id: Option<String>,
        /// Its version, if it says.
        version: Option<String>,
    },
    /// It answered before, and does not now.
    Down {
        /// The run id that it had.
        run_id: Option<String>,
        /// What was seen.
        reason: String,
    },
}

impl Sighting {
    pub(crate) fn run_id(&self) -> Option<&String> {
        match self {
            Sighting::Nothing => None,
            Sighting::Up { run_id, .. } | Sighting::Down { run_id, .. } => run_id.as_ref(),
        }
    }
}

/// How a visit to the redis ended.
enum End {
    /// It was never usable.
    Hindered(Hindrance),
    /// The connection was lost.
    Lost,
    /// It stopped answering.
    Stalled(String),
}

/// Watches the redis for ever, unless it turns out that it must not be a node.
pub(crate) async fn watch(config: &Config, sightings: watch::Sender<Sighting>) -> Refused {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut watcher = Watcher { config, sightings, complaint: None, has_answered: false };
    let mut timeout = config.connect_timeout;
    let mut doubts = 0;
    loop {
        let began = Instant::now();
        let (end, stood_still) = standstill::noticing(config.ping_timeout.max(timeout), watcher.visit(timeout)).await;
        let was_lost = matches!(end, End::Lost | End::Hindered(Hindrance::Broken(_)));
        timeout = if was_lost { config.connect_timeout.min(config.confirm_timeout) } else { config.connect_timeout };
        if watcher.has_answered {
            doubts = 0;
        }
        let is_doubtful = match &end {
            End::Hindered(Hindrance::Broken(_)) => true,
            End::Stalled(_) | End::Hindered(Hindrance::Silent(_)) => stood_still && watcher.is_up(),
            End::Lost | End::Hindered(Hindrance::Refused(_) | Hindrance::NotYet(_)) => false,
        };
        if is_doubtful && doubts < DOUBTS_MAX {
            debug!(node = %config.node, stood_still, "it is asked again");
            doubts += 1;
            sleep_until(began + FIRST_PAUSE).await;
            continue;
        }
        match end {
            End::Lost => {
                doubts = 0;
                debug!(node = %config.node, "connection lost");
                backoff.reset();
                // At once, but for a redis that throws everybody out again and again.
                sleep_until(began + FIRST_PAUSE).await;
                continue;
            }
            End::Stalled(reason) => {
                backoff.reset();
                watcher.down(&reason);
            }
            End::Hindered(Hindrance::Refused(refused)) if !watcher.has_been_up() => return refused,
            End::Hindered(Hindrance::Refused(refused)) => watcher.down(&refused.to_string()),
            End::Hindered(Hindrance::NotYet(reason) | Hindrance::Silent(reason) | Hindrance::Broken(reason)) => {
                watcher.down(&reason)
            }
        }
        sleep(backoff.pause()).await;
    }
}

struct Watcher<'a> {
    config: &'a Config,
    sightings: watch::Sender<Sighting>,
    /// Why it cannot be used, as last logged: a reason is told once, not with each attempt.
    complaint: Option<String>,
    /// It answered a PING in the last visit.
    has_answered: bool,
}

impl Watcher<'_> {
    /// Connects, sees whether the redis may be a node, and watches it till it is gone.
    async fn visit(&mut self, timeout: Duration) -> End {
        self.has_answered = false;
        // The lifeline comes first: a redis that restarts after this line is noticed, whatever it answered in between.
        let (mut lifeline, info) = match self.enter(timeout).await {
            Ok(entered) => entered,
            Err(hindrance) => return End::Hindered(hindrance),
        };
        self.up(&info);
        loop {
            tokio::select! {
                () = lifeline.lost() => return End::Lost,
                () = sleep(self.config.ping_interval) => {}
            }
            match lifeline.ping(self.config.ping_timeout).await {
                Ok(()) => self.has_answered = true,
                Err(error) if error.is_timeout() => return End::Stalled(format!("no answer to PING: {error}")),
                // An error reply, or a connection that broke just then.
                Err(error) => {
                    debug!(node = %self.config.node, %error, "PING failed");
                    return End::Lost;
                }
            }
        }
    }

    async fn enter(&self, timeout: Duration) -> Result<(Lifeline, Info), Hindrance> {
        let config = self.config;
        let client = config.node.client().map_err(|error| Hindrance::NotYet(error.to_string()))?;
        let lifeline = match Lifeline::open(&client, timeout).await {
            Ok(lifeline) => lifeline,
            Err(error) => return Err(admission::hindrance(config, admission::credentials_error(config, error).await)),
        };
        let node_error = |error| admission::hindrance(config, error);
        let mut connection = connect(&client, timeout).await.map_err(node_error)?;
        let info = Info::query(&mut connection).await.map_err(node_error)?;
        admission::admit(config, &mut connection, &info, self.has_been_up()).await?;
        Ok((lifeline, info))
    }

    fn is_up(&self) -> bool {
        matches!(*self.sightings.borrow(), Sighting::Up { .. })
    }

    fn has_been_up(&self) -> bool {
        *self.sightings.borrow() != Sighting::Nothing
    }

    fn up(&mut self, info: &Info) {
        self.complaint = None;
        let sighting = Sighting::Up { run_id: info.run_id().map(str::to_owned), version: info.version().map(str::to_owned) };
        // A connection that was only closed under us is no news.
        let is_news = self.sightings.send_if_modified(|current| {
            let is_news = *current != sighting;
            *current = sighting;
            is_news
        });
        if is_news {
            info!(node = %self.config.node, version = info.version(), run_id = info.run_id(), "redis answers");
        }
    }

    fn down(&mut self, reason: &str) {
        self.sightings.send_if_modified(|current| {
            let Sighting::Up { run_id, .. } = current else { return false };
            *current = Sighting::Down { run_id: run_id.take(), reason: reason.to_owned() };
            true
        });
        if self.complaint.as_deref() != Some(reason) {
            warn!(node = %self.config.node, reason, "redis cannot be used");
            self.complaint = Some(reason.to_owned());
        }
    }
}
