//! The commands that the proxy answers itself: all that is about the connection rather than about data.
//!
//! The words of every error are redis 7.0's own; client libraries look at them.

use std::time::{SystemTime, UNIX_EPOCH};

use vrc_cluster::{
    command::{Command, describe},
    resp::{Args, Proto, encode, parse_integer},
    route::Refusal,
};

use super::{Core, Flow, client::client_name};

/// What the proxy calls itself where redis gives its version; raised to nothing less by what the nodes run.
const VERSION_WHERE_UNKNOWN: &str = "7.0.15";

const SYNTAX_ERROR: &str = "ERR syntax error";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl Core {
    /// Answers a command. One that changes which node connections the session uses lets none after it overtake those before it.
    pub(super) fn local(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        if matches!(command.name, "hello" | "select" | "reset")
            && let Some(flow) = self.before_mode_changes(index, command)
        {
            return flow;
        }
        match command.name {
            "ping" => match self.ping_tracked(index, args) {
                Some(flow) => return flow,
                None => self.ping(index, args),
            },
            "echo" => self.answer_now(index, |out| encode::bulk(out, &args[1])),
            "hello" => {
                self.hello(index, args);
                self.follow_session(index);
                self.follow_own_broadcast(index);
                return self.after_login(index);
            }
            "auth" => {
                self.auth(index, args);
                return Flow::Watch;
            }
            "select" => {
                self.select(index, args);
                self.follow_session(index);
                self.follow_own_broadcast(index);
                return self.before_all_after(index);
            }
            "quit" => {
                self.answer_now(index, |out| encode::simple(out, "OK"));
                return Flow::Close;
            }
            "reset" => {
                self.reset(index);
                return self.after_login(index);
            }
            "time" => self.time(index),
            "monitor" => return self.monitor(index),
            // Any proxy serves any slot, to read and to write.
            "asking" | "readonly" | "readwrite" => self.ok(index),
            name if name.starts_with("cluster|") => self.cluster(index, command.own_name(), args),
            "info" => return self.info(index, args),
            "lastsave" => {
                let started = self.settings.identity.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                self.answer_now(index, |out| encode::integer(out, started as i64));
            }
            "role" => self.answer_now(index, |out| {
                encode::array(out, 3);
                encode::bulk(out, b"master");
                encode::integer(out, 0);
                encode::array(out, 0);
            }),
            name if name.starts_with("client|") => return self.client_command(index, command, args),
            name if name.starts_with("config|") => return self.config(index, command, args),
            name if name.starts_with("acl|") => self.acl(index, command, args),
            name if name.starts_with("latency|") => self.latency(index, command, args),
            name if name.starts_with("memory|") => return self.memory(index, command, args),
            name if name.starts_with("slowlog|") => self.slowlog(index, command, args),
            name => {
                if name.starts_with("command")
                    && let Some(flow) = self.learn_first()
                {
                    return flow;
                }
                let proto = self.proto(index);
                let mut described = Vec::new();
                // COMMAND and its subcommands are told from the table.
                if describe::reply(args, proto, &mut described) {
                    self.answer_now(index, |out| out.extend_from_slice(&described));
                } else {
                    self.refuse(index, Refusal::Unsupported(name).to_string());
                }
            }
        }
        Flow::Next
    }

    /// How to go on where the client may be logged in now, or not any more: that decides which requests are taken.
    fn after_login(&self, index: u32) -> Flow {
        match self.before_all_after(index) {
            Flow::Next => Flow::Watch,
            flow => flow,
        }
    }

    pub(super) fn proto(&self, index: u32) -> Proto {
        self.sessions[index as usize].proto
    }

    pub(super) fn ok(&mut self, index: u32) {
        self.answer_now(index, |out| encode::simple(out, "OK"));
    }

    fn ping(&mut self, index: u32, args: Args<'_>) {
        if let Some(text) = self.settings.busy.some() {
            return self.refuse(index, &*text);
        }
        let session = &self.sessions[index as usize];
        match args.len() {
            // Where a client of RESP2 listens, every reply has to look like a message.
            1 | 2 if session.subscriptions.is_some() && session.proto == Proto::Resp2 => self.answer_now(index, |out| {
                encode::array(out, 2);
                encode::bulk(out, b"pong");
                encode::bulk(out, args.get(1).unwrap_or_default());
            }),
            1 => self.answer_now(index, |out| encode::simple(out, "PONG")),
            2 => self.answer_now(index, |out| encode::bulk(out, &args[1])),
            _ => self.refuse(index, "ERR wrong number of arguments for 'ping' command"),
        }
    }

    /// `HELLO [protover [AUTH user password] [SETNAME name]]`. Nothing changes unless all of it is right.
    fn hello(&mut self, index: u32, args: Args<'_>) {
        let mut proto = self.proto(index);
        let mut name = None;
        let mut authenticated = self.sessions[index as usize].authenticated;
        if let Some(version) = args.get(1) {
            proto = match parse_integer(version) {
                Some(2) => Proto::Resp2,
                Some(3) => Proto::Resp3,
                Some(_) => return self.refuse(index, "NOPROTO unsupported protocol version"),
                None => return self.refuse(index, "ERR Protocol version is not an integer or out of range"),
            };
        }
        let mut at = 2;
        while let Some(option) = args.get(at) {
            if option.eq_ignore_ascii_case(b"auth") && at + 2 < args.len() {
                if let Err(error) = self.check_password(Some(&args[at + 1]), &args[at + 2]) {
                    self.note_failed_login(index, "hello", &args[at + 1]);
                    return self.refuse(index, error);
                }
                authenticated = true;
                at += 3;
            } else if option.eq_ignore_ascii_case(b"setname") && at + 1 < args.len() {
                match client_name(&args[at + 1]) {
                    Ok(given) => name = Some(given),
                    Err(error) => return self.refuse(index, error),
                }
                at += 2;
            } else {
                let text = format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option));
                return self.refuse(index, &text);
            }
        }
        if !authenticated {
            return self.refuse(
                index,
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
                 option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
        }
        let session = &mut self.sessions[index as usize];
        session.proto = proto;
        session.authenticated = true;
        if let Some(name) = name {
            session.name = name;
        }
        let id = session.id;
        let version = self.redis_version();
        self.answer_now(index, |out| {
            encode::map(out, proto, 7);
            encode::bulk(out, b"server");
            encode::bulk(out, b"redis");
            encode::bulk(out, b"version");
            encode::bulk(out, version.as_bytes());
            encode::bulk(out, b"proto");
            encode::integer(out, if proto == Proto::Resp3 { 3 } else { 2 });
            encode::bulk(out, b"id");
            encode::integer(out, id as i64);
            encode::bulk(out, b"mode");
            encode::bulk(out, b"standalone");
            encode::bulk(out, b"role");
            encode::bulk(out, b"master");
            encode::bulk(out, b"modules");
            encode::array(out, 0);
        });
    }

    fn auth(&mut self, index: u32, args: Args<'_>) {
        let checked = match args.len() {
            2 => self.check_password(None, &args[1]),
            3 => self.check_password(Some(&args[1]), &args[2]),
            _ => Err(SYNTAX_ERROR),
        };
        match checked {
            Ok(()) => {
                self.sessions[index as usize].authenticated = true;
                self.ok(index);
            }
            Err(error) => {
                if error == WRONG_PASSWORD {
                    self.note_failed_login(index, "auth", if args.len() == 3 { &args[1] } else { b"default" });
                }
                self.refuse(index, error);
            }
        }
    }

    fn check_password(&self, user: Option<&[u8]>, password: &[u8]) -> Result<(), &'static str> {
        if user.is_some_and(|user| user != b"default") {
            return Err(WRONG_PASSWORD);
        }
        match (&self.live.password, user) {
            (None, None) => {
                Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                                 configuration is correct?")
            }
            // As redis has it, a default user without a password takes any.
            (None, Some(_)) => Ok(()),
            (Some(expected), _) if same_secret(expected, password) => Ok(()),
            (Some(_), _) => Err(WRONG_PASSWORD),
        }
    }

    fn select(&mut self, index: u32, args: Args<'_>) {
        match parse_integer(&args[1]) {
            None => self.refuse(index, "ERR value is not an integer or out of range"),
            Some(db) if i32::try_from(db).is_err() => {
                self.refuse(index, "ERR value is out of range, value must between -2147483648 and 2147483647");
            }
            Some(db) if db < 0 || db >= i64::from(self.settings.databases) => self.refuse(index, "ERR DB index is out of range"),
            Some(db) => {
                self.sessions[index as usize].db = db as u8;
                self.ok(index);
            }
        }
    }

    /// Back to how a new connection is. Commands that are under way keep their place and their reply's protocol.
    fn reset(&mut self, index: u32) {
        self.sessions[index as usize].transaction = None;
        self.unwatch(index);
        self.drop_subscriptions(index);
        self.stop_tracking(index);
        self.stop_monitoring(index);
        let authenticated = self.live.password.is_none();
        let session = &mut self.sessions[index as usize];
        session.want_replies();
        session.no_evict = false;
        session.no_touch = false;
        session.proto = Proto::Resp2;
        session.db = 0;
        session.name = Box::default();
        session.authenticated = authenticated;
        self.answer_now(index, |out| encode::simple(out, "RESET"));
    }

    fn time(&mut self, index: u32) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.answer_now(index, |out| {
            encode::array(out, 2);
            encode::bulk(out, now.as_secs().to_string().as_bytes());
            encode::bulk(out, now.subsec_micros().to_string().as_bytes());
        });
    }

    /// The least version among the nodes: what an application may count on.
    pub(super) fn redis_version(&self) -> String {
        let number = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
        self.topology
            .nodes()
            .iter()
            .filter_map(|node| node.version.as_deref())
            .min_by_key(|version| number(version))
            .unwrap_or(VERSION_WHERE_UNKNOWN)
            .to_owned()
    }
}

/// Compares without telling by the time it takes how much of a guess was right.
fn same_secret(expected: &[u8], given: &[u8]) -> bool {
    let differs = expected.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b));
    expected.len() == given.len() && differs == 0
}
