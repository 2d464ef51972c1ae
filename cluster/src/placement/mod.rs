//! How keys are given to nodes.

mod crc16;
pub(crate) mod legacy;
pub mod slots;
