//! Frames: where one begins and ends, and whether its bytes are what was sent.
//!
//! ```text
//! OFFSET SIZE DESCRIPTION (integers big-endian)
//! 0      4    length of the whole frame, 24 ..= MAX_FRAME_BYTES; so byte 0 is always 00
//! 4      1    version, 1
//! 5      1    opcode; replies have bit 0x80
//! 6      2    flags: bit 0 = NO_CRC, bit 1 = STALE; the others 0
//! 8      8    request id
//! 16     4    request: deadline in ms, 0 = the server's default. reply: status, 0 = OK, else an error code
//! 20     4    CRC32C of the whole frame with this field zero; 0 with NO_CRC
//! 24     …    body
//! ```

use super::PROTOCOL_VERSION;
use super::error::{Effect, ErrorCode, ErrorReply};
use crate::base::checksum;
use crate::limits::MAX_FRAME_BYTES;
use byteorder::{BigEndian, ByteOrder};

/// Bytes before the body.
pub const HEADER_BYTES: usize = 24;
/// The frame carries no checksum: for frames typed by hand, and on loopback only.
pub const FLAG_NO_CRC: u16 = 0x0001;
/// In a GET or SCAN: what this node has applied will do, however old it is. In its answer: how old it is stands in front.
pub const FLAG_STALE: u16 = 0x0002;
/// The flags this version knows.
pub const KNOWN_FLAGS: u16 = FLAG_NO_CRC | FLAG_STALE;

const CRC_OFFSET: usize = 20;

/// The fixed part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes in the whole frame.
    pub length: u32,
    /// Protocol version.
    pub version: u8,
    /// The opcode's byte, known or not.
    pub opcode: u8,
    /// Flag bits.
    pub flags: u16,
    /// The request id.
    pub request_id: u64,
    /// A request's deadline in ms, or a reply's status.
    pub word: u32,
    /// The checksum as found.
    pub crc: u32,
}

/// Whether frames without a checksum are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrcPolicy {
    /// Every frame must carry its checksum.
    Required,
    /// [`FLAG_NO_CRC`] is allowed: the peer is on loopback.
    OptionalOnLoopback,
}

/// What [`decode`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded<'a> {
    /// Not all of the frame is there.
    Incomplete {
        /// How many bytes the input must have before it is worth asking again: the header's, or the whole frame's.
        /// Never more than [`MAX_FRAME_BYTES`].
        need: usize,
    },
    /// A frame whose checksum holds.
    Frame {
        /// Its header.
        header: FrameHeader,
        /// Its body.
        body: &'a [u8],
        /// Bytes to drop from the front of the input.
        consumed: usize,
    },
}

/// Why bytes are not a frame. After any of these the stream has no known frame boundary: answer, then close.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is shorter than a header.
    #[error("frame length {length} is below the header's {HEADER_BYTES}")]
    TooShort {
        /// The length found.
        length: u32,
    },
    /// The length is over [`MAX_FRAME_BYTES`].
    #[error("frame length {length} is above the limit {MAX_FRAME_BYTES}")]
    TooLarge {
        /// The length found.
        length: u32,
    },
    /// A version this code does not speak.
    #[error("frame version {found}, this server speaks {PROTOCOL_VERSION}")]
    BadVersion {
        /// The version found.
        found: u8,
        /// The request id, as found.
        request_id: u64,
    },
    /// Flag bits this version does not know.
    #[error("frame flags {found:#06x}, known are {KNOWN_FLAGS:#06x}")]
    UnknownFlags {
        /// The flags found.
        found: u16,
        /// The request id, as found.
        request_id: u64,
    },
    /// The checksum does not match.
    #[error("frame CRC32C is {found:#010x}, its bytes give {computed:#010x}")]
    BadCrc {
        /// The checksum in the frame.
        found: u32,
        /// The checksum of its bytes.
        computed: u32,
        /// The request id, as found.
        request_id: u64,
    },
    /// [`FLAG_NO_CRC`] where it is not allowed, or with a checksum that is not zero.
    #[error("a frame without a checksum is taken on loopback only, and its checksum field is 0")]
    NoCrcNotAllowed {
        /// The request id, as found.
        request_id: u64,
    },
}

impl FrameError {
    /// The error's code in the reply.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooShort { .. } | Self::UnknownFlags { .. } => ErrorCode::BadFrame,
            Self::TooLarge { .. } => ErrorCode::FrameTooLarge,
            Self::BadVersion { .. } => ErrorCode::BadVersion,
            Self::BadCrc { .. } => ErrorCode::BadCrc,
            Self::NoCrcNotAllowed { .. } => ErrorCode::NoCrcNotAllowed,
        }
    }

    /// The request id to answer with: as found, or 0 when the header was not read.
    #[must_use]
    pub const fn request_id(&self) -> u64 {
        match *self {
            Self::TooShort { .. } | Self::TooLarge { .. } => 0,
            Self::BadVersion { request_id, .. }
            | Self::UnknownFlags { request_id, .. }
            | Self::BadCrc { request_id, .. }
            | Self::NoCrcNotAllowed { request_id } => request_id,
        }
    }

    /// The reply to send, with [`super::CONNECTION_OPCODE`], before closing.
    #[must_use]
    pub fn reply(&self) -> ErrorReply {
        ErrorReply::new(self.code(), Effect::NotApplied, self.to_string())
    }
}

