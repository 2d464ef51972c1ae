//! Waits until nobody uses a node that leaves: then its redis can be stopped without a client noticing.

use std::time::Duration;

use redis::{RedisResult, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep};
use vrc_cluster::contract::{Confirmation, EPOCH_KEY, Epoch, NODE_SET_KEY, Node, PROXIES_KEY};

/// Pause between two looks at the master.
const PAUSE: Duration = Duration::from_millis(50);
/// The same for each proxy that it lists: the list of a thousand is not asked for twenty times a second.
const PAUSE_A_PROXY: Duration = Duration::from_micros(500);
/// Clients of the old system, and programs that talk to nodes themselves, confirm nothing; this long they are given at least.
const LINGER: Duration = Duration::from_millis(200);

/// What is known of the leaving so far.
#[derive(Debug, Default)]
struct Leaving {
    /// The epoch of a map that does not show the node up, and when it was seen.
    out: Option<(Epoch, Instant)>,
}

/// Returns when the map does not show the node up any more and every proxy has confirmed that. Has no time limit of its own.
///
/// # Errors
/// If the master fails.
pub(crate) async fn wait(master: &mut MultiplexedConnection, name: &str) -> RedisResult<()> {
    let mut leaving = Leaving::default();
    loop {
        let (node, epoch): (Option<String>, Option<Epoch>) =
            redis::pipe().atomic().hget(NODE_SET_KEY, name).get(EPOCH_KEY).query_async(master).await?;
        let is_up = node.and_then(|text| serde_json::from_str::<Node>(&text).ok()).is_some_and(|node| node.up);
        // Asked for after the map, they are of no earlier one.
        let proxies: Vec<String> =
            if is_up { Vec::new() } else { redis::cmd("HVALS").arg(PROXIES_KEY).query_async(master).await? };
        if leaving.is_over(is_up, epoch.unwrap_or(0), proxies.iter().map(String::as_str), Instant::now()) {
            return Ok(());
        }
        sleep(PAUSE.max(PAUSE_A_PROXY * proxies.len() as u32)).await;
    }
}

impl Leaving {
    fn is_over<'a>(&mut self, is_up: bool, epoch: Epoch, mut proxies: impl Iterator<Item = &'a str>, now: Instant) -> bool {
        if is_up {
            self.out = None;
            return false;
        }
        let (out, since) = *self.out.get_or_insert((epoch, now));
        let confirms = |text: &str| text.parse::<Confirmation>().is_ok_and(|confirmation| confirmation.epoch >= out);
        proxies.all(confirms) && now.duration_since(since) >= LINGER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proxy_must_have_confirmed_a_map_without_the_node() {
        let mut leaving = Leaving::default();
        let start = Instant::now();
        assert!(!leaving.is_over(true, 4, ["4 1 4"].into_iter(), start));
        assert!(!leaving.is_over(false, 5, ["5 2 5", "4 1 4"].into_iter(), start));
        let later = start + LINGER;
        assert!(!leaving.is_over(false, 6, ["5 2 5", "4 1 4"].into_iter(), later));
        assert!(!leaving.is_over(false, 6, ["5 2 5", "nonsense"].into_iter(), later));
        assert!(leaving.is_over(false, 6, ["5 2 5", "6 2 6"].into_iter(), later), "a later map does not have it either");
        // It was let back: all begins anew.
        assert!(!leaving.is_over(true, 7, ["6 2 6"].into_iter(), later));
        assert!(!leaving.is_over(false, 8, ["8 3 8"].into_iter(), later));
        assert!(leaving.is_over(false, 8, [].into_iter(), later + LINGER));
    }
}
