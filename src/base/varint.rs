//! LEB128 unsigned integers: seven bits a byte, low bits first, the high bit says "more follows".
//!
//! Encodings are canonical: a decoder refuses a value spelled with more bytes than it needs, so that equal
//! values have equal bytes and equal bytes have equal checksums.

/// The most bytes a `u64` takes.
pub const MAX_VARINT_BYTES: usize = 10;

/// Appends `value` to `out`.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes `value` takes.
#[must_use]
pub const fn len_u64(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads a value from the front of `input` and returns it with the number of bytes it took; `None` when
/// the input ends inside it, when it is longer than ten bytes or overflows, or when it is not canonical.
#[must_use]
#[inline]
pub fn get_u64(input: &[u8]) -> Option<(u64, usize)> {
    match input.first() {
        // Most lengths are short.
        Some(&byte) if byte < 0x80 => Some((u64::from(byte), 1)),
        _ => get_long_u64(input),
    }
}

fn get_long_u64(input: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &byte) in input.iter().enumerate().take(MAX_VARINT_BYTES) {
        let bits = u64::from(byte & 0x7f);
        if i == MAX_VARINT_BYTES - 1 && byte > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            if byte == 0 && i > 0 {
                return None;
            }
            return Some((value, i + 1));
        }
    }
    None
}

/// Reads a value that must fit in `u32`.
#[must_use]
pub fn get_u32(input: &[u8]) -> Option<(u32, usize)> {
    let (value, n) = get_u64(input)?;
    Some((u32::try_from(value).ok()?, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_every_bit_width() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_u64(&mut out, value);
                assert_eq!(out.len(), len_u64(value), "{value}");
                assert_eq!(get_u64(&out), Some((value, out.len())));
                assert_eq!(get_u64(&out[..out.len() - 1]), None, "truncated {value}");
            }
        }
    }

    #[test]
    fn overlong_and_overflowing_encodings_are_refused() {
        assert_eq!(get_u64(&[0x80, 0x00]), None);
        assert_eq!(get_u64(&[0xff; 10]), None);
        assert_eq!(get_u64(&[0xff; 11]), None);
        assert_eq!(get_u32(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
        assert_eq!(get_u64(&[]), None);
    }
}
