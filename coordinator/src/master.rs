//! The connection to the master for everything but its channels: one request after the other, each in bounded time.

use std::{collections::BTreeMap, time::Duration};

use redis::{Client, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::warn;
use vrc_cluster::{
    client::{MasterUrl, Quiet, within},
    contract::{
        AGENT_BUS, ANSWER_BUS_PREFIX, AgentBusMessage, CLIENT_BUS, Confirmation, DELTA_BUS, DELTA_KEY, EPOCH_KEY, EPOCH_MAX,
        Epoch, LEASE_KEY, NODE_SET_KEY, NOTES_KEY, Node, NodeMap, Notes, PLACEMENT_KEY, PROXIES_KEY, PURGE_KEY, PURGED_KEY,
        REHOMED_KEY, STRANGERS_BUS, WishAnswer,
    },
    membership::{Event, LeaseAnswer, MapWrite, RequestId, WriteAnswer, lease_token},
    topology::PlacementKind,
};

use crate::redis_link::{RedisLink, describe, master_backoff, who_is};

const LEASE: &str = include_str!("scripts/lease.lua");
const READ: &str = include_str!("scripts/read.lua");
const WRITE: &str = include_str!("scripts/write.lua");
const ORDER: &str = include_str!("scripts/order.lua");
const NOTES: &str = include_str!("scripts/notes.lua");
const RELEASE: &str = include_str!("scripts/release.lua");

/// What is wanted of the master.
#[derive(Debug)]
pub(crate) enum Request {
    Lease { request: RequestId, instance: String, term: u64, ttl_ms: u64 },
    Read { request: RequestId },
    Write(MapWrite),
    ReadProxies { request: RequestId },
    DropProxies { ids: Vec<String> },
    OrderPurge { token: String, orders: Vec<(String, Epoch)>, forgotten: Vec<String> },
    TellNotes { token: String, notes: Notes, kept_ms: u64 },
    Release { token: String, done: oneshot::Sender<()> },
}

impl Request {
    fn id(&self) -> RequestId {
        match self {
            Request::Lease { request, .. }
            | Request::Read { request }
            | Request::ReadProxies { request }
            | Request::Write(MapWrite { request, .. }) => *request,
            Request::DropProxies { .. } | Request::OrderPurge { .. } | Request::TellNotes { .. } | Request::Release { .. } => 0,
        }
    }
}

/// What becomes of an operator's wish.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The wish's name.
    pub(crate) id: String,
    pub(crate) answer: WishAnswer,
}

/// Answers that wait to be said. They outlast connections: somebody sits before a terminal and waits.
pub(crate) struct Answers {
    waiting: mpsc::Receiver<Answer>,
    /// It was being said when a connection was lost, or is about to be.
    next: Option<Answer>,
    quiet: Quiet,
}

impl Answers {
    pub(crate) fn new(waiting: mpsc::Receiver<Answer>) -> Self {
        Answers { waiting, next: None, quiet: Quiet::default() }
    }

    /// Returns when there is one to be said.
    async fn come(&mut self) {
        if self.next.is_none() {
            self.next = self.waiting.recv().await;
        }
        if self.next.is_none() {
            // There will be none any more.
            std::future::pending::<()>().await;
        }
    }

    /// Says one, and returns whether there was any. An error is that of a lost connection.
    async fn say(&mut self, commands: &mut MultiplexedConnection, limit: Duration) -> RedisResult<bool> {
        let Some(Answer { id, answer }) = self.next.take().or_else(|| self.waiting.try_recv().ok()) else { return Ok(false) };
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(format!("{ANSWER_BUS_PREFIX}{id}")).arg(json(&answer)?);
        match within(limit, publish.exec_async(commands)).await {
            Err(error) if !is_reply(&error) => {
                self.next = Some(Answer { id, answer });
                return Err(error);
            }
            Err(error) => {
                if let Some(left_out) = self.quiet.may_say("answer") {
                    warn!("the master does not pass on an answer to an operator: {error}{left_out}");
                }
            }
            Ok(()) => {}
        }
        Ok(true)
    }
}

