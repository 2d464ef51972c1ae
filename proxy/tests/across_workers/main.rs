//! What concerns the clients of all workers, in front of real redis servers.

mod clients;
mod introspection;
mod support;
