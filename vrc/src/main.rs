//! `vrc`: the one program of Volatile Redis Cluster. This crate turns arguments into the configurations of the libraries, runs
//! them, and shows to people what they do; it decides nothing about keys or nodes.

mod admin;
mod agent;
mod args;
mod cli;
mod coordinator;
mod health;
mod log;
mod moves;
mod node_map;
mod output;
mod proxy;
mod queue;
mod shutdown;
mod status;
mod up;
mod where_key;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;
use clap::Parser;

use crate::{
    cli::{Cli, Command},
    log::Log,
    shutdown::Shutdown,
};

fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the program with these arguments, and tells how it ended: 0, 1 after an error, 2 where the arguments make no sense.
fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version are "errors" of clap's too; it knows where each is to go. Nobody reads it if that fails.
            let _ = asked.print();
            return ExitCode::from(u8::try_from(asked.exit_code()).unwrap_or(2));
        }
    };
    let log = Log::new(cli.log);
    match execute(cli.command, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, log: &Log) -> anyhow::Result<()> {
    // Fails only if there is one already, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One thread is enough: whatever has to be fast has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot watch for signals")?;
        match command {
            Command::Up(args) => up::run(*args, log, &shutdown).await,
            Command::Coordinator(args) => coordinator::run(*args, log, &shutdown).await,
            Command::Agent(args) => agent::run(*args, log, &shutdown).await,
            Command::Proxy(args) => proxy::run(*args, log, &shutdown).await,
            Command::Status(args) => status::run(*args, log).await,
            Command::Health(args) => health::run(*args, log).await,
            Command::Where(args) => where_key::run(*args, log).await,
            Command::Drain(args) => moves::drain(*args, log).await,
            Command::Undrain(args) => moves::undrain(*args, log).await,
            Command::Weight(args) => moves::weight(*args, log).await,
            Command::Forget(args) => moves::forget(*args, log).await,
        }
    })
}
