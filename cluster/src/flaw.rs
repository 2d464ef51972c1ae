//! Rules broken on purpose, one at a time, so that the simulation's checkers can be seen to notice.
//!
//! A rule asks [`has`] whether it is to be broken. In the product that is a constant, and the question is gone together with all
//! that hangs on it; in this crate's own tests it may be true, for one thread.

macro_rules! flaws {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A rule that is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(not(test), expect(dead_code, reason = "some rules are played in tests only: those of scripts and readers"))]
        pub(crate) enum Flaw {
            $($(#[doc = $doc])+ $name,)+
        }

        /// All of them.
        #[cfg(test)]
        pub(crate) const FLAWS: &[Flaw] = &[$(Flaw::$name),+];
    };
}

flaws! {
    // ---- what the system had that this one succeeds ----
    /// A node is shown up while its flush is on its way.
    ShownUpBeforeFlushed,
    /// A flush is one of database 0.
    FlushesOneDatabase,
    /// A map that the master lost is not written back before nodes change again.
    LosesMapWithMaster,
    /// What agents say is taken as it comes.
    TakesNonsense,
    /// There is no lease: whoever runs leads, and writes.
    NoLease,
    /// There is one coordinator, and nobody takes over.
    NobodyTakesOver,

    // ---- one leader ----
    /// The master does not look whose lease it is.
    NoFence,
    /// A new connection to the master goes on under the old token.
    KeepsToken,
    /// The map is not read when the lease is gained.
    LeadsUnread,
    /// A map is written while the lease may be another's.
    WritesWhileLeaseInDoubt,
    /// Nodes are flushed by one whose lease has run out.
    FlushesWithoutLease,
    /// One who remembers nothing leads at an empty master before those who do.
    LeadsBeforeThoseWhoRemember,

    // ---- epochs and maps ----
    /// An epoch is one more than the last that is known, whatever the time of day.
    EpochFromMemoryAlone,
    /// What became of a write that was not answered is taken to be nothing.
    UnansweredIsUndone,
    /// The master does not look whether the hash is what it was taken for.
    WritesUponAnything,
    /// An empty map replaces the one that is remembered.
    EmptyReplacesMemory,
    /// A map is gone that others knew, and nobody asks what it may have said.
    TrustsOldMemory,
    /// A proxy goes by a map that the leader knows nothing of, and nothing follows from that.
    TrustsForeignMaps,

    // ---- emptied before shown up ----
    /// A node is emptied before the map stands that shows it down.
    EmptiedBeforeShownDown,
    /// A node is emptied without readers being given time to leave it.
    EmptiedTooSoon,
    /// A node is emptied while a proxy may still write there that does not know it to be down.
    EmptiedUnconfirmed,
    /// An emptying counts although readers came to use the node after it began.
    OldFlushCounts,
    /// A flush that failed counts.
    FailedFlushCounts,
    /// What answers at a node's address is emptied, though it is not the redis that its agent watches.
    EmptiesStrangers,
    /// A process that was restarted counts as the one before.
    RestartUnnoticed,

    // ---- guests flushed before shown down ----
    /// Guests are not flushed.
    NoGuestFlush,
    /// Guests are flushed without readers being given time to take up the map that showed the node up.
    GuestsFlushedTooSoon,
    /// Guests are flushed while a map is on its way that may show nodes up.
    GuestsFlushedWhileWriting,
    /// A guest flush makes up for nodes that went down after it began.
    GuestFlushCoversLater,
    /// A node whose guests were not flushed stays up.
    UnflushedStaysUp,
    /// A node that went down while the map was on its way that shows it up needs no guest flush.
    LateUpNeedsNoFlush,
    /// A node that dies before the first map that was to show it is shown down by that.
    ComesInAsDown,
    /// Guests have no database of their own.
    GuestsAmongOwn,

    // ---- nothing comes back with a home ----
    /// Slots come back to a node that still has keys of theirs.
    HomesComeBackUnclean,
    /// A node is purged, or flushed of what it lost, while a proxy may still write there.
    ClearedUnconfirmed,
    /// A proxy that was out of touch has written nothing meanwhile.
    LaggardsTrusted,
    /// A purge counts that was begun before a proxy turned up that was out of touch.
    BegunCounts,
    /// A new leader does not ask who may have lost slots.
    ForgetsWhoLostSlots,
    /// Weights change while a node is down, and its guests are not flushed.
    WeightsChangeAmongGuests,
    /// An agent purges by the map that stood when it began.
    PurgesByOldMap,
    /// A proxy confirms a map while commands are under way that it sent by another.
    ConfirmsUnsettled,

    // ---- an operator's word stands ----
    /// A drained node is up again as soon as it can be.
    DrainedComesBack,

    // ---- what no map has said can be taken back, and what one has cannot ----
    /// A node is back that a map is about to show down.
    TakenBackWhileShownDown,
    /// A node is back that a map has shown down.
    TakenBackAfterShownDown,

    // ---- nothing is flushed in vain ----
    /// A new leader has all nodes emptied.
    EmptiesForNewLeader,
    /// A connection that was cut is a node that is down.
    CutIsDown,
    /// Others are blamed for the time in which we did not run.
    BlamesOthers,
    /// The death of a former process is that of the present one.
    BelievesOldDeaths,
    /// When all nodes go silent at once, all are down.
    BelievesSilenceOfAll,

    // ---- readers ----
    /// A reader takes an older map.
    ReaderTakesOlder,
    /// A reader takes an empty map.
    ReaderTakesEmpty,
    /// A reader reads the map once, and then only listens.
    ReaderOnlyListens,
    /// A proxy that could not confirm a map for long says nothing of that to who leads next.
    LagUntold,
    /// A proxy speaks to whatever process listens where a node should be.
    SpeaksToAnyProcess,

    // ---- deltas ----
    /// A delta is applied to whatever map is held.
    DeltaUponAnything,
    /// Nobody looks whether a delta led to the map that was written.
    DeltaUnchecked,
    /// A reader that cannot apply a delta waits for the next read.
    GapNotReread,
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn has(_: Flaw) -> bool {
    false
}

#[cfg(test)]
pub(crate) use broken::{has, with};

#[cfg(test)]
mod broken {
    use std::cell::Cell;

    use super::Flaw;

    thread_local!(static BROKEN: Cell<Option<Flaw>> = const { Cell::new(None) });

    /// Whether this rule is broken in this thread.
    pub(crate) fn has(flaw: Flaw) -> bool {
        BROKEN.get() == Some(flaw)
    }

    /// Runs with a rule broken.
    pub(crate) fn with<T>(flaw: Flaw, run: impl FnOnce() -> T) -> T {
        BROKEN.set(Some(flaw));
        let result = run();
        BROKEN.set(None);
        result
    }
}
