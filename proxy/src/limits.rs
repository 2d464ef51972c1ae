//! Every bound of the proxy in one place, and how they relate.

use std::time::Duration;

use vrc_cluster::contract::CLIENT_DATABASES;

/// Bytes that one read takes in; one buffer a worker.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Longest that clients wait to be heard until a proxy that has just started knows the nodes and the other proxies, in ms.
pub(crate) const FIRST_LOOK_MS: u64 = 2_000;

/// How long nothing may come from a client until the kernel asks whether its machine is still there (redis's `tcp-keepalive`).
pub(crate) const CLIENT_KEEPALIVE: Duration = Duration::from_secs(300);
/// Likewise from a node: clients may wait there without a limit of time.
pub(crate) const NODE_KEEPALIVE: Duration = Duration::from_secs(15);

/// Commands of one client that may await their reply; past it, the client's further input waits.
pub(crate) const CLIENT_PENDING_MAX: usize = 8 * 1024;
/// Reply bytes that one client may leave unread before its further commands wait.
pub(crate) const CLIENT_OUTPUT_PAUSE_BYTES: usize = 1024 * 1024;
/// Unread reply bytes past which a client is cut off: it asked for more than it reads, and a worker's memory is not its buffer.
/// Above [`vrc_cluster::resp::BULK_BYTES_MAX`], so that a reply with the longest value passes.
pub(crate) const CLIENT_OUTPUT_MAX_BYTES: usize = 1024 * 1024 * 1024;
/// Likewise of a client that subscribes (redis's default for the class `pubsub`), and of what others are told that answers no command:
/// invalidations, and lines of MONITOR.
pub(crate) const SUBSCRIBER_OUTPUT_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of commands that the other workers may have on their way to one whose clients listen by MONITOR; past it, those are cut off.
pub(crate) const MONITOR_UNDER_WAY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes that a client may say while it reads none of the replies that it has (redis's limit of a client's input); past it, it is cut
/// off.
pub(crate) const CLIENT_INPUT_MAX_BYTES: usize = 1024 * 1024 * 1024;

/// Bytes that may wait to be written to one node connection; past it, clients that send there wait.
pub(crate) const NODE_BACKLOG_BYTES: usize = 16 * 1024 * 1024;
/// Commands that may await their reply on one node connection; past it, likewise.
pub(crate) const NODE_PENDING_MAX: usize = 256 * 1024;

/// A node connection that has so many bytes to write has them written before the turn's other clients are read.
pub(crate) const WRITE_SOON_BYTES: usize = 32 * 1024;
/// How many bytes come from clients between two looks for such connections.
pub(crate) const WRITE_LOOK_BYTES: usize = 64 * 1024;

/// A node connection keeps an empty buffer up to this size: it is busy as a rule.
pub(crate) const NODE_BUFFER_KEEP_BYTES: usize = 256 * 1024;
/// Bytes of requests that one node connection keeps behind those it was sent last, until they are answered: for the slow log.
pub(crate) const SENT_BYTES_MAX: usize = 1024 * 1024;
/// They are kept in pieces of about this size.
pub(crate) const SENT_CHUNK_BYTES: usize = 64 * 1024;
/// A buffer of requests up to this size is kept as it was sent, whatever is in it.
pub(crate) const SENT_SMALL_BYTES: usize = 16 * 1024;
/// Where the requests in a larger one have more bytes than this each, no more is kept of them than will be shown.
pub(crate) const SENT_LARGE_BYTES: usize = 2 * 1024;

/// Most commands that the slow log can be told to keep.
pub(crate) const SLOWLOG_MAX: u64 = 100_000;
/// Arguments that it keeps of each, and bytes of each argument.
pub(crate) const SLOW_ARGS_MAX: usize = 32;
/// See [`SLOW_ARGS_MAX`].
pub(crate) const SLOW_ARG_BYTES_MAX: usize = 128;
/// Commands that a worker puts into the slow log at one time: where a node has stood still, there may be very many.
pub(crate) const SLOW_AT_ONCE_MAX: u32 = 128;
/// Seconds that LATENCY remembers of each event.
pub(crate) const LATENCY_SAMPLES_MAX: usize = 160;
/// Entries of ACL LOG.
pub(crate) const ACL_LOG_MAX: usize = 128;
/// The same failure within so long is one entry, in ms.
pub(crate) const ACL_LOG_GROUP_MS: u64 = 60_000;
/// How often is looked for clients that have said nothing for too long, in ms.
pub(crate) const IDLE_LOOK_MS: u64 = 1_000;

