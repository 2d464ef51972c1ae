//! Opens a connection to a node and sets it up: protocol, password, database.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use vrc_cluster::{
    contract::Endpoint,
    resp::{Proto, ReplyFramer, encode},
};

use crate::core::Lane;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("it refused {command}: {error}")]
    Refused { command: &'static str, error: String },
    #[error("it wants TLS, which the proxy does not speak to nodes")]
    Tls,
}

/// Connects to a node and makes the connection what its lane says, within `limit`.
pub(crate) async fn connect(endpoint: &Endpoint, lane: Lane, limit: Duration) -> Result<TcpStream, ConnectError> {
    if endpoint.other.get("tls").is_some_and(|tls| !tls.is_null() && tls != false) {
        return Err(ConnectError::Tls);
    }
    timeout(limit, open(endpoint, lane)).await.unwrap_or(Err(ConnectError::Timeout(limit)))
}

async fn open(endpoint: &Endpoint, lane: Lane) -> Result<TcpStream, ConnectError> {
    let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    let commands = set_up(endpoint, lane);
    let mut request = Vec::new();
    for (_, args) in &commands {
        encode::request(&mut request, args);
    }
    stream.write_all(&request).await?;
    // Nothing else has been asked, so nothing behind these replies can be read too early.
    let mut input = Vec::new();
    for (command, _) in commands {
        let reply = reply(&mut stream, &mut input).await?;
        if reply[0] == b'-' {
            let error = String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            return Err(ConnectError::Refused { command, error });
        }
    }
    Ok(stream)
}

/// The commands that make a new connection what its lane says, each with the name that an error is told by.
fn set_up(endpoint: &Endpoint, lane: Lane) -> Vec<(&'static str, Vec<String>)> {
    let owned = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let mut commands = Vec::new();
    match (&endpoint.username, &endpoint.password) {
        (Some(user), Some(password)) => commands.push(("AUTH", owned(&["AUTH", user, password]))),
        (None, Some(password)) => commands.push(("AUTH", owned(&["AUTH", password]))),
        (_, None) => {}
    }
    if lane.proto == Proto::Resp3 {
        commands.push(("HELLO 3", owned(&["HELLO", "3"])));
    }
    if lane.db != 0 {
        commands.push(("SELECT", owned(&["SELECT", &lane.db.to_string()])));
    }
    // Also where there is nothing to set up: a connection that is accepted but not answered is not up.
    commands.push(("CLIENT SETNAME", owned(&["CLIENT", "SETNAME", "vrc-proxy"])));
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
