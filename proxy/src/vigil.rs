//! Sees to it that no part of the proxy is gone without anybody knowing.
//!
//! A worker whose thread has ended would be given clients that nobody serves, and a proxy that follows no map any more would route by the
//! last one for ever. Neither is to be mended from within: whoever runs the proxy is told, and starts it anew.

use std::{fmt::Display, future::Future, sync::Arc, thread};

use tokio::{sync::watch as signal, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Knows whether all parts live. Costs them nothing while they do.
#[derive(Debug, Clone)]
pub(crate) struct Vigil {
    stop: CancellationToken,
    /// Which part was the first to end by itself, and why.
    failure: Arc<signal::Sender<Option<String>>>,
}

impl Vigil {
    /// Parts may end once `stop` is cancelled.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Vigil { stop, failure: Arc::new(signal::Sender::new(None)) }
    }

    /// Awaits a part's end from now on.
    pub(crate) fn part(&self, name: impl Into<String>) -> Part {
        Part { name: name.into(), vigil: self.clone() }
    }

    /// Spawns a part on the current tokio runtime.
    pub(crate) fn spawn(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let part = self.part(name);
        tokio::spawn(async move {
            // Its own, so that a panic drops it while it is one.
            let _part = part;
            work.await;
        })
    }

    /// Which part has ended though it should not have, in an operator's words.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Waits until one has.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            // The sender is held by `self`.
            Err(_) => std::future::pending().await,
        }
    }

    fn tell(&self, name: &str, why: impl Display) {
        if !self.stop.is_cancelled() {
            // What ends later does so because of the first, as a rule.
            self.failure.send_if_modified(|failure| {
                let is_first = failure.is_none();
                failure.get_or_insert_with(|| format!("{name} has ended: {why}"));
                is_first
            });
        }
    }
}

/// Held by a part for as long as it lives.
#[derive(Debug)]
pub(crate) struct Part {
    name: String,
    vigil: Vigil,
}

impl Part {
    /// It cannot go on.
    pub(crate) fn fail(self, why: impl Display) {
        self.vigil.tell(&self.name, why);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let why = if thread::panicking() { "it panicked" } else { "nobody has told it to" };
        self.vigil.tell(&self.name, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_part_that_ends_by_itself_is_told_of() {
        let vigil = Vigil::new(CancellationToken::new());
        let kept = vigil.part("what goes on");
        assert_eq!(vigil.failure(), None);
        let _ = vigil.spawn("a task", async {}).await;
        drop(kept);
        assert_eq!(vigil.failed().await, "a task has ended: nobody has told it to");
        assert_eq!(vigil.failure(), Some(vigil.failed().await));
    }

    #[tokio::test]
    async fn why_it_ended_is_told() {
        let vigil = || Vigil::new(CancellationToken::new());
        let (panics, fails) = (vigil(), vigil());
        let _ = panics.spawn("a task", async { panic!("for the test") }).await;
        assert_eq!(panics.failed().await, "a task has ended: it panicked");
        fails.part("a worker").fail("out of files");
        assert_eq!(fails.failed().await, "a worker has ended: out of files");
    }

    #[tokio::test]
    async fn whoever_was_told_to_may_end() {
        let vigil = Vigil::new(CancellationToken::new());
        let part = vigil.part("a worker");
        vigil.stop.cancel();
        drop(part);
        assert_eq!(vigil.failure(), None);
    }
}
