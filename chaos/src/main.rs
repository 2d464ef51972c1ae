//! `vrc-chaos`: see [`vrc_chaos`].

use std::process::ExitCode;

use clap::Parser;
use vrc_chaos::Options;

/// Plays faults to a cluster of real processes under checked client traffic. Ends with 0 if nothing happened that must not,
/// with 1 if something did, and with 2 if it could not be played
#[derive(Parser)]
#[command(name = "vrc-chaos")]
struct Program {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let Program { options } = Program::parse();
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                report = vrc_chaos::run(&options, true) => report.map(Some),
                _ = tokio::signal::ctrl_c() => Ok(None),
            }
        })
    });
    match outcome {
        Ok(Some(report)) => {
            println!("\n{report}");
            if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(None) => ExitCode::from(130),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}
