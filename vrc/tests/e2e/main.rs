//! End-to-end tests: the real program, real redis servers, real sockets.

mod cluster_up;
mod failover;
mod keys;
mod moves;
mod show;
mod support;
