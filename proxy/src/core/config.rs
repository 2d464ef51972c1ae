//! CONFIG: the proxy's own parameters, and if clients may ask them, those of the nodes.

use std::collections::BTreeSet;

use vrc_cluster::{
    command::Command,
    resp::{Args, encode, pairs, text_of},
    route::Refusal,
};

use super::{
    Core, Flow,
    order::Order,
    parameters::{PARAMETERS, Parameter, Set, is_pattern},
};
use crate::live::Live;

/// What a CONFIG SET changes of the proxy's own: new values of these parameters, which have been found right.
type Changes = Vec<(fn(&mut Live, &[u8]) -> Result<(), String>, Box<[u8]>)>;

impl Core {
    pub(super) fn config(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match command.own_name() {
            "get" => self.config_get(index, args),
            "set" => self.config_set(index, args),
            "resetstat" => {
                self.publish();
                self.all_stats.reset();
                if self.settings.allow_node_config {
                    return self.forward_all(index, command, vrc_cluster::command::Merge::AllOk, args);
                }
                self.ok(index);
                Flow::Next
            }
            // There is no file: whoever starts the proxy gives its settings.
            _ => {
                self.refuse(index, "ERR The server is running without a config file");
                Flow::Next
            }
        }
    }

    /// `CONFIG GET name-or-pattern …`.
    fn config_get(&mut self, index: u32, args: Args<'_>) -> Flow {
        let allow = self.settings.allow_node_config;
        let asked = || args.iter().skip(2);
        let own: Vec<(Vec<u8>, Vec<u8>)> = PARAMETERS
            .iter()
            .filter(|parameter| !allow || parameter.is_own())
            .filter_map(|parameter| Some((parameter.asked_for(asked())?.to_vec(), (parameter.get)(self))))
            .collect();
        let proto = self.proto(index);
        let is_own = |asked: &[u8]| !is_pattern(asked) && Parameter::named(asked).is_some_and(Parameter::is_own);
        if !allow || asked().all(is_own) {
            self.answer_now(index, |out| {
                encode::map(out, proto, own.len());
                own.iter().flat_map(|(name, value)| [name, value]).for_each(|text| encode::bulk(out, text));
            });
            return Flow::Next;
        }
        let Some(node) = self.any_node(index) else {
            self.refuse(index, Refusal::NoNodeUp.to_string());
            return Flow::Next;
        };
        let backend = self.backend_of(node, self.sessions[index as usize].lane(false));
        self.forward_to(index, &[(backend, 0)], args, move |join| {
            join.start_gather(1, move |replies, out| {
                let Some(all) = pairs(replies[0]) else { return out.extend_from_slice(replies[0]) };
                let is_own = |name: &[u8]| text_of(name).and_then(Parameter::named).is_some_and(Parameter::is_own);
                let theirs: Vec<_> = all.filter(|(name, _)| !is_own(name)).collect();
                encode::map(out, proto, theirs.len() + own.len());
                theirs.iter().flat_map(|(name, value)| [name, value]).for_each(|text| out.extend_from_slice(text));
                own.iter().flat_map(|(name, value)| [name, value]).for_each(|text| encode::bulk(out, text));
            });
        })
    }

    /// `CONFIG SET name value …`: all of it, or nothing.
    fn config_set(&mut self, index: u32, args: Args<'_>) -> Flow {
        if !args.len().is_multiple_of(2) {
            self.refuse(index, "ERR syntax error");
            return Flow::Next;
        }
        match self.checked_changes(args) {
            Err(error) => {
                self.refuse(index, error);
                Flow::Next
            }
            Ok((changes, nodes)) if nodes.is_empty() => {
                self.settings.live.change(|live| apply(&changes, live));
                self.follow_live_settings();
                self.order(index, Order::FollowSettings)
            }
            Ok((changes, nodes)) => self.config_set_nodes(index, changes, &nodes, args),
        }
    }

    /// What a CONFIG SET would change of the proxy's own, and at which arguments the nodes' parameters stand.
    fn checked_changes(&self, args: Args<'_>) -> Result<(Changes, Vec<usize>), Vec<u8>> {
        let failed = |name: &[u8], why: &str| {
            [b"ERR CONFIG SET failed (possibly related to argument '", name, b"') - ", why.as_bytes()].concat()
        };
        let (mut changes, mut nodes, mut seen) = (Changes::new(), Vec::new(), BTreeSet::new());
        for at in (2..args.len()).step_by(2) {
            let (name, value) = (&args[at], &args[at + 1]);
            if !seen.insert(name.to_ascii_lowercase()) {
                return Err(failed(name, "duplicate parameter"));
            }
            match Parameter::named(name).filter(|parameter| parameter.is_own()).map(|parameter| (parameter, &parameter.set)) {
                Some((_, Set::Live(set))) => changes.push((*set, value.into())),
                // It stays what it is.
                Some((parameter, Set::Fixed(_))) if (parameter.get)(self) == *value => {}
                Some((_, Set::Fixed(why))) => return Err(failed(name, why)),
                Some((_, Set::Nodes)) | None if self.settings.allow_node_config => nodes.push(at),
                Some((_, Set::Nodes)) | None => {
                    let why = "it is not the proxy's, and this proxy does not let clients change the nodes (--allow-node-config)";
                    return Err(failed(name, why));
                }
            }
        }
        let mut live = Live::clone(&self.live);
        for at in (2..args.len()).step_by(2) {
            if let Some(Parameter { name, set: Set::Live(set), .. }) = Parameter::named(&args[at]) {
                set(&mut live, &args[at + 1]).map_err(|why| failed(name.as_bytes(), &why))?;
            }
        }
        Ok((changes, nodes))
    }

    /// The nodes come first: the proxy's own are changed once they have agreed.
    fn config_set_nodes(&mut self, index: u32, changes: Changes, nodes: &[usize], args: Args<'_>) -> Flow {
        let mut request = Vec::new();
        let mut words: Vec<&[u8]> = vec![&args[0], &args[1]];
        words.extend(nodes.iter().flat_map(|at| [&args[*at], &args[*at + 1]]));
        encode::request(&mut request, &words);
        let session = &self.sessions[index as usize];
        // Over connections that do not end with the client: the nodes' answers are awaited whether it is still there or not.
        let lane = Some(session.lane(false)).filter(|lane| lane.index().is_some()).unwrap_or(session.private_lane(false));
        let targets: Vec<_> = self.up.clone().into_iter().map(|node| (self.backend_of(node, lane), 0)).collect();
        let live = self.settings.live.clone();
        let count = targets.len();
        self.forward_bytes_to(index, &targets, &request, |join| {
            join.start_acting(count, move |replies, out| match replies.iter().find(|reply| reply[0] == b'-') {
                Some(error) => out.extend_from_slice(error),
                None => {
                    live.change(|live| apply(&changes, live));
                    encode::simple(out, "OK");
                }
            });
        })
    }
}

fn apply(changes: &Changes, live: &mut Live) {
    for (set, value) in changes {
        // They have been found right.
        let _ = set(live, value);
    }
}
