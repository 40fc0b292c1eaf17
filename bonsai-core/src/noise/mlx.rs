//! Draws of MLX: words of Threefry-2x32 (Salmon et al., 2011), keyed by the seed.

#![expect(clippy::excessive_precision, reason = "coefficients keep the digits of their source")]

use std::f32::consts::SQRT_2;

/// The largest f32 below one.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

pub(super) fn uniform(seed: u64, n: usize) -> Vec<f32> {
    words(seed, n).into_iter().map(unit).collect()
}

/// sqrt(2) * erfinv of a uniform on (-1, 1).
pub(super) fn normal(seed: u64, n: usize) -> Vec<f32> {
    let low = -BELOW_ONE;
    words(seed, n).into_iter().map(|word| SQRT_2 * erfinv((1.0 - low) * unit(word) + low)).collect()
}

fn unit(word: u32) -> f32 {
    (word as f32 / u32::MAX as f32).min(BELOW_ONE)
}

/// `n` words: counter (i, i + ceil(n/2)) gives word i of either half; an odd `n` leaves the middle word to
/// a counter of its own.
fn words(seed: u64, n: usize) -> Vec<u32> {
    let key = [(seed >> 32) as u32, seed as u32];
    let (half, upper) = (n / 2, n.div_ceil(2));
    let mut words = vec![0; n];
    for i in 0..half {
        [words[i], words[i + upper]] = threefry2x32(key, [i as u32, (i + upper) as u32]);
    }
    if upper > half {
        [words[half], _] = threefry2x32(key, [half as u32, 0]);
    }
    words
}

/// Threefry-2x32 with 20 rounds.
fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const PARITY: u32 = 0x1bd1_1bda;
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];

    let schedule = [key[0], key[1], key[0] ^ key[1] ^ PARITY];
    let mut x = counter[0].wrapping_add(schedule[0]);
    let mut y = counter[1].wrapping_add(schedule[1]);
    for (i, injection) in (0usize..5).zip(1u32..) {
        for rotation in ROTATIONS[i % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(rotation) ^ x;
        }
        x = x.wrapping_add(schedule[(i + 1) % 3]);
        y = y.wrapping_add(schedule[(i + 2) % 3]).wrapping_add(injection);
    }
    [x, y]
}

/// The inverse error function in single precision (the two-range polynomial in ln(1 - x^2) that MLX uses).
fn erfinv(x: f32) -> f32 {
    const TAIL: [f32; 9] = [
        3.03697567e-10,
        2.93243101e-8,
        1.22150334e-6,
        2.84108955e-5,
        3.93552968e-4,
        3.02698812e-3,
        4.83185798e-3,
        -2.64646143e-1,
        8.40016484e-1,
    ];
    const CENTRE: [f32; 10] = [
        5.43877832e-9,
        1.43285448e-7,
        1.22774793e-6,
        1.12963626e-7,
        -5.61530760e-5,
        -1.47697632e-4,
        2.31468678e-3,
        1.15392581e-2,
        -2.32015476e-1,
        8.86226892e-1,
    ];
    let t = x.mul_add(-x, 1.0).ln();
    let coefficients: &[f32] = if t.abs() > 6.125 { &TAIL } else { &CENTRE };
    x * coefficients.iter().copied().reduce(|sum, c| sum.mul_add(t, c)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_words() {
        assert_eq!(words(0, 1), [1_797_259_609]);
        assert_eq!(words(1, 1), [507_451_445]);
        assert_eq!(words(0, 4), [4_146_024_105, 967_050_713, 2_718_843_009, 1_272_950_319]);
    }

    #[test]
    fn first_values_of_a_512_pixel_draw() {
        let want = [-0.194616, 0.300830, -0.078154, 0.765529, -1.379044, -0.251858];
        let got = normal(42, 128 * 32 * 32);
        assert!(
            got.iter().zip(want).all(|(got, want): (&f32, f32)| (got - want).abs() < 2e-6),
            "{:?}",
            &got[..6]
        );
        assert!(got.iter().all(|x| x.is_finite()));
    }
}
