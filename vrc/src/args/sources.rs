//! Which of two ways to say the same thing counts.

use clap::{
    ArgMatches, Error,
    error::{ErrorKind, Result},
    parser::ValueSource,
};

/// Which of two ways was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    First,
    Second,
    Neither,
}

/// Chooses between `first` and `second`, each any of some arguments by their ids: what stands on the command line counts before
/// the environment, so that an exported `VRC_MASTER` does not get in the way of `-p 7000`. Both on the command line are a
/// contradiction; both in the environment leave it at the first.
pub(crate) fn choose(matches: &ArgMatches, first: &[&str], second: &[&str]) -> Result<Choice> {
    let strength = |ids: &[&str]| {
        let sources = ids.iter().map(|id| matches.value_source(id));
        sources.map(|source| if source == Some(ValueSource::DefaultValue) { None } else { source }).max().flatten()
    };
    match (strength(first), strength(second)) {
        (None, None) => Ok(Choice::Neither),
        (Some(ValueSource::CommandLine), Some(ValueSource::CommandLine)) => Err(Error::raw(
            ErrorKind::ArgumentConflict,
            format!("--{} cannot be given together with --{}", spelled(first), spelled(second)),
        )),
        (first, second) if first >= second => Ok(Choice::First),
        _ => Ok(Choice::Second),
    }
}

fn spelled(ids: &[&str]) -> String {
    ids.join(" or --").replace('_', "-")
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn the_command_line_counts_before_the_environment() {
        let check = |args: &[&str], expect: Option<Choice>| {
            // An argument's environment is set here by its default being one, so that no test changes the process's own.
            let command = Command::new("t").args([Arg::new("url").long("url"), Arg::new("port").long("port").default_value("1")]);
            let matches = command.try_get_matches_from(args).unwrap();
            assert_eq!(choose(&matches, &["url"], &["port"]).ok(), expect, "{args:?}");
        };
        check(&["t"], Some(Choice::Neither));
        check(&["t", "--url", "x"], Some(Choice::First));
        check(&["t", "--port", "1"], Some(Choice::Second));
        check(&["t", "--url", "x", "--port", "2"], None);
    }
}
