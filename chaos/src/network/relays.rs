//! TCP relays: one before each node, and one before the master for each of its clients. A cut one neither passes bytes on nor
//! takes new connections, though the system takes a few in its name: they stay silent.

use std::collections::HashMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Address, Party};

const HOST: &str = "127.0.0.1";

pub(crate) struct Relays {
    servers: HashMap<Party, u16>,
    relays: HashMap<Route, Relay>,
}

/// From whom, where that makes a difference, and to whom.
type Route = (Option<Party>, Party);

struct Relay {
    port: u16,
    cuts: watch::Sender<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Relays {
    pub(crate) async fn lay(parties: &[Party]) -> anyhow::Result<Self> {
        let mut relays = Relays { servers: HashMap::new(), relays: HashMap::new() };
        for party in parties.iter().filter(|party| matches!(party, Party::Master | Party::Node(_))) {
            relays.servers.insert(*party, vrc_agent::spawn::free_port(HOST)?);
        }
        for party in parties {
            let route = if *party == Party::Master { continue } else { (Some(*party), Party::Master) };
            relays.relays.insert(route, Relay::start(relays.servers[&Party::Master]).await?);
            if let Some(port) = relays.servers.get(party).copied() {
                relays.relays.insert((None, *party), Relay::start(port).await?);
            }
        }
        Ok(relays)
    }

    pub(crate) fn listens(&self, server: Party) -> Address {
        (HOST.to_owned(), self.servers[&server])
    }

    pub(crate) fn finds(&self, from: Party, to: Party) -> Address {
        (HOST.to_owned(), self.relays[&route(from, to)].port)
    }

    pub(crate) fn cut(&mut self, one: Party, other: Party) {
        if let Some(relay) = self.relays.get(&route(one, other)) {
            relay.cuts.send_modify(|cuts| *cuts += 1);
        }
    }

    pub(crate) fn heal(&mut self, one: Party, other: Party) {
        if let Some(relay) = self.relays.get(&route(one, other)) {
            relay.cuts.send_modify(|cuts| *cuts = cuts.saturating_sub(1));
        }
    }
}

fn route(one: Party, other: Party) -> Route {
    match (one, other) {
        (client, Party::Master) | (Party::Master, client) => (Some(client), Party::Master),
        (_, node @ Party::Node(_)) | (node, _) => (None, node),
    }
}

impl Relay {
    async fn start(target: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((HOST, 0)).await?;
        let (port, (cuts, cut)) = (listener.local_addr()?.port(), watch::channel(0));
        Ok(Relay { port, cuts, _task: AbortOnDropHandle::new(tokio::spawn(accept(listener, target, cut))) })
    }
}

/// Waits as long as there is a cut. Ends the task when the relay is gone.
async fn uncut(cut: &mut watch::Receiver<usize>) -> Option<()> {
    cut.wait_for(|cuts| *cuts == 0).await.ok().map(drop)
}

async fn accept(listener: TcpListener, target: u16, mut cut: watch::Receiver<usize>) {
    while let Ok((client, _)) = listener.accept().await {
        if uncut(&mut cut).await.is_none() {
            return;
        }
        let cut = cut.clone();
        tokio::spawn(async move {
            // Refused there is refused here, as far as can be: closed at once.
            let Ok(server) = TcpStream::connect((HOST, target)).await else { return reset(&client) };
            let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
            {
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                // When one side ends, so does the other.
                tokio::select! {
                    () = pass(from_client, to_server, cut.clone()) => {}
                    () = pass(from_server, to_client, cut) => {}
                }
            }
        });
    }
}

fn reset(client: &TcpStream) {
    let _ = client.set_zero_linger();
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut cut: watch::Receiver<usize>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // What is on its way when the cut comes waits, as packets are sent again; so does the end.
        if uncut(&mut cut).await.is_none() || read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
