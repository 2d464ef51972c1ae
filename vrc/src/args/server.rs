//! How redis servers of our own are started.

use std::path::PathBuf;

use clap::Args;
use vrc_agent::spawn::SpawnOptions;

/// Redis's policies of what goes when memory is full.
const POLICIES: [&str; 8] = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "noeviction",
];

/// How redis servers of our own are started.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// What a server evicts when its memory is full
    #[arg(long, value_name = "POLICY", env = "VRC_MAXMEMORY_POLICY", default_value = POLICIES[0],
          value_parser = POLICIES, hide_possible_values = true)]
    maxmemory_policy: String,
    /// The server's program [default: redis-server or valkey-server, the first on PATH]
    #[arg(long, value_name = "PATH", env = "VRC_REDIS_SERVER")]
    redis_server: Option<PathBuf>,
}

impl ServerArgs {
    /// With `maxmemory` as redis reads it.
    pub(crate) fn options(&self, maxmemory: Option<String>) -> SpawnOptions {
        SpawnOptions {
            program: self.redis_server.clone(),
            maxmemory,
            maxmemory_policy: self.maxmemory_policy.clone(),
            ..SpawnOptions::default()
        }
    }
}

/// A number of bytes as redis.conf has them: `256mb`, `1g`, `1000000`.
pub(crate) fn parse_memory(text: &str) -> Result<String, String> {
    const UNITS: [&str; 8] = ["", "b", "k", "kb", "m", "mb", "g", "gb"];
    let lower = text.to_ascii_lowercase();
    let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 15 || !UNITS.contains(&&lower[digits..]) {
        return Err("not an amount of memory such as 256mb, 1g or 1000000".to_owned());
    }
    Ok(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory() {
        for text in ["256mb", "1g", "1000000", "64K", "0"] {
            assert_eq!(parse_memory(text), Ok(text.to_ascii_lowercase()));
        }
        for text in ["", "mb", "1.5g", "-1", "1t", "1 gb", "9999999999999999", "1é"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }
}
