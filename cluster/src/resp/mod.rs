//! RESP framing: where a request or a reply ends and where its parts are, as byte ranges. No value tree, no copy.
//!
//! A framer has three outcomes: a frame, not yet (`Ok(None)`), or a [`ProtocolError`]. It is resumable: handed the same bytes with
//! more behind them, it goes on where it stopped, so that a large request that comes in a thousand pieces is scanned once.
//!
//! What is accepted and what is refused, down to the words of the error, follows redis's own `networking.c`
//! (`processMultibulkBuffer`, `processInlineBuffer`): clients recognise those words, and a request that this framer lets pass is
//! forwarded as it came, so the node behind must read it the same way.

mod args;
pub mod encode;
mod inline;
mod number;
mod opening;
mod reply;
mod request;

pub use args::{ArgRange, Args};
pub use inline::split_inline;
pub use number::parse_integer;
pub use opening::Opening;
pub use reply::{ReplyFramer, array, array_elements, pairs, short_value, text_of};
pub use request::{Frame, RequestFramer};

/// Longest line of an inline request, and longest count line of any other, in bytes (redis's `PROTO_INLINE_MAX_SIZE`).
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest single argument in bytes (redis's default `proto-max-bulk-len`).
pub const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Most arguments of a request of a client that has not logged in yet, and bytes of each argument, as redis has it.
pub const GUARDED_ARGS_MAX: u32 = 10;
/// See [`GUARDED_ARGS_MAX`].
pub const GUARDED_BULK_BYTES_MAX: usize = 16 * 1024;
/// Longest whole request in bytes (redis's default `client-query-buffer-limit`).
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024 * 1024;

// Argument ranges are 32-bit offsets into a request.
const _: () = assert!(REQUEST_BYTES_MAX <= u32::MAX as usize);
// A request may hold one argument of the greatest length.
const _: () = assert!(BULK_BYTES_MAX < REQUEST_BYTES_MAX);
// The framer looks only at longer counts and lengths whether they are within what is guarded.
const _: () = assert!(GUARDED_ARGS_MAX > 9 && GUARDED_BULK_BYTES_MAX > 99);

/// The version of the protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Proto {
    /// RESP2, what every connection starts with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// Bytes that are not RESP. The connection that they came on is of no more use: where the next frame starts is unknown.
///
/// The text is redis's own, without the leading `ERR `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An inline request without an end of line.
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// An inline request whose quotes do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A `*` line without an end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkCountTooBig,
    /// A `$` line without an end.
    #[error("Protocol error: too big bulk count string")]
    BulkCountTooBig,
    /// A `*` line that is not a count.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// A `$` line that is not a length, or one of an argument that is too long.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// More than [`GUARDED_ARGS_MAX`] arguments of a client that has not logged in.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// An argument of more than [`GUARDED_BULK_BYTES_MAX`] of a client that has not logged in.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// An argument that does not start with `$`.
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// More than [`REQUEST_BYTES_MAX`] for one request.
    #[error("Protocol error: request is longer than the query buffer limit")]
    RequestTooBig,
    /// A reply of an unknown type.
    #[error("Protocol error: unknown reply type byte 0x{0:02x}")]
    ReplyType(u8),
    /// A reply whose length line is not a number.
    #[error("Protocol error: invalid length in reply")]
    ReplyLength,
}
