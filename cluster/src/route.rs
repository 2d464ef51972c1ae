//! Where a request goes: request + topology -> [`Route`], or a [`Refusal`].
//!
//! Nothing here sends anything. What a route means to a connection that is pinned, paused or gone is the proxy's business.

use crate::{
    command::{Command, Flags, KeyError, Merge, Split, Way, find_keys, sort_pattern},
    resp::Args,
    topology::{NodeIndex, Owner, Place, PlacementKind, Topology, Unowned},
};

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// As it came, to the one node that owns all its keys.
    One(Owner),
    /// In parts: see [`Router::parts`].
    Split(Split),
    /// As it came, to every node that is up.
    All(Merge),
    /// As it came, to any node that is up.
    Any,
    /// As it came, to the one node that owns all its keys, where it may wait: not on a connection that others share.
    Wait(Owner),
    /// Likewise to any node that is up.
    WaitAnywhere,
    /// The proxy answers.
    Local,
    /// It depends on what else the session has said.
    Session,
}

/// Why a request goes nowhere. Shown, it is the error's text as the client gets it, code included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its keys have different slots and the command cannot be split.
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    /// There is no node to send anything to.
    #[error("CLUSTERDOWN no node of the cluster is up")]
    NoNodeUp,
    /// The key's node went down or came up of late, and its keys are not moved yet (`--down-node-expiry`).
    #[error("CLUSTERDOWN node {node} went down or came up recently, and its keys are withheld (--down-node-expiry)")]
    Withheld {
        /// The node's name.
        node: Box<str>,
    },
    /// Its keys cannot be told, in a way that a single redis would let pass.
    #[error("{0}")]
    Keys(KeyError),
    /// It names another database while its key is kept in a guest database, whose numbers are not the client's.
    #[error("CLUSTERDOWN '{0}' cannot go from one database to another while the node that its key belongs to is down")]
    OtherDatabase(&'static str),
    /// Not a command for between MULTI and EXEC, in redis either.
    #[error("ERR Command not allowed inside a transaction")]
    NotInTransaction,
    /// The key's node says so just now, of whatever it is asked.
    #[error("{0}")]
    Node(Box<str>),
    /// Known, but not something that this proxy does.
    #[error("ERR '{0}' is not supported by this proxy")]
    Unsupported(&'static str),
}

/// One node's share of a split request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Who owns these keys.
    pub owner: Owner,
    /// How many of the request's keys.
    pub keys: u32,
}

/// Routes requests; keeps its working space from one to the next, so that routing allocates nothing.
#[derive(Debug, Default)]
pub struct Router {
    keys: Vec<u32>,
    parts: Vec<Part>,
    part_of_key: Vec<u16>,
    /// Part by node and guest bit; [`NO_PART`] between requests.
    part_of_owner: Vec<u16>,
}

const NO_PART: u16 = u16::MAX;

impl Router {
    /// Decides where a request goes. Its arity must have been checked.
    ///
    /// # Errors
    /// See [`Refusal`].
    #[inline]
    pub fn route(&mut self, command: &'static Command, args: Args<'_>, topology: &Topology) -> Result<Route, Refusal> {
        match command.way {
            Way::Keyed => self.keyed(command, args, topology),
            Way::Blocking => Ok(match self.keyed(command, args, topology)? {
                Route::One(owner) if command.waits(args) => Route::Wait(owner),
                // Without keys to find, a malformed request gets its error from any node, without a wait.
                Route::Any if command.waits(args) => Route::WaitAnywhere,
                route => route,
            }),
            Way::Split(split) => self.split(split, command, args, topology),
            Way::AnyNode => Ok(Route::Any),
            Way::AllNodes(merge) => Ok(Route::All(merge)),
            Way::Local => Ok(Route::Local),
            Way::Transaction | Way::PubSub | Way::Scan | Way::RandomKey => Ok(Route::Session),
            Way::Container | Way::Refused => Err(Refusal::Unsupported(command.name)),
        }
    }

