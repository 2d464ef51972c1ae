//! What membership is told once, at the start. All times in milliseconds.

use super::homes::AssignHomes;

/// Settings of [`Membership`](super::Membership).
#[derive(Debug, Clone)]
pub struct Options {
    /// The master's own redis may serve as a node.
    pub allow_master: bool,
    /// Guest databases are in use, and are flushed when a node goes down.
    pub guest_databases: bool,
    /// Pause between two PINGs of a node.
    pub ping_interval_ms: u64,
    /// How long a PING, or opening a connection, may go unanswered.
    pub ping_timeout_ms: u64,
    /// How long a new connection may take to a node whose connection was just lost before it counts as down.
    pub recheck_ms: u64,
    /// How long an agent may be silent.
    pub agent_timeout_ms: u64,
    /// How long a node is remembered after it went down.
    pub forget_after_ms: u64,
    /// How long the lease outlives its last renewal.
    pub lease_ms: u64,
    /// How often the lease is renewed, or tried for.
    pub lease_interval_ms: u64,
    /// How long one who remembers no map, or not the last, lets others lead first at a master that has lost it.
    pub yield_ms: u64,
    /// How long emptying a joining node may take.
    pub join_flush_timeout_ms: u64,
    /// How long flushing the guest databases may take a node.
    pub guest_flush_timeout_ms: u64,
    /// How slots get their homes, if guest databases are in use.
    pub homes: AssignHomes,
    /// How long a proxy may take to confirm a map, or be silent, before it is not waited for any more.
    pub proxy_grace_ms: u64,
    /// How often proxies' confirmations are read while they are waited for.
    pub proxies_interval_ms: u64,
    /// How long after homes have changed nodes are told to purge what they lost.
    pub purge_after_ms: u64,
    /// How long readers are given to take up a map before what it changed is built upon.
    pub settle_ms: u64,
    /// First pause before a node that goes down again and again is let back; doubled each time.
    pub flap_pause_ms: u64,
    /// Longest such pause.
    pub flap_pause_max_ms: u64,
    /// A node that has stayed up this long is forgiven its past.
    pub flap_forgiven_after_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            allow_master: false,
            guest_databases: true,
            ping_interval_ms: 1_000,
            ping_timeout_ms: 3_000,
            recheck_ms: 200,
            agent_timeout_ms: 45_000,
            forget_after_ms: 20 * 60_000,
            lease_ms: 2_000,
            lease_interval_ms: 500,
            yield_ms: 2_000,
            join_flush_timeout_ms: 60_000,
            guest_flush_timeout_ms: 1_000,
            homes: super::homes::by_slots,
            proxy_grace_ms: 10_000,
            proxies_interval_ms: 500,
            purge_after_ms: 10_000,
            settle_ms: 100,
            flap_pause_ms: 1_000,
            flap_pause_max_ms: 60_000,
            flap_forgiven_after_ms: 5 * 60_000,
        }
    }
}

/// First pause before a down node is connected to again; doubled up to [`LINK_PAUSE_MAX_MS`], cut short by an announcement.
pub(super) const LINK_PAUSE_MS: u64 = 100;
pub(super) const LINK_PAUSE_MAX_MS: u64 = 5_000;
/// First pause after a node could not be emptied; doubled up to [`FLUSH_PAUSE_MAX_MS`].
pub(super) const FLUSH_PAUSE_MS: u64 = 200;
pub(super) const FLUSH_PAUSE_MAX_MS: u64 = 10_000;
/// A node that turned out to be the master is looked at again after this.
pub(super) const REFUSED_PAUSE_MS: u64 = 60_000;
/// A connection that is lost again and again without a PING answered in between is opened anew so often before the node is down.
pub(super) const RECHECKS_MAX: u32 = 3;
/// A report of a proxy makes us look at once, but not more often than this.
pub(super) const SUSPECT_PAUSE_MS: u64 = 100;
/// Where an agent announces another process than our connection leads to we look anew, but not more often than this.
pub(super) const CONTEST_PAUSE_MS: u64 = 10_000;
/// A proxy that has not said again for so long that it cannot use a node can.
pub(super) const REPORT_GOOD_FOR_MS: u64 = 15_000;
/// Proxies that are named which cannot use a node.
pub(super) const REPORTERS_MAX: usize = 16;
/// So much is kept of what somebody calls himself or gives as a reason.
pub(super) const REASON_LEN_MAX: usize = 160;
/// What there is to tell of nodes is looked for so often.
pub(super) const NOTES_INTERVAL_MS: u64 = 500;
/// It is told again after this, changed or not.
pub(super) const NOTES_AGAIN_MS: u64 = 5_000;
/// It is gone when it has not been told again for so long.
pub(super) const NOTES_KEPT_MS: u64 = 15_000;
/// Of so many nodes at most.
pub(super) const NOTES_MAX: usize = 100;
/// If a step comes so much later than it was due it was we who stood still, not everybody else.
pub(super) const OWN_PAUSE_MS: u64 = 50;
/// From this long on it is worth a word.
pub(super) const OWN_PAUSE_TOLD_MS: u64 = 1_000;
/// The longest time between two steps. What passes of it while we stand still is not noticed, and so not excused.
pub const STEP_AT_LEAST_EVERY_MS: u64 = 250;
/// The longest time while some node has little time to answer.
pub(super) const STEP_WHEN_PRESSING_EVERY_MS: u64 = 50;
/// Started this long before it was last seen empty: allows for clocks of different hosts, and uptimes in whole seconds.
pub(super) const UPTIME_SLACK_MS: u64 = 5_000;

/// Nodes that were all started within this have nothing to lose that is worth waiting for.
pub(super) const YOUNG_MS: u64 = 10_000;

/// Operators' wishes that are carried out at a time; a bound on what a stray program can do.
pub(super) const WISHES_MAX: usize = 64;
/// The id of a wish has at most so many bytes.
pub(super) const WISH_ID_LEN_MAX: usize = 64;
/// A wish that has not been said again for so long is nobody's any more.
pub(super) const WISH_SAID_AGAIN_MS: u64 = 10_000;

/// Proxies' confirmations are read so often where nobody waits for them, so that those that are gone are forgotten.
pub(super) const PROXIES_IDLE_INTERVAL_MS: u64 = 5_000;
/// So many nodes are told to purge at a time, each time proxies are listed: each of their agents reads the map.
pub(super) const ORDERS_MAX: usize = 16;
/// A node that has not purged what it was told to is told again.
pub(super) const ORDER_AGAIN_MS: u64 = 10_000;
/// Pause before a node that could not be flushed of the keys it lost is tried again.
pub(super) const CLEAR_PAUSE_MS: u64 = 1_000;

/// More nodes than this are not taken in: a bound on what a stray agent can do, far above any real cluster.
pub const NODES_MAX: usize = 10_000;
/// A node's name has at most so many bytes.
pub const NAME_LEN_MAX: usize = 255;

const _: () = assert!(2 * NOTES_AGAIN_MS < NOTES_KEPT_MS && NOTES_INTERVAL_MS < NOTES_AGAIN_MS);
const _: () = assert!(STEP_WHEN_PRESSING_EVERY_MS < STEP_AT_LEAST_EVERY_MS && OWN_PAUSE_MS < OWN_PAUSE_TOLD_MS);
