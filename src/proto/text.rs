//! Tokens as people type them: bytes with escapes, in quotes when they hold spaces.
//!
//! ```text
//! bare     any bytes but space, tab, and '"';  escapes as below
//! quoted   "any bytes but '"'";                escapes as below
//! escapes  \xNN  \\  \"  \n  \r  \t  (anything else after a backslash is an error)
//! ```
//!
//! The inline commands, `beachctl`'s arguments and batch files, and the dump tools all write bytes this way.

use std::fmt::Write as _;

/// Why text is not tokens.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// A backslash that begins no known escape.
    #[error("bad escape at byte {offset}: expected \\xNN, \\\\, \\\", \\n, \\r, or \\t")]
    BadEscape {
        /// Where the backslash is.
        offset: usize,
    },
    /// A quote that is never closed.
    #[error("the quote opened at byte {offset} is not closed")]
    OpenQuote {
        /// Where it was opened.
        offset: usize,
    },
    /// A quote in the middle of a token, or something right after a closing quote.
    #[error(
        "unexpected quote or text at byte {offset}: tokens are separated by spaces, a quote in one is \\\""
    )]
    StrayQuote {
        /// Where it is.
        offset: usize,
    },
}

/// One token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Its bytes, escapes resolved.
    pub bytes: Vec<u8>,
    /// It was in quotes, so it is data and never a keyword.
    pub quoted: bool,
}

impl Token {
    /// Whether it is this keyword, in any case, without quotes.
    #[must_use]
    pub fn is_keyword(&self, word: &str) -> bool {
        !self.quoted && self.bytes.eq_ignore_ascii_case(word.as_bytes())
    }
}

/// Splits a line (without its end) into tokens.
pub fn tokens(line: &[u8]) -> Result<Vec<Token>, TextError> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' | b'\t' => at += 1,
            b'"' => {
                let (bytes, next) = quoted(line, at)?;
                if line.get(next).is_some_and(|b| !matches!(b, b' ' | b'\t')) {
                    return Err(TextError::StrayQuote { offset: next });
                }
                out.push(Token { bytes, quoted: true });
                at = next;
            }
            _ => {
                let len = line[at..].iter().position(|b| matches!(b, b' ' | b'\t'));
                let end = len.map_or(line.len(), |n| at + n);
                let mut bytes = Vec::with_capacity(end - at);
                while at < end {
                    match line[at] {
                        b'"' => return Err(TextError::StrayQuote { offset: at }),
                        b'\\' => at = escape(&line[..end], at, &mut bytes)?,
                        b => {
                            bytes.push(b);
                            at += 1;
                        }
                    }
                }
                out.push(Token { bytes, quoted: false });
            }
        }
    }
    Ok(out)
}

fn quoted(line: &[u8], open: usize) -> Result<(Vec<u8>, usize), TextError> {
    let mut bytes = Vec::new();
    let mut at = open + 1;
    loop {
        match line.get(at) {
            None => return Err(TextError::OpenQuote { offset: open }),
            Some(b'"') => return Ok((bytes, at + 1)),
            Some(b'\\') => at = escape(line, at, &mut bytes)?,
            Some(&b) => {
                bytes.push(b);
                at += 1;
            }
        }
    }
}

fn escape(line: &[u8], at: usize, out: &mut Vec<u8>) -> Result<usize, TextError> {
    let bad = TextError::BadEscape { offset: at };
    let byte = match line.get(at + 1) {
        Some(b'x') => {
            let digit = |i: usize| line.get(i).and_then(|b| char::from(*b).to_digit(16));
            let (Some(high), Some(low)) = (digit(at + 2), digit(at + 3)) else {
                return Err(bad);
            };
            out.push((high * 16 + low) as u8);
            return Ok(at + 4);
        }
        Some(b'\\') => b'\\',
        Some(b'"') => b'"',
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        _ => return Err(bad),
    };
    out.push(byte);
    Ok(at + 2)
}

/// Resolves the escapes of one argument that is a token as a whole, spaces and quotes included.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, TextError> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'\\' {
            at = escape(text, at, &mut out)?;
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    Ok(out)
}

/// Appends `bytes` as a token: bare when it is plain printable ASCII, else quoted and escaped.
/// [`tokens`] gives the same bytes back.
pub fn quote_into(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
    if !bytes.is_empty() && bytes.iter().all(plain) {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    escape_into(out, bytes);
    out.push(b'"');
}

/// Appends `bytes` with escapes and without quotes.
pub fn escape_into(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &b in bytes {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b' '..=b'~' => out.push(b),
            _ => out.extend_from_slice(&[
                b'\\',
                b'x',
                HEX[usize::from(b >> 4)],
                HEX[usize::from(b & 15)],
            ]),
        }
    }
}

/// `bytes` as a token.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    quote_into(&mut out, bytes);
    // Only ASCII was written.
    String::from_utf8_lossy(&out).into_owned()
}

/// `bytes` as lower-case hex digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        write!(s, "{b:02x}").expect("writing to a String cannot fail");
        s
    })
}

/// Bytes from hex digits, spaces and line ends between them ignored; `None` when something else is there or a digit
/// is missing.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| digits.chunks_exact(2).map(|p| p[0] * 16 + p[1]).collect())
}
