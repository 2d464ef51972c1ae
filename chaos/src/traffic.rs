//! Clients: some write keys of their own, one write after another, and read them; others read anybody's. All use every proxy.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{Pipeline, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    history::{Clock, Key, Op, Outcome, Seq, What, key_name, read_value, value},
    observer::connect,
    random::Random,
};

pub(crate) const KEYS: Key = 256;
const WRITERS: usize = 8;
const READERS: usize = 8;
const BATCH_MAX: usize = 6;
const PAUSE_US_MAX: u64 = 16_000;
/// Far above any limit of the proxy's own, and above what counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds of errors, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Errors(Arc<Mutex<Vec<String>>>);

impl Errors {
    fn number(&self, text: &str) -> u16 {
        let kind = kind_of(text);
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = kinds.iter().position(|other| *other == kind).unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An error without what is different each time: names of nodes, addresses, numbers.
fn kind_of(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let mut plain = String::new();
        for character in word.chars() {
            match character {
                '0'..='9' if plain.ends_with('#') => {}
                '0'..='9' => plain.push('#'),
                other => plain.push(other),
            }
        }
        plain
    });
    words.collect::<Vec<_>>().join(" ").chars().take(120).collect()
}

/// All clients.
pub(crate) struct Traffic {
    tasks: Vec<JoinHandle<Vec<Op>>>,
    stop: CancellationToken,
    pub(crate) errors: Errors,
}

impl Traffic {
    pub(crate) fn start(proxies: &[PathBuf], clock: Clock, random: &mut Random) -> Self {
        let (stop, errors) = (CancellationToken::new(), Errors::default());
        let tasks = (0..WRITERS + READERS)
            .map(|number| {
                let client = Client {
                    owns: (number < WRITERS).then(|| (0..KEYS).filter(|key| usize::from(*key) % WRITERS == number).collect()),
                    random: Random::new(random.next()),
                    proxies: proxies.to_vec(),
                    connections: proxies.iter().map(|_| None).collect(),
                    written: HashMap::new(),
                    clock,
                    errors: errors.clone(),
                    ops: Vec::new(),
                };
                tokio::spawn(client.run(stop.clone()))
            })
            .collect();
        Traffic { tasks, stop, errors }
    }

    /// Ends it, and gives what was seen.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Op>> {
        self.stop.cancel();
        let mut ops = Vec::new();
        for task in self.tasks {
            ops.extend(task.await?);
        }
        Ok(ops)
    }
}

struct Client {
    /// Keys that it alone writes; a reader has none.
    owns: Option<Vec<Key>>,
    random: Random,
    proxies: Vec<PathBuf>,
    connections: Vec<Option<MultiplexedConnection>>,
    written: HashMap<Key, Seq>,
    clock: Clock,
    errors: Errors,
    ops: Vec<Op>,
}

/// What is sent in one go.
enum Batch {
    /// Each command by itself.
    Single(Vec<(Key, What)>),
    /// MSET or MGET.
    Multi(Vec<(Key, What)>),
}

impl Batch {
    fn parts(&self) -> &[(Key, What)] {
        match self {
            Batch::Single(parts) | Batch::Multi(parts) => parts,
        }
    }

    fn pipeline(&self) -> Pipeline {
        let mut pipe = redis::pipe();
        match self {
            Batch::Single(parts) => {
                for (key, what) in parts {
                    match what {
                        What::Read => pipe.get(key_name(*key)),
                        What::Set(seq) => pipe.set(key_name(*key), value(*key, *seq)),
                        What::Delete(_) => pipe.del(key_name(*key)),
                    };
                }
            }
            Batch::Multi(parts) if parts[0].1 == What::Read => {
                pipe.mget(parts.iter().map(|(key, _)| key_name(*key)).collect::<Vec<_>>());
            }
            Batch::Multi(parts) => {
                let mset = pipe.cmd("MSET");
                for (key, what) in parts {
                    if let What::Set(seq) = what {
                        mset.arg(key_name(*key)).arg(value(*key, *seq));
                    }
                }
            }
        }
        pipe
    }

    fn commands(&self) -> usize {
        match self {
            Batch::Single(parts) => parts.len(),
            Batch::Multi(_) => 1,
        }
    }
}

