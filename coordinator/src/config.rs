//! What a coordinator is told. Nothing behind this parses text.

use std::time::Duration;

use anyhow::ensure;
use vrc_cluster::{client::MasterUrl, contract::CONFIRM_EVERY_MS, membership::Options};

/// A coordinator's settings. [`Config::new`] gives the usual ones for a master.
#[derive(Debug, Clone)]
pub struct Config {
    /// The redis that holds the node map and carries the messages.
    pub master: MasterUrl,
    /// Let the master's own redis serve as a node too. It is then emptied of all but the coordination keys when it joins.
    pub allow_master: bool,
    /// Flush the guest databases of the nodes that stay when one goes down. Off beside old clients (`--placement legacy`),
    /// which know no guest databases and may keep data of their own in any database.
    pub guest_databases: bool,
    /// Send maps whole, too, on the channel of old clients, whenever somebody listens there.
    pub legacy_bus: bool,
    /// Pause between two PINGs on the connection that is kept open to every node.
    pub ping_interval: Duration,
    /// A node that has left a PING unanswered this long is down.
    pub ping_timeout: Duration,
    /// A node whose agent has said nothing for this long is down.
    pub agent_timeout: Duration,
    /// A node that has been down this long is forgotten, and its keys get a new home.
    pub forget_after: Duration,
    /// How long the lease outlives the leader's last renewal. The standby leads within this and a moment.
    pub lease: Duration,
    /// How often the leader renews, and how often a standby tries.
    pub lease_interval: Duration,
    /// How long one that remembers no map lets others lead first at a master that has none. Zero where there are no others.
    pub yields: Duration,
    /// How long a node whose connection was lost may take to answer on a new one before it counts as down.
    pub recheck: Duration,
    /// How long a request to the master may take before the connection is given up.
    pub master_timeout: Duration,
    /// How long emptying a joining node may take.
    pub join_flush_timeout: Duration,
    /// How long the nodes that stay may take to flush their guest databases before they count as down themselves.
    pub guest_flush_timeout: Duration,
    /// How long a proxy may take to confirm a map, or be silent, before it is not waited for any more.
    pub proxy_grace: Duration,
    /// How long after keys got new homes nodes are told to purge those that they lost.
    pub purge_after: Duration,
    /// How long readers are given to take up a map before what it changed is built upon.
    pub settle: Duration,
    /// First pause before a node that goes down again and again is let back; doubled each time.
    pub flap_pause: Duration,
    /// Longest such pause.
    pub flap_pause_max: Duration,
    /// A node that has stayed up this long is forgiven its past.
    pub flap_forgiven_after: Duration,
}

impl Config {
    /// The usual settings.
    pub fn new(master: MasterUrl) -> Self {
        Config {
            master,
            allow_master: false,
            guest_databases: true,
            legacy_bus: true,
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(3),
            agent_timeout: Duration::from_secs(45),
            forget_after: Duration::from_secs(20 * 60),
            lease: Duration::from_secs(2),
            lease_interval: Duration::from_millis(500),
            yields: Duration::from_secs(2),
            recheck: Duration::from_millis(200),
            master_timeout: Duration::from_secs(1),
            join_flush_timeout: Duration::from_secs(60),
            guest_flush_timeout: Duration::from_secs(1),
            proxy_grace: Duration::from_secs(10),
            purge_after: Duration::from_secs(10),
            settle: Duration::from_millis(100),
            flap_pause: Duration::from_secs(1),
            flap_pause_max: Duration::from_secs(60),
            flap_forgiven_after: Duration::from_secs(5 * 60),
        }
    }

    /// What of this membership decides by.
    pub(crate) fn options(&self) -> Options {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
        Options {
            allow_master: self.allow_master,
            guest_databases: self.guest_databases,
            ping_interval_ms: ms(self.ping_interval),
            ping_timeout_ms: ms(self.ping_timeout),
            recheck_ms: ms(self.recheck),
            agent_timeout_ms: ms(self.agent_timeout),
            forget_after_ms: ms(self.forget_after),
            lease_ms: ms(self.lease),
            lease_interval_ms: ms(self.lease_interval),
            yield_ms: ms(self.yields),
            join_flush_timeout_ms: ms(self.join_flush_timeout),
            guest_flush_timeout_ms: ms(self.guest_flush_timeout),
            proxy_grace_ms: ms(self.proxy_grace),
            purge_after_ms: ms(self.purge_after),
            settle_ms: ms(self.settle),
            flap_pause_ms: ms(self.flap_pause),
            flap_pause_max_ms: ms(self.flap_pause_max),
            flap_forgiven_after_ms: ms(self.flap_forgiven_after),
            ..Options::default()
        }
    }

    /// Settings that contradict each other would show as a coordinator that does not lead, or nodes that never stay up.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
        for (name, duration) in [
            ("ping interval", self.ping_interval),
            ("ping timeout", self.ping_timeout),
            ("agent timeout", self.agent_timeout),
            ("forget time", self.forget_after),
            ("lease", self.lease),
            ("lease interval", self.lease_interval),
            ("recheck time", self.recheck),
            ("master timeout", self.master_timeout),
            ("join flush timeout", self.join_flush_timeout),
            ("guest flush timeout", self.guest_flush_timeout),
        ] {
            ensure!(duration >= Duration::from_millis(10), "the {name} is {duration:?}, less than 10 ms");
            ensure!(duration <= LONGEST, "the {name} is {duration:?}, more than a year");
        }
        ensure!(
            self.lease >= 2 * self.lease_interval,
            "the lease ({:?}) must outlive two renewals, {:?} apart",
            self.lease,
            self.lease_interval
        );
        let confirm_every = Duration::from_millis(CONFIRM_EVERY_MS);
        ensure!(
            self.proxy_grace >= 2 * confirm_every && self.proxy_grace <= LONGEST,
            "the proxies' grace ({:?}) must outlast two confirmations, {confirm_every:?} apart",
            self.proxy_grace
        );
        ensure!(self.yields <= LONGEST, "the time for others to lead first is {:?}, more than a year", self.yields);
        ensure!(self.purge_after <= LONGEST, "the time before a purge is {:?}, more than a year", self.purge_after);
        Ok(())
    }
}
