//! Opens a connection to a node and sets it up: protocol, password, database.

use std::{io, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use vrc_cluster::{
    contract::Endpoint,
    resp::{Proto, ReplyFramer, encode, parse_integer},
};

use crate::{
    core::{Lane, TrackingOptions},
    limits::NODE_KEEPALIVE,
    socket::keep_alive,
};

const CLIENT_ID: &str = "CLIENT ID";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("it refused {command}: {error}")]
    Refused { command: &'static str, error: String },
    #[error("another process answers there than the one in the node map (its run id differs): it was restarted or replaced")]
    Stranger,
    #[error("it wants TLS, which the proxy does not speak to nodes")]
    Tls,
}

const SET_NAME: &str = "CLIENT SETNAME";
const NO_TOUCH: &str = "CLIENT NO-TOUCH";

/// A connection that is what its lane says.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: TcpStream,
    /// The second connection that invalidations come by, where they cannot come by the first.
    pub(crate) feed: Option<TcpStream>,
    /// By which number the node knows the connection, if it was asked and said so.
    pub(crate) client_id: Option<u64>,
    /// What INFO says of the process, if it was asked.
    pub(crate) info: Option<Vec<u8>>,
}

impl Opened {
    /// Whether it is the process of this run id.
    pub(crate) fn is_to(&self, run_id: &str) -> bool {
        let field = [b"run_id:", run_id.as_bytes(), b"\r\n"].concat();
        self.info.as_ref().is_some_and(|info| info.windows(field.len()).any(|window| window == field))
    }
}

/// Connects to a node and makes the connection what its lane says, within `limit`. With `tracking` the node tracks what is read over
/// it. `asks` who answers there: see [`Opened::is_to`].
pub(crate) async fn connect(
    endpoint: &Endpoint,
    lane: Lane,
    tracking: Option<&TrackingOptions>,
    asks: bool,
    limit: Duration,
) -> Result<Opened, ConnectError> {
    if endpoint.tls() {
        return Err(ConnectError::Tls);
    }
    timeout(limit, open(endpoint, lane, tracking, asks)).await.unwrap_or(Err(ConnectError::Timeout(limit)))
}

/// Asks a node for something over a connection of its own, within `limit`. The reply is an error if the node refuses.
pub(crate) async fn ask<A: AsRef<[u8]>>(
    endpoint: &Endpoint,
    args: &[A],
    reply_bytes_max: usize,
    limit: Duration,
) -> Result<Vec<u8>, ConnectError> {
    let lane = Lane::new(Proto::Resp2, 0, false);
    let asked = async {
        let mut stream = connect(endpoint, lane, None, false, limit).await?.stream;
        let mut request = Vec::new();
        encode::request(&mut request, args);
        stream.write_all(&request).await?;
        let (mut input, mut framer) = (Vec::new(), ReplyFramer::default());
        loop {
            if let Some(len) = framer.advance(&input).map_err(io::Error::other)? {
                input.truncate(len);
                return Ok(input);
            }
            if input.len() > reply_bytes_max {
                return Err(io::Error::other("its reply is too long").into());
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed").into());
            }
        }
    };
    timeout(limit, asked).await.unwrap_or(Err(ConnectError::Timeout(limit)))
}

async fn open(endpoint: &Endpoint, lane: Lane, tracking: Option<&TrackingOptions>, asks: bool) -> Result<Opened, ConnectError> {
    let mut commands = set_up(endpoint, lane);
    let mut feed = None;
    let id_at = commands.len();
    if tracking.is_none() {
        commands.push((CLIENT_ID, words(&["CLIENT", "ID"])));
    }
    if let Some(options) = tracking {
        let mut args = words(&["CLIENT", "TRACKING", "ON"]);
        if lane.proto == Proto::Resp2 || (options.noloop && options.broadcast.is_some()) {
            // RESP2 has no pushes, and the session of the other sort may turn to RESP2.
            let mut commands = set_up(endpoint, Lane::new(Proto::Resp3, 0, false));
            commands.push((CLIENT_ID, words(&["CLIENT", "ID"])));
            let (stream, replies) = open_one(endpoint, commands).await?;
            let id =
                client_id(replies.last()).ok_or(ConnectError::Refused { command: CLIENT_ID, error: "no number".to_owned() })?;
            feed = Some(stream);
            args.push(b"REDIRECT".to_vec());
            args.push(id.to_string().into_bytes());
        }
        if options.noloop {
            args.push(b"NOLOOP".to_vec());
        }
        if let Some(prefixes) = &options.broadcast {
            args.push(b"BCAST".to_vec());
            args.extend(prefixes.iter().flat_map(|prefix| [b"PREFIX".to_vec(), prefix.to_vec()]));
        }
        commands.push(("CLIENT TRACKING", args));
    }
    if asks {
        commands.push(("INFO", words(&["INFO", "server"])));
    }
    let (stream, mut replies) = open_one(endpoint, commands).await?;
    let client_id = if tracking.is_none() { client_id(replies.get(id_at)) } else { None };
    Ok(Opened { stream, feed, client_id, info: if asks { replies.pop() } else { None } })
}

