//! ACL: the proxy has one user, `default`, who may do anything. The nodes' users are how the proxy logs in there.

use rand::RngCore;
use vrc_cluster::{
    command::{Categories, Command, CommandId, Unresolved, resolve},
    resp::{ArgRange, Args, encode, parse_integer},
};

use super::{Core, order::wrong_arguments};
use crate::limits::SLOW_ARG_BYTES_MAX;

/// Most bits that ACL GENPASS gives, and how many it gives unless told.
const GENPASS_BITS_MAX: i64 = 4096;
const GENPASS_BITS: i64 = 256;
/// How many entries ACL LOG shows unless told.
const LOG_COUNT: i64 = 10;
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NO_FILE: &str = "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER \
                       command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store \
                       users in the Redis configuration.";
const ONE_USER: &str = "ERR this proxy has one user, 'default', and no others can be made; its password is changed by CONFIG SET \
                        requirepass";

impl Core {
    pub(super) fn acl(&mut self, index: u32, command: &'static Command, args: Args<'_>) {
        let proto = self.proto(index);
        match command.own_name() {
            "whoami" => self.answer_now(index, |out| encode::bulk(out, b"default")),
            "users" => self.answer_now(index, |out| {
                encode::array(out, 1);
                encode::bulk(out, b"default");
            }),
            "list" => {
                let password = self.password_hash().map_or("nopass".to_owned(), |hash| format!("#{hash}"));
                self.answer_now(index, |out| {
                    encode::array(out, 1);
                    encode::bulk(out, format!("user default on {password} ~* &* +@all").as_bytes());
                });
            }
            "getuser" if &args[2] != b"default" => self.answer_now(index, |out| encode::null(out, proto)),
            "getuser" => {
                let hash = self.password_hash();
                self.answer_now(index, |out| {
                    encode::map(out, proto, 6);
                    encode::bulk(out, b"flags");
                    let flags: &[&str] = if hash.is_some() { &["on"] } else { &["on", "nopass"] };
                    encode::set(out, proto, flags.len());
                    flags.iter().for_each(|flag| encode::bulk(out, flag.as_bytes()));
                    encode::bulk(out, b"passwords");
                    encode::array(out, hash.iter().len());
                    hash.iter().for_each(|hash| encode::bulk(out, hash.as_bytes()));
                    for (name, value) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
                        encode::bulk(out, name.as_bytes());
                        encode::bulk(out, value.as_bytes());
                    }
                    encode::bulk(out, b"selectors");
                    encode::array(out, 0);
                });
            }
            "cat" => self.acl_cat(index, args),
            "genpass" => self.acl_genpass(index, args),
            "dryrun" => self.acl_dryrun(index, args),
            "log" => self.acl_log(index, args),
            "load" | "save" => self.refuse(index, NO_FILE),
            "deluser" if args.iter().skip(2).any(|user| user == b"default") => {
                self.refuse(index, "ERR The 'default' user cannot be removed");
            }
            "deluser" => self.answer_now(index, |out| encode::integer(out, 0)),
            _ => self.refuse(index, ONE_USER),
        }
    }

    fn password_hash(&self) -> Option<String> {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.live.password.as_ref()?);
        Some(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// `ACL CAT [category]`.
    fn acl_cat(&mut self, index: u32, args: Args<'_>) {
        let names: Vec<&str> = match (args.len(), args.get(2).and_then(Categories::by_name)) {
            (2, _) => Categories::all().names().collect(),
            (3, Some(category)) => CommandId::all()
                .map(CommandId::command)
                // A container is in no category: it is nothing by itself.
                .filter(|row| row.acl.contains(category) && (row.subcommands.is_empty() || row.name == "command"))
                .map(|row| row.name)
                .collect(),
            (3, None) => {
                let shown = &args[2][..args[2].len().min(128)];
                return self.refuse(index, [b"ERR Unknown category '", shown, b"'"].concat());
            }
            _ => return self.refuse(index, wrong_arguments(args)),
        };
        self.answer_now(index, |out| {
            encode::array(out, names.len());
            names.iter().for_each(|name| encode::bulk(out, name.as_bytes()));
        });
    }

    /// `ACL GENPASS [bits]`.
    fn acl_genpass(&mut self, index: u32, args: Args<'_>) {
        match (args.len(), args.get(2).map_or(Some(GENPASS_BITS), parse_integer)) {
            (4.., _) => self.refuse(index, wrong_arguments(args)),
            (_, None) => self.refuse(index, NOT_AN_INTEGER),
            (_, Some(bits @ 1..=GENPASS_BITS_MAX)) => {
                let digits = (bits as usize).div_ceil(4);
                let mut bytes = vec![0; digits.div_ceil(2)];
                rand::rng().fill_bytes(&mut bytes);
                let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                self.answer_now(index, |out| encode::bulk(out, &text.as_bytes()[..digits]));
            }
            _ => self.refuse(
                index,
                format!(
                    "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
                     {GENPASS_BITS_MAX}"
                ),
            ),
        }
    }

    /// `ACL DRYRUN user command …`.
    fn acl_dryrun(&mut self, index: u32, args: Args<'_>) {
        if &args[2] != b"default" {
            return self.refuse(index, [b"ERR User '", &args[2], b"' not found"].concat());
        }
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for arg in args.iter().skip(3) {
            ranges.push(ArgRange { start: bytes.len() as u32, len: arg.len() as u32 });
            bytes.extend_from_slice(arg);
        }
        match resolve(Args::new(&bytes, &ranges)) {
            Ok(_) => self.ok(index),
            Err(Unresolved::Arity(command)) => {
                self.refuse(index, format!("ERR wrong number of arguments for '{}' command", command.name));
            }
            Err(Unresolved::Command | Unresolved::Subcommand) => {
                self.refuse(index, [b"ERR Command '", &args[3], b"' not found"].concat());
            }
        }
    }

    /// `ACL LOG [count|RESET]`.
    fn acl_log(&mut self, index: u32, args: Args<'_>) {
        let logs = self.settings.logs.clone();
        let proto = self.proto(index);
        match args.get(2) {
            Some(_) if args.len() > 3 => self.refuse(index, wrong_arguments(args)),
            Some(word) if word.eq_ignore_ascii_case(b"reset") => {
                logs.acl.reset();
                self.ok(index);
            }
            count => match count.map_or(Some(LOG_COUNT), parse_integer) {
                Some(count) => {
                    self.answer_now(index, |out| logs.acl.write(usize::try_from(count).unwrap_or(0), proto, out));
                }
                None => self.refuse(index, NOT_AN_INTEGER),
            },
        }
    }

    /// A client has given a wrong password, or a user that there is none of.
    pub(super) fn note_failed_login(&mut self, index: u32, object: &'static str, user: &[u8]) {
        let line = self.client_line(index, 0);
        self.settings.logs.acl.add(object, &user[..user.len().min(SLOW_ARG_BYTES_MAX)], line);
    }
}
