//! How keys are given to nodes.