/// What CLIENT ID answered.
fn client_id(reply: Option<&Vec<u8>>) -> Option<u64> {
    parse_integer(reply?.trim_ascii_end().strip_prefix(b":")?).and_then(|id| u64::try_from(id).ok())
}

/// Opens a connection on which these commands are not refused, but for what is of use and not needed. Returns their replies with it.
async fn open_one(
    endpoint: &Endpoint,
    commands: Vec<(&'static str, Vec<Vec<u8>>)>,
) -> Result<(TcpStream, Vec<Vec<u8>>), ConnectError> {
    let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    keep_alive(&stream, NODE_KEEPALIVE)?;
    // A connection that is closed with something unanswered is given up: what the kernel has still to send then, it must not go on
    // trying to. It would come to the node after what others wrote meanwhile, and after it was told that nothing is under way any more.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    let mut request = Vec::new();
    for (_, args) in &commands {
        encode::request(&mut request, args);
    }
    stream.write_all(&request).await?;
    // Nothing else has been asked, so nothing behind these replies can be read too early. Where keys are told of that nobody has read,
    // that may come at once: whoever listens is told of all keys when the connection stands.
    let mut input = Vec::new();
    let mut replies = Vec::new();
    for (command, _) in commands {
        let reply = reply(&mut stream, &mut input).await?;
        let is_needless = match command {
            // A node before redis 7.2 does not know that. The client that asks for it hears so from the node that it is sent to.
            CLIENT_ID | NO_TOUCH => true,
            // A node that runs a script may not be told a name, but it can be used.
            SET_NAME => reply.starts_with(b"-BUSY "),
            _ => false,
        };
        if reply[0] == b'-' && !is_needless {
            let error = String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            return Err(ConnectError::Refused { command, error });
        }
        replies.push(reply);
    }
    Ok((stream, replies))
}

fn words(args: &[&str]) -> Vec<Vec<u8>> {
    args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
}

/// The commands that make a new connection what its lane says, each with the name that an error is told by.
fn set_up(endpoint: &Endpoint, lane: Lane) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let mut commands = Vec::new();
    match (&endpoint.username, &endpoint.password) {
        (Some(user), Some(password)) => commands.push(("AUTH", words(&["AUTH", user, password]))),
        (None, Some(password)) => commands.push(("AUTH", words(&["AUTH", password]))),
        (_, None) => {}
    }
    if lane.proto == Proto::Resp3 {
        commands.push(("HELLO 3", words(&["HELLO", "3"])));
    }
    if lane.db != 0 {
        commands.push(("SELECT", words(&["SELECT", &lane.db.to_string()])));
    }
    if lane.no_touch {
        commands.push((NO_TOUCH, words(&["CLIENT", "NO-TOUCH", "ON"])));
    }
    // Also where there is nothing to set up: a connection that is accepted but not answered is not up.
    commands.push((SET_NAME, words(&["CLIENT", "SETNAME", "vrc-proxy"])));
    commands
}

async fn reply(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Vec<u8>, ConnectError> {
    let mut framer = ReplyFramer::default();
    loop {
        if let Some(len) = framer.advance(input).map_err(io::Error::other)? {
            let rest = input.split_off(len);
            return Ok(std::mem::replace(input, rest));
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed").into());
        }
    }
}
