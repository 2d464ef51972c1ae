//! The address of one redis.

use std::{fmt, str::FromStr};

use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisResult};
use url::Url;

/// Address of a redis: `redis[s]://[user:pass@]host:port[/db]`, or `host:port` alone. Shown without its password.
#[derive(Clone)]
pub struct RedisUrl {
    url: Url,
}

/// Why a text is not a redis URL.
#[derive(Debug, thiserror::Error)]
pub enum RedisUrlError {
    /// Not a URL at all.
    #[error("{0:?} is not a redis URL (redis[s]://[user:pass@]host:port[/db]): {1}")]
    Syntax(String, url::ParseError),
    /// A URL, but not one of a redis.
    #[error("{0:?} is not a redis URL (redis[s]://[user:pass@]host:port[/db]): {1}")]
    NotRedis(String, String),
}

impl RedisUrl {
    /// The URL of a redis without credentials.
    ///
    /// # Errors
    /// If `host` cannot stand in a URL.
    pub fn new(host: &str, port: u16) -> Result<Self, RedisUrlError> {
        let bracketed = host.contains(':') && !host.starts_with('[');
        if bracketed { format!("redis://[{host}]:{port}").parse() } else { format!("redis://{host}:{port}").parse() }
    }

    /// A client that opens connections there; opens none itself.
    ///
    /// # Errors
    /// If the client library refuses the URL, which [`FromStr`] has ruled out.
    pub fn client(&self) -> RedisResult<Client> {
        Client::open(self.url.clone())
    }

    /// The database that it names; 0 where it names none.
    pub fn database(&self) -> i64 {
        self.info().map_or(0, |info| info.redis_settings().db())
    }

    fn info(&self) -> RedisResult<ConnectionInfo> {
        self.url.clone().into_connection_info()
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or("127.0.0.1").trim_start_matches('[').trim_end_matches(']')
    }

    /// TCP port; 6379 where none was given.
    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(6379)
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let spelled = if text.contains("://") { text.to_owned() } else { format!("redis://{text}") };
        let url = Url::parse(&spelled).map_err(|error| RedisUrlError::Syntax(text.to_owned(), error))?;
        if !matches!(url.scheme(), "redis" | "rediss") {
            return Err(RedisUrlError::NotRedis(text.to_owned(), format!("the scheme is {:?}", url.scheme())));
        }
        url.clone().into_connection_info().map_err(|error| RedisUrlError::NotRedis(text.to_owned(), error.to_string()))?;
        Ok(RedisUrl { url })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.url.scheme())?;
        if !self.url.username().is_empty() {
            write!(f, "{}@", self.url.username())?;
        }
        write!(f, "{}:{}", self.url.host_str().unwrap_or("127.0.0.1"), self.port())?;
        match self.url.path() {
            "" | "/" => Ok(()),
            path => write!(f, "{path}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_hides_the_password() {
        for (text, shown) in [
            ("127.0.0.1:6380", "redis://127.0.0.1:6380"),
            ("redis://cache.internal", "redis://cache.internal:6379"),
            ("rediss://ops:secret@cache.internal:6390/2", "rediss://ops@cache.internal:6390/2"),
            ("redis://:secret@[::1]:7000", "redis://[::1]:7000"),
        ] {
            assert_eq!(text.parse::<RedisUrl>().unwrap().to_string(), shown);
        }
        for text in ["http://127.0.0.1:6380", "redis://h:99999", "redis://h/notanumber", ""] {
            assert!(text.parse::<RedisUrl>().is_err(), "{text}");
        }
    }
}
