//! How events and actions look in a history that is printed.

use crate::{
    contract::{AgentBusMessage, MapDelta, NodeMap},
    membership::{Action, Event},
};

pub(super) fn event(event: &Event) -> String {
    match event {
        Event::MapRead { map, epoch, .. } => format!("MapRead {epoch:?} {:?}", self::map(map)),
        Event::MapHeard { map, epoch } => format!("MapHeard {epoch:?} {:?}", self::map(map)),
        Event::DeltaHeard(MapDelta { from, epoch, changed, removed, .. }) => {
            format!("DeltaHeard {from} to {epoch} {:?} without {removed:?}", self::map(changed))
        }
        Event::Heard(AgentBusMessage::NodeUp { node }) => format!("NodeUp {} {:?}", node.node_name(), node.run_id),
        event => format!("{event:?}"),
    }
}

pub(super) fn action(action: &Action) -> String {
    match action {
        Action::Write(write) => format!("Write {} {} {:?}", write.token, write.epoch, self::map(&write.map)),
        Action::Connect { name, link, .. } => format!("Connect {name} {link}"),
        action => format!("{action:?}"),
    }
}

pub(super) fn map(map: &NodeMap) -> Vec<String> {
    map.values().map(|node| format!("{}={}:{}", node.name, node.up, node.run_id.as_deref().unwrap_or("-"))).collect()
}