/// Of what is announced, room is made for so many times what has come, or for so many bytes.
pub(crate) const CLAIM_FACTOR_MAX: usize = 32;
/// See [`CLAIM_FACTOR_MAX`].
pub(crate) const CLAIM_BYTES_MIN: usize = 4096;

/// Buffers larger than this are given back when they run empty, so that an idle connection costs little.
pub(crate) const KEEP_BYTES: usize = 2 * 1024;
/// A client that has said nothing for so long gives the others back too, in ms.
pub(crate) const IDLE_MS: u64 = 1_000;
/// How many clients are looked at for that in a tick.
pub(crate) const SWEPT_A_TICK: usize = 256;
/// Larger ones are lent by the worker to whoever has a pipeline under way: how many it keeps, and up to which size.
pub(crate) const SPARE_BUFFERS_MAX: usize = 128;
/// Likewise for those who write to nodes, which are few.
pub(crate) const SPARE_FOR_NODES_MAX: usize = 16;
/// See [`SPARE_BUFFERS_MAX`].
pub(crate) const SPARE_BYTES_MAX: usize = 64 * 1024;

/// A client that was the only one to say something for so long is alone, until it has said nothing for as long, in ms.
pub(crate) const ALONE_MS: u64 = 100;

/// Longest that a worker looks for what comes next rather than sleep: what else it has to do may be that late.
pub(crate) const BUSY_POLL_MAX: Duration = Duration::from_millis(1);

/// Replies to what came in one read leave in one write, as those of one redis do, unless there are more bytes of them than this.
pub(crate) const GATHER_BYTES_MAX: usize = 16 * 1024;
/// Nor do they wait for each other longer than this, in ms: one node may be slow.
pub(crate) const GATHER_MS: u64 = 1;

/// Bytes that a client may queue between MULTI and EXEC.
pub(crate) const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Private node connections of one worker: for commands that wait, and for watched keys.
pub(crate) const PRIVATE_MAX: usize = 4096;
/// Of those, how many are kept for the next who needs one.
pub(crate) const PRIVATE_IDLE_MAX: usize = 32;

/// Keys that one worker remembers the readers of; past it, some key counts as changed for each that is read.
pub(crate) const TRACKED_KEYS_MAX: usize = 256 * 1024;
/// Likewise readers of keys.
pub(crate) const TRACKED_ITEMS_MAX: usize = 1024 * 1024;
/// Likewise bytes of keys.
pub(crate) const TRACKED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys that are named to a client when they go all at once; of more it is told to forget everything.
pub(crate) const INVALID_KEYS_MAX: usize = 1024;
/// Different sets of prefixes that the clients of one worker may track with BCAST; each takes a connection to every node.
pub(crate) const BROADCASTS_MAX: usize = 64;

/// Bytes of scripts that the proxy keeps; past it, those that were not used for the longest time are forgotten.
pub(crate) const SCRIPTS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest script that it keeps.
pub(crate) const SCRIPT_BYTES_MAX: usize = 1024 * 1024;
/// Scripts that a node connection, and a worker, have notes of; past it they begin anew.
pub(crate) const SCRIPTS_NOTED_MAX: usize = 4096;

/// How long a node's word counts that there is no such command, in ms: a module that is loaded meanwhile is found after that.
pub(crate) const LEARN_EVERY_MS: u64 = 10_000;
/// How long a node is not asked for its commands again that did not answer, in ms.
pub(crate) const LEARN_AGAIN_MS: u64 = 1_000;
/// Longest reply that is read to what a node is asked beside its clients' commands (COMMAND, FUNCTION DUMP).
pub(crate) const ASKED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Nodes that are asked for the libraries that another may lack.
pub(crate) const FUNCTION_SOURCES_MAX: usize = 8;

