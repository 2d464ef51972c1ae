//! The coordinator against real redis servers.

mod joining;
mod leadership;
mod losing;
mod publishing;
mod support;
