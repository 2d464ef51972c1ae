//! A process that does not outlive its test.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, Once},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Longer than any test takes, even on a busy machine.
const LIFE: Duration = Duration::from_secs(900);

/// How much of what it wrote last is shown.
const SHOWN_LINES: usize = 40;

/// A running program: killed when dropped, the end of its output shown if the test has failed by then. Killed too when it has lived
/// too long, so that whoever waits for its answer gets an error instead.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts this project's program.
    pub(crate) fn vrc<S: AsRef<str>>(args: &[S]) -> Self {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        Process::start(&format!("vrc {}", args.join(" ")), vrc(&args))
    }

    /// Starts any program.
    pub(crate) fn start(name: &str, command: Command) -> Self {
        Process::start_with(name, command, Stdio::piped())
    }

    /// Likewise, with its standard error going elsewhere.
    pub(crate) fn start_with(name: &str, mut command: Command, stderr: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        guard(child.id());
        let lines = Arc::default();
        let readers = [
            child.stdout.take().map(|stdout| read_lines(stdout, &lines)),
            child.stderr.take().map(|stderr| read_lines(stderr, &lines)),
        ];
        Process { name: name.to_owned(), child, lines, readers: readers.into_iter().flatten().collect() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still its own.
        kill_process(pid(self.child.id()), signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let has_ended = self.child.try_wait().expect("its state is known").is_some();
        if has_ended {
            release(self.child.id());
        }
        has_ended
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        release(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn end(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let status = eventually(&what, limit, || self.child.try_wait().expect("its state is known"));
        release(self.child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        // What it wrote last is on its way; a child of its own may hold the pipe open for longer.
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        status
    }

    /// What it wrote so far, to standard output and standard error.
    pub(crate) fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line with `text` in it, and returns the first such line.
    #[track_caller]
    pub(crate) fn line_with(&self, text: &str, limit: Duration) -> String {
        eventually(&format!("a line with {text:?} from {}", self.name), limit, || {
            self.lines.lock().unwrap().iter().find(|line| line.contains(text)).cloned()
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let lines = self.lines.lock().unwrap();
            let left_out = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("---- {} ({left_out} lines, then)\n{}", self.name, lines[left_out..].join("\n"));
        }
    }
}

/// Processes to be killed when they have lived too long: their ids, and when they were started.
static GUARDED: Mutex<Vec<(u32, Instant)>> = Mutex::new(Vec::new());

fn guard(id: u32) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
                for (id, _) in GUARDED.lock().unwrap().extract_if(.., |(_, started)| started.elapsed() > LIFE) {
                    eprintln!("process {id} has lived for more than {LIFE:?} and is killed");
                    let _ = kill_process(pid(id), Signal::KILL);
                }
            }
        });
    });
    GUARDED.lock().unwrap().push((id, Instant::now()));
}

/// Once it is reaped its id may be another's.
fn release(id: u32) {
    GUARDED.lock().unwrap().retain(|(guarded, _)| *guarded != id);
}

/// The program, untouched by the environment of whoever runs the tests. It waits long for answers unless it is told otherwise.
pub(crate) fn vrc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrc"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VRC_")) {
        command.env_remove(name);
    }
    command.env("VRC_TIMEOUT", "60s").args(args);
    command
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: u32) -> bool {
    // In `pid (name) state …` the name may hold anything, so the last parenthesis counts.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id")
}

fn read_lines(output: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    })
}
