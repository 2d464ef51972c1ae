//! What a redis says of itself in `INFO`.

use std::{collections::HashMap, time::Duration};

use redis::RedisResult;

use vrc_cluster::client::connect;

use crate::config::NodeTarget;

/// The fields of one `INFO` reply, all sections together: their names do not clash.
#[derive(Debug, Default)]
pub(crate) struct Info {
    fields: HashMap<String, String>,
}

impl Info {
    /// Asks over a connection of its own.
    pub(crate) async fn read(target: &NodeTarget, timeout: Duration) -> RedisResult<Self> {
        Self::query(&mut connect(&target.client()?, timeout).await?).await
    }

    /// Asks over `connection`, whose timeout applies.
    pub(crate) async fn query(connection: &mut redis::aio::MultiplexedConnection) -> RedisResult<Self> {
        let text: String = redis::cmd("INFO").query_async(connection).await?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Info { fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Changes whenever the server is started.
    pub(crate) fn run_id(&self) -> Option<&str> {
        self.field("run_id")
    }

    pub(crate) fn version(&self) -> Option<&str> {
        self.field("redis_version")
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.field("process_id")?.parse().ok()
    }

    /// `standalone`, `cluster` or `sentinel`.
    pub(crate) fn mode(&self) -> Option<&str> {
        // The second is valkey's name for it.
        self.field("redis_mode").or_else(|| self.field("server_mode"))
    }

    /// Still reading its RDB or AOF.
    pub(crate) fn is_loading(&self) -> bool {
        self.field("loading") == Some("1")
    }

    /// The address of its master, if it is a replica.
    pub(crate) fn replica_of(&self) -> Option<String> {
        (self.field("role") == Some("slave"))
            .then(|| format!("{}:{}", self.field("master_host").unwrap_or("?"), self.field("master_port").unwrap_or("?")))
    }

    /// Whether it answers writes with errors once its memory is full.
    pub(crate) fn refuses_writes_when_full(&self) -> bool {
        self.field("maxmemory").is_some_and(|bytes| bytes != "0") && self.field("maxmemory_policy") == Some("noeviction")
    }

    /// How many keys each database holds that holds any.
    pub(crate) fn keyspace(&self) -> impl Iterator<Item = (u32, u64)> {
        self.fields.iter().filter_map(|(name, value)| {
            let database = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.split(',').find_map(|part| part.strip_prefix("keys="))?.parse().ok()?;
            Some((database, keys))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_needs() {
        let info = Info::parse(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nprocess_id:41\r\nrun_id:ab12\r\n# Memory\r\nmaxmemory:0\r\n\
             maxmemory_policy:noeviction\r\n# Persistence\r\nloading:0\r\n# Replication\r\nrole:slave\r\nmaster_host:h\r\n\
             master_port:6379\r\n# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb9:keys=12,expires=1,avg_ttl=5,subexpiry=0\r\n",
        );
        assert_eq!((info.version(), info.process_id(), info.run_id()), (Some("7.0.15"), Some(41), Some("ab12")));
        assert_eq!(info.replica_of().as_deref(), Some("h:6379"));
        assert_eq!(info.mode(), Some("standalone"));
        assert_eq!(Info::parse("# Server\r\nvalkey_version:8.0.1\r\nserver_mode:cluster\r\n").mode(), Some("cluster"));
        assert!(!info.is_loading() && !info.refuses_writes_when_full());
        let mut keyspace: Vec<_> = info.keyspace().collect();
        keyspace.sort_unstable();
        assert_eq!(keyspace, [(0, 3), (9, 12)]);
    }

    #[test]
    fn a_reply_without_sense_has_no_fields() {
        let info = Info::parse("\r\n:::\r\nnothing\r\ndb0:keys=many\r\ndbx:keys=1\r\n");
        assert_eq!((info.run_id(), info.process_id(), info.keyspace().count()), (None, None, 0));
    }
}
