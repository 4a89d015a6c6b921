//! frame encode, decode, explain. They share the codec with the daemon and need no server.
#![allow(clippy::disallowed_methods, reason = "a tool reads the user's files")]

use super::Session;
use super::args::{Frame, FrameEncode, FrameInput};
use super::bytes::read_all;
use super::output::Failure;
use beachdb::base::batch::BatchRef;
use beachdb::proto::explain::{batch_json, explain, explain_batch, frame_json};
use beachdb::proto::frame::{CrcPolicy, FLAG_NO_CRC};
use beachdb::proto::inline::{self, InlineCommand};
use beachdb::proto::{HelloRequest, PROTOCOL_VERSION, Request, text};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// Most bytes taken as input: a few of the largest frames, in hex.
const MAX_INPUT_BYTES: usize = 128 << 20;

/// `frame`.
pub fn run(session: &Session, frame: &Frame) -> Result<(), Failure> {
    match frame {
        Frame::Encode(encode) => encode_frame(session, encode),
        Frame::Decode(input) => decode_frames(input),
        Frame::Explain(input) => explain_frames(input),
    }
}

fn encode_frame(session: &Session, args: &FrameEncode) -> Result<(), Failure> {
    let deadline = args.deadline.map_or(0, |d| d.as_millis().clamp(1, u128::from(u32::MAX)) as u32);
    let flags = if args.no_crc { FLAG_NO_CRC } else { 0 };
    let mut out = Vec::new();
    let mut put = |request: &Request<'_>| {
        request
            .encode_with_flags(&mut out, args.request_id, deadline, flags)
            .map_err(|e| Failure::Failed(e.to_string()))
    };
    if args.words.len() == 1 && args.words[0].eq_ignore_ascii_case("hello") {
        let cluster = session.global.cluster.as_deref().unwrap_or_default();
        put(&Request::Hello(HelloRequest {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            name: "beachctl",
            cluster,
        }))?;
    } else {
        match inline::parse(&line_of(&args.words)?) {
            Ok(InlineCommand::Request(request)) => put(&request.as_request())?,
            Ok(_) => return Err(Failure::Usage("that has no frame".into())),
            Err(e) => return Err(Failure::Usage(e.to_string())),
        }
    }
    let mut stdout = io::stdout().lock();
    if args.raw {
        stdout.write_all(&out)?;
        return Ok(());
    }
    let hex = text::to_hex(&out);
    if session.out.json {
        writeln!(stdout, "{}", json!({"hex": hex, "length": out.len()}))?;
    } else {
        writeln!(stdout, "{hex}")?;
    }
    Ok(())
}

/// The words as an inline line: each argument is one token, whatever is in it.
fn line_of(words: &[String]) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    for (i, word) in words.iter().enumerate() {
        if i == 0 || word.eq_ignore_ascii_case("limit") {
            line.extend_from_slice(word.as_bytes());
        } else {
            let bytes =
                text::unescape(word.as_bytes()).map_err(|e| Failure::Usage(e.to_string()))?;
            line.push(b'"');
            text::escape_into(&mut line, &bytes);
            line.push(b'"');
        }
        line.push(b' ');
    }
    Ok(line)
}

fn input_bytes(input: &FrameInput) -> Result<Vec<u8>, Failure> {
    if let Some(file) = &input.file {
        return read_all(file, MAX_INPUT_BYTES);
    }
    let digits = match input.hex.as_slice() {
        [dash] if dash == "-" => {
            String::from_utf8_lossy(&read_all(Path::new("-"), MAX_INPUT_BYTES)?).into_owned()
        }
        words => words.concat(),
    };
    text::from_hex(&digits).ok_or_else(|| Failure::Usage("not hex digits in pairs".into()))
}

/// Cuts the input into frames by their lengths; what cannot be cut is the last piece.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut out) = (bytes, Vec::new());
    while let Some(length) = rest.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize) {
        if length < 24 || length >= rest.len() {
            break;
        }
        let (frame, next) = rest.split_at(length);
        out.push(frame);
        rest = next;
    }
    if !rest.is_empty() || out.is_empty() {
        out.push(rest);
    }
    out
}

fn decode_frames(input: &FrameInput) -> Result<(), Failure> {
    let bytes = input_bytes(input)?;
    let mut stdout = io::stdout().lock();
    if input.batch {
        let batch = BatchRef::parse(&bytes).map_err(|e| Failure::Failed(e.to_string()))?;
        writeln!(stdout, "{}", batch_json(&batch))?;
        return Ok(());
    }
    for frame in pieces(&bytes) {
        match frame_json(frame, CrcPolicy::OptionalOnLoopback) {
            Ok(document) => writeln!(stdout, "{document}")?,
            Err((code, message)) => {
                stdout.flush()?;
                return Err(Failure::Failed(format!("{code}: {message}")));
            }
        }
    }
    Ok(())
}

fn explain_frames(input: &FrameInput) -> Result<(), Failure> {
    let bytes = input_bytes(input)?;
    let explained = if input.batch {
        vec![explain_batch(&bytes)]
    } else {
        pieces(&bytes).into_iter().map(explain).collect()
    };
    let mut stdout = io::stdout().lock();
    for (i, one) in explained.iter().enumerate() {
        if i > 0 {
            writeln!(stdout)?;
        }
        stdout.write_all(one.text.as_bytes())?;
        if let Some(fault) = &one.fault {
            stdout.flush()?;
            return Err(Failure::Failed(fault.clone()));
        }
    }
    Ok(())
}
