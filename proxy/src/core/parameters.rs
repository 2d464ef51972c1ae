//! The parameters of CONFIG that the proxy has an answer of its own for, one row each.

use vrc_cluster::{command::glob, resp::parse_integer};

use super::Core;
use crate::{
    limits::{CLIENT_OUTPUT_MAX_BYTES, SLOWLOG_MAX, SUBSCRIBER_OUTPUT_MAX_BYTES},
    live::Live,
};

/// One parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) get: fn(&Core) -> Vec<u8>,
    pub(super) set: Set,
}

/// What CONFIG SET does with it.
pub(super) enum Set {
    /// Changes it.
    Live(fn(&mut Live, &[u8]) -> Result<(), String>),
    /// Nothing: it stands as long as the proxy runs. The text says so, or how else to come by another value.
    Fixed(&'static str),
    /// It is the nodes', which have the say where clients may ask them (`--allow-node-config`). Where they may not, this is what keeps
    /// tools content that ask for it.
    Nodes,
}

const IMMUTABLE: &str = "can't set immutable config";

/// By name.
#[rustfmt::skip]
pub(super) static PARAMETERS: [Parameter; 17] = [
    Parameter { name: "appendonly",                  get: |_| b"no".to_vec(),                              set: Set::Nodes },
    Parameter { name: "client-output-buffer-limit",  get: |_| output_limits(),                             set: Set::Nodes },
    Parameter { name: "cluster-enabled",             get: |_| b"no".to_vec(),                              set: Set::Fixed(IMMUTABLE) },
    Parameter { name: "databases",                   get: |core| number(core.settings.databases),          set: Set::Fixed(IMMUTABLE) },
    Parameter { name: "latency-monitor-threshold",   get: |core| number(core.live.latency_ms),             set: Set::Live(|live, value| put(&mut live.latency_ms, value, i64::MAX as u64)) },
    Parameter { name: "latency-tracking",            get: |core| yes_or_no(core.live.latency_tracking),    set: Set::Live(|live, value| put_flag(&mut live.latency_tracking, value)) },
    Parameter { name: "maxclients",                  get: |core| number(core.live.clients_max),            set: Set::Live(set_clients_max) },
    Parameter { name: "maxmemory",                   get: |_| number(0),                                   set: Set::Nodes },
    Parameter { name: "maxmemory-policy",            get: |_| b"noeviction".to_vec(),                      set: Set::Nodes },
    Parameter { name: "port",                        get: |core| number(core.settings.identity.port),      set: Set::Fixed("Unable to listen on this port: the proxy's addresses are given at its start (--listen)") },
    Parameter { name: "proto-max-bulk-len",          get: |_| number(vrc_cluster::resp::BULK_BYTES_MAX),   set: Set::Nodes },
    Parameter { name: "requirepass",                 get: |core| core.live.password.clone().unwrap_or_default(), set: Set::Live(set_password) },
    Parameter { name: "save",                        get: |_| Vec::new(),                                  set: Set::Nodes },
    Parameter { name: "slowlog-log-slower-than",     get: |core| number(core.live.slower_than_us),         set: Set::Live(set_slower_than) },
    Parameter { name: "slowlog-max-len",             get: |core| number(core.live.slow_max),               set: Set::Live(set_slow_max) },
    Parameter { name: "timeout",                     get: |core| number(core.live.idle_s_max),             set: Set::Live(|live, value| put(&mut live.idle_s_max, value, i32::MAX as u64)) },
    Parameter { name: "vrc-node-timeout-ms",         get: |core| number(core.settings.timeout_ms),         set: Set::Fixed("it is given at the proxy's start (--timeout)") },
];

impl Parameter {
    /// The parameter of this name, in any case.
    pub(super) fn named(name: &[u8]) -> Option<&'static Parameter> {
        PARAMETERS.iter().find(|parameter| parameter.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether it is the proxy's whether or not nodes can be asked.
    pub(super) fn is_own(&self) -> bool {
        !matches!(self.set, Set::Nodes)
    }

    /// The name under which CONFIG GET of these names and patterns shows it, if it does: a name is repeated as it was asked for.
    pub(super) fn asked_for<'a>(&'a self, mut asked: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
        let own = self.name.as_bytes();
        asked.find_map(|asked| match is_pattern(asked) {
            true => glob::matches(asked, own, true).then_some(own),
            false => asked.eq_ignore_ascii_case(own).then_some(asked),
        })
    }
}

/// Whether CONFIG GET takes it for a pattern rather than a name.
pub(super) fn is_pattern(asked: &[u8]) -> bool {
    asked.iter().any(|byte| matches!(byte, b'[' | b'*' | b'?'))
}

fn number(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn yes_or_no(value: bool) -> Vec<u8> {
    if value { b"yes".to_vec() } else { b"no".to_vec() }
}

/// Redis's form, class by class: what cuts a client off at once, and what does so after so many seconds.
fn output_limits() -> Vec<u8> {
    format!("normal {CLIENT_OUTPUT_MAX_BYTES} 0 0 slave 0 0 0 pubsub {SUBSCRIBER_OUTPUT_MAX_BYTES} 0 0").into_bytes()
}

/// Redis's words for what is no number, or none that will do.
fn in_range(value: &[u8], min: i64, max: i64) -> Result<i64, String> {
    match parse_integer(value) {
        None => Err("argument couldn't be parsed into an integer".to_owned()),
        Some(number) if (min..=max).contains(&number) => Ok(number),
        Some(_) => Err(format!("argument must be between {min} and {max} inclusive")),
    }
}

fn put(place: &mut u64, value: &[u8], max: u64) -> Result<(), String> {
    *place = in_range(value, 0, i64::try_from(max).unwrap_or(i64::MAX))? as u64;
    Ok(())
}

fn put_flag(place: &mut bool, value: &[u8]) -> Result<(), String> {
    *place = match value.to_ascii_lowercase().as_slice() {
        b"yes" => true,
        b"no" => false,
        _ => return Err("argument must be 'yes' or 'no'".to_owned()),
    };
    Ok(())
}

fn set_clients_max(live: &mut Live, value: &[u8]) -> Result<(), String> {
    live.clients_max = in_range(value, 1, u32::MAX.into())? as usize;
    Ok(())
}

fn set_slower_than(live: &mut Live, value: &[u8]) -> Result<(), String> {
    live.slower_than_us = in_range(value, -1, i64::MAX)?;
    Ok(())
}

fn set_slow_max(live: &mut Live, value: &[u8]) -> Result<(), String> {
    live.slow_max = in_range(value, 0, SLOWLOG_MAX as i64)? as usize;
    Ok(())
}

fn set_password(live: &mut Live, value: &[u8]) -> Result<(), String> {
    live.password = (!value.is_empty()).then(|| value.to_vec());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_in_order_and_in_lower_case() {
        assert!(PARAMETERS.is_sorted_by(|a, b| a.name < b.name));
        for parameter in &PARAMETERS {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(parameter.name.bytes().all(is_plain), "{}", parameter.name);
            let found = Parameter::named(parameter.name.to_uppercase().as_bytes());
            assert!(found.is_some_and(|found| std::ptr::eq(found, parameter)), "{}", parameter.name);
        }
    }

    #[test]
    fn what_can_be_set_says_what_it_does_not_take_and_changes_nothing_then() {
        for parameter in &PARAMETERS {
            let Set::Live(set) = parameter.set else { continue };
            let (mut live, before) = (Live::default(), Live::default());
            if parameter.name != "requirepass" {
                for wrong in [&b""[..], b"x", b"1.5", b"-2", b"9223372036854775808", b"yes please"] {
                    assert!(set(&mut live, wrong).is_err(), "{} {wrong:?}", parameter.name);
                    assert_eq!(live, before);
                }
            }
            let right: &[u8] = if parameter.name == "latency-tracking" { b"YES" } else { b"7" };
            assert_eq!(set(&mut live, right), Ok(()), "{}", parameter.name);
            assert_ne!(live, before, "{}", parameter.name);
        }
    }
}
