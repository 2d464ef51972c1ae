//! The flag sets of commands and keys, and redis's names for them in the order in which redis prints them.

bitflags::bitflags! {
    /// Redis's command flags.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// May change the data.
        const WRITE = 1;
        /// Reads data and changes none.
        const READONLY = 1 << 1;
        /// Refused when memory is short.
        const DENYOOM = 1 << 2;
        /// Comes from a module.
        const MODULE = 1 << 3;
        /// For whoever runs the server.
        const ADMIN = 1 << 4;
        /// Has to do with channels.
        const PUBSUB = 1 << 5;
        /// Not allowed in scripts.
        const NOSCRIPT = 1 << 6;
        /// May block the client.
        const BLOCKING = 1 << 7;
        /// Allowed while the server loads its data.
        const LOADING = 1 << 8;
        /// Allowed on a replica whose data is stale.
        const STALE = 1 << 9;
        /// Not shown by MONITOR.
        const SKIP_MONITOR = 1 << 10;
        /// Not put into the slow log.
        const SKIP_SLOWLOG = 1 << 11;
        /// Reads keys of a slot that is being imported, as after ASKING.
        const ASKING = 1 << 12;
        /// Takes constant or logarithmic time.
        const FAST = 1 << 13;
        /// Allowed before AUTH.
        const NO_AUTH = 1 << 14;
        /// May write or publish although it lacks the flag `write` (EVAL, PUBLISH). Redis does not print it.
        const MAY_REPLICATE = 1 << 15;
        /// May come without any key although it takes keys (EVAL … 0).
        const NO_MANDATORY_KEYS = 1 << 16;
        /// Off unless the server's configuration allows it. Redis does not print it.
        const PROTECTED = 1 << 17;
        /// Not allowed while the server loads its data in the background.
        const NO_ASYNC_LOADING = 1 << 18;
        /// Not allowed between MULTI and EXEC.
        const NO_MULTI = 1 << 19;
        /// Its keys are not told by first, last and step alone.
        const MOVABLEKEYS = 1 << 20;
        /// Allowed while a script runs too long.
        const ALLOW_BUSY = 1 << 21;
    }
}

impl Flags {
    /// The flags' names as `COMMAND INFO` prints them.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        const NAMES: [(Flags, &str); 20] = [
            (Flags::WRITE, "write"),
            (Flags::READONLY, "readonly"),
            (Flags::DENYOOM, "denyoom"),
            (Flags::MODULE, "module"),
            (Flags::ADMIN, "admin"),
            (Flags::PUBSUB, "pubsub"),
            (Flags::NOSCRIPT, "noscript"),
            (Flags::BLOCKING, "blocking"),
            (Flags::LOADING, "loading"),
            (Flags::STALE, "stale"),
            (Flags::SKIP_MONITOR, "skip_monitor"),
            (Flags::SKIP_SLOWLOG, "skip_slowlog"),
            (Flags::ASKING, "asking"),
            (Flags::FAST, "fast"),
            (Flags::NO_AUTH, "no_auth"),
            (Flags::NO_MANDATORY_KEYS, "no_mandatory_keys"),
            (Flags::NO_ASYNC_LOADING, "no_async_loading"),
            (Flags::NO_MULTI, "no_multi"),
            (Flags::MOVABLEKEYS, "movablekeys"),
            (Flags::ALLOW_BUSY, "allow_busy"),
        ];
        NAMES.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
    }
}

bitflags::bitflags! {
    /// The ACL categories of a command.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Categories: u32 {
        /// `@keyspace`
        const KEYSPACE = 1;
        /// `@read`
        const READ = 1 << 1;
        /// `@write`
        const WRITE = 1 << 2;
        /// `@set`
        const SET = 1 << 3;
        /// `@sortedset`
        const SORTEDSET = 1 << 4;
        /// `@list`
        const LIST = 1 << 5;
        /// `@hash`
        const HASH = 1 << 6;
        /// `@string`
        const STRING = 1 << 7;
        /// `@bitmap`
        const BITMAP = 1 << 8;
        /// `@hyperloglog`
        const HYPERLOGLOG = 1 << 9;
        /// `@geo`
        const GEO = 1 << 10;
        /// `@stream`
        const STREAM = 1 << 11;
        /// `@pubsub`
        const PUBSUB = 1 << 12;
        /// `@admin`
        const ADMIN = 1 << 13;
        /// `@fast`
        const FAST = 1 << 14;
        /// `@slow`
        const SLOW = 1 << 15;
        /// `@blocking`
        const BLOCKING = 1 << 16;
        /// `@dangerous`
        const DANGEROUS = 1 << 17;
        /// `@connection`
        const CONNECTION = 1 << 18;
        /// `@transaction`
        const TRANSACTION = 1 << 19;
        /// `@scripting`
        const SCRIPTING = 1 << 20;
    }
}

/// The categories' names, each at the place of its bit.
const CATEGORY_NAMES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

impl Categories {
    /// The categories' names, without the `@`, in redis's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        CATEGORY_NAMES.into_iter().enumerate().filter(move |(bit, _)| self.bits() & (1 << bit) != 0).map(|(_, name)| name)
    }

    /// The category of this name, in any case and without the `@`.
    pub fn by_name(name: &[u8]) -> Option<Categories> {
        let bit = CATEGORY_NAMES.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(name))?;
        Categories::from_bits(1 << bit)
    }

    /// These and the ones that follow from a command's flags.
    pub(super) const fn with_implied(self, flags: Flags) -> Categories {
        let mut all = self;
        if flags.contains(Flags::WRITE) {
            all = all.union(Categories::WRITE);
        }
        // A script that promises to only read is still a script.
        if flags.contains(Flags::READONLY) && !self.contains(Categories::SCRIPTING) {
            all = all.union(Categories::READ);
        }
        if flags.contains(Flags::ADMIN) {
            all = all.union(Categories::ADMIN).union(Categories::DANGEROUS);
        }
        if flags.contains(Flags::PUBSUB) {
            all = all.union(Categories::PUBSUB);
        }
        if flags.contains(Flags::BLOCKING) {
            all = all.union(Categories::BLOCKING);
        }
        all.union(if flags.contains(Flags::FAST) { Categories::FAST } else { Categories::SLOW })
    }
}

bitflags::bitflags! {
    /// What a command does with the keys of a key spec, and how far the spec can be trusted.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct KeyFlags: u16 {
        /// Reads the value and leaves it as it is.
        const RO = 1;
        /// Changes the value in place.
        const RW = 1 << 1;
        /// Overwrites the value without a look at it.
        const OW = 1 << 2;
        /// Removes the key without a look at its value.
        const RM = 1 << 3;
        /// Returns, copies or computes with the value.
        const ACCESS = 1 << 4;
        /// Changes what is there.
        const UPDATE = 1 << 5;
        /// Adds to what is there.
        const INSERT = 1 << 6;
        /// Takes from what is there.
        const DELETE = 1 << 7;
        /// Not keys at all, but routed as if they were (channels).
        const NOT_KEY = 1 << 8;
        /// There may be keys that the spec does not find.
        const INCOMPLETE = 1 << 9;
        /// The flags depend on the arguments.
        const VARIABLE_FLAGS = 1 << 10;
    }
}

impl KeyFlags {
    /// The flags' names as `COMMAND INFO` prints them.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        const NAMES: [&str; 11] =
            ["RO", "RW", "OW", "RM", "access", "update", "insert", "delete", "not_key", "incomplete", "variable_flags"];
        NAMES.into_iter().enumerate().filter(move |(bit, _)| self.bits() & (1 << bit) != 0).map(|(_, name)| name)
    }
}
