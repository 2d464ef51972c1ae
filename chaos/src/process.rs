//! A process that dies with this program, and whose words go to a file.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How to start a process, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) line: Vec<String>,
    pub(crate) log: PathBuf,
}

/// A process, running or not.
#[derive(Debug)]
pub(crate) struct Process {
    recipe: Recipe,
    child: Option<Child>,
}

impl Recipe {
    pub(crate) fn new(name: &str, line: Vec<String>, dir: &Path) -> Self {
        Recipe { name: name.to_owned(), line, log: dir.join(format!("{name}.log")) }
    }
}

impl Process {
    pub(crate) async fn start(recipe: Recipe) -> anyhow::Result<Self> {
        let mut process = Process { recipe, child: None };
        process.restart().await?;
        Ok(process)
    }

    /// Starts it, if it does not run.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let Recipe { name, line, log } = &self.recipe;
        let log = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("{}", log.display()))?;
        let mut command = Command::new(&line[0]);
        for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("VRC_")) {
            command.env_remove(variable);
        }
        command.args(&line[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = vrc_agent::spawn::start_child(command).await.with_context(|| format!("cannot start {name}: {line:?}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it was started and has not ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Fails unless it runs, or was [killed](Self::kill).
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let was_killed = self.child.is_none();
        anyhow::ensure!(was_killed || self.is_running(), "{} has ended by itself; see its log", self.recipe.name);
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(id) = id {
            // Not reaped yet, so the number is still its own. That it has just ended is no harm.
            let _ = kill_process(id, signal);
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }
}