/// Files that the proxy may open beside those of its clients: node connections of all kinds, listeners, what it asks the master.
pub(crate) const FILES_RESERVED: u64 = 1_024;

/// Databases that a client may select.
pub(crate) const DATABASES: u8 = 16;
/// Databases that a client may select where the others are guest databases.
pub(crate) const DATABASES_WITH_GUESTS: u8 = CLIENT_DATABASES;
/// A guest database's number is that of the client's database and this.
pub(crate) const GUEST_OFFSET: u8 = CLIENT_DATABASES;

/// How long between two looks at what is overdue, in ms.
pub(crate) const TICK_MS: u64 = 50;
/// A node that leaves a request unanswered for so long is asked whether it runs a script, in ms.
pub(crate) const ASK_AFTER_MS: u64 = 50;
/// How often a node is asked whether it is there on a connection that only listens to it, in ms.
pub(crate) const LISTENER_PING_MS: u64 = 1_000;
/// How often is looked whether all workers have settled for a new map, while they have not, in ms.
pub(crate) const SETTLE_LOOK_MS: u64 = 10;
/// First and longest pause between two attempts to connect to a node, in ms.
pub(crate) const RECONNECT_MS_MIN: u64 = 20;
/// See [`RECONNECT_MS_MIN`].
pub(crate) const RECONNECT_MS_MAX: u64 = 1_000;
/// What was sent to a node that left the map may still be answered for so long, in ms.
pub(crate) const RETIRE_MS: u64 = 1_000;

const _: () =
    assert!(CLIENT_OUTPUT_PAUSE_BYTES < SUBSCRIBER_OUTPUT_MAX_BYTES && SUBSCRIBER_OUTPUT_MAX_BYTES < CLIENT_OUTPUT_MAX_BYTES);
const _: () = assert!(CLIENT_OUTPUT_PAUSE_BYTES < CLIENT_OUTPUT_MAX_BYTES);
const _: () = assert!(vrc_cluster::resp::BULK_BYTES_MAX < CLIENT_OUTPUT_MAX_BYTES);
const _: () = assert!(GATHER_BYTES_MAX < CLIENT_OUTPUT_PAUSE_BYTES && GATHER_MS < TICK_MS);
const _: () = assert!(KEEP_BYTES < SPARE_BYTES_MAX);
const _: () = assert!(WRITE_SOON_BYTES < WRITE_LOOK_BYTES && WRITE_LOOK_BYTES < NODE_BUFFER_KEEP_BYTES);
const _: () = assert!(SENT_CHUNK_BYTES < SENT_BYTES_MAX && SENT_BYTES_MAX < NODE_BACKLOG_BYTES);
const _: () = assert!(NODE_BUFFER_KEEP_BYTES < SENT_BYTES_MAX && SENT_SMALL_BYTES < NODE_BUFFER_KEEP_BYTES);
const _: () = assert!(KEEP_BYTES < READ_BYTES && READ_BYTES < CLIENT_OUTPUT_PAUSE_BYTES);
const _: () = assert!(TRANSACTION_BYTES_MAX < vrc_cluster::resp::REQUEST_BYTES_MAX);
const _: () = assert!(SCRIPT_BYTES_MAX < SCRIPTS_BYTES_MAX / 4 && SCRIPT_BYTES_MAX < NODE_BACKLOG_BYTES);
const _: () = assert!(PRIVATE_IDLE_MAX < PRIVATE_MAX);
const _: () = assert!(CLIENT_PENDING_MAX < NODE_PENDING_MAX);
const _: () = assert!(DATABASES_WITH_GUESTS <= GUEST_OFFSET && GUEST_OFFSET + DATABASES_WITH_GUESTS <= DATABASES);
const _: () = assert!(RECONNECT_MS_MIN < RECONNECT_MS_MAX && TICK_MS < RETIRE_MS);
