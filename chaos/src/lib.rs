//! A fault runner: a whole cluster of real processes, faults at random from a seed, and clients that check every reply.
//!
//! Several redis servers with their agents, a master, two coordinators and two proxies run; clients write and read through both proxies
//! all the while; [`fault`] kills, stops, cuts, restarts and flaps. What clients saw is a [`history`]; which map every proxy
//! went by is noted by the [`observer`]; and the [`judge`], which knows nothing of processes, says from these alone what must
//! not have happened. The [`report`] tells it.
//!
//! The seed decides which faults come when. Processes and the network have a mind of their own, so the same seed plays much the
//! same run, not the very same.

mod cluster;
mod detection;
mod fault;
mod history;
mod judge;
mod network;
mod observer;
mod options;
mod plan;
mod process;
mod random;
mod report;
mod run;
mod traffic;

pub use options::{Kind, NetworkKind, Options};
pub use report::Report;
pub use run::run;
