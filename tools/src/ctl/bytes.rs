//! Keys and values: text with escapes, hex digits, files. And how they are shown.
#![allow(clippy::disallowed_methods, reason = "a tool reads the user's files")]

use super::output::Failure;
use beachdb::proto::text;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The bytes of an argument: text with escapes, or hex digits.
pub fn parse(what: &str, argument: &str, hex: bool) -> Result<Vec<u8>, Failure> {
    if hex {
        return text::from_hex(argument).ok_or_else(|| {
            Failure::Usage(format!("{what}: `{argument}` is not hex digits in pairs"))
        });
    }
    text::unescape(argument.as_bytes()).map_err(|e| Failure::Usage(format!("{what}: {e}")))
}

/// Opens a file, or stdin for `-`.
pub fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(e) => Err(Failure::Failed(format!("cannot open {}: {e}", path.display()))),
    }
}

/// All bytes of a file (or of stdin), refused above `limit`.
pub fn read_all(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::Failed(format!("cannot read {}: {e}", path.display())))?;
    if bytes.len() > limit {
        let why = format!("{} is longer than the limit of {limit} bytes", path.display());
        return Err(Failure::Failed(why));
    }
    Ok(bytes)
}

/// Appends bytes as text for a line of output: printable ASCII as it is, a backslash doubled, the rest `\xNN`.
/// [`text::unescape`] gives the same bytes back.
pub fn show_into(out: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.split_inclusive(|b| *b == b'"') {
        let (quote, plain) = match piece.split_last() {
            Some((b'"', plain)) => (true, plain),
            _ => (false, piece),
        };
        text::escape_into(out, plain);
        if quote {
            out.push(b'"');
        }
    }
}

/// As [`show_into`], as a string.
#[must_use]
pub fn show(bytes: &[u8], hex: bool) -> String {
    if hex {
        return text::to_hex(bytes);
    }
    let mut out = Vec::new();
    show_into(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed_again() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(parse("key", &show(&all, false), false).unwrap(), all);
        assert_eq!(parse("key", &show(&all, true), true).unwrap(), all);
        assert_eq!(show(b"a \"b\" \\ \t", false), "a \"b\" \\\\ \\x09");
    }

    #[test]
    fn bad_text_is_a_usage_error() {
        assert!(
            matches!(parse("key", "a\\q", false), Err(Failure::Usage(m)) if m.contains("byte 1"))
        );
        assert!(matches!(parse("key", "abc", true), Err(Failure::Usage(_))));
    }
}
