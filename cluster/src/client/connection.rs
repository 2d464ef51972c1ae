//! A connection to the master for commands that come now and then.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisResult, aio::MultiplexedConnection};

use super::MasterUrl;

/// Opened when it is first wanted, and anew after [`MasterConnection::give_up`], or where another redis has become the master.
#[derive(Debug)]
pub struct MasterConnection {
    master: MasterUrl,
    /// How long opening it, and each answer, may take.
    limit: Duration,
    open: Option<(Client, MultiplexedConnection)>,
}

impl MasterConnection {
    /// Not open yet.
    pub fn new(master: MasterUrl, limit: Duration) -> Self {
        MasterConnection { master, limit, open: None }
    }

    /// The open connection.
    ///
    /// # Errors
    /// If it cannot be opened, or the master cannot be found.
    pub async fn get(&mut self) -> RedisResult<&mut MultiplexedConnection> {
        let open = match self.open.take().filter(|(client, _)| !self.master.has_moved(client)) {
            Some(open) => open,
            None => {
                let client = self.master.client().await?;
                let connection = connect(&client, self.limit).await?;
                (client, connection)
            }
        };
        Ok(&mut self.open.insert(open).1)
    }

    /// The open connection, if there is one.
    pub fn get_open(&mut self) -> Option<&mut MultiplexedConnection> {
        self.open.as_mut().map(|(_, connection)| connection)
    }

    /// Forgets the connection: it failed, or what was asked may still be under way.
    pub fn give_up(&mut self) {
        self.open = None;
    }
}

/// A connection for commands, each of which may take up to `limit`, as may its opening.
///
/// # Errors
/// If it cannot be opened in time.
pub async fn connect(client: &Client, limit: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit));
    client.get_multiplexed_async_connection_with_config(&config).await
}
