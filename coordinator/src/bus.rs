//! What is heard on the master's channels.

use std::time::Duration;

use futures_util::StreamExt;
use redis::{Msg, RedisError, RedisResult, aio::PubSubStream};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::warn;
use vrc_cluster::{
    client::{Backoff, MasterUrl, Quiet, within},
    contract::{AGENT_BUS, AgentBusMessage, CLIENT_BUS, ClientBusMessage, DELTA_BUS, STRANGERS_BUS},
    membership::Event,
};

use crate::redis_link::{describe, master_backoff};

/// No message of an agent is near as long.
const AGENT_MESSAGE_LEN_MAX: usize = 64 * 1024;

/// Subscribes, and tells what it hears; reconnects for ever.
pub(crate) struct Bus {
    pub(crate) url: MasterUrl,
    pub(crate) timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Bus {
    pub(crate) async fn run(self) {
        let mut backoff = master_backoff();
        let mut quiet = Quiet::default();
        while !self.events.is_closed() {
            if let Err(error) = self.listen(&mut backoff, &mut quiet).await
                && let Some(left_out) = quiet.may_say("lost")
            {
                warn!("the master's channels cannot be heard: {}; trying again{left_out}", describe(&error).0);
            }
            let _ = self.events.send(Event::BusDown).await;
            sleep(backoff.pause()).await;
        }
    }

    async fn listen(&self, backoff: &mut Backoff, quiet: &mut Quiet) -> RedisResult<()> {
        let client = self.url.client().await?;
        let (mut sink, mut stream) = within(self.timeout, async {
            let (mut sink, stream) = client.get_async_pubsub().await?.split();
            // In one command: who listens for whole maps, and is not to be sent any, is known as such from the start.
            sink.subscribe(&[AGENT_BUS, DELTA_BUS, STRANGERS_BUS, CLIENT_BUS]).await?;
            Ok((sink, stream))
        })
        .await?;
        backoff.reset();
        let gone = |_| RedisError::from((redis::ErrorKind::Client, "the coordinator stops"));
        self.events.send(Event::BusUp).await.map_err(gone)?;
        let mut ping = interval(self.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.url.moved(&client) => return Ok(()),
                message = next(&mut stream) => {
                    if let Some(event) = event(&message?, quiet) {
                        self.events.send(event).await.map_err(gone)?;
                    }
                }
                // A connection that is dead without saying so would look like silent agents. Messages wait meanwhile, no longer than this.
                _ = ping.tick() => {
                    within(self.timeout, sink.ping::<redis::Value>()).await?;
                }
            }
        }
    }
}

async fn next(stream: &mut PubSubStream) -> RedisResult<Msg> {
    stream.next().await.ok_or_else(|| RedisError::from((redis::ErrorKind::Io, "the connection was lost")))
}

/// A bad message is told of, now and then, and changes nothing.
fn event(message: &Msg, quiet: &mut Quiet) -> Option<Event> {
    let payload = message.get_payload_bytes();
    let channel = message.get_channel_name();
    let parsed = if channel == CLIENT_BUS {
        serde_json::from_slice(payload)
            .map(|ClientBusMessage::UpdateNodes { node_map, epoch }| Event::MapHeard { map: node_map, epoch })
    } else if channel == DELTA_BUS {
        serde_json::from_slice(payload).map(Event::DeltaHeard)
    } else if channel == STRANGERS_BUS {
        return None;
    } else if payload.len() > AGENT_MESSAGE_LEN_MAX {
        if let Some(left_out) = quiet.may_say(channel) {
            warn!("a message of {} bytes on {channel} is ignored{left_out}", payload.len());
        }
        return None;
    } else {
        serde_json::from_slice::<AgentBusMessage>(payload).map(Event::Heard)
    };
    match parsed {
        Ok(event) => Some(event),
        Err(error) => {
            if let Some(left_out) = quiet.may_say(channel) {
                let start = String::from_utf8_lossy(&payload[..payload.len().min(120)]);
                warn!("a message on {channel} cannot be read and is ignored: {error}: {start:?}{left_out}");
            }
            None
        }
    }
}