/// Serves requests for as long as there may be any; reconnects for ever.
pub(crate) struct Master {
    pub(crate) url: MasterUrl,
    pub(crate) timeout: Duration,
    /// Send maps whole, too, if somebody listens for them.
    pub(crate) legacy_bus: bool,
    /// How proxies are to give keys to nodes.
    pub(crate) placement: PlacementKind,
    pub(crate) requests: mpsc::UnboundedReceiver<Request>,
    pub(crate) answers: Answers,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Master {
    pub(crate) async fn run(mut self) {
        let mut backoff = master_backoff();
        loop {
            let error = match self.open().await {
                Ok((client, redis, run_id)) => {
                    backoff.reset();
                    // What was asked of the former connection is void.
                    while self.requests.try_recv().is_ok() {}
                    if self.events.send(Event::MasterUp { run_id }).await.is_err() {
                        return;
                    }
                    match self.serve(&client, redis).await {
                        Some(error) => error,
                        None => return,
                    }
                }
                Err(error) => error,
            };
            if self.events.send(Event::MasterDown { reason: describe(&error).0 }).await.is_err() {
                return;
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn open(&self) -> RedisResult<(Client, RedisLink, Option<String>)> {
        let client = self.url.client().await?;
        let opened = within(self.timeout, async {
            let mut redis = RedisLink::open(&client).await?;
            let run_id = match who_is(&mut redis.commands).await {
                Ok(server) => Some(server.run_id),
                // An ACL may forbid INFO. Then a node that is the master cannot be told from others.
                Err(error) if error.is_io_error() => return Err(error),
                Err(error) => {
                    warn!(%error, "the master does not say its run id; a node that is the master itself would go unnoticed");
                    None
                }
            };
            Ok((redis, run_id))
        });
        let (redis, run_id) = opened.await?;
        Ok((client, redis, run_id))
    }

    /// Returns why the connection ended, or nothing if no requests will come.
    async fn serve(&mut self, client: &Client, mut redis: RedisLink) -> Option<RedisError> {
        loop {
            // In turn with requests, so that neither waits for long for the other.
            if let Err(error) = self.answers.say(&mut redis.commands, self.timeout).await {
                return Some(error);
            }
            let request = tokio::select! {
                // Nothing more is asked of one that was left.
                biased;
                () = redis.lost() => return Some(RedisError::from((redis::ErrorKind::Io, "the connection was lost"))),
                () = self.url.moved(client) => {
                    return Some(std::io::Error::other("another redis is the master now").into());
                }
                request = self.requests.recv() => request?,
                () = self.answers.come() => continue,
            };
            if matches!(request, Request::Release { .. }) {
                // It is the last that is asked.
                while self.answers.say(&mut redis.commands, self.timeout).await.unwrap_or(false) {}
            }
            let id = request.id();
            let event = match within(self.timeout, self.perform(&mut redis.commands, request)).await {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(error) if is_reply(&error) => Event::RequestFailed { request: id, reason: error.to_string() },
                Err(error) => return Some(error),
            };
            self.events.send(event).await.ok()?;
        }
    }

    async fn perform(&self, commands: &mut MultiplexedConnection, request: Request) -> RedisResult<Option<Event>> {
        match request {
            Request::Lease { request, instance, term, ttl_ms } => {
                let mut eval = redis::cmd("EVAL");
                eval.arg(LEASE).arg(4).arg(LEASE_KEY).arg(NODE_SET_KEY).arg(EPOCH_KEY).arg(PLACEMENT_KEY);
                eval.arg(lease_token(&instance, term)).arg(ttl_ms).arg(self.placement.to_string());
                let answer: Vec<String> = eval.query_async(commands).await?;
                let answer = lease_answer(&answer).ok_or_else(|| nonsense("lease", &answer))?;
                Ok(Some(Event::Leased { request, answer }))
            }
            Request::Read { request } => {
                let mut eval = redis::cmd("EVAL");
                eval.arg(READ).arg(3).arg(NODE_SET_KEY).arg(EPOCH_KEY).arg(REHOMED_KEY);
                let answer: Vec<Vec<u8>> = eval.query_async(commands).await?;
                let (map, epoch, rehomed) = read_answer(&answer);
                Ok(Some(Event::MapRead { request, map, epoch, rehomed }))
            }
            Request::Write(write) => {
                let answer: Vec<String> = write_command(&write, self.legacy_bus)?.query_async(commands).await?;
                let answer = write_answer(&answer).ok_or_else(|| nonsense("write", &answer))?;
                Ok(Some(Event::Wrote { request: write.request, answer }))
            }
            Request::ReadProxies { request } => {
                let list: BTreeMap<String, String> = redis::cmd("HGETALL").arg(PROXIES_KEY).query_async(commands).await?;
                // What cannot be read confirms nothing.
                let none = Confirmation { epoch: 0, beat: 0, least: 0 };
                let proxies = list.into_iter().map(|(id, text)| (id, text.parse().unwrap_or(none))).collect();
                Ok(Some(Event::ProxiesRead { request, proxies }))
            }
            Request::DropProxies { ids } => {
                redis::cmd("HDEL").arg(PROXIES_KEY).arg(&ids).exec_async(commands).await?;
                Ok(None)
            }
            Request::OrderPurge { token, orders, forgotten } => {
                let mut eval = redis::cmd("EVAL");
                eval.arg(ORDER).arg(3).arg(LEASE_KEY).arg(PURGE_KEY).arg(PURGED_KEY).arg(token).arg(orders.len());
                for (name, order) in &orders {
                    eval.arg(name).arg(order);
                }
                eval.arg(&forgotten).exec_async(commands).await?;
                Ok(None)
            }
            Request::TellNotes { token, notes, kept_ms } => {
                let text = if notes.is_empty() { String::new() } else { json(&notes)? };
                let mut eval = redis::cmd("EVAL");
                eval.arg(NOTES).arg(2).arg(LEASE_KEY).arg(NOTES_KEY).arg(token).arg(text).arg(kept_ms);
                eval.exec_async(commands).await?;
                Ok(None)
            }
            Request::Release { token, done } => {
                let message = json(&AgentBusMessage::LeaderLeft {})?;
                let mut eval = redis::cmd("EVAL");
                eval.arg(RELEASE).arg(1).arg(LEASE_KEY).arg(token).arg(AGENT_BUS).arg(message);
                eval.exec_async(commands).await?;
                // Nobody waits any more if this took too long.
                let _ = done.send(());
                Ok(None)
            }
        }
    }
}

/// The master answered, and the connection goes on.
fn is_reply(error: &RedisError) -> bool {
    matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension | redis::ErrorKind::Parse)
}

fn lease_answer(answer: &[String]) -> Option<LeaseAnswer> {
    match answer {
        [held, gained, epoch, nodes] if held == "held" => {
            Some(LeaseAnswer::Held { gained: gained == "1", epoch: parse_epoch(epoch), nodes: nodes.parse().ok()? })
        }
        [other, left_ms] if other == "other" => Some(LeaseAnswer::Other { left_ms: left_ms.parse().ok() }),
        _ => None,
    }
}

fn write_answer(answer: &[String]) -> Option<WriteAnswer> {
    match answer {
        [done] if done == "done" => Some(WriteAnswer::Done),
        [fenced] if fenced == "fenced" => Some(WriteAnswer::Fenced),
        [stale, stored] if stale == "stale" => Some(WriteAnswer::Stale { stored: stored.parse().ok()? }),
        _ => None,
    }
}

/// The hash as far as it can be read. A field that cannot is left out, and goes with the next whole write.
fn read_answer(answer: &[Vec<u8>]) -> (NodeMap, Option<Epoch>, Option<Epoch>) {
    let [epoch, rehomed, fields @ ..] = answer else { return Default::default() };
    let mut map = NodeMap::new();
    for field in fields.chunks_exact(2) {
        let name = String::from_utf8_lossy(&field[0]).into_owned();
        match serde_json::from_slice::<Node>(&field[1]) {
            Ok(mut node) => {
                node.name.clone_from(&name);
                map.insert(name, node);
            }
            Err(error) => warn!(node = name, %error, "a node in the master's hash cannot be read and is left out"),
        }
    }
    let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(parse_epoch);
    (map, number(epoch), number(rehomed))
}

fn parse_epoch(text: &str) -> Option<Epoch> {
    text.parse().ok().filter(|epoch| *epoch <= EPOCH_MAX)
}

fn write_command(write: &MapWrite, legacy_bus: bool) -> RedisResult<redis::Cmd> {
    let set: Vec<(&String, &Node)> = write.changed.iter().filter_map(|name| Some((name, write.map.get(name)?))).collect();
    let mut eval = redis::cmd("EVAL");
    eval.arg(WRITE).arg(5).arg(LEASE_KEY).arg(NODE_SET_KEY).arg(EPOCH_KEY).arg(REHOMED_KEY).arg(DELTA_KEY);
    let expected = write.expected.map_or_else(|| "any".to_owned(), |nodes| nodes.to_string());
    eval.arg(&write.token)
        .arg(write.epoch)
        .arg(write.known)
        .arg(expected)
        .arg(write.rehomed)
        .arg(DELTA_BUS)
        .arg(json(&write.delta)?);
    eval.arg(if legacy_bus { CLIENT_BUS } else { "" }).arg(STRANGERS_BUS).arg(set.len());
    for (name, node) in set {
        eval.arg(name).arg(json(node)?);
    }
    for name in &write.removed {
        eval.arg(name);
    }
    Ok(eval)
}

fn json(value: &impl serde::Serialize) -> RedisResult<String> {
    serde_json::to_string(value).map_err(|error| RedisError::from((redis::ErrorKind::Client, "not JSON", error.to_string())))
}

fn nonsense(what: &'static str, answer: &[String]) -> RedisError {
    RedisError::from((redis::ErrorKind::Parse, "the script's answer makes no sense", format!("{what}: {answer:?}")))
}
