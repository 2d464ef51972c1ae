//! Ports that nobody listens on.

use std::{io, net::TcpListener, ops::Range};

use super::SpawnError;

/// Where ports are looked for first: below the range from which Linux takes the local ports of outgoing connections, so that a
/// server finds its port free again when it is restarted.
const PREFERRED: Range<u16> = 20_000..32_768;
const ATTEMPTS: usize = 50;

/// A port of `host` on which nothing listened a moment ago. Another program may take it before it is used, so whoever uses it
/// tries again with another one if it turns out to be taken.
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
        if bindable(port).is_ok() {
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
    fn a_free_port_is_free_and_a_used_one_is_taken() {
        let port = free_port("127.0.0.1").unwrap();
        assert!(!is_taken("127.0.0.1", port));
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(is_taken("127.0.0.1", port));
    }
}
