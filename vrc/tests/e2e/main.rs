//! End-to-end tests: the real program, real redis servers, real sockets.

mod cluster_up;
mod expiry;
mod failover;
mod health;
mod keys;
mod log;
mod master;
mod moves;
mod open_files;
mod sentinel;
mod show;
mod support;
