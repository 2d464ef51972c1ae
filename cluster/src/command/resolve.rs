//! From a request to its row of the table, or to redis's words for why there is none.

use crate::resp::Args;

use super::{Command, lookup, lookup_subcommand, resolve_learned, table::Name};

/// Most bytes of a name that an error repeats, and of all arguments together.
const QUOTED_BYTES_MAX: usize = 128;

/// The row of a request: the subcommand's, where the command is a container. A container alone and a wrong number of arguments are
/// errors, in redis's order. What the table lacks may have been learned from a node.
///
/// # Errors
/// See [`Unresolved`].
#[inline]
pub fn resolve(args: Args<'_>) -> Result<&'static Command, Unresolved> {
    match in_table(args) {
        Err(Unresolved::Command) => resolve_learned(args),
        found => found,
    }
}

#[inline]
fn in_table(args: Args<'_>) -> Result<&'static Command, Unresolved> {
    let name = args.get(0).unwrap_or_default();
    let mut command = lookup(name).ok_or(Unresolved::Command)?;
    if !command.subcommands.is_empty()
        && let Some(name) = args.get(1)
    {
        command = lookup_subcommand(command, name).ok_or(Unresolved::Subcommand)?;
    }
    if command.accepts_argc(args.len()) { Ok(command) } else { Err(Unresolved::Arity(command)) }
}

/// Resolves requests that follow on each other: most have the name of the one before, and a name that is spelled the same needs no
/// look-up.
#[derive(Debug, Default)]
pub struct Resolver {
    last: Option<(Name, &'static Command)>,
}

impl Resolver {
    /// As [`resolve`], but from the table alone.
    ///
    /// # Errors
    /// See [`Unresolved`].
    #[inline]
    pub fn resolve(&mut self, args: Args<'_>) -> Result<&'static Command, Unresolved> {
        let name = Name::spelled(args.get(0).unwrap_or_default());
        match self.last {
            Some((last, command)) if last == name && command.accepts_argc(args.len()) => Ok(command),
            _ => self.look_up(name, args),
        }
    }

    fn look_up(&mut self, name: Name, args: Args<'_>) -> Result<&'static Command, Unresolved> {
        let command = in_table(args)?;
        // A container's name alone does not tell the row, not even where it may stand alone (COMMAND).
        let is_told_by_name = lookup(args.get(0).unwrap_or_default()).is_some_and(|found| std::ptr::eq(found, command));
        if name.is_exact() && is_told_by_name && command.subcommands.is_empty() {
            self.last = Some((name, command));
        }
        Ok(command)
    }
}

/// Why a request has no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unresolved {
    /// Nobody knows this command; a node with modules, or of a later version, might.
    Command,
    /// The container has no such subcommand.
    Subcommand,
    /// The command exists, but not with so many arguments.
    Arity(&'static Command),
}

impl Unresolved {
    /// Redis's error for it, with its code and without the leading `-` and the line end. It repeats what the client sent, so it may be
    /// anything but a line end.
    pub fn error(self, args: Args<'_>) -> Vec<u8> {
        let mut text = Vec::with_capacity(64);
        let name = quoted(args.get(0).unwrap_or_default(), QUOTED_BYTES_MAX);
        match self {
            Unresolved::Command => {
                push(&mut text, &[b"ERR unknown command '", name, b"', with args beginning with: "]);
                let start = text.len();
                for arg in args.iter().skip(1) {
                    // Quotes and the space count, so the last argument may be cut in two and the limit passed by three.
                    let Some(left @ 1..) = QUOTED_BYTES_MAX.checked_sub(text.len() - start) else { break };
                    push(&mut text, &[b"'", quoted(arg, left), b"' "]);
                }
            }
            Unresolved::Subcommand => {
                // This one repeats the container's name however long, but that is one of the table's.
                let container = args.get(0).unwrap_or_default().to_ascii_uppercase();
                let name = quoted(args.get(1).unwrap_or_default(), QUOTED_BYTES_MAX);
                push(&mut text, &[b"ERR unknown subcommand '", name, b"'. Try ", &container, b" HELP."]);
            }
            Unresolved::Arity(command) => {
                // An EXEC that is refused ends the transaction, and says so even where there is none.
                if command.name == "exec" {
                    text.extend_from_slice(b"EXECABORT Transaction discarded because of: ");
                } else {
                    text.extend_from_slice(b"ERR ");
                }
                push(&mut text, &[b"wrong number of arguments for '", command.name.as_bytes(), b"' command"]);
            }
        }
        for byte in &mut text {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        text
    }
}

fn push(text: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        text.extend_from_slice(part);
    }
}

/// As much of `bytes` as redis repeats: it prints them as a C string.
fn quoted(bytes: &[u8], bytes_max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Frame, RequestFramer, encode};

    fn check(resolver: &mut Resolver, words: &[&str], expect: &str) {
        let (mut request, mut framer) = (Vec::new(), RequestFramer::default());
        encode::request(&mut request, words);
        assert!(matches!(framer.advance(&request), Ok(Some(Frame::Multibulk(_)))));
        assert_eq!(resolver.resolve(Args::new(&request, framer.args())).map(|command| command.name), Ok(expect), "{words:?}");
    }

    #[test]
    fn a_subcommand_is_found_behind_its_container_alone() {
        let mut resolver = Resolver::default();
        for (words, expect) in [
            (&["COMMAND"][..], "command"),
            (&["COMMAND", "DOCS"], "command|docs"),
            (&["COMMAND"], "command"),
            (&["COMMAND", "COUNT"], "command|count"),
            (&["GET", "k"], "get"),
            (&["GET", "k"], "get"),
        ] {
            check(&mut resolver, words, expect);
        }
    }
}
