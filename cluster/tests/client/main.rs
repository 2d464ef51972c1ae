//! The client beside a real master: what it follows, what it does not believe, and where it says keys are.

mod deltas;
mod owners;
mod sentinels;
mod support;
mod watch;
