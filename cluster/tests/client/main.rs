//! The client beside a real master: what it follows, what it does not believe, and where it says keys are.

mod owners;
mod support;
mod watch;
