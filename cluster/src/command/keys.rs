//! Finds the keys among a request's arguments.

use crate::resp::Args;

use super::Command;

/// Why a request's keys cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {}

/// Appends the argument indexes of the request's keys to `keys`, in the order in which redis reports them.
///
/// # Errors
/// See [`KeyError`].
pub fn find_keys(_command: &Command, _args: Args<'_>, _keys: &mut Vec<u32>) -> Result<(), KeyError> {
    Ok(())
}
