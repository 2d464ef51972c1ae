//! Arguments that no log may show: passwords, and what tells of users. As redis has it.

use crate::resp::Args;

use super::Command;

/// What stands in a log in place of such an argument.
pub const REDACTED: &[u8] = b"(redacted)";

/// Parameters of CONFIG SET whose values are secrets.
const SECRET_PARAMETERS: [&[u8]; 5] =
    [b"masteruser", b"masterauth", b"requirepass", b"tls-key-file-pass", b"tls-client-key-file-pass"];

/// Whether an argument of a request is not to be shown.
pub fn is_sensitive(command: &Command, args: Args<'_>, index: usize) -> bool {
    let is = |at: usize, word: &[u8]| args.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word));
    match command.name {
        "auth" => index >= 1,
        "acl|setuser" => index >= 2,
        // The value behind the name.
        "config|set" => index >= 3 && index % 2 == 1 && SECRET_PARAMETERS.iter().any(|name| is(index - 1, name)),
        // AUTH user password, among options that each take one argument but this one.
        "hello" => {
            let mut at = 2;
            while at < args.len() {
                if is(at, b"auth") {
                    if (at + 1..=at + 2).contains(&index) {
                        return true;
                    }
                    at += 3;
                } else {
                    at += 2;
                }
            }
            false
        }
        // AUTH password, AUTH2 user password, behind the fixed arguments.
        "migrate" => index >= 7 && (is(index - 1, b"auth") || is(index - 1, b"auth2") || (index >= 8 && is(index - 2, b"auth2"))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        command::resolve,
        resp::{Frame, RequestFramer, encode},
    };

    use super::*;

    #[test]
    fn secrets_are_found_wherever_they_stand() {
        for (request, shown) in [
            ("AUTH secret", "AUTH *"),
            ("auth user secret", "auth * *"),
            ("HELLO 3 AUTH u secret SETNAME auth", "HELLO 3 AUTH * * SETNAME auth"),
            ("HELLO 3 SETNAME auth AUTH u secret", "HELLO 3 SETNAME auth AUTH * *"),
            ("HELLO 3", "HELLO 3"),
            ("ACL SETUSER u on >secret", "ACL SETUSER * * *"),
            ("CONFIG SET maxmemory 1 REQUIREPASS x timeout 0", "CONFIG SET maxmemory 1 REQUIREPASS * timeout 0"),
            ("CONFIG SET timeout requirepass maxmemory 1", "CONFIG SET timeout requirepass maxmemory 1"),
            ("MIGRATE h 1 k 0 5 AUTH x", "MIGRATE h 1 k 0 5 AUTH *"),
            ("MIGRATE h 1 k 0 5 COPY AUTH2 u x KEYS a", "MIGRATE h 1 k 0 5 COPY AUTH2 * * KEYS a"),
            ("MIGRATE h 1 auth 0 5", "MIGRATE h 1 auth 0 5"),
            ("SET auth x", "SET auth x"),
        ] {
            let mut bytes = Vec::new();
            encode::request(&mut bytes, &request.split(' ').collect::<Vec<_>>());
            let mut framer = RequestFramer::default();
            assert!(matches!(framer.advance(&bytes), Ok(Some(Frame::Multibulk(_)))));
            let args = Args::new(&bytes, framer.args());
            let command = resolve(args).unwrap();
            let words: Vec<_> = (0..args.len())
                .map(|index| if is_sensitive(command, args, index) { "*" } else { std::str::from_utf8(&args[index]).unwrap() })
                .collect();
            assert_eq!(words.join(" "), shown);
        }
    }
}
