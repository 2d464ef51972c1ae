//! `vrc health`: asks a part that runs how it does. Made for containers' health checks, which have no other HTTP client.

use std::{net::Ipv4Addr, str::FromStr, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use vrc_proxy::{ListenAddr, ProxyAddress};

use crate::{args::parse_limit, log::Log, output};

/// Longest answer that is read: an agent says some 200 bytes of each of its nodes.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

/// Arguments of `vrc health`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the part serves HTTP: its own --admin, or host:port
    #[arg(long, value_name = "ADDRESS", env = "VRC_ADMIN", default_value = "127.0.0.1:9121")]
    admin: Target,

    /// How long it may take to answer
    #[arg(long, value_name = "TIME", env = "VRC_TIMEOUT", value_parser = parse_limit, default_value = "1s")]
    timeout: Duration,
}

/// `host:port` to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target(String);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse::<ListenAddr>(), text.parse::<ProxyAddress>()) {
            // One that listens everywhere is found here.
            (Ok(ListenAddr::Tcp(address)), _) if address.ip().is_unspecified() => {
                Ok(Target(format!("{}:{}", Ipv4Addr::LOCALHOST, address.port())))
            }
            (_, Ok(address)) => Ok(Target(address.to_string())),
            _ => Err(format!("{text:?} is not an address that serves HTTP (HOST:PORT, or :PORT)")),
        }
    }
}

/// Prints what the part says of itself; an error if that is that it is not well, or nothing.
pub(crate) async fn run(args: Args, log: &Log) -> anyhow::Result<()> {
    log.begin("warn");
    let Target(target) = &args.admin;
    let answer = timeout(args.timeout, ask(target)).await;
    let answer = answer.map_err(anyhow::Error::from).and_then(|answer| answer);
    let text = answer.with_context(|| format!("no answer from {target}: does the part run with --admin?"))?;
    let (status, body) = read(&text).with_context(|| format!("what answers at {target} is no part of this system"))?;
    output::line(body.trim_end());
    match status {
        200 => Ok(()),
        503 => bail!("unhealthy"),
        _ => bail!("{target} answers with HTTP status {status}: is it an --admin address?"),
    }
}

async fn ask(target: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    // 1.0: the answer ends with the connection, and comes in one piece.
    stream.write_all(format!("GET /health HTTP/1.0\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8(bytes)?)
}

/// Status and body of an HTTP answer.
fn read(text: &str) -> anyhow::Result<(u16, &str)> {
    let (head, body) = text.split_once("\r\n\r\n").context("not a whole HTTP answer")?;
    let mut words = head.split(' ');
    ensure!(words.next().is_some_and(|version| version.starts_with("HTTP/1.")), "not an HTTP answer");
    let status = words.next().and_then(|word| word.trim_end().parse().ok()).context("no HTTP status")?;
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_ask() {
        for (text, expect) in [
            ("127.0.0.1:9121", "127.0.0.1:9121"),
            (":9121", "127.0.0.1:9121"),
            ("0.0.0.0:9121", "127.0.0.1:9121"),
            ("[::]:9121", "127.0.0.1:9121"),
            ("[::1]:9121", "[::1]:9121"),
            ("proxy-1:9121", "proxy-1:9121"),
        ] {
            assert_eq!(text.parse(), Ok(Target(expect.to_owned())), "{text}");
        }
        for text in ["", "9121", "proxy", "proxy:", "proxy:0", "unix:/run/x", "a b:1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn http_answers() {
        let text = "HTTP/1.0 503 Service Unavailable\r\ncontent-length: 3\r\n\r\n{}\n";
        assert_eq!(read(text).unwrap(), (503, "{}\n"));
        assert_eq!(read("HTTP/1.1 200\r\nx: y\r\n\r\n").ok(), None, "no reason phrase, and so no space, is no HTTP");
        assert_eq!(read("HTTP/1.1 200 \r\n\r\n").unwrap(), (200, ""));
        for text in
            ["", "-ERR unknown command 'GET'\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 x y\r\n\r\n", "SSH-2.0\r\n\r\n", "\r\n\r\n"]
        {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