/// Finds the frame at the front of `input`. Checks the length before anything else, so that a caller never reserves
/// memory for one that is refused. Copies and allocates nothing.
pub fn decode(input: &[u8], crc: CrcPolicy) -> Result<Decoded<'_>, FrameError> {
    let Some(length) = input.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)) else {
        return Ok(Decoded::Incomplete { need: HEADER_BYTES });
    };
    if (length as usize) < HEADER_BYTES {
        return Err(FrameError::TooShort { length });
    }
    if length as usize > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge { length });
    }
    let Some((head, _)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::Incomplete { need: HEADER_BYTES });
    };
    let header = parse_header(head);
    check_header(&header, crc)?;
    let Some(frame) = input.get(..length as usize) else {
        return Ok(Decoded::Incomplete { need: length as usize });
    };
    let body = &frame[HEADER_BYTES..];
    if header.flags & FLAG_NO_CRC == 0 {
        let computed = frame_crc(head, body);
        if computed != header.crc {
            return Err(FrameError::BadCrc {
                found: header.crc,
                computed,
                request_id: header.request_id,
            });
        }
    }
    Ok(Decoded::Frame { header, body, consumed: length as usize })
}

/// Reads the fields of a header and checks none of them; for tools that explain frames.
#[must_use]
pub fn parse_header(head: &[u8; HEADER_BYTES]) -> FrameHeader {
    FrameHeader {
        length: BigEndian::read_u32(&head[0..4]),
        version: head[4],
        opcode: head[5],
        flags: BigEndian::read_u16(&head[6..8]),
        request_id: BigEndian::read_u64(&head[8..16]),
        word: BigEndian::read_u32(&head[16..20]),
        crc: BigEndian::read_u32(&head[20..24]),
    }
}

fn check_header(header: &FrameHeader, crc: CrcPolicy) -> Result<(), FrameError> {
    let request_id = header.request_id;
    if header.version != PROTOCOL_VERSION {
        return Err(FrameError::BadVersion { found: header.version, request_id });
    }
    if header.flags & !KNOWN_FLAGS != 0 {
        return Err(FrameError::UnknownFlags { found: header.flags, request_id });
    }
    if header.flags & FLAG_NO_CRC != 0 && (crc == CrcPolicy::Required || header.crc != 0) {
        return Err(FrameError::NoCrcNotAllowed { request_id });
    }
    Ok(())
}

/// The CRC32C of a frame: its header with the checksum field zero, then its body.
#[must_use]
pub fn frame_crc(head: &[u8; HEADER_BYTES], body: &[u8]) -> u32 {
    let mut zeroed = *head;
    zeroed[CRC_OFFSET..].fill(0);
    checksum::extend(checksum::crc32c(&zeroed), body)
}

/// A frame being written at the end of a buffer; see [`begin`].
#[derive(Debug)]
#[must_use = "a frame that is begun must be finished"]
pub struct OpenFrame {
    start: usize,
}

/// The frame did not fit in [`MAX_FRAME_BYTES`]; the buffer is as it was before [`begin`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame of {length} bytes, the limit is {MAX_FRAME_BYTES}")]
pub struct EncodeTooLarge {
    /// The length it would have had.
    pub length: usize,
}

/// Appends a header to `out`. Append the body, then [`OpenFrame::finish`].
pub fn begin(out: &mut Vec<u8>, opcode: u8, flags: u16, request_id: u64, word: u32) -> OpenFrame {
    let start = out.len();
    let mut head = [0u8; HEADER_BYTES];
    head[4] = PROTOCOL_VERSION;
    head[5] = opcode;
    BigEndian::write_u16(&mut head[6..8], flags);
    BigEndian::write_u64(&mut head[8..16], request_id);
    BigEndian::write_u32(&mut head[16..20], word);
    out.extend_from_slice(&head);
    OpenFrame { start }
}

impl OpenFrame {
    /// Writes the length and, without [`FLAG_NO_CRC`], the checksum.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), EncodeTooLarge> {
        let length = out.len() - self.start;
        if length > MAX_FRAME_BYTES {
            out.truncate(self.start);
            return Err(EncodeTooLarge { length });
        }
        let frame = &mut out[self.start..];
        BigEndian::write_u32(&mut frame[0..4], length as u32);
        if BigEndian::read_u16(&frame[6..8]) & FLAG_NO_CRC == 0 {
            let crc = checksum::crc32c(frame);
            BigEndian::write_u32(&mut frame[CRC_OFFSET..HEADER_BYTES], crc);
        }
        Ok(())
    }
}
