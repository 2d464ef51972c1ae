//! The master's address: `-h HOST -p PORT` as it was, or `--master URL`.

use clap::{ArgMatches, Args, Error, FromArgMatches, error::ErrorKind};
use vrc_cluster::client::MasterUrl;

use super::{Choice, choose};

/// The master's address.
#[derive(Debug, Clone)]
pub(crate) struct MasterArgs {
    pub(crate) url: MasterUrl,
}

#[derive(Debug, Args)]
#[group(skip)]
struct Raw {
    /// Host of the master
    #[arg(short = 'h', long, value_name = "HOST", env = "VRC_MASTER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port of the master
    #[arg(short = 'p', long, value_name = "PORT", env = "VRC_MASTER_PORT", default_value_t = 6379)]
    port: u16,
    /// The master, instead of -h and -p: redis[s]://[user:password@]host:port[/db], or
    /// redis-sentinel://[user:password@]sentinel:port,sentinel:port/name[?db=N]
    #[arg(long, value_name = "URL", env = "VRC_MASTER", hide_env_values = true)]
    master: Option<MasterUrl>,
}

impl FromArgMatches for MasterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let raw = Raw::from_arg_matches(matches)?;
        let url = match (raw.master, choose(matches, &["master"], &["host", "port"])?) {
            (Some(url), Choice::First) => url,
            _ => url_of(&raw.host, raw.port)?,
        };
        Ok(MasterArgs { url })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for MasterArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Raw::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Raw::augment_args_for_update(command)
    }
}

/// The URL of a host and a port, or what is wrong with them.
pub(crate) fn url_of(host: &str, port: u16) -> Result<MasterUrl, Error> {
    MasterUrl::new(host, port).map_err(|error| Error::raw(ErrorKind::ValueValidation, error))
}