    /// The parts of the request that was last routed as [`Route::Split`].
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The one node that owns all keys of a request that cannot be split here, whatever the table says of it: inside a transaction, a
    /// command is carried out whole. `None` if it has no keys.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn whole(&mut self, command: &'static Command, args: Args<'_>, topology: &Topology) -> Result<Option<Place>, Refusal> {
        self.keys.clear();
        match find_keys(command, args, &mut self.keys) {
            Ok(()) if topology.options().kind == PlacementKind::Legacy && sort_pattern(command, args) => {
                return Err(Refusal::Keys(KeyError::SortBy));
            }
            Ok(()) => {}
            // The node that carries it out words the error.
            Err(error) if error.is_redis_own() => return Ok(None),
            Err(error) => return Err(Refusal::Keys(error)),
        }
        let Some((&first, others)) = self.keys.split_first() else { return Ok(None) };
        let place = topology.place(&args[first as usize]);
        let same = others.iter().all(|&key| topology.place(&args[key as usize]) == place);
        if same { Ok(Some(place)) } else { Err(Refusal::CrossSlot) }
    }

    /// Which arguments are keys of the request that was last looked at by [`Router::whole`].
    pub fn keys(&self) -> &[u32] {
        &self.keys
    }

    /// For each key of that request in order, the index of its part.
    pub fn part_of_key(&self) -> &[u16] {
        &self.part_of_key
    }

    #[inline]
    fn keyed(&mut self, command: &'static Command, args: Args<'_>, topology: &Topology) -> Result<Route, Refusal> {
        match command.only_key() {
            Some(key) => owner(topology.place(&args[key]), topology).map(Route::One),
            None => self.keyed_by_search(command, args, topology),
        }
    }

    fn keyed_by_search(&mut self, command: &'static Command, args: Args<'_>, topology: &Topology) -> Result<Route, Refusal> {
        let place = match self.whole(command, args, topology)? {
            Some(place) => place,
            None if command.flags.contains(Flags::NO_MANDATORY_KEYS) => home_of_keyless(topology),
            // Any node words the error of a malformed request as redis does.
            None => return Ok(Route::Any),
        };
        let owner = owner(place, topology)?;
        if owner.guest && command.other_database(args).is_some() {
            return Err(Refusal::OtherDatabase(command.name));
        }
        Ok(Route::One(owner))
    }

    fn split(&mut self, split: Split, command: &'static Command, args: Args<'_>, topology: &Topology) -> Result<Route, Refusal> {
        if split == Split::OkByPair && args.len().is_multiple_of(2) {
            return Ok(Route::Any);
        }
        let step = split.step();
        self.parts.clear();
        self.part_of_key.clear();
        self.part_of_owner.resize(topology.nodes().len() * 2, NO_PART);
        let given_out = self.give_out(args, step, topology);
        for part in &self.parts {
            self.part_of_owner[owner_index(part.owner)] = NO_PART;
        }
        given_out?;
        debug_assert!(!self.parts.is_empty(), "{}: arity asks for a key", command.name);
        Ok(match self.parts[..] {
            [only] => Route::One(only.owner),
            _ => Route::Split(split),
        })
    }

    fn give_out(&mut self, args: Args<'_>, step: usize, topology: &Topology) -> Result<(), Refusal> {
        for key in (1..args.len()).step_by(step) {
            let owner = owner(topology.place(&args[key]), topology)?;
            let part = &mut self.part_of_owner[owner_index(owner)];
            if *part == NO_PART {
                *part = self.parts.len() as u16;
                self.parts.push(Part { owner, keys: 0 });
            }
            self.parts[usize::from(*part)].keys += 1;
            self.part_of_key.push(*part);
        }
        Ok(())
    }
}

impl Split {
    /// Arguments from one key to the next.
    pub fn step(self) -> usize {
        match self {
            Split::ArrayByKey | Split::SumByKey => 1,
            Split::OkByPair => 2,
        }
    }
}

/// Where a script without keys runs: always at one node, so that what it leaves there it finds again, whoever runs it.
pub fn home_of_keyless(topology: &Topology) -> Place {
    topology.place(b"")
}

fn owner_index(owner: Owner) -> usize {
    usize::from(owner.node) * 2 + usize::from(owner.guest)
}

/// Who owns a place, or the refusal that says why nobody does.
///
/// # Errors
/// See [`Refusal`].
#[inline]
pub fn owner(place: Place, topology: &Topology) -> Result<Owner, Refusal> {
    topology.owner(place).map_err(|unowned| refusal(unowned, topology))
}

#[cold]
fn refusal(unowned: Unowned, topology: &Topology) -> Refusal {
    match unowned {
        Unowned::NoNodeUp => Refusal::NoNodeUp,
        Unowned::Withheld { node, .. } => Refusal::Withheld { node: node_name(topology, node) },
    }
}

fn node_name(topology: &Topology, node: NodeIndex) -> Box<str> {
    topology.nodes()[usize::from(node)].name.as_ref().into()
}
