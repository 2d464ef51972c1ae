//! The command line as a whole.

use clap::{ArgAction, Parser, Subcommand};

use crate::{agent, coordinator, health, log::Filter, moves, proxy, status, up, where_key};

/// Volatile Redis Cluster: many plain redis servers behind one address.
#[derive(Debug, Parser)]
#[command(
    name = "vrc",
    version,
    // `-h` is a host, as it was in the system before this one; so help is `--help` alone.
    disable_help_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Every option can be given as an environment variable instead, whose name its help shows. A time is in seconds, \
                  or has a unit: 500ms, 3s, 20m, 2h."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What is logged to standard error: error, warn, info, debug, trace or off, or a filter such as `warn,vrc_proxy=debug`
    /// [default: info; error for `up`, warn for those that only ask or say something]
    #[arg(short = 'v', long = "log", global = true, value_name = "FILTER", env = "VRC_LOG", display_order = 900)]
    pub(crate) log: Option<Filter>,

    /// Print help
    #[arg(long, global = true, action = ArgAction::HelpShort, display_order = 901)]
    help: Option<bool>,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine: master, nodes with their agents, coordinator and proxy
    Up(Box<up::Args>),
    /// Watch the nodes and publish who is in. Several may run: one leads, the others stand by
    Coordinator(Box<coordinator::Args>),
    /// Keep a redis server registered as a node, or start redis servers and keep them running and registered
    Agent(Box<agent::Args>),
    /// Serve applications as if the cluster were one redis
    Proxy(Box<proxy::Args>),
    /// Show who is in and how each node does
    Status(Box<status::Args>),
    /// Ask a proxy, agent or coordinator that runs with --admin whether it does what it is there for: exit status 0 if so, 1 if not
    Health(Box<health::Args>),
    /// Show which node holds a key
    Where(Box<where_key::Args>),
    /// Have the other nodes take over a node's slots, so that it can be worked on. Clients get no errors, but its keys are gone
    Drain(Box<moves::DrainArgs>),
    /// Let a drained node, or one that was forgotten by force, be up again: it comes back empty, and takes its slots again
    Undrain(Box<moves::UndrainArgs>),
    /// Give a node another weight, whatever its agent announces; keys get new homes
    Weight(Box<moves::WeightArgs>),
    /// Remove a node that is gone for good; its keys get new homes
    Forget(Box<moves::ForgetArgs>),
}

#[cfg(test)]
mod tests {
    use clap::{
        ArgAction, CommandFactory,
        builder::{BoolishValueParser, StyledStr, ValueParser},
    };

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_an_environment_variable_and_a_help_text() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands() {
            for option in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let (command, id) = (command.get_name(), option.get_id().as_str());
                if matches!(id, "help" | "version") {
                    continue;
                }
                let env = option.get_env().and_then(|env| env.to_str()).unwrap_or_default();
                assert!(env.starts_with("VRC_"), "{command} --{id}: {env:?}");
                // An environment variable has to have a value, and people write more than `true`.
                let takes_yes =
                    format!("{:?}", option.get_value_parser()) == format!("{:?}", ValueParser::from(BoolishValueParser::new()));
                assert!(takes_yes || !matches!(option.get_action(), ArgAction::SetTrue), "{command} --{id}");
                assert!(!option.get_help().unwrap_or(&StyledStr::new()).to_string().is_empty(), "{command} --{id}");
            }
        }
    }
}
