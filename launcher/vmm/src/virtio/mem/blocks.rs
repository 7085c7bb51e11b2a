//! Which blocks of the region are plugged.

use std::ops::Range;

/// Blocks, each plugged or not; at first none is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    words: Vec<u64>,
    count: u64,
    plugged: u64,
}

/// What a range of blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Plugged,
    Unplugged,
    Mixed,
}

impl Blocks {
    pub(super) fn new(count: u64) -> Self {
        Self {
            words: vec![0; count.div_ceil(64) as usize],
            count,
            plugged: 0,
        }
    }

    /// How many are plugged.
    pub(super) fn plugged(&self) -> u64 {
        self.plugged
    }

    /// Words that `range` is in, each with the bits of it; none beyond the end.
    fn words(&self, range: Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
        let range = range.start..range.end.min(self.count);
        let words = match range.is_empty() {
            true => 0..0,
            false => range.start / 64..range.end.div_ceil(64),
        };
        words.map(move |word| {
            let from = range.start.max(word * 64) - word * 64;
            let to = range.end.min(word * 64 + 64) - word * 64;
            let mask = (u64::MAX >> (64 - (to - from))) << from;
            (word as usize, mask)
        })
    }

    /// What the blocks of `range` are; `range` is not empty.
    pub(super) fn state(&self, range: Range<u64>) -> State {
        let (mut all, mut any) = (true, false);
        for (word, mask) in self.words(range) {
            let bits = self.words.get(word).copied().unwrap_or_default() & mask;
            all &= bits == mask;
            any |= bits != 0;
        }
        match (all, any) {
            (true, _) => State::Plugged,
            (false, false) => State::Unplugged,
            (false, true) => State::Mixed,
        }
    }

    /// Plugs the blocks of `range`, or unplugs them.
    pub(super) fn set(&mut self, range: Range<u64>, plugged: bool) {
        for (word, mask) in self.words(range) {
            if let Some(bits) = self.words.get_mut(word) {
                self.plugged -= u64::from(bits.count_ones());
                match plugged {
                    true => *bits |= mask,
                    false => *bits &= !mask,
                }
                self.plugged += u64::from(bits.count_ones());
            }
        }
    }

    /// Unplugs all.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.plugged = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_same_as_a_list(
            count in 1u64..300,
            steps in prop::collection::vec((0u64..300, 1u64..200, any::<bool>()), 1..40),
        ) {
            let mut blocks = Blocks::new(count);
            let mut list = vec![false; count as usize];
            for (start, len, plugged) in steps {
                let range = start % count..(start % count + len).min(count);
                let part = range.start as usize..range.end as usize;
                let expected = match &list[part.clone()] {
                    all if all.iter().all(|b| *b) => State::Plugged,
                    none if none.iter().all(|b| !*b) => State::Unplugged,
                    _ => State::Mixed,
                };
                prop_assert_eq!(blocks.state(range.clone()), expected);
                blocks.set(range, plugged);
                list[part].fill(plugged);
                prop_assert_eq!(blocks.plugged(), list.iter().filter(|b| **b).count() as u64);
            }
            blocks.clear();
            prop_assert_eq!(blocks, Blocks::new(count));
        }
    }
}
