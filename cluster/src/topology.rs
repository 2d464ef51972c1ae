//! The topology: who owns which key, as one immutable value that is swapped whole when membership changes.

/// Index of a node in [`Topology::nodes`]; stable only within one topology.
pub type NodeIndex = u16;
