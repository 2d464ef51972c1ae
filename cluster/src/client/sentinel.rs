//! A master that sentinels look after: which redis that is now, and that it is another one now.
//!
//! All sentinels are asked at once, and the one with the newest view counts, by the epoch that sentinels count failovers with: one that
//! is cut off from the others goes on naming a master that they have left. Whoever is named is asked for its role before it is
//! believed, and the sentinels are then asked once more: a master that hung for long enough to be replaced says, as it goes on, that it
//! is the master. Sentinels that do not answer change nothing for connections that are open.

use std::{
    collections::HashMap,
    future::pending,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult,
    Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};
use url::Url;

use super::{MasterUrlError, within};
use crate::contract::Endpoint;

/// Scheme of such a master; with TLS for both, the sentinels and the master, [`SCHEME_TLS`].
pub(super) const SCHEME: &str = "redis-sentinel";
pub(super) const SCHEME_TLS: &str = "rediss-sentinel";

const SENTINEL_PORT: u16 = 26_379;
/// More sentinels in one URL are a mistake.
const SENTINELS_MAX: usize = 32;
/// How long a sentinel, and then the redis that it names, may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long the others are waited for once most have answered.
const STRAGGLERS_LIMIT: Duration = Duration::from_millis(50);
/// How often it is looked whether the master is another one now.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A master by its name, and who knows where it is. Copies share what they know.
#[derive(Debug, Clone)]
pub(super) struct SentinelMaster {
    /// As it was given, without passwords.
    shown: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    seat: Arc<Seat>,
    /// Looks after the seat while somebody wants to know of its changes.
    lookout: Mutex<Option<AbortHandle>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(lookout) = locked(&self.lookout).take() {
            lookout.abort();
        }
    }
}

/// Who has the master's seat.
#[derive(Debug)]
struct Seat {
    name: String,
    sentinels: Vec<Sentinel>,
    /// How the master wants to be spoken to, with an address that is nobody's.
    manner: ConnectionInfo,
    /// Where it was last seen.
    found: watch::Sender<Option<Word>>,
}

/// Host and port.
type Holder = (String, u16);

struct Sentinel {
    shown: String,
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl std::fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sentinel({})", self.shown)
    }
}

/// What a sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    /// Counts the failovers that it knows of.
    epoch: u64,
    holder: Holder,
    /// When it was asked for.
    asked: Instant,
}

impl Word {
    fn names(&self, client: &Client) -> bool {
        address(client).is_some_and(|address| address == self.holder)
    }
}

