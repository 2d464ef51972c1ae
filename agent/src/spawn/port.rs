//! Ports that nobody listens on.

use std::{
    collections::BTreeSet,
    io,
    net::TcpListener,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::SpawnError;

/// Where ports are looked for first: below the range from which Linux takes the local ports of outgoing connections, so that a
/// server finds its port free again when it is restarted.
const PREFERRED: Range<u16> = 20_000..32_768;
const ATTEMPTS: usize = 50;
/// Those of them that this process was given, which may not listen there yet, or not at the moment; and those that it found taken.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of `host` on which nothing listened a moment ago, and another one each time as long as there are. Another program may take it
/// before it is used, so whoever uses it tries again with another one if it turns out to be taken.
///
/// # Errors
/// If nothing can be bound on `host` at all.
pub fn free_port(host: &str) -> Result<u16, SpawnError> {
    let bindable = |port: u16| match host {
        "*" => TcpListener::bind(("0.0.0.0", port)),
        _ => TcpListener::bind((host, port)),
    };
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(PREFERRED);
        // Looked for there first: were it bound, whoever was given it and starts now would find it taken.
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) && bindable(port).is_ok() {
            return Ok(port);
        }
    }
    bindable(0)
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| SpawnError::NoFreePort { host: host.to_owned(), source })
}

/// Whether somebody listens on `port` of `host`.
pub(super) fn is_taken(host: &str, port: u16) -> bool {
    let host = if host == "*" { "0.0.0.0" } else { host };
    TcpListener::bind((host, port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_a_port_that_another_may_be_about_to_use() {
        let ports: BTreeSet<u16> = (0..500).map(|_| free_port("127.0.0.1").unwrap()).collect();
        assert_eq!(ports.len(), 500);
    }

    #[test]
    fn a_free_port_is_free_and_a_used_one_is_taken() {
        let port = free_port("127.0.0.1").unwrap();
        assert!(!is_taken("127.0.0.1", port));
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(is_taken("127.0.0.1", port));
    }
}
