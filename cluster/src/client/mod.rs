//! The small client: what talks to the master redis.

mod master;

pub use master::{MasterUrl, MasterUrlError};
