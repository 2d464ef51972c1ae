//! Clients that write and read without a pause, and check every reply.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use super::{LONG, Random, connect, eventually};

/// Each client's own keys, so that it knows what it wrote last.
const KEYS: usize = 200;
/// Errors and stale values of which a client keeps the words.
const KEPT_MAX: usize = 5;

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What they saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) replies: u64,
    /// Values that were gone: what a cache may do.
    pub(crate) missing: u64,
    /// Error replies and lost connections.
    pub(crate) errors: Vec<String>,
    /// Values that a later write had replaced, or somebody else's.
    pub(crate) stale: Vec<String>,
}

impl Load {
    /// Starts `clients` for each of these proxies.
    pub(crate) fn start(proxies: &[u16], clients: usize) -> Self {
        let (stop, replies) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let ports = proxies.iter().flat_map(|port| std::iter::repeat_n(*port, clients));
        let clients = ports
            .enumerate()
            .map(|(number, port)| {
                let (stop, replies) = (stop.clone(), replies.clone());
                thread::spawn(move || Client::new(number, port).run(&stop, &replies))
            })
            .collect();
        Load { stop, replies, clients }
    }

    /// Waits till so many more commands have been answered.
    #[track_caller]
    pub(crate) fn await_replies(&self, count: u64) {
        let from = self.replies.load(Relaxed);
        eventually("replies under load", LONG, || (self.replies.load(Relaxed) >= from + count).then_some(()));
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> Tally {
        self.stop.store(true, Relaxed);
        let mut sum = Tally::default();
        for client in self.clients.drain(..) {
            let tally = client.join().expect("a client that ends");
            sum.replies += tally.replies;
            sum.missing += tally.missing;
            sum.errors.extend(tally.errors);
            sum.stale.extend(tally.stale);
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

struct Client {
    number: usize,
    connection: redis::Connection,
    random: Random,
    /// What was written last to each key; 0 for nothing.
    written: Vec<u64>,
    tally: Tally,
}

impl Client {
    fn new(number: usize, port: u16) -> Self {
        let random = Random(number as u64 + 1);
        Client { number, connection: connect(port), random, written: vec![0; KEYS], tally: Tally::default() }
    }

    fn run(mut self, stop: &AtomicBool, replies: &AtomicU64) -> Tally {
        while !stop.load(Relaxed) {
            let before = self.tally.replies;
            let outcome = match self.random.below(8) {
                0..3 => self.write_many(),
                3..6 => self.read_many(),
                6 => self.transaction(),
                _ => self.split(),
            };
            if let Err(error) = outcome {
                if self.tally.errors.len() < KEPT_MAX {
                    self.tally.errors.push(error.to_string());
                }
                if error.is_io_error() {
                    break;
                }
            }
            replies.fetch_add(self.tally.replies - before, Relaxed);
        }
        self.tally
    }

    fn name(&self, key: usize) -> String {
        format!("load:{}:{key}", self.number)
    }

    fn some_keys(&mut self) -> Vec<usize> {
        let first = self.random.below(KEYS as u64) as usize;
        (first..first + 16).map(|key| key % KEYS).collect()
    }

    fn write_many(&mut self) -> redis::RedisResult<()> {
        let mut pipe = redis::pipe();
        let keys = self.some_keys();
        let value = self.random.next() | 1;
        for key in &keys {
            pipe.set(self.name(*key), value);
        }
        // Whether it was carried out is not known where there is an error.
        let _: Vec<String> = pipe.query(&mut self.connection)?;
        self.tally.replies += keys.len() as u64;
        keys.into_iter().for_each(|key| self.written[key] = value);
        Ok(())
    }

    fn read_many(&mut self) -> redis::RedisResult<()> {
        let mut pipe = redis::pipe();
        let keys = self.some_keys();
        for key in &keys {
            pipe.get(self.name(*key));
        }
        let values: Vec<Option<u64>> = pipe.query(&mut self.connection)?;
        self.check(&keys, &values);
        Ok(())
    }

    fn split(&mut self) -> redis::RedisResult<()> {
        let keys = self.some_keys();
        let value = self.random.next() | 1;
        let (mut mset, mut mget) = (redis::cmd("MSET"), redis::cmd("MGET"));
        for key in &keys {
            mset.arg(self.name(*key)).arg(value);
            mget.arg(self.name(*key));
        }
        mset.exec(&mut self.connection)?;
        keys.iter().for_each(|key| self.written[*key] = value);
        let values: Vec<Option<u64>> = mget.query(&mut self.connection)?;
        self.check(&keys, &values);
        Ok(())
    }

    fn transaction(&mut self) -> redis::RedisResult<()> {
        let key = self.some_keys()[0];
        let value = self.random.next() | 1;
        let watches = value.is_multiple_of(3);
        if watches {
            redis::cmd("WATCH").arg(self.name(key)).exec(&mut self.connection)?;
        }
        let mut pipe = redis::pipe();
        pipe.atomic().set(self.name(key), value).ignore().get(self.name(key));
        let values: Option<Vec<Option<u64>>> = pipe.query(&mut self.connection)?;
        let values = match values {
            // Its node changed in between.
            None if watches => return Ok(()),
            values => values.unwrap_or_default(),
        };
        self.written[key] = value;
        if values != [Some(value)] {
            self.note_stale(key, values.first().copied().flatten());
        }
        self.tally.replies += 4;
        Ok(())
    }

    fn check(&mut self, keys: &[usize], values: &[Option<u64>]) {
        assert_eq!(keys.len(), values.len());
        self.tally.replies += keys.len() as u64;
        for (key, value) in keys.iter().zip(values) {
            match value {
                None => self.tally.missing += u64::from(self.written[*key] != 0),
                Some(value) if *value == self.written[*key] => {}
                stale => self.note_stale(*key, *stale),
            }
        }
    }

    fn note_stale(&mut self, key: usize, value: Option<u64>) {
        if self.tally.stale.len() < KEPT_MAX {
            let text = format!("{}: {value:?}, and {} was written last", self.name(key), self.written[key]);
            self.tally.stale.push(text);
        }
    }
}
