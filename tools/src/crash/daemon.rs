//! The daemon as a target: the real `beachd` on ports that the system picks, written to by one client a writer.

use super::Plant;
use super::cycle::{Ending, KillPlan, PATIENCE, Target, feed_and_kill};
use super::oracle::{Oracle, Violation};
use super::pipe::Message;
use super::process::{Process, failed, sibling_program};
use super::workload::{Content, Workload};
use super::writer::{Outcome, Writer};
use beachdb::client::{Client, ClientOptions, ScanOptions};
use beachdb::proto::Effect;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Small, so that a few hundred writes flush; the smallest segment that the daemon takes.
const SETTINGS: [&str; 4] = ["--memtable-size", "1MiB", "--segment-size", "32MiB"];
/// A call's deadline. After the kill a call that was not sent yet waits this long for the daemon to come back.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The daemon over `data`.
#[derive(Clone, Debug)]
pub struct DaemonTarget {
    /// What is written.
    pub workload: Workload,
    /// The data directory.
    pub data: PathBuf,
    /// Where the daemon's standard error goes.
    pub stderr: PathBuf,
    /// The program; by default the one beside this program.
    pub beachd: Option<PathBuf>,
    /// The planted bug.
    pub plant: Option<Plant>,
}

impl DaemonTarget {
    fn start(&self) -> Result<Process, Violation> {
        let program = match &self.beachd {
            Some(path) => path.clone(),
            None => sibling_program("beachd")?,
        };
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(&self.data).args(SETTINGS);
        for port in ["--listen", "--peer-listen", "--http"] {
            command.args([port, "127.0.0.1:0"]);
        }
        Process::start(command, "beachd", &self.stderr)
    }
}

/// The address in `beachd ready node=1 role=leader listen=127.0.0.1:7400 …`.
fn endpoint_of(line: &str) -> Option<String> {
    let words = line.strip_prefix("beachd ready ")?;
    words.split(' ').find_map(|word| word.strip_prefix("listen=")).map(String::from)
}

/// Sends the endpoint when the daemon is ready, and then reads on so that it never blocks on a full pipe.
fn watch_for_ready(process: &mut Process, on_ready: impl FnOnce(String) + Send + 'static) {
    let stdout = process.take_stdout();
    let mut on_ready = Some(on_ready);
    // Not joined: it ends with the daemon.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(endpoint) = endpoint_of(&line)
                && let Some(on_ready) = on_ready.take()
            {
                on_ready(endpoint);
            }
        }
    });
}

fn client(endpoint: &str) -> Result<Client, String> {
    let options = ClientOptions {
        timeout: CALL_TIMEOUT,
        name: "beach-crash".into(),
        ..ClientOptions::new([endpoint])
    };
    Client::with_options(options).map_err(|e| e.to_string())
}

/// Writes as one writer until the daemon is gone.
fn write(task: Writer, endpoint: &str, to: &Sender<Message>) {
    // Killed before it could connect: it wrote nothing.
    let Ok(mut client) = client(endpoint) else { return };
    let outcome = task.run(
        |message| to.send(message).is_ok(),
        |batch| match client.write(batch) {
            Ok(_) => Outcome::Done,
            Err(e) if e.effect() == Effect::NotApplied => Outcome::Refused(e.to_string()),
            Err(e) => Outcome::Unknown(e.to_string()),
        },
    );
    // The kill: every writer ends this way.
    if let Err(why) = outcome {
        log::debug!("writer {}: {why}", task.writer);
    }
}

impl Target for DaemonTarget {
    fn write_until_killed(&mut self, oracle: &mut Oracle, plan: KillPlan) -> Result<(), Violation> {
        let mut process = self.start()?;
        let (to, messages) = channel();
        let tasks: Vec<Writer> = (0..self.workload.writers)
            .map(|writer| {
                let next = oracle.next_operation(writer);
                Writer { workload: self.workload, writer, next, plant: self.plant }
            })
            .collect();
        watch_for_ready(&mut process, move |endpoint| {
            // Nobody listens any more: the daemon was killed.
            drop(to.send(Message::Ready));
            for task in tasks {
                let (endpoint, to) = (endpoint.clone(), to.clone());
                std::thread::spawn(move || write(task, &endpoint, &to));
            }
        });
        // The channel ends with the last writer.
        feed_and_kill(&mut process, &messages, oracle, plan)
    }

    fn recover(&mut self, ending: Ending) -> Result<Content, Violation> {
        let mut process = self.start()?;
        let (to, ready) = channel();
        // The receiver is dropped only when nobody waits any more.
        watch_for_ready(&mut process, move |endpoint| drop(to.send(endpoint)));
        let Ok(endpoint) = ready.recv_timeout(PATIENCE) else {
            return Err(process.obituary("while it recovered"));
        };
        let content =
            scan(&endpoint).map_err(|e| failed(format!("{e}\n{}", process.last_words())))?;
        if ending == Ending::Close {
            process.terminate();
            if !process.wait(PATIENCE)?.success() {
                return Err(process.obituary("after SIGTERM"));
            }
        }
        Ok(content)
    }
}

fn scan(endpoint: &str) -> Result<Content, String> {
    let mut client = client(endpoint)?;
    let options = ScanOptions { page_entries: 1_000, ..ScanOptions::default() };
    client
        .scan(options)
        .map(|entry| entry.map(|e| (e.key.to_vec(), e.value.to_vec())).map_err(|e| e.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_endpoint() {
        let line =
            "beachd ready node=1 role=leader listen=127.0.0.1:7400 http=127.0.0.1:7402 data=./d";
        assert_eq!(endpoint_of(line).as_deref(), Some("127.0.0.1:7400"));
        assert_eq!(endpoint_of("beachd listens"), None);
        assert_eq!(endpoint_of("something beachd ready listen=x"), None);
    }
}
