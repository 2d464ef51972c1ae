//! The thread that starts processes.
//!
//! On Linux a child asks the kernel to be killed when its parent dies (`PR_SET_PDEATHSIG`), so that not even a SIGKILL of this
//! program leaves servers behind. The kernel takes "parent" to be the *thread* that forked, and tokio ends threads as it sees
//! fit. So all forks happen on one thread of ours, which lives as long as the program.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{OnceLock, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct Job {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command`, whose process dies with this program (on Linux) and when its [`Child`] is dropped.
///
/// # Errors
/// If it cannot be started.
pub async fn spawn(mut command: Command) -> io::Result<Child> {
    command.kill_on_drop(true);
    #[cfg(target_os = "linux")]
    die_with_this_program(&mut command);
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    forker()?.send(Job { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

fn forker() -> io::Result<&'static mpsc::Sender<Job>> {
    static FORKER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    if let Some(forker) = FORKER.get() {
        return Ok(forker);
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new().name("vrc-forker".to_owned()).spawn(move || {
        for Job { mut command, runtime, reply } in jobs {
            // tokio panics if that runtime is just being shut down; the thread has to live on, or all children die with it.
            let spawned = catch_unwind(AssertUnwindSafe(|| {
                let _entered = runtime.enter();
                command.spawn()
            }));
            // If nobody waits any more, the child is dropped here and thereby killed.
            let _ = reply.send(spawned.unwrap_or_else(|_| Err(io::Error::other("the runtime is shutting down"))));
        }
    })?;
    // Of two threads started at once, the loser's queue is dropped here, which ends it before it has forked anything.
    Ok(FORKER.get_or_init(|| sender))
}

#[cfg(target_os = "linux")]
fn die_with_this_program(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above; then no signal will come.
        if getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `prepare` makes two system calls, and neither
    // allocates nor takes a lock: both errors are made of an error number.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(prepare);
    }
}
