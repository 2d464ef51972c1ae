//! The proxy, the coordinator and the agents beside programs that others wrote: redis's own tools, client libraries, and the
//! Node.js system that this project succeeds.
//!
//! Whatever a program expects of the proxy it is first made to expect of a plain redis, so that no test is content with an answer
//! that redis would not give.

mod caching;
mod cluster_mode;
mod libraries;
mod modules;
mod old_system;
mod program;
mod redis_rs;
mod redis_tools;
#[path = "../clients/servers.rs"]
mod servers;
