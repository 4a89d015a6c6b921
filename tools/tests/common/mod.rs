//! What the tests of the tools share: a real `beachd` on ports that the system picks, and the real `beachctl`.
//!
//! ```no_run
//! let mut daemon = Beachd::start();
//! assert_eq!(daemon.ctl(&["put", "k", "v"]).stdout, "OK seq=2 index=2\n");
//! daemon.kill();               // SIGKILL
//! daemon.restart();            // same data, same port
//! ```
#![allow(dead_code, reason = "each test binary uses its part of this")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and keep time")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// How long a daemon may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The `beachd` to test: `$BEACHD_BIN`, else the one beside `beachctl`. It is built now when it is missing or older
/// than the sources, because the tests of a package build its own programs only.
pub fn beachd_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("BEACHD_BIN") {
            return program.into();
        }
        let directory =
            Path::new(env!("CARGO_BIN_EXE_beachctl")).parent().expect("has a directory");
        let beachd = directory.join("beachd");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
        if beachd.metadata().and_then(|m| m.modified()).is_ok_and(|t| t > newest(&sources)) {
            return beachd;
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "beachdb", "--bin", "beachd"]);
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        build.arg("--target-dir").arg(directory.parent().expect("target directory"));
        if directory.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "beachd does not build");
        beachd
    })
}

/// When the newest file under a directory was changed.
fn newest(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).expect("a directory of sources");
    let times = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => newest(&path),
            false => path.metadata().and_then(|m| m.modified()).expect("a time"),
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What a program printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The standard output of a run that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// Runs `beachctl` with exactly these arguments and this input.
pub fn beachctl(args: &[&str], input: &[u8]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_beachctl"))
        .args(args)
        .env_remove("BEACHCTL_ENDPOINTS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("beachctl starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It need not read its input to the end.
        drop(stdin.write_all(&input));
    });
    let output = child.wait_with_output().expect("beachctl ends");
    writer.join().expect("writer");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running daemon; killed and cleaned up when dropped.
pub struct Beachd {
    child: Option<Child>,
    directory: TempDir,
    settings: Vec<String>,
    /// Where clients connect.
    pub listen: String,
    /// Where `/status` and its like are.
    pub http: String,
}

impl Beachd {
    /// Starts a daemon over an empty directory and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Beachd::start`], with more options.
    pub fn start_with(settings: &[&str]) -> Self {
        let mut daemon = Self {
            child: None,
            directory: tempfile::tempdir().expect("a temporary directory"),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            listen: "127.0.0.1:0".into(),
            http: "127.0.0.1:0".into(),
        };
        daemon.restart();
        daemon
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory for the test's own files; removed with the daemon's.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it again over its data and on its client port.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("stderr"))
            .expect("a log file");
        let mut command = Command::new(beachd_program());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BEACHD_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("--data-dir")
            .arg(self.data())
            .args([
                "--listen",
                &self.listen,
                "--http",
                "127.0.0.1:0",
                "--peer-listen",
                "127.0.0.1:0",
            ])
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("beachd starts");
        let stdout = child.stdout.take().expect("piped");
        self.child = Some(child);
        let line = self.ready_line(stdout);
        let field = |name: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
        };
        (self.listen, self.http) = (field("listen="), field("http="));
    }

    fn ready_line(&self, stdout: impl Read + Send + 'static) -> String {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens after the first line; reading on keeps the pipe empty.
                drop(sender.send(line));
            }
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with("beachd ready ") => line,
            other => panic!("beachd is not ready: {other:?}\n{}", self.log()),
        }
    }

    /// What it wrote to stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// SIGKILL, as a crash of the process; waits until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// SIGTERM; returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it is running");
        let pid = i32::try_from(child.id()).expect("a pid");
        // SAFETY: kill(2) with the pid of our own child, which has not been waited for, so it is still ours.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        child.wait().expect("wait").code()
    }

    /// Runs `beachctl` against it.
    pub fn ctl(&self, args: &[&str]) -> Ran {
        self.ctl_with(args, b"")
    }

    /// As [`Beachd::ctl`], with input.
    pub fn ctl_with(&self, args: &[&str], input: &[u8]) -> Ran {
        beachctl(&[&["--endpoints", &self.listen][..], args].concat(), input)
    }

    /// Starts `beachctl` against it and leaves it running.
    pub fn ctl_spawn(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_beachctl"))
            .args(["--endpoints", &self.listen])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("beachctl starts")
    }
}

impl Drop for Beachd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Already gone is as good.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("beachd's log:\n{}", self.log());
        }
    }
}
