//! Notices that this process itself did not run: it was stopped, or had no processor. What then seems to have kept it waiting may have
//! answered long ago.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout};

/// How often is looked.
const BEAT: Duration = Duration::from_millis(100);
/// So much too late a look counts as standing still.
const LATE: Duration = Duration::from_millis(100);
/// A standstill of this length is noticed.
pub(crate) const NOTICED: Duration = Duration::from_millis(200);
const _: () = assert!(BEAT.as_millis() + LATE.as_millis() == NOTICED.as_millis());

/// Does the work, and says whether this process stood still within `recent` before the end of it.
pub(crate) async fn noticing<T>(recent: Duration, work: impl Future<Output = T>) -> (T, bool) {
    let mut work = pin!(work);
    let mut last = None;
    loop {
        let began = Instant::now();
        let outcome = timeout(BEAT, &mut work).await;
        let now = Instant::now();
        if now - began > BEAT + LATE {
            last = Some(now);
        }
        if let Ok(outcome) = outcome {
            return (outcome, last.is_some_and(|at| now - at <= recent));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const RECENT: Duration = Duration::from_secs(60);

    /// Waits, and has the whole process stand still meanwhile.
    async fn stands_still() {
        sleep(BEAT / 2).await;
        std::thread::sleep(2 * BEAT + LATE);
    }

    #[tokio::test]
    async fn a_standstill_is_noticed_whether_or_not_the_work_ends_with_it() {
        assert_eq!(noticing(RECENT, stands_still()).await, ((), true));
        let goes_on = async {
            stands_still().await;
            sleep(2 * BEAT).await;
            "done"
        };
        assert_eq!(noticing(RECENT, goes_on).await, ("done", true));
    }

    /// On a busy machine this process may really have stood still, but not each time.
    async fn is_once_unnoticed<T>(recent: Duration, work: impl AsyncFn() -> T) -> bool {
        for _ in 0..100 {
            if !noticing(recent, work()).await.1 {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn time_that_merely_passes_is_none_and_what_is_past_is_forgotten() {
        assert!(is_once_unnoticed(RECENT, async || sleep(3 * BEAT).await).await);
        let recovers = async || {
            stands_still().await;
            sleep(2 * BEAT).await;
        };
        assert!(is_once_unnoticed(BEAT / 2, recovers).await);
    }
}
