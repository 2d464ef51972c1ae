//! The rows.

use super::Command;

/// Every top-level command.
pub static TABLE: &[Command] = &[];

/// The row of a command's name, in any case.
pub fn lookup(_name: &[u8]) -> Option<&'static Command> {
    None
}

/// The row of a container's subcommand, in any case.
pub fn lookup_subcommand(_container: &'static Command, _name: &[u8]) -> Option<&'static Command> {
    None
}
