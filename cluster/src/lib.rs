//! What every part of Volatile Redis Cluster agrees on.
//!
//! This library decides; it does no I/O but that of its small client (`client`). Nothing in it reads a clock: whatever depends
//! on the time is handed `now`.

pub mod client;
pub mod command;
pub mod contract;
mod delta;
mod flaw;
pub mod info;
pub mod membership;
pub mod merge;
pub mod placement;
pub mod resp;
pub mod route;
pub mod topology;
