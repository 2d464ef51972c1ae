//! Other people's programs, run to their end.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::Mutex,
    time::timeout,
};

/// Far longer than any of them takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a program wrote.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a program to its end with this on its standard input.
///
/// # Panics
/// If it fails or takes too long; what it wrote is shown.
pub(crate) async fn run(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>], input: impl AsRef<[u8]>) -> Said {
    let (command, mut child) = start(program, args);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    // A program that does not read all of its input is free to do so.
    let writing = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap_or_else(|_| panic!("{command:?} hangs")).unwrap();
    writing.abort();
    let said = Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(output.status.success(), "{command:?}: {}\n{}\n{}", output.status, said.out, said.err);
    said
}

/// Runs a program to its end: once it has said "ready", `meanwhile` is done and it is told "gone". Returns what else it wrote.
///
/// # Panics
/// As [`run`].
async fn run_around(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>], meanwhile: impl AsyncFnOnce()) -> String {
    let (command, mut child) = start(program, args);
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut errors = child.stderr.take().unwrap();
    let errors = tokio::spawn(async move {
        let mut text = String::new();
        errors.read_to_string(&mut text).await.map(|_| text)
    });
    let said = timeout(PATIENCE, async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "ready" {
                break;
            }
            said += &line;
        }
        meanwhile().await;
        // One that failed before is not there to hear it, which its status tells.
        let _ = stdin.write_all(b"gone\n").await;
        while let Some(line) = lines.next_line().await.unwrap() {
            said += &line;
        }
        said
    });
    let said = said.await.unwrap_or_else(|_| panic!("{command:?} hangs"));
    let status = child.wait().await.unwrap();
    assert!(status.success(), "{command:?}: {status}\n{said}\n{}", errors.await.unwrap().unwrap());
    said
}

fn start(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>]) -> (Command, Child) {
    let mut command = Command::new(&program);
    command
        .args(args)
        .env("VRC_CLIENTS", client_directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", program.as_ref()));
    (command, child)
}

/// A program of `tests/clients`, ready to run.
pub(crate) struct ClientProgram {
    /// How its command line begins.
    command: Vec<PathBuf>,
}

impl ClientProgram {
    /// Sees to it that all is there that the program in this file needs; `None` where that cannot be had, see [`client_libraries`].
    pub(crate) async fn ready(file: &str) -> Option<Self> {
        let (stem, language) = file.rsplit_once('.').unwrap();
        let command = |directory: PathBuf| match language {
            "py" => vec![directory.join("venv/bin/python"), script(file)],
            "js" => vec!["node".into(), script(file)],
            "php" => vec!["php".into(), script(file)],
            _ => vec![directory.join(stem)],
        };
        let needs = match language {
            "py" => "python",
            "js" => "node",
            "java" => "jedis",
            _ => stem,
        };
        Some(ClientProgram { command: command(client_libraries(needs).await?) })
    }

    fn args(&self, args: &[&str]) -> Vec<OsString> {
        self.command[1..].iter().map(OsString::from).chain(args.iter().map(OsString::from)).collect()
    }

    /// See [`run`].
    pub(crate) async fn run(&self, args: &[&str]) -> Said {
        run(&self.command[0], &self.args(args), "").await
    }

    /// See [`run_around`].
    pub(crate) async fn run_around(&self, args: &[&str], meanwhile: impl AsyncFnOnce()) -> String {
        run_around(&self.command[0], &self.args(args), meanwhile).await
    }
}

/// Where the client libraries are that have this name in `tests/clients/install`, which is run when the first test asks for them.
///
/// `None` where they cannot be had, which is said; but not in CI, where that fails, unless it is one that CI may lack.
///
/// # Panics
/// Where they are here and the program does not compile.
pub(crate) async fn client_libraries(name: &str) -> Option<PathBuf> {
    static TRIED: Mutex<BTreeMap<String, bool>> = Mutex::const_new(BTreeMap::new());
    let mut tried = TRIED.lock().await;
    if !tried.contains_key(name) {
        tried.insert(name.to_owned(), install(name).await);
    }
    tried[name].then(client_directory)
}

async fn install(name: &str) -> bool {
    let output = Command::new(script("install")).arg(client_directory()).arg(name).output().await.unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => return true,
        Some(77) => {}
        status => assert!(status != Some(2) && env::var_os("CI").is_none(), "cannot set up {name}: {why}"),
    }
    eprintln!("SKIPPED: {name} cannot be set up here: {why}");
    false
}

fn client_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients")
}

/// A file of `tests/clients`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}