impl Client {
    async fn run(mut self, stop: CancellationToken) -> Vec<Op> {
        while !stop.is_cancelled() {
            let batch = self.batch();
            let proxy = self.random.below(self.proxies.len());
            let start_us = self.clock.now_us();
            let replies = self.send(proxy, &batch).await;
            let end_us = self.clock.now_us();
            if replies.is_err() {
                self.connections[proxy] = None;
            }
            for ((key, what), outcome) in batch.parts().iter().zip(self.outcomes(&batch, replies)) {
                self.ops.push(Op { key: *key, proxy: proxy as u8, what: *what, start_us, end_us, outcome });
            }
            sleep(Duration::from_micros(self.random.between(1_000, PAUSE_US_MAX))).await;
        }
        self.ops
    }

    fn batch(&mut self) -> Batch {
        let count = 1 + self.random.below(BATCH_MAX);
        let mut keys = Vec::new();
        while keys.len() < count {
            let key = match &self.owns {
                Some(owned) => owned[self.random.below(owned.len())],
                None => self.random.below(usize::from(KEYS)) as Key,
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let multi = self.random.chance(25);
        let write = self.owns.is_some() && self.random.chance(60);
        let parts = keys.into_iter().map(|key| (key, self.what(key, write, multi))).collect();
        if multi { Batch::Multi(parts) } else { Batch::Single(parts) }
    }

    fn what(&mut self, key: Key, write: bool, multi: bool) -> What {
        if !write {
            return What::Read;
        }
        let seq = self.written.entry(key).or_default();
        *seq += 1;
        let seq = *seq;
        if !multi && self.random.chance(8) { What::Delete(seq) } else { What::Set(seq) }
    }

    /// The replies to a batch's commands; in words why there are none.
    async fn send(&mut self, proxy: usize, batch: &Batch) -> Result<Vec<Value>, String> {
        let exchange = async {
            let connection = match &mut self.connections[proxy] {
                Some(connection) => connection,
                none => none.insert(connect(&self.proxies[proxy]).await.map_err(|error| format!("no connection: {error}"))?),
            };
            let replies: RedisResult<Vec<Value>> = connection.send_packed_commands(&batch.pipeline(), 0, batch.commands()).await;
            replies.map_err(|error| format!("connection lost: {error}"))
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("no answer at all".to_owned()))
    }

    fn outcomes(&self, batch: &Batch, replies: Result<Vec<Value>, String>) -> Vec<Outcome> {
        let parts = batch.parts();
        let same = |outcome: Outcome| vec![outcome; parts.len()];
        let replies = match replies {
            Err(text) => return same(Outcome::Failed(self.errors.number(&text))),
            Ok(replies) if replies.len() != batch.commands() => {
                return same(Outcome::Wrong(format!("{} replies to {} commands", replies.len(), batch.commands())));
            }
            Ok(replies) => replies,
        };
        match batch {
            Batch::Single(_) => parts.iter().zip(&replies).map(|((key, what), reply)| self.outcome(*key, *what, reply)).collect(),
            Batch::Multi(_) => match &replies[0] {
                Value::Array(values) if parts[0].1 == What::Read && values.len() == parts.len() => {
                    parts.iter().zip(values).map(|((key, what), reply)| self.outcome(*key, *what, reply)).collect()
                }
                reply @ Value::Array(_) => same(Outcome::Wrong(format!("{} keys, and the reply {reply:?}", parts.len()))),
                reply if parts[0].1 == What::Read && !matches!(reply, Value::ServerError(_)) => {
                    same(Outcome::Wrong(format!("MGET, and the reply {reply:?}")))
                }
                reply => same(self.outcome(parts[0].0, parts[0].1, reply)),
            },
        }
    }

    fn outcome(&self, key: Key, what: What, reply: &Value) -> Outcome {
        match (what, reply) {
            (_, Value::ServerError(error)) => {
                Outcome::Failed(self.errors.number(&format!("{} {}", error.code(), error.details().unwrap_or(""))))
            }
            (What::Read, Value::Nil) => Outcome::Null,
            (What::Read, Value::BulkString(bytes)) => read_value(key, bytes).map_or_else(Outcome::Wrong, Outcome::Value),
            (What::Set(_), Value::Okay) | (What::Delete(_), Value::Int(0 | 1)) => Outcome::Done,
            (what, reply) => Outcome::Wrong(format!("{what:?} of {}, and the reply {reply:?}", key_name(key))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_kind() {
        assert_eq!(
            kind_of("ERR node n1 (10.0.0.1:6379) did not answer within 3000 ms"),
            "ERR node n# (#.#.#.#:#) did not answer within # ms"
        );
    }
}
