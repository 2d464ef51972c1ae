//! The master's address.

use std::{fmt, future::pending, str::FromStr};

use redis::{Client, RedisResult};

use super::{
    RedisUrl, RedisUrlError,
    sentinel::{SCHEME, SCHEME_TLS, SentinelMaster},
};

/// Address of the master: that of a [redis](RedisUrl), or
/// `redis-sentinel://[user:pass@]host:port,host:port/name[?db=N][&sentinel_username=U][&sentinel_password=P]`, where the hosts are
/// sentinels, and the user is the master's. Shown without passwords. Copies share what sentinels said.
#[derive(Debug, Clone)]
pub struct MasterUrl(Kind);

#[derive(Debug, Clone)]
enum Kind {
    One(RedisUrl),
    Sentinels(SentinelMaster),
}

/// Why a text is not a master's URL.
#[derive(Debug, thiserror::Error)]
pub enum MasterUrlError {
    /// Not a URL of a redis.
    #[error("{0}")]
    One(#[from] RedisUrlError),
    /// Not a URL of sentinels. It is not repeated, since it may hold passwords.
    #[error("not a master's URL by sentinels (redis-sentinel://[user:pass@]host:port,host:port/name[?db=N]): {0}")]
    NotSentinels(String),
}

impl MasterUrl {
    /// The URL of a redis without credentials.
    ///
    /// # Errors
    /// If `host` cannot stand in a URL.
    pub fn new(host: &str, port: u16) -> Result<Self, MasterUrlError> {
        Ok(MasterUrl(Kind::One(RedisUrl::new(host, port)?)))
    }

    /// A client that opens connections to the redis that is the master now. Where sentinels have to be asked for that, it takes no more than a few
    /// seconds.
    ///
    /// # Errors
    /// If no sentinel knows, or the redis that they name is none, or does not answer.
    pub async fn client(&self) -> RedisResult<Client> {
        match &self.0 {
            Kind::One(url) => url.client(),
            Kind::Sentinels(master) => master.client().await,
        }
    }

    /// Waits till the master is another redis than the client's: connections to that one are to be left. Without sentinels that is never.
    pub async fn moved(&self, client: &Client) {
        match &self.0 {
            Kind::One(_) => pending().await,
            Kind::Sentinels(master) => master.moved(client).await,
        }
    }

    /// Whether it is, as far as is known now.
    pub fn has_moved(&self, client: &Client) -> bool {
        match &self.0 {
            Kind::One(_) => false,
            Kind::Sentinels(master) => master.has_moved(client),
        }
    }

    /// The hosts that it names, without brackets: its own, or the sentinels'.
    pub fn hosts(&self) -> Vec<String> {
        match &self.0 {
            Kind::One(url) => vec![url.host().to_owned()],
            Kind::Sentinels(master) => master.hosts(),
        }
    }

    /// The database in which the coordination's keys stand.
    pub fn database(&self) -> i64 {
        match &self.0 {
            Kind::One(url) => url.database(),
            Kind::Sentinels(master) => master.database(),
        }
    }
}

impl From<RedisUrl> for MasterUrl {
    fn from(url: RedisUrl) -> Self {
        MasterUrl(Kind::One(url))
    }
}

impl FromStr for MasterUrl {
    type Err = MasterUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = match text.split_once("://") {
            Some((SCHEME | SCHEME_TLS, _)) => Kind::Sentinels(SentinelMaster::parse(text)?),
            _ => Kind::One(text.parse()?),
        };
        Ok(MasterUrl(kind))
    }
}

impl fmt::Display for MasterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::One(url) => url.fmt(f),
            Kind::Sentinels(master) => master.fmt(f),
        }
    }
}
