//! What one client asks or orders that concerns the clients of all workers: each worker is told and answers for its own, and the
//! client gets one reply once all have.

use vrc_cluster::resp::{Args, encode};

use super::{
    Core, Effect, Flow,
    client::{ClientFilter, Unblocking},
    replies::{Sequence, Slot},
    session::SessionId,
};

/// What each worker is told.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Tell the lines of `CLIENT LIST` for these clients.
    List(ClientFilter),
    /// Close the connections of these clients.
    Kill(ClientFilter),
    /// End the wait of this client.
    Unblock { client: u64, how: Unblocking },
    /// Hold back the clients' commands, all or those that may write, for so long.
    Pause { all: bool, for_ms: u64 },
    /// Let them go on.
    Unpause,
    /// Go by the settings as they are now.
    FollowSettings,
    /// Write down what commands come, for those who listen by MONITOR.
    Monitor,
}

/// What a worker has to say to an [`Order`].
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Lines, by client id.
    Lines(Vec<(u64, String)>),
    /// How many clients it concerned.
    Count(u64),
    /// It is done.
    Done,
}

impl Core {
    /// Has all workers carry out an order; the client's next command waits until they have.
    pub(super) fn order(&mut self, index: u32, order: Order) -> Flow {
        let session = self.session_id(index);
        let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
        self.effects.push(Effect::Order { session, sequence, order });
        self.before_all_after(index)
    }

    /// Carries out an order that some worker's client gave, as far as this worker is concerned. `None` if that takes its time: then
    /// what comes of it is reported by `number`.
    pub(crate) fn carry_out(&mut self, order: &Order, number: u64) -> Option<Outcome> {
        Some(match order {
            Order::List(filter) => Outcome::Lines(self.client_lines(filter)),
            Order::Kill(filter) => return self.kill_clients(filter, number),
            Order::Unblock { client, how } => Outcome::Count(self.unblock_client(*client, *how).into()),
            Order::Pause { all, for_ms } => {
                self.pause_clients(*all, *for_ms);
                Outcome::Done
            }
            Order::Unpause => {
                self.unpause_clients();
                Outcome::Done
            }
            Order::FollowSettings => {
                self.follow_live_settings();
                Outcome::Done
            }
            Order::Monitor => {
                self.monitoring.is_on = true;
                Outcome::Done
            }
        })
    }

    /// All workers have carried out an order.
    pub(crate) fn carried_out(&mut self, id: SessionId, sequence: Sequence, order: &Order, outcomes: Vec<Outcome>) {
        if !self.is_open(id) {
            return;
        }
        let (mut lines, mut count) = (Vec::new(), 0);
        for outcome in outcomes {
            match outcome {
                Outcome::Lines(more) => lines.extend(more),
                Outcome::Count(more) => count += more,
                Outcome::Done => {}
            }
        }
        let mut reply = Vec::new();
        match order {
            Order::List(_) => {
                lines.sort_unstable_by_key(|(id, _)| *id);
                let text: String = lines.into_iter().map(|(_, line)| line).collect();
                encode::verbatim(&mut reply, self.sessions[id.index as usize].proto, &text);
            }
            Order::Kill(filter) => {
                filter.say_killed(count, &mut reply);
                self.answer_later(id, sequence, &reply);
                return self.close_if_killed(id.index, filter);
            }
            Order::Monitor => return self.begin_monitoring(id, sequence),
            Order::Unblock { .. } => encode::integer(&mut reply, count as i64),
            Order::Pause { .. } | Order::Unpause | Order::FollowSettings => encode::simple(&mut reply, "OK"),
        }
        self.answer_later(id, sequence, &reply);
    }
}

/// The usual error for a subcommand with too many arguments.
pub(super) fn wrong_arguments(args: Args<'_>) -> Vec<u8> {
    [
        b"ERR unknown subcommand or wrong number of arguments for '",
        &args[1],
        b"'. Try ",
        &args[0].to_ascii_uppercase()[..],
        b" HELP.",
    ]
    .concat()
}
