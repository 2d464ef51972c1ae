//! Arguments that several subcommands share, and the texts of which arguments are made.

mod admin;
mod master;
mod placement;
mod server;
mod sources;
mod time;

pub(crate) use admin::parse_admin;
pub(crate) use master::{MasterArgs, url_of};
pub(crate) use placement::PlacementArgs;
pub(crate) use server::{ServerArgs, parse_memory};
pub(crate) use sources::{Choice, choose};
pub(crate) use time::{parse_limit, parse_time, parse_time_from};

use vrc_cluster::contract::WEIGHTS;

/// A node's weight.
pub(crate) fn parse_weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(weight) if WEIGHTS.contains(&weight) => Ok(weight),
        _ => Err("not a weight from 0.01 to 100".to_owned()),
    }
}