impl SentinelMaster {
    /// Reads `redis[s]-sentinel://[user:pass@]host:port,host:port/name[?db=N][&sentinel_username=U][&sentinel_password=P]`.
    pub(super) fn parse(text: &str) -> Result<Self, MasterUrlError> {
        let wrong = |why: &str| MasterUrlError::NotSentinels(why.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let redis = if scheme == SCHEME_TLS { "rediss" } else { "redis" };
        let (authority, tail) = rest.split_once('/').ok_or_else(|| wrong("it names no master behind the sentinels"))?;
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let (name, query) = tail.split_once('?').unwrap_or((tail, ""));
        // What sentinels themselves allow.
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
            return Err(wrong(&format!("{name:?} is no name of a master: letters, digits, '.', '-' and '_'")));
        }
        let (mut db, mut sentinel_user, mut sentinel_password) = (String::new(), String::new(), None);
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "db" => db = value.into_owned(),
                "sentinel_username" => sentinel_user = value.into_owned(),
                "sentinel_password" => sentinel_password = Some(value.into_owned()),
                _ => {
                    return Err(wrong(&format!(
                        "nothing is known of {key:?}: there are db, sentinel_username, sentinel_password"
                    )));
                }
            }
        }
        let at = if user.is_empty() { String::new() } else { format!("{user}@") };
        // Whatever cannot be parsed may have a password in it, so it is not repeated.
        let url = |text: String| Url::parse(&text).map_err(|error| wrong(&error.to_string()));
        let manner = url(format!("{redis}://{at}nobody.invalid/{db}"))?;
        let shown_user = if manner.username().is_empty() { String::new() } else { format!("{}@", manner.username()) };
        let manner = manner.into_connection_info().map_err(|error| wrong(&error.to_string()))?;
        let mut sentinels = Vec::new();
        for host in hosts.split(',') {
            let mut url =
                url(format!("{redis}://{host}")).map_err(|_| wrong(&format!("{host:?} is not a sentinel's host:port")))?;
            let plain = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
            if !plain || url.query().is_some() || url.host_str().is_none_or(str::is_empty) {
                return Err(wrong(&format!("{host:?} is not a sentinel's host:port")));
            }
            let port = url.port().unwrap_or(SENTINEL_PORT);
            let shown = format!("{}:{port}", url.host_str().unwrap_or_default());
            // A URL with a host takes all of them.
            let _ = (url.set_port(Some(port)), url.set_username(&sentinel_user), url.set_password(sentinel_password.as_deref()));
            let client = Client::open(url).map_err(|error| wrong(&error.to_string()))?;
            sentinels.push(Sentinel { shown, client, connection: Mutex::default() });
        }
        if sentinels.len() > SENTINELS_MAX {
            return Err(wrong(&format!("it has {} sentinels, more than {SENTINELS_MAX}", sentinels.len())));
        }
        let hosts = sentinels.iter().map(|sentinel| &*sentinel.shown).collect::<Vec<_>>().join(",");
        let shown_db = if db.is_empty() { String::new() } else { format!("?db={db}") };
        let seat = Seat { name: name.to_owned(), sentinels, manner, found: watch::Sender::new(None) };
        Ok(SentinelMaster {
            shown: format!("{scheme}://{shown_user}{hosts}/{name}{shown_db}"),
            shared: Arc::new(Shared { seat: Arc::new(seat), lookout: Mutex::default() }),
        })
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        self.shared.seat.sentinels.iter().filter_map(|sentinel| Some(address(&sentinel.client)?.0)).collect()
    }

    pub(super) fn database(&self) -> i64 {
        self.shared.seat.manner.redis_settings().db()
    }

    /// A client of the redis that is the master now.
    pub(super) async fn client(&self) -> RedisResult<Client> {
        self.shared.seat.find().await
    }

    /// Waits till the master is another redis than the client's.
    pub(super) async fn moved(&self, client: &Client) {
        self.look_out();
        let mut found = self.shared.seat.found.subscribe();
        if found.wait_for(|found| found.as_ref().is_some_and(|word| !word.names(client))).await.is_err() {
            // Its sender lives as long as this.
            pending().await
        }
    }

    /// Whether it is, as far as is known now.
    pub(super) fn has_moved(&self, client: &Client) -> bool {
        self.look_out();
        self.shared.seat.found.borrow().as_ref().is_some_and(|word| !word.names(client))
    }

    fn look_out(&self) {
        let mut lookout = locked(&self.shared.lookout);
        if lookout.as_ref().is_none_or(AbortHandle::is_finished) {
            let seat = self.shared.seat.clone();
            *lookout = Some(tokio::spawn(async move { seat.watch().await }).abort_handle());
        }
    }
}

