//! [`InternalOp`]: one change of a row under [`RESERVED_KEY_PREFIX`], which only apply makes.
//!
//! Sessions and membership live in such rows. What changes them is computed at apply from the entry and the rows there are,
//! the same on every replica, and is written with the entry's own operations in one step, so that flush, replay, and
//! snapshot carry both or neither (pitfalls 21 and 26).

use super::batch::RESERVED_KEY_PREFIX;
use bytes::Bytes;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InternalOp {
    key: Vec<u8>,
    value: Option<Bytes>,
}

impl InternalOp {
    /// "Set the row `name` to `value`". The key is [`RESERVED_KEY_PREFIX`] and `name`, of at most 1 KiB together.
    #[must_use]
    pub fn put(name: &[u8], value: impl Into<Bytes>) -> Self {
        Self { key: row_key(name), value: Some(value.into()) }
    }

    /// "Delete the row `name`".
    #[must_use]
    pub fn delete(name: &[u8]) -> Self {
        Self { key: row_key(name), value: None }
    }

    /// The whole key, prefix included.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value; `None` deletes the row.
    #[must_use]
    pub const fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }
}

/// The key of the row `name`.
fn row_key(name: &[u8]) -> Vec<u8> {
    assert!(
        !name.is_empty() && name.len() <= 1 << 10,
        "a row name of {} bytes: 1 to 1024 are meant",
        name.len()
    );
    [RESERVED_KEY_PREFIX, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_under_the_reserved_prefix() {
        for op in [InternalOp::put(b"s", Bytes::new()), InternalOp::delete(b"s")] {
            assert_eq!(op.key(), [RESERVED_KEY_PREFIX, b"s"].concat());
        }
        assert_eq!(InternalOp::delete(b"s").value(), None);
    }
}
