//! Tells the cluster by which map this proxy routes.
//!
//! A confirmation says that nothing is under way any more that was sent by an earlier map. Nodes that leave wait for it before they
//! end, and a node's keys that have a new home are purged only then: a laggard could still write at the old one.

use std::time::Duration;

use redis::RedisResult;
use tokio::{
    sync::watch as signal,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use vrc_cluster::{
    client::{MasterConnection, MasterUrl},
    contract::{CONFIRM_EVERY_MS, Confirmation, Epoch, PROXIES_KEY},
};

use crate::{limits::SETTLE_LOOK_MS, worker::WorkerHandle};

/// Longest that the master may take for an answer, and for a connection.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Nobody has to tidy up after a cluster that was given up.
const EXPIRE_S: i64 = 24 * 3600;
/// The expiry is put off with every so many confirmations, and the first over a new connection.
const EXPIRE_EVERY: u64 = 100;
const _: () = assert!(EXPIRE_EVERY * CONFIRM_EVERY_MS < EXPIRE_S as u64 * 1_000 / 2);
/// After so long without a word the coordinator may soon take this proxy for gone.
const OUT_OF_TOUCH: Duration = Duration::from_millis(2 * CONFIRM_EVERY_MS);
/// For so long it tells afterwards by which map it routed meanwhile.
const TELL_BEFORE: Duration = Duration::from_secs(60);

/// Confirms each map that all workers have settled for, and that it lives, until `stop`; then takes its word back.
pub(crate) async fn run(
    master: MasterUrl,
    mut changes: signal::Receiver<Epoch>,
    workers: Vec<WorkerHandle>,
    stop: CancellationToken,
) {
    let id = format!("{:016x}", rand::random::<u64>());
    let mut confirmer = Confirmer {
        connection: MasterConnection::new(master, TIMEOUT),
        id,
        beat: 0,
        said: None,
        has_lagged: false,
        before: None,
    };
    let mut confirmed: Option<(Epoch, Instant)> = None;
    let mut lag = Lag::default();
    loop {
        let wanted = *changes.borrow_and_update();
        let settled = workers.iter().map(WorkerHandle::settled).min().unwrap_or(0);
        let is_due =
            confirmed.is_none_or(|(epoch, at)| epoch != settled || at.elapsed() >= Duration::from_millis(CONFIRM_EVERY_MS));
        confirmer.has_lagged |= lag.has_ended(wanted, settled, Instant::now());
        // A map of an old coordinator has no epoch, and nobody asks for its confirmation.
        if is_due && settled > 0 {
            confirmed = confirmer.confirm(settled).await.then(|| (settled, Instant::now()));
        }
        let pause_ms = match confirmed {
            _ if settled != wanted => SETTLE_LOOK_MS,
            Some(_) => CONFIRM_EVERY_MS,
            None => TIMEOUT.as_millis() as u64,
        };
        tokio::select! {
            () = stop.cancelled() => break,
            // Fails when the topology's follower ends, and this with it.
            changed = changes.changed() => if changed.is_err() { break },
            () = sleep(Duration::from_millis(pause_ms)) => {}
        }
    }
    if confirmed.is_some() {
        confirmer.take_back().await;
    }
}

/// Since when a later map is wanted than all workers have settled for, and which that is.
#[derive(Default)]
struct Lag(Option<(Epoch, Instant)>);

impl Lag {
    /// Whether they have gone on just now, after so long that nobody may have waited for it: a coordinator that comes to lead next has to be
    /// told by what they went, as by one that was out of touch.
    fn has_ended(&mut self, wanted: Epoch, settled: Epoch, now: Instant) -> bool {
        let before = self.0.filter(|(epoch, _)| *epoch != settled);
        if wanted == settled {
            self.0 = None;
        } else if self.0.is_none_or(|(epoch, _)| epoch != settled) {
            self.0 = Some((settled, now));
        }
        before.is_some_and(|(epoch, since)| epoch > 0 && now - since > OUT_OF_TOUCH)
    }
}

struct Confirmer {
    connection: MasterConnection,
    id: String,
    beat: u64,
    /// When something was last said, and what epoch.
    said: Option<(Epoch, Instant)>,
    /// Something could not be confirmed for long, and nothing later has been said yet.
    has_lagged: bool,
    /// What was confirmed before it was out of touch, or lagged, and until when that is told.
    before: Option<(Epoch, Instant)>,
}

impl Confirmer {
    /// Whether it was said.
    async fn confirm(&mut self, epoch: Epoch) -> bool {
        self.beat += 1;
        if let Some((said, at)) = self.said
            && (at.elapsed() > OUT_OF_TOUCH || self.has_lagged)
        {
            let least = self.before.map_or(said, |(before, _)| before.min(said));
            self.before = Some((least, Instant::now() + TELL_BEFORE));
        }
        self.before = self.before.filter(|(_, until)| Instant::now() < *until);
        let least = self.before.map_or(epoch, |(before, _)| before);
        let confirmation = Confirmation { epoch, beat: self.beat, least }.to_string();
        let mut pipe = redis::pipe();
        pipe.hset(PROXIES_KEY, &self.id, confirmation).ignore();
        if self.connection.get_open().is_none() || self.beat.is_multiple_of(EXPIRE_EVERY) {
            pipe.expire(PROXIES_KEY, EXPIRE_S).ignore();
        }
        let is_said = self.say(pipe).await;
        if is_said {
            self.said = Some((epoch, Instant::now()));
            self.has_lagged = false;
        }
        is_said
    }

    async fn take_back(&mut self) {
        let mut pipe = redis::pipe();
        pipe.hdel(PROXIES_KEY, &self.id).ignore();
        // If it is not heard, the silence will be.
        self.say(pipe).await;
    }

    async fn say(&mut self, pipe: redis::Pipeline) -> bool {
        let said = self.try_say(&pipe).await;
        if let Err(error) = &said {
            tracing::debug!("a map could not be confirmed: {error}");
            self.connection.give_up();
        }
        said.is_ok()
    }

    async fn try_say(&mut self, pipe: &redis::Pipeline) -> RedisResult<()> {
        pipe.exec_async(self.connection.get().await?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_confirmed_for_long_is_told_once_it_is_over() {
        let start = Instant::now();
        let mut lag = Lag::default();
        let mut look = |wanted, settled, after| lag.has_ended(wanted, settled, start + after);
        let moment = Duration::from_millis(10);
        // Nobody had a map before the first.
        assert!(!look(5, 0, moment) && !look(5, 5, 2 * OUT_OF_TOUCH));
        assert!(!look(6, 5, 3 * OUT_OF_TOUCH) && !look(6, 6, 3 * OUT_OF_TOUCH + moment), "that was soon");
        assert!(!look(7, 6, 4 * OUT_OF_TOUCH) && !look(8, 6, 5 * OUT_OF_TOUCH), "it lasts");
        assert!(look(8, 7, 5 * OUT_OF_TOUCH + moment), "some of it is over");
        assert!(!look(8, 8, 5 * OUT_OF_TOUCH + 2 * moment) && !look(8, 8, 9 * OUT_OF_TOUCH));
    }
}
