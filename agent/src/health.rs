//! How the nodes of this program do, for whoever asks: what their watchers see, and what their announcers were able to say.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use crate::{announcer::Told, config::Config, watcher::Sighting};

/// How nodes do. A clone shows the same nodes.
#[derive(Debug, Clone, Default)]
pub struct Health {
    nodes: Arc<Mutex<Vec<Watched>>>,
}

#[derive(Debug)]
struct Watched {
    name: String,
    address: String,
    seen: watch::Receiver<Sighting>,
    told: watch::Receiver<Told>,
}

/// How one node does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeHealth {
    /// Its name.
    pub name: String,
    /// Where others find it.
    pub address: String,
    /// Its redis answers, and the master has taken the announcement of the very process that does.
    pub healthy: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the master cannot be reached now. A node that it knows goes on without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_trouble: Option<String>,
}

impl Health {
    /// Every node whose agent has been started here.
    pub fn nodes(&self) -> Vec<NodeHealth> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Watched::health).collect()
    }

    /// Shows a node from now on.
    pub(crate) fn show(&self, config: &Config, seen: watch::Receiver<Sighting>, told: watch::Receiver<Told>) {
        let watched = Watched { name: config.node_name(), address: config.endpoint().address(), seen, told };
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }
}

impl Watched {
    fn health(&self) -> NodeHealth {
        let told = self.told.borrow();
        let reason = match &*self.seen.borrow() {
            Sighting::Nothing => Some("its redis has not answered yet".to_owned()),
            Sighting::Down { reason, .. } => Some(format!("its redis cannot be used: {reason}")),
            up if told.up.as_ref() == Some(up) => None,
            _ => Some("it has not been announced to the master yet".to_owned()),
        };
        NodeHealth {
            name: self.name.clone(),
            address: self.address.clone(),
            healthy: reason.is_none(),
            reason,
            master_trouble: told.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeTarget;
    use vrc_cluster::client::MasterUrl;

    #[test]
    fn healthy_is_what_answers_and_was_announced_since_it_was_started() {
        let config = Config::new(NodeTarget::new("10.0.0.1", 7401), MasterUrl::new("10.0.0.9", 6379).unwrap());
        let up = |run: &str| Sighting::Up { run_id: Some(run.to_owned()), version: None };
        let (seen, told) = (watch::Sender::new(Sighting::Nothing), watch::Sender::new(Told::default()));
        let health = Health::default();
        assert!(health.nodes().is_empty());
        health.show(&config, seen.subscribe(), told.subscribe());
        let reason = || health.nodes().pop().unwrap().reason.unwrap_or_default();
        assert_eq!(reason(), "its redis has not answered yet");
        seen.send_replace(up("a"));
        assert_eq!(reason(), "it has not been announced to the master yet");
        told.send_modify(|told| told.up = Some(up("a")));
        assert_eq!(reason(), "");
        // The master is gone: the node goes on, and so nobody is to restart it.
        told.send_modify(|told| told.trouble = Some("refused".into()));
        let node = health.nodes().pop().unwrap();
        assert_eq!((node.healthy, node.master_trouble.as_deref()), (true, Some("refused")));
        seen.send_replace(up("b"));
        assert_eq!(reason(), "it has not been announced to the master yet");
        seen.send_replace(Sighting::Down { run_id: None, reason: "gone".into() });
        assert_eq!(reason(), "its redis cannot be used: gone");
    }
}
