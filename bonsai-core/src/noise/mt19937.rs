//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998).

const STATE_WORDS: usize = 624;
const SHIFT_WORDS: usize = 397;
const UPPER_BIT: u32 = 0x8000_0000;
const TWIST: u32 = 0x9908_b0df;

/// A generator of 32-bit words.
pub(super) struct Mt19937 {
    state: [u32; STATE_WORDS],
    next: usize,
}

impl Mt19937 {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [0; STATE_WORDS];
        let mut word = seed;
        for (index, slot) in (0u32..).zip(&mut state) {
            if index > 0 {
                word = (word ^ (word >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index);
            }
            *slot = word;
        }
        Self { state, next: STATE_WORDS }
    }

    pub(super) fn next_u32(&mut self) -> u32 {
        if self.next == STATE_WORDS {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for i in 0..STATE_WORDS {
            let following = self.state[(i + 1) % STATE_WORDS];
            let joined = (self.state[i] & UPPER_BIT) | (following & !UPPER_BIT);
            let twist = if joined & 1 == 1 { TWIST } else { 0 };
            self.state[i] = self.state[(i + SHIFT_WORDS) % STATE_WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that the C++ standard demands of `std::mt19937` (default seed 5489).
    #[test]
    fn ten_thousandth_word() {
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
