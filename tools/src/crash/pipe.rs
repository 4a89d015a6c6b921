//! What a worker process tells the controller: one line each, written whole, so that a kill tears none.
//!
//! ```text
//! ready              the database is open
//! begin W N          writer W is about to write its operation N
//! ack W N            it was acknowledged
//! refused W N WHY    it was answered "not applied"
//! unknown W N WHY    it failed and may have been applied
//! entry KEY VALUE    one entry of a scan, in hex
//! end DIGEST         the scan is complete
//! ```

use std::io::{self, Write};

/// One line of the pipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The database is open.
    Ready,
    /// About to write.
    Begin {
        /// The writer.
        writer: u32,
        /// Its operation.
        number: u64,
    },
    /// Acknowledged.
    Ack {
        /// The writer.
        writer: u32,
        /// Its operation.
        number: u64,
    },
    /// Answered "not applied".
    Refused {
        /// The writer.
        writer: u32,
        /// Its operation.
        number: u64,
        /// The answer.
        why: String,
    },
    /// Failed without a word about its effect.
    Unknown {
        /// The writer.
        writer: u32,
        /// Its operation.
        number: u64,
        /// The error.
        why: String,
    },
    /// One entry of a scan.
    Entry {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// The scan is complete.
    End {
        /// Digest of its content.
        digest: u64,
    },
}

impl Message {
    /// Its line, without the line feed.
    #[must_use]
    pub fn to_line(&self) -> String {
        let one_line = |why: &str| why.replace(['\n', '\r'], " ");
        match self {
            Self::Ready => "ready".into(),
            Self::Begin { writer, number } => format!("begin {writer} {number}"),
            Self::Ack { writer, number } => format!("ack {writer} {number}"),
            Self::Refused { writer, number, why } => {
                format!("refused {writer} {number} {}", one_line(why))
            }
            Self::Unknown { writer, number, why } => {
                format!("unknown {writer} {number} {}", one_line(why))
            }
            Self::Entry { key, value } => format!("entry {} {}", hex(key), hex(value)),
            Self::End { digest } => format!("end {digest:016x}"),
        }
    }

    /// Reads a line; `None` when it is none of ours.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let verb = words.next()?;
        match verb {
            "ready" => return Some(Self::Ready),
            "end" => {
                let digest = u64::from_str_radix(words.next()?, 16).ok()?;
                return Some(Self::End { digest });
            }
            "entry" => {
                let (key, value) = (unhex(words.next()?)?, unhex(words.next()?)?);
                return Some(Self::Entry { key, value });
            }
            _ => {}
        }
        let writer = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        let why = words.next().unwrap_or_default().to_string();
        match verb {
            "begin" => Some(Self::Begin { writer, number }),
            "ack" => Some(Self::Ack { writer, number }),
            "refused" => Some(Self::Refused { writer, number, why }),
            "unknown" => Some(Self::Unknown { writer, number, why }),
            _ => None,
        }
    }

    /// Writes its line in one piece.
    pub fn send(&self, out: &mut impl Write) -> io::Result<()> {
        let mut line = self.to_line();
        line.push('\n');
        out.write_all(line.as_bytes())?;
        out.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    // An empty value is `-`, so that the line keeps its words.
    if bytes.is_empty() {
        return "-".into();
    }
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |c: u8| char::from(c).to_digit(16);
    digits
        .chunks_exact(2)
        .map(|pair| Some((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_its_line() {
        let why = "busy: retry in 5 ms".to_string();
        for message in [
            Message::Ready,
            Message::Begin { writer: 3, number: 17 },
            Message::Ack { writer: 0, number: u64::MAX },
            Message::Refused { writer: 1, number: 2, why: why.clone() },
            Message::Unknown { writer: 1, number: 2, why },
            Message::Entry { key: vec![0, 255, 10], value: Vec::new() },
            Message::End { digest: 0x0123 },
        ] {
            let line = message.to_line();
            assert_eq!(Message::parse(&line), Some(message), "{line}");
        }
    }

    #[test]
    fn other_lines_are_none_of_ours() {
        for line in ["", "hello", "begin", "begin x 1", "ack 1", "entry 0", "entry zz 00", "end q"]
        {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
