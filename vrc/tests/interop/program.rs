//! Other people's programs, run to their end.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::OnceCell,
    time::timeout,
};

/// Far longer than any of them takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

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
pub(crate) async fn run_around(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>], meanwhile: impl AsyncFnOnce()) -> String {
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

/// Where the client libraries are, installed when the first test asks for them.
///
/// `None` where they cannot be had, which is said; but not in CI, where that fails.
pub(crate) async fn client_libraries() -> Option<&'static Path> {
    static INSTALLED: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    INSTALLED.get_or_init(install).await.as_deref()
}

async fn install() -> Option<PathBuf> {
    let directory = client_directory();
    let output = Command::new(script("install")).arg(&directory).output().await.unwrap();
    if output.status.success() {
        return Some(directory);
    }
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(env::var_os("CI").is_none(), "cannot install the client libraries: {why}");
    eprintln!("SKIPPED: the client libraries cannot be installed here: {why}");
    None
}

fn client_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients")
}

/// A file of `tests/clients`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}
