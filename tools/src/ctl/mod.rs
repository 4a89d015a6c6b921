//! `beachctl`, on the blocking client library.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | the command line, as clap sees it and `--help` shows it |
//! | [`bytes`] | keys and values from text with escapes, from hex, and from files |
//! | [`output`] | text and JSON on stdout; errors and exit codes |
//! | [`data`] | put, get, del, scan, batch |
//! | [`load`] | load: pipelined, in order, with progress and a line to resume from |
//! | [`nodes`] | status and stats of each node |
//! | [`members`] | member list, add, promote, remove, replace; transfer-leader |
//! | [`upkeep`] | checkpoint, verify |
//! | [`frames`] | frame encode, decode, explain: no server needed |
//! | [`repl`] | the prompt |
//!
//! Exit codes: 0 done; 1 it failed, or `get` found nothing; 2 wrong usage, or not in this version.
//! Data goes to stdout, messages to stderr.

pub mod args;
pub mod bytes;
pub mod data;
pub mod frames;
pub mod load;
pub mod members;
pub mod nodes;
pub mod output;
pub mod repl;
pub mod upkeep;

use args::{Args, Command};
use beachdb::client::{self, Client, ClientError, ClientOptions, SessionState, Written};
use clap::Parser;
use output::{Failure, Output};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// A session: the options that all commands share, and the connection once it is needed.
pub struct Session {
    /// The options before the command.
    pub global: args::Global,
    /// Where results go.
    pub out: Output,
    client: Option<Client>,
    /// The cluster's memory of this program's writes, with `--exactly-once`.
    numbers: Option<SessionState>,
}

impl Session {
    fn new(global: args::Global) -> Self {
        let out = Output { json: global.json };
        Self { global, out, client: None, numbers: None }
    }

    /// The client's options for these endpoints.
    #[must_use]
    pub fn options(&self, endpoints: &[String]) -> ClientOptions {
        let mut options = ClientOptions::new(endpoints);
        options.timeout = self.global.timeout;
        options.connect_timeout = self.global.timeout.min(options.connect_timeout);
        options.name = format!("beachctl {}", beachdb::VERSION);
        options.cluster = self.global.cluster.clone().unwrap_or_default();
        options
    }

    /// The connection, made on first use and kept.
    pub fn client(&mut self) -> Result<&mut Client, ClientError> {
        if self.client.is_none() {
            self.client = Some(Client::with_options(self.options(&self.global.endpoints))?);
        }
        Ok(self.client.as_mut().expect("made above"))
    }

    /// Writes as `--exactly-once` says. Without it a write whose answer is lost is unknown, and not sent again: a session
    /// costs a commit, and a shell loop of short ones would drive the sessions of others out of the cluster's memory.
    fn write_once(
        &mut self,
        once: impl FnOnce(&mut client::Session<'_>) -> Result<Written, ClientError>,
        plainly: impl FnOnce(&mut Client) -> Result<Written, ClientError>,
    ) -> Result<Written, ClientError> {
        if !self.global.exactly_once {
            return plainly(self.client()?);
        }
        self.in_session(once)?
    }

    /// Does it in this program's one session, which is registered on first use.
    fn in_session<T>(
        &mut self,
        run: impl FnOnce(&mut client::Session<'_>) -> T,
    ) -> Result<T, ClientError> {
        let numbers = self.numbers.take();
        let client = self.client()?;
        let mut session = match numbers {
            Some(numbers) => client.resume_session(numbers),
            None => client.session()?,
        };
        let done = run(&mut session);
        self.numbers = Some(session.suspend());
        Ok(done)
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let Args { global, command } = Args::parse();
    let mut session = Session::new(global);
    let result = match command {
        Some(command) => run(&mut session, &command),
        None if std::io::stdin().is_terminal() => repl::run(&mut session),
        None => Err(Failure::Usage(
            "no command was given, and the prompt needs a terminal; see beachctl --help".into(),
        )),
    };
    match result.and_then(|()| std::io::stdout().flush().map_err(Failure::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(session.out),
    }
}

/// Runs one command.
pub fn run(session: &mut Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Put(put) => data::put(session, put),
        Command::Get(get) => data::get(session, get),
        Command::Mget(mget) => data::mget(session, mget),
        Command::Del(del) => data::del(session, del),
        Command::Scan(scan) => data::scan(session, scan),
        Command::Batch(batch) => data::batch(session, batch),
        Command::Load(load) => load::run(session, load),
        Command::Ping => data::ping(session),
        Command::Status => nodes::status(session),
        Command::Stats => nodes::stats(session),
        Command::Frame(frame) => frames::run(session, frame),
        Command::Member(member) => members::run(session, member),
        Command::TransferLeader(transfer) => members::transfer(session, transfer),
        Command::Checkpoint(checkpoint) => upkeep::checkpoint(session, checkpoint),
        Command::Verify(verify) => upkeep::verify(session, verify),
        Command::DeleteRange(range) => data::delete_range(session, range),
        Command::Compact(compact) => upkeep::compact(session, compact),
    }
}
