//! Text and JSON on stdout, errors on stderr, and exit codes.

use beachdb::client::ClientError;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// How results are shown.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
}

impl Output {
    /// Prints a line: `document` with `--json`, else `text`.
    pub fn line(self, text: &str, document: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { writeln!(out, "{document}") } else { writeln!(out, "{text}") }
    }
}

/// Why a command ends with an exit code other than 0.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage: exit 2.
    Usage(String),
    /// It failed: exit 1.
    Failed(String),
    /// The call failed: exit 1.
    Client(ClientError),
    /// It failed, and everything about it was said already: exit 1.
    Silent,
    /// The reader of our output went away: exit 0.
    OutputClosed,
}

impl Failure {
    /// Says what happened; returns the exit code.
    #[must_use]
    pub fn report(&self, out: Output) -> ExitCode {
        let (code, message) = match self {
            Self::OutputClosed => return ExitCode::SUCCESS,
            Self::Silent => return ExitCode::FAILURE,
            Self::Usage(message) => (2, message.clone()),
            Self::Failed(message) => (1, message.clone()),
            Self::Client(e @ ClientError::NotSent { .. }) => (
                1,
                format!(
                    "{e}\nbeachctl: is beachd running there? --endpoints names other addresses"
                ),
            ),
            Self::Client(e) => (1, e.to_string()),
        };
        eprintln!("beachctl: {message}");
        if out.json {
            let document = json!({"error": self.document()});
            // If stdout is gone there is nobody left to tell.
            drop(writeln!(io::stdout(), "{document}"));
        }
        ExitCode::from(code)
    }

    /// The failure as JSON: code, effect, message.
    #[must_use]
    pub fn document(&self) -> Value {
        match self {
            Self::Client(e) => error_document(e),
            Self::Usage(message) => json!({"code": "USAGE", "effect": "none", "message": message}),
            Self::Failed(message) => {
                json!({"code": "FAILED", "effect": "none", "message": message})
            }
            Self::Silent | Self::OutputClosed => Value::Null,
        }
    }
}

/// A client's error as JSON: code, effect, message.
#[must_use]
pub fn error_document(e: &ClientError) -> Value {
    let code = match e {
        ClientError::Refused { reply, .. } => reply.code.name(),
        ClientError::Invalid(_) => "INVALID",
        ClientError::NotSent { .. } => "NOT_SENT",
        ClientError::Unknown { .. } => "UNKNOWN",
        ClientError::NoAnswer { .. } => "NO_ANSWER",
        _ => "PROTOCOL",
    };
    json!({"code": code, "effect": e.effect().name(), "message": e.to_string()})
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        Self::Client(e)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("cannot write the output: {e}")),
        }
    }
}
