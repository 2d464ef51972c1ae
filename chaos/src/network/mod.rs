//! What carries the bytes between the processes, and can be made to stop.

mod namespaces;
mod relays;

use anyhow::Context;
use namespaces::Namespaces;
use relays::Relays;

use crate::options::NetworkKind;

/// Who has a place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Party {
    Master,
    /// A node's redis, and its agent.
    Node(usize),
    Coordinator(usize),
    Proxy(usize),
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Party::Master => f.write_str("master"),
            Party::Node(number) => write!(f, "node-{number}"),
            Party::Coordinator(number) => write!(f, "coordinator-{number}"),
            Party::Proxy(number) => write!(f, "proxy-{number}"),
        }
    }
}

/// An address.
pub(crate) type Address = (String, u16);

/// The network between all parties.
pub(crate) enum Network {
    Namespaces(Namespaces),
    Relays(Relays),
}

impl Network {
    /// Lays it.
    pub(crate) async fn lay(kind: NetworkKind, parties: &[Party]) -> anyhow::Result<Self> {
        match kind {
            NetworkKind::Relays => Ok(Network::Relays(Relays::lay(parties).await?)),
            NetworkKind::Namespaces => Ok(Network::Namespaces(Namespaces::lay(parties).await.context("network namespaces")?)),
            NetworkKind::Auto => match Namespaces::lay(parties).await {
                Ok(namespaces) => Ok(Network::Namespaces(namespaces)),
                Err(_) => Ok(Network::Relays(Relays::lay(parties).await?)),
            },
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Network::Namespaces(_) => "namespaces",
            Network::Relays(_) => "relays",
        }
    }

    /// Whether any two can be cut from each other, without a third that notices.
    pub(crate) fn cuts_pairs(&self) -> bool {
        matches!(self, Network::Namespaces(_))
    }

    /// The command line that runs `line` where `party` has its place.
    pub(crate) fn at(&self, party: Party, line: Vec<String>) -> Vec<String> {
        match self {
            Network::Namespaces(namespaces) => namespaces.at(party, line),
            Network::Relays(_) => line,
        }
    }

    /// Where a server (the master, or a node's redis) is to listen.
    pub(crate) fn listens(&self, server: Party) -> Address {
        match self {
            Network::Namespaces(namespaces) => namespaces.address(server),
            Network::Relays(relays) => relays.listens(server),
        }
    }

    /// Where `from` finds the server `to`.
    pub(crate) fn finds(&self, from: Party, to: Party) -> Address {
        match self {
            Network::Namespaces(namespaces) => namespaces.address(to),
            // A node's agent is beside it.
            Network::Relays(relays) if from == to => relays.listens(to),
            Network::Relays(relays) => relays.finds(from, to),
        }
    }

    /// Nothing goes from one to the other any more, and nobody is told. Cuts are counted: two take two [`heal`](Self::heal)s.
    pub(crate) async fn cut(&mut self, one: Party, other: Party) -> anyhow::Result<()> {
        match self {
            Network::Namespaces(namespaces) => namespaces.cut(one, other).await,
            Network::Relays(relays) => {
                relays.cut(one, other);
                Ok(())
            }
        }
    }

    /// Takes a cut back.
    pub(crate) async fn heal(&mut self, one: Party, other: Party) -> anyhow::Result<()> {
        match self {
            Network::Namespaces(namespaces) => namespaces.heal(one, other).await,
            Network::Relays(relays) => {
                relays.heal(one, other);
                Ok(())
            }
        }
    }
}
