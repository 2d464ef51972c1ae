//! Real proxies, without clients.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use redis::aio::MultiplexedConnection;
use tokio::{
    process::{Child, Command},
    time::sleep,
};
use vrc_cluster::{
    client::MasterUrl,
    contract::{Confirmation, EPOCH_KEY, Epoch, PROXIES_KEY},
};

use crate::{PATIENT, nodes::Nodes};

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// They end when this is dropped.
pub(crate) fn start(count: usize, master: &MasterUrl) -> anyhow::Result<Vec<Child>> {
    let program = std::env::current_exe()?.with_file_name("../vrc");
    ensure!(program.is_file(), "{} is not there: cargo build --release -p vrc", program.display());
    let proxy = |_| {
        let mut command = Command::new(&program);
        command.args(["proxy", "--listen", "127.0.0.1:0", "--workers", "1", "-v", "error", "--master", &master.to_string()]);
        command.kill_on_drop(true).spawn().context("a proxy cannot be started")
    };
    (0..count).map(proxy).collect()
}

/// Kills a node, and looks when each proxy has confirmed the map that says so: nothing goes by the one before any more then.
pub(crate) async fn one_dies(
    nodes: &mut Nodes,
    port: u16,
    children: &[Child],
    master: &mut MultiplexedConnection,
) -> anyhow::Result<()> {
    let proxies = children.len();
    let before = confirmed_by(master, proxies, 0).await?.0;
    let (began, cpu_before) = (Instant::now(), cpu_ms(children)?);
    nodes.kill(port);
    let (_, published, times) = confirmed_by(master, proxies, before + 1).await?;
    let after = |at: Instant| (at - began).as_secs_f64() * 1e3;
    println!(
        "  published {:.0} ms after the death; confirmed {:.0} to {:.0} ms after it; {:.1} ms of processor time each",
        after(published),
        after(times[0]),
        after(times[times.len() - 1]),
        (cpu_ms(children)? - cpu_before) / proxies as f64,
    );
    Ok(())
}

/// What all threads of all of them have run for.
fn cpu_ms(children: &[Child]) -> anyhow::Result<f64> {
    let mut ran_ns = 0_u64;
    for child in children {
        let id = child.id().context("a proxy has ended")?;
        for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
            let schedstat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            ran_ns += schedstat.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(ran_ns as f64 / 1e6)
}

/// Waits for a map that is no older than this one and for all proxies to confirm that; tells its epoch, when it was there, and when they did.
async fn confirmed_by(
    master: &mut MultiplexedConnection,
    proxies: usize,
    least: Epoch,
) -> anyhow::Result<(Epoch, Instant, Vec<Instant>)> {
    let deadline = Instant::now() + PATIENT;
    let (mut published, mut times) = (None, HashMap::<String, Instant>::new());
    while Instant::now() < deadline {
        let (epoch, said): (Option<Epoch>, HashMap<String, String>) =
            redis::pipe().atomic().get(EPOCH_KEY).hgetall(PROXIES_KEY).query_async(master).await?;
        let now = Instant::now();
        // Whoever looks all the time takes a core from those who are looked at.
        sleep(LOOK_EVERY).await;
        let Some(epoch) = epoch.filter(|epoch| *epoch >= least) else { continue };
        let (_, at) = *published.get_or_insert((epoch, now));
        for (id, text) in said {
            if text.parse::<Confirmation>().is_ok_and(|confirmation| confirmation.epoch >= epoch) {
                times.entry(id).or_insert(now);
            }
        }
        if times.len() >= proxies {
            let mut times: Vec<Instant> = times.into_values().collect();
            times.sort_unstable();
            return Ok((epoch, at, times));
        }
    }
    anyhow::bail!("proxies that confirm nothing: {} of {proxies}", proxies - times.len())
}