impl std::fmt::Display for SentinelMaster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Seat {
    /// Keeps [`Seat::found`] true, for ever.
    async fn watch(&self) {
        loop {
            // While nobody is found, the one that was found last may still be right.
            if let Ok(word) = self.ask().await {
                let is_news = self.found.borrow().as_ref().is_none_or(|found| found.holder != word.holder);
                if is_news {
                    let _ = self.find().await;
                }
            }
            // Not all readers of a cluster in step.
            sleep(LOOK_EVERY.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
    }

    /// Who has the seat, by the sentinels' word and its own.
    async fn find(&self) -> RedisResult<Client> {
        let word = self.ask().await.map_err(io::Error::other)?;
        let client = self.check(&word.holder).await.map_err(io::Error::other)?;
        let word = self.ask().await.map_err(io::Error::other)?;
        if !word.names(&client) || !self.take(word) {
            return Err(io::Error::other("the sentinels have just chosen another master").into());
        }
        Ok(client)
    }

    /// Returns whether nothing else is known that was asked for later.
    fn take(&self, word: Word) -> bool {
        let mut is_last = true;
        self.found.send_if_modified(|found| match found {
            Some(later) if later.asked > word.asked => {
                is_last = later.holder == word.holder;
                false
            }
            _ => {
                let is_news = found.as_ref().is_none_or(|before| before.holder != word.holder);
                *found = Some(word);
                is_news
            }
        });
        is_last
    }

    /// The newest word of those who answer, or what each of them answered.
    async fn ask(&self) -> Result<Word, String> {
        let asked = Instant::now();
        let asking =
            self.sentinels.iter().map(|sentinel| async move { (sentinel, within(ANSWER_LIMIT, sentinel.ask(&self.name)).await) });
        let mut answers: FuturesUnordered<_> = asking.collect();
        let (mut words, mut failures) = (Vec::new(), Vec::new());
        let mut deadline = asked + 2 * ANSWER_LIMIT;
        while let Ok(Some((sentinel, answer))) = timeout_at(deadline, answers.next()).await {
            match answer {
                Ok(Some((epoch, holder))) => words.push(Word { epoch, holder, asked }),
                Ok(None) => failures.push(format!("{} knows of no master of that name", sentinel.shown)),
                Err(error) => failures.push(format!("{}: {}", sentinel.shown, in_words(&error, "sentinel_password="))),
            }
            if words.len() * 2 > self.sentinels.len() {
                deadline = deadline.min(Instant::now() + STRAGGLERS_LIMIT);
            }
        }
        let newest = words.into_iter().max_by_key(|word| word.epoch);
        newest.ok_or_else(|| format!("no sentinel tells who the master {:?} is: {}", self.name, failures.join("; ")))
    }

    /// A client of a redis that says itself that it is a master.
    async fn check(&self, (host, port): &Holder) -> Result<Client, String> {
        let address = match self.manner.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host.clone(), *port),
        };
        let seen = async {
            let client = Client::open(self.manner.clone().set_addr(address))?;
            let mut connection = open(&client).await?;
            let role = redis::cmd("ROLE").query_async::<Value>(&mut connection).await;
            Ok((client, role))
        };
        let shown = Endpoint::new(host.as_str(), *port).address();
        let named = |what: String| format!("the sentinels name {shown} as the master {:?}, and it {what}", self.name);
        match within(ANSWER_LIMIT, seen).await {
            Ok((client, Ok(role))) => match role_name(&role) {
                Some("master") => Ok(client),
                Some(role) => Err(named(format!("says that it is a {role}: a failover may be under way"))),
                None => Err(named("does not say what it is".to_owned())),
            },
            // A user that may not ask for it has to go by what sentinels say.
            Ok((client, Err(error))) if error.code() == Some("NOPERM") => Ok(client),
            Ok((_, Err(error))) | Err(error) => Err(named(format!("does not answer: {}", in_words(&error, "USER:PASSWORD@")))),
        }
    }
}

impl Sentinel {
    /// The epoch and the holder that it knows of; `None` if it does not know a master of that name.
    async fn ask(&self, name: &str) -> RedisResult<Option<(u64, Holder)>> {
        let kept = locked(&self.connection).take();
        let is_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => open(&self.client).await?,
        };
        let mut said = ask(&mut connection, name).await;
        if is_kept && said.as_ref().is_err_and(RedisError::is_connection_dropped) {
            // It was restarted, or closes connections on which little is said.
            connection = open(&self.client).await?;
            said = ask(&mut connection, name).await;
        }
        if said.is_ok() {
            *locked(&self.connection) = Some(connection);
        }
        said
    }
}

