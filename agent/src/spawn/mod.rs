//! Redis servers of our own: start them, watch them, stop them.
//!
//! What runs here is a cache: no RDB, no AOF, a directory that goes away with the process. [`RedisProcess`] is one run of a
//! server; [`Supervised`] keeps one running, on the same port, for as long as it is wanted.
//!
//! No server outlives the program that started it: it is stopped on exit, killed when its [`RedisProcess`] is dropped, and on
//! Linux killed by the kernel when the program itself is killed (see `forker`). Elsewhere a SIGKILL of the program leaves its
//! servers running.

mod error;
mod forker;
mod options;
mod port;
mod process;
mod supervisor;

pub use error::SpawnError;
pub use forker::spawn as start_child;
pub use options::{RestartPolicy, SpawnOptions};
pub use port::free_port;
pub use process::RedisProcess;
pub use supervisor::{SpawnEvent, Supervised, supervise};
