//! RESP framing: where a request or a reply ends and where its parts are, as byte ranges. No value tree, no copy.

mod args;

pub use args::{ArgRange, Args};