async fn ask(connection: &mut MultiplexedConnection, name: &str) -> RedisResult<Option<(u64, Holder)>> {
    let mut sentinel = redis::cmd("SENTINEL");
    let holder: Option<Holder> = sentinel.arg("get-master-addr-by-name").arg(name).query_async(connection).await?;
    let Some(holder) = holder else { return Ok(None) };
    let about: RedisResult<Value> = redis::cmd("SENTINEL").arg("master").arg(name).query_async(connection).await;
    // Without it, as where the user may not ask for more than the address, it is believed only if nobody knows better.
    Ok(Some((about.ok().and_then(|about| config_epoch(&about)).unwrap_or(0), holder)))
}

fn config_epoch(about: &Value) -> Option<u64> {
    let fields = HashMap::<String, String>::from_redis_value_ref(about).ok()?;
    fields.get("config-epoch")?.parse().ok()
}

fn role_name(role: &Value) -> Option<&str> {
    match role {
        Value::Array(parts) => match parts.first()? {
            Value::BulkString(name) => std::str::from_utf8(name).ok(),
            Value::SimpleString(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// An error, and where the URL has what is missing.
fn in_words(error: &RedisError, credentials: &str) -> String {
    let hint = match error.code() {
        Some("NOAUTH" | "WRONGPASS") => format!(" (its credentials are those of {credentials} in the URL)"),
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            format!(" (its credentials are those of {credentials} in the URL)")
        }
        _ => String::new(),
    };
    let text = error.to_string();
    format!("{}{hint}", text.split(" (os error").next().unwrap_or_default())
}

async fn open(client: &Client) -> RedisResult<MultiplexedConnection> {
    let limit = Some(ANSWER_LIMIT);
    let config = AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn address(client: &Client) -> Option<Holder> {
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}

/// Nothing is done under these locks that could leave things half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_hides_passwords() {
        for (text, shown) in [
            ("redis-sentinel://h:1/cache", "redis-sentinel://h:1/cache"),
            ("redis-sentinel://a,[::1]:5,c:7/m.1-x_2?db=3", "redis-sentinel://a:26379,[::1]:5,c:7/m.1-x_2?db=3"),
            ("rediss-sentinel://ops:s%40crt@a/m?sentinel_username=s&sentinel_password=secret", "rediss-sentinel://ops@a:26379/m"),
            ("redis-sentinel://:secret@a/m", "redis-sentinel://a:26379/m"),
        ] {
            assert_eq!(SentinelMaster::parse(text).unwrap().to_string(), shown, "{text}");
        }
        let master = SentinelMaster::parse("rediss-sentinel://u:p%2F1@a,b/m?db=3&sentinel_password=q%26").unwrap();
        let of = |info: &ConnectionInfo| {
            let settings = info.redis_settings();
            (settings.username().map(str::to_owned), settings.password().map(str::to_owned), settings.db())
        };
        assert_eq!(of(&master.shared.seat.manner), (Some("u".to_owned()), Some("p/1".to_owned()), 3));
        assert_eq!(master.database(), 3);
        for sentinel in &master.shared.seat.sentinels {
            let info = sentinel.client.get_connection_info();
            assert_eq!(of(info), (None, Some("q&".to_owned()), 0), "{sentinel:?}");
            assert!(matches!(info.addr(), ConnectionAddr::TcpTls { insecure: false, port: SENTINEL_PORT, .. }));
        }
        assert!(!format!("{master:?}").contains("p/1"), "{master:?}");
    }

    #[test]
    fn says_what_is_wrong_and_not_the_password() {
        for (text, why) in [
            ("redis-sentinel://u:secret@a:1", "names no master"),
            ("redis-sentinel://u:secret@a:1/", "is no name"),
            ("redis-sentinel://u:secret@a:1/m/2", "is no name"),
            ("redis-sentinel://u:secret@a:1/m?name=x", "nothing is known of \"name\""),
            ("redis-sentinel://u:secret@a:99999/m", "\"a:99999\" is not a sentinel"),
            ("redis-sentinel://u:secret@a:1,,b:1/m", "\"\" is not a sentinel"),
            ("redis-sentinel://u:secret@a:1/m?db=x", "number"),
        ] {
            let error = SentinelMaster::parse(text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
        assert!(SentinelMaster::parse(&format!("redis-sentinel://{}/m", vec!["a"; 33].join(","))).is_err());
    }
}
