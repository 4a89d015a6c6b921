//! Child processes: started, listened to, killed.

use super::oracle::Violation;
use super::pipe::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How much of a child's standard error a report shows.
const STDERR_TAIL_BYTES: u64 = 2_000;

/// A child with its standard error in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stderr: PathBuf,
    /// Where this child's part of the file starts.
    stderr_from: u64,
}

/// A [`Violation::Failed`].
pub fn failed(what: impl Into<String>) -> Violation {
    Violation::Failed { what: what.into() }
}

impl Process {
    /// Starts `command`; its standard error is appended to `stderr`.
    pub fn start(mut command: Command, name: &str, stderr: &Path) -> Result<Self, Violation> {
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().create(true).append(true).open(stderr)?;
            let from = file.metadata()?.len();
            Ok((file, from))
        };
        let (file, stderr_from) =
            open().map_err(|e| failed(format!("{}: {e}", stderr.display())))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|e| failed(format!("cannot start {:?}: {e}", command.get_program())))?;
        Ok(Self { child, name: name.into(), stderr: stderr.to_path_buf(), stderr_from })
    }

    /// Its standard output; once.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is piped, and taken once")
    }

    /// Forwards its lines as messages until its standard output ends.
    pub fn forward_messages(&mut self, to: Sender<Message>) -> std::thread::JoinHandle<()> {
        let stdout = self.take_stdout();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // A line cut off by the kill, or whatever a library prints, is none of ours.
                let Some(message) = line.ok().as_deref().and_then(Message::parse) else { continue };
                if to.send(message).is_err() {
                    return;
                }
            }
        })
    }

    /// All messages until its standard output ends.
    pub fn all_messages(&mut self) -> Vec<Message> {
        let (to, from) = channel();
        let reader = self.forward_messages(to);
        let all = from.into_iter().collect();
        // The thread ended with its channel.
        drop(reader.join());
        all
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        // It may have ended by itself already; then both say so, and the caller sees it from the output's end.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: kill(2) takes no pointers; the child is not reaped yet, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, Violation> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill();
                return Err(failed(format!("{} did not end within {timeout:?}", self.name)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// "it ended by itself", with its status and last words.
    pub fn obituary(&mut self, when: &str) -> Violation {
        let status = self
            .wait(Duration::from_secs(5))
            .map_or("it still runs".into(), |status| status.to_string());
        let words = self.last_words();
        failed(format!("{} ended by itself {when}: {status}\n{words}", self.name))
    }

    /// The end of its standard error.
    #[must_use]
    pub fn last_words(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.stderr)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                self.stderr_from.max(len.saturating_sub(STDERR_TAIL_BYTES)),
            ))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|e| format!("(cannot read {}: {e})", self.stderr.display()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Copies a directory with all that is in it; `to` is replaced.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    remove_dir(to)?;
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Copies a file and leaves holes where it has only zeros: log segments are mostly zeros.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, target) = (File::open(from)?, File::create(to)?);
    let mut block = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let count = source.read(&mut block)?;
        if count == 0 {
            return target.set_len(at);
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            target.write_all_at(&block[..count], at)?;
        }
        at += count as u64;
    }
}

/// Removes a directory that may not exist.
pub fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A program built beside this one.
pub fn sibling_program(name: &str) -> Result<PathBuf, Violation> {
    let own = std::env::current_exe().map_err(|e| failed(format!("current_exe: {e}")))?;
    // A test binary is in target/debug/deps, the programs are in target/debug.
    let found =
        own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let dir = own.parent().unwrap_or(Path::new(".")).display();
        failed(format!(
            "there is no {name} in {dir}; build it with `cargo build --workspace --bins`"
        ))
    })
}
