//! What a run leaves behind: a rolling hash over every event and effect, always; the same as text, when asked for.
//!
//! Two runs of one seed must have equal hashes: that is how nondeterminism is found. The hash is cheap and says
//! nothing about where two runs part; the text does (`beach-sim run --seed N --trace`, twice, and `diff`).

use beachdb::base::Nanos;
use beachdb::node::Effect;
use std::fmt;

/// See the module.
#[derive(Debug)]
pub struct Tracer {
    hash: u64,
    events: u64,
    text: bool,
}

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Tracer {
    /// A fresh one; with `text` every line goes to stdout.
    #[must_use]
    pub const fn new(text: bool) -> Self {
        Self { hash: 0xbeac_4db0, events: 0, text }
    }

    /// Whether lines are wanted: ask before formatting anything costly.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        self.text
    }

    /// The hash so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events were counted.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Mixes a number in.
    pub const fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }

    /// An event: what kind, where, when.
    pub const fn event(&mut self, kind: u64, slot: u64, at: Nanos) {
        self.events += 1;
        self.mix(at.0);
        self.mix((kind << 32) | slot);
    }

    /// A line for people.
    pub fn line(&self, at: Nanos, text: fmt::Arguments<'_>) {
        if self.text {
            println!("{:>14.6} {text}", at.0 as f64 / 1e6);
        }
    }

    /// The effects of a step.
    pub fn effects(&mut self, at: Nanos, slot: usize, effects: &[Effect]) {
        for effect in effects {
            let digest = super::api::digest(effect);
            self.mix(digest);
            if self.text {
                self.line(at, format_args!("  n{} -> {}", slot + 1, super::api::describe(effect)));
            }
        }
    }
}
