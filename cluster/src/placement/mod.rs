//! How keys are given to nodes.

pub(crate) mod legacy;
pub mod slots;
