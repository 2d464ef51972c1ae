//! Clients of nodes, as the node map describes them.

use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult};

use crate::contract::Endpoint;

/// A client for one database of a node, with the endpoint's credentials and TLS; opens no connection itself.
///
/// # Errors
/// If the client library refuses what the endpoint says.
pub fn node_client(endpoint: &Endpoint, database: u8) -> RedisResult<Client> {
    let (host, port) = (endpoint.host.clone(), endpoint.port);
    let address = if endpoint.tls() {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut settings = RedisConnectionInfo::default().set_db(i64::from(database));
    if let Some(username) = &endpoint.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &endpoint.password {
        settings = settings.set_password(password);
    }
    Client::open(address.into_connection_info()?.set_redis_settings(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_over_all_that_the_endpoint_says() {
        let mut endpoint = Endpoint::new("cache.internal", 7303);
        endpoint.username = Some("app".to_owned());
        endpoint.password = Some("secret".to_owned());
        let client = node_client(&endpoint, 9).unwrap();
        let info = client.get_connection_info();
        assert_eq!(*info.addr(), ConnectionAddr::Tcp("cache.internal".to_owned(), 7303));
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("app"), Some("secret"), 9));
        endpoint.set_tls(true);
        let client = node_client(&endpoint, 0).unwrap();
        assert!(matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
    }
}
