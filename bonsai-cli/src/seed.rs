//! Seeds as people give them.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A seed, or `-1`: any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    Fixed(u64),
    Random,
}

impl std::str::FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-1" {
            return Ok(Self::Random);
        }
        let expected = |_| format!("expected a whole number from 0 to {}, or -1 for a random one", u64::MAX);
        text.parse().map(Self::Fixed).map_err(expected)
    }
}

/// The seeds of all pictures: each given one, or a random one where none is, and its `batch - 1` followers.
pub fn all(given: &[Seed], batch: u32) -> Vec<u64> {
    let given = if given.is_empty() { &[Seed::Random] } else { given };
    let first = given.iter().map(|seed| match seed {
        Seed::Fixed(seed) => *seed,
        Seed::Random => random(),
    });
    first.flat_map(|seed| (0..u64::from(batch)).map(move |i| seed.wrapping_add(i))).collect()
}

/// 31 random bits, so that every other program takes the number too.
fn random() -> u64 {
    // std seeds its hash maps from the system's random source
    RandomState::new().build_hasher().finish() & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_count_up() {
        assert_eq!(all(&[Seed::Fixed(7), Seed::Fixed(u64::MAX)], 2), [7, 8, u64::MAX, 0]);
        let drawn = all(&[], 3);
        assert!(drawn[0] < 1 << 31 && drawn[2] == drawn[0] + 2);
    }

    #[test]
    fn only_whole_numbers() {
        assert_eq!("-1".parse(), Ok(Seed::Random));
        assert_eq!("18446744073709551615".parse(), Ok(Seed::Fixed(u64::MAX)));
        for text in ["", "-2", "1.5", "seven", "18446744073709551616"] {
            assert!(text.parse::<Seed>().is_err(), "{text}");
        }
    }
}
