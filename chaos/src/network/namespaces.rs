//! A network namespace for each party, and a bridge in one more. Nothing of the host's own network is touched: all addresses
//! and links are within namespaces that were made here.

use std::{collections::HashMap, process::Stdio};

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::{Address, Party};

const PREFIX: &str = "vrc-chaos-";
const PORT: u16 = 6379;
/// Nobody's: packets to it go nowhere.
const NOBODY: &str = "02:00:00:00:00:00";

pub(crate) struct Namespaces {
    prefix: String,
    parties: Vec<Party>,
    cuts: HashMap<(Party, Party), usize>,
}

impl Namespaces {
    /// Makes them all, or none.
    pub(crate) async fn lay(parties: &[Party]) -> anyhow::Result<Self> {
        remove_abandoned().await;
        // Removes what was made when it is dropped.
        let namespaces =
            Namespaces { prefix: format!("{PREFIX}{}", std::process::id()), parties: parties.to_vec(), cuts: HashMap::new() };
        let hub = namespaces.hub();
        ip(&format!("netns add {hub}")).await?;
        ip(&format!("-n {hub} link add bridge type bridge")).await?;
        ip(&format!("-n {hub} link set bridge up")).await?;
        for (number, party) in parties.iter().enumerate() {
            let (name, (address, _)) = (namespaces.name(*party), namespaces.address(*party));
            ip(&format!("netns add {name}")).await?;
            ip(&format!("-n {hub} link add port{number} type veth peer name eth0 netns {name}")).await?;
            ip(&format!("-n {hub} link set port{number} master bridge up")).await?;
            ip(&format!("-n {name} addr add {address}/24 dev eth0")).await?;
            ip(&format!("-n {name} link set lo up")).await?;
            ip(&format!("-n {name} link set eth0 up")).await?;
        }
        Ok(namespaces)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn name(&self, party: Party) -> String {
        format!("{}-{party}", self.prefix)
    }

    pub(crate) fn address(&self, party: Party) -> Address {
        let number = self.parties.iter().position(|other| *other == party).unwrap_or(200);
        (format!("10.77.0.{}", number + 1), PORT)
    }

    /// `ip netns exec` becomes the program: same process, same id.
    pub(crate) fn at(&self, party: Party, line: Vec<String>) -> Vec<String> {
        ["ip", "netns", "exec"].map(str::to_owned).into_iter().chain([self.name(party)]).chain(line).collect()
    }

    pub(crate) async fn cut(&mut self, one: Party, other: Party) -> anyhow::Result<()> {
        let count = self.cuts.entry(pair(one, other)).or_default();
        *count += 1;
        if *count > 1 {
            return Ok(());
        }
        for (from, to) in [(one, other), (other, one)] {
            let (from, (to, _)) = (self.name(from), self.address(to));
            ip(&format!("-n {from} neigh replace {to} lladdr {NOBODY} dev eth0 nud permanent")).await?;
        }
        Ok(())
    }

    pub(crate) async fn heal(&mut self, one: Party, other: Party) -> anyhow::Result<()> {
        let Some(count) = self.cuts.get_mut(&pair(one, other)).filter(|count| **count > 0) else { return Ok(()) };
        *count -= 1;
        if *count > 0 {
            return Ok(());
        }
        for (from, to) in [(one, other), (other, one)] {
            let (from, (to, _)) = (self.name(from), self.address(to));
            ip(&format!("-n {from} neigh del {to} dev eth0")).await?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.parties.iter().map(|party| self.name(*party)).chain([self.hub()]) {
            let _ = std::process::Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}

fn pair(one: Party, other: Party) -> (Party, Party) {
    (one.min(other), one.max(other))
}

/// What a run that was killed left behind.
async fn remove_abandoned() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output().await else { return };
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|id| !std::path::Path::new("/proc").join(id).exists()) {
            let _ = ip(&format!("netns del {name}")).await;
        }
    }
}

async fn ip(line: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(line.split(' ')).stdin(Stdio::null()).output().await.context("cannot run `ip`")?;
    ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
