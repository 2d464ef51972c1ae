//! Lines on their way out, written by a thread of their own: nobody who has something to say waits for who reads it.
//!
//! A reader that stalls (a full pipe, a terminal held by Ctrl-S) would otherwise stall whoever logs, and with it all that this one
//! serves. What it does not take in time is lost, and the next line that gets through says how much that was.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Lines that wait to be written; more are lost.
const LINES_MAX: usize = 4_096;
/// How long the end of the program may be put off by lines that are still to be written.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Likewise where somebody does not want to wait.
pub(crate) const FLUSH_TIMEOUT_IN_HASTE: Duration = Duration::from_millis(100);
/// How often it is looked whether all is written, at the end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Those of this program, for [`flush_all`].
static ALL: Mutex<Vec<Queue>> = Mutex::new(Vec::new());

/// Waits until all that was let in anywhere is written, for so long each at the most: the program is about to end.
pub(crate) fn flush_all(limit: Duration) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all.iter().for_each(|queue| queue.flush(limit));
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    lines: SyncSender<Line>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    /// So many were lost before this one.
    lost: u64,
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines that were let in.
    taken: AtomicU64,
    /// How many of these were written, or could not be.
    done: AtomicU64,
    /// Lines that were lost, as far as no line says so yet.
    lost: AtomicU64,
}

impl Queue {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let counts = Arc::<Counts>::default();
        let queue = Queue { lines, counts: counts.clone() };
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(queue.clone());
        thread::Builder::new().name("vrc-lines".to_owned()).spawn(move || write(out, &waiting, &counts))?;
        Ok(queue)
    }

    /// Lets in a line, its end included, if there is room for it. Never waits.
    pub(crate) fn put(&self, text: Vec<u8>) {
        let lost = self.counts.lost.swap(0, SeqCst);
        self.counts.taken.fetch_add(1, SeqCst);
        if self.lines.try_send(Line { text, lost }).is_err() {
            self.counts.taken.fetch_sub(1, SeqCst);
            self.counts.lost.fetch_add(lost + 1, SeqCst);
        }
    }

    /// Waits until all that was let in is written, for so long at the most.
    pub(crate) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        if self.is_written_by(deadline) && self.counts.lost.load(SeqCst) > 0 {
            // Only says so: no other line may come.
            self.put(Vec::new());
            self.is_written_by(deadline);
        }
    }

    fn is_written_by(&self, deadline: Instant) -> bool {
        while self.counts.done.load(SeqCst) < self.counts.taken.load(SeqCst) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(LOOK_EVERY);
        }
        true
    }
}

/// One line a call, as the log's own lines come.
impl Write for Queue {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text.to_vec());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(mut out: impl Write, lines: &Receiver<Line>, counts: &Counts) {
    for Line { mut text, lost } in lines {
        let own = u64::from(!text.is_empty());
        if lost > 0 {
            let notice = format!("vrc: {lost} lines could not be written here\n");
            text.splice(0..0, notice.into_bytes());
        }
        // A full disk may have room later, and a reader that is gone misses nothing.
        if out.write_all(&text).and_then(|()| out.flush()).is_err() {
            counts.lost.fetch_add(lost + own, SeqCst);
        }
        counts.done.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        mpsc::{Sender, channel},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Takes a line whenever it is told to, and fails where it is told so.
    struct Reader {
        may: Receiver<bool>,
        seen: Arc<Mutex<String>>,
    }

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Nobody says anything any more: all may go on.
            if !self.may.recv().unwrap_or(true) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.seen.lock().unwrap().push_str(std::str::from_utf8(text).unwrap());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Queue, Sender<bool>, Arc<Mutex<String>>) {
        let (let_go, may) = channel();
        let seen = Arc::<Mutex<String>>::default();
        (Queue::start(Reader { may, seen: seen.clone() }).unwrap(), let_go, seen)
    }

    #[test]
    fn who_has_something_to_say_never_waits_and_what_was_lost_is_told() {
        let (queue, let_go, seen) = queue();
        let many = LINES_MAX + 100;
        (0..many).for_each(|number| queue.put(format!("{number}\n").into_bytes()));
        queue.flush(Duration::ZERO);
        assert_eq!(*seen.lock().unwrap(), "");
        drop(let_go);
        queue.flush(LONG);
        queue.put(b"later\n".to_vec());
        queue.flush(LONG);
        let seen = seen.lock().unwrap();
        let numbers = seen.lines().filter(|line| line.parse::<usize>().is_ok()).count();
        // Where the thread begins late, some line gets in amid those that are lost, and tells of those before it.
        let notices = seen.lines().filter_map(|line| line.strip_prefix("vrc: ")?.split(' ').next()?.parse::<usize>().ok());
        let lost: usize = notices.sum();
        assert!(seen.starts_with("0\n1\n") && seen.ends_with("later\n"), "{seen}");
        assert!(numbers < many && numbers + lost == many, "{numbers} and {lost}");
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_told_of_too() {
        let (queue, let_go, seen) = queue();
        // The third is for what the flush says.
        [true, false, false].into_iter().for_each(|may| let_go.send(may).unwrap());
        drop(let_go);
        for line in ["a\n", "b\n", "c\n"] {
            queue.put(line.into());
            queue.flush(LONG);
        }
        let expect = "a\nvrc: 1 lines could not be written here\nc\n";
        assert_eq!(*seen.lock().unwrap(), expect);
    }
}
