//! The prompt: the same commands, one connection kept. Words may be "quoted with \xNN".

use super::args::Command;
use super::output::Failure;
use super::{Session, run as run_command};
use beachdb::proto::text;
use clap::Parser;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// The commands of the shell, on one connection; quit leaves
#[derive(Parser, Debug)]
#[command(name = "", no_binary_name = true, disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// Reads and runs lines until end of input, `quit`, or `exit`.
pub fn run(session: &mut Session) -> Result<(), Failure> {
    let mut editor =
        DefaultEditor::new().map_err(|e| Failure::Failed(format!("no line editor: {e}")))?;
    let endpoints = session.global.endpoints.join(",");
    match session.client().map(|c| c.server().map(|h| h.server.clone()).unwrap_or_default()) {
        Ok(server) => println!("{server} at {endpoints}; help lists the commands, quit leaves"),
        Err(e) => eprintln!("beachctl: {e}; trying again with each command"),
    }
    loop {
        let line = match editor.readline("beachdb> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(Failure::Failed(format!("cannot read the terminal: {e}"))),
        };
        if line.trim().is_empty() {
            continue;
        }
        // A line that is not remembered is no reason to stop.
        drop(editor.add_history_entry(&line));
        if matches!(line.trim(), "quit" | "exit" | "QUIT" | "EXIT") {
            return Ok(());
        }
        run_line(session, &line);
    }
}

/// Runs one line and reports how it failed, if it did; the prompt goes on.
fn run_line(session: &mut Session, line: &str) {
    match parse(line) {
        Err(message) => eprintln!("{message}"),
        Ok(parsed) => {
            if let Err(failure) = run_command(session, &parsed.command) {
                // The prompt has no exit code.
                let _code: std::process::ExitCode = failure.report(session.out);
            }
        }
    }
}

fn parse(line: &str) -> Result<Line, String> {
    let tokens = text::tokens(line.as_bytes()).map_err(|e| e.to_string())?;
    // The commands resolve escapes themselves, so that their arguments are text here.
    let words = tokens.iter().enumerate().map(|(i, token)| {
        if i == 0 {
            return String::from_utf8_lossy(&token.bytes).to_lowercase();
        }
        super::bytes::show(&token.bytes, false)
    });
    Line::try_parse_from(words).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_commands_of_the_shell() {
        let line = parse("PUT \"a key\" \\x00\\\\").unwrap();
        let Command::Put(put) = line.command else { panic!("{line:?}") };
        assert_eq!((put.key.as_str(), put.value.as_deref()), ("a key", Some("\\x00\\\\")));
        assert!(matches!(parse("scan --prefix a --limit 3").unwrap().command, Command::Scan(_)));
        assert!(parse("nonsense").is_err());
        assert!(parse("get \"open").unwrap_err().contains("not closed"));
    }
}
