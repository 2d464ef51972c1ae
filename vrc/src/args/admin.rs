//! Where operators look at a part over HTTP.

use std::net::SocketAddr;

use vrc_proxy::ListenAddr;

/// Spelled as in --listen, but HTTP is served over TCP only.
pub(crate) fn parse_admin(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(ListenAddr::Tcp(address)) => Ok(address),
        _ => Err(format!("{text:?} is not an address to serve HTTP on (IP:PORT, or :PORT)")),
    }
}
