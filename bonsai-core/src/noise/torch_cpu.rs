//! Draws of torch's CPU generator, bit for bit.
//!
//! From 16 values on torch fills a tensor with 24-bit uniforms and turns blocks of 16 into normals with
//! vectorised single-precision logarithm, sine and cosine (the Cephes polynomials, fused multiply-adds).
//! The system's `logf`, `sinf` and `cosf` differ from these in the last bits, so they are spelt out here.

#![expect(clippy::excessive_precision, reason = "coefficients keep the digits of their source")]

use std::f32::consts::{FRAC_1_SQRT_2, TAU};

use super::mt19937::Mt19937;

/// Values that one Box-Muller block of torch holds: eight radii with their eight angles.
const BLOCK: usize = 16;

pub(super) fn uniform(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = new_generator(seed);
    (0..n).map(|_| next_uniform(&mut generator)).collect()
}

pub(super) fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = new_generator(seed);
    if n < BLOCK {
        return normal_one_by_one(&mut generator, n);
    }
    let mut draws: Vec<f32> = (0..n).map(|_| next_uniform(&mut generator)).collect();
    let (blocks, tail) = draws.as_chunks_mut::<BLOCK>();
    blocks.iter_mut().for_each(box_muller);
    if !tail.is_empty() {
        // Torch draws the last 16 values afresh, over some that the loop above already made.
        if let Some(last) = draws.last_chunk_mut::<BLOCK>() {
            last.fill_with(|| next_uniform(&mut generator));
            box_muller(last);
        }
    }
    draws
}

/// Torch seeds the twister with the low half of the seed only.
fn new_generator(seed: u64) -> Mt19937 {
    Mt19937::new(seed as u32)
}

fn next_uniform(generator: &mut Mt19937) -> f32 {
    const STEP: f32 = 1.0 / (1 << 24) as f32;
    (generator.next_u32() & 0x00ff_ffff) as f32 * STEP
}

/// The path for fewer than 16 values: double precision, two values from two uniforms.
fn normal_one_by_one(generator: &mut Mt19937, n: usize) -> Vec<f32> {
    let mut draws = Vec::with_capacity(n + 1);
    while draws.len() < n {
        let angle = std::f64::consts::TAU * next_uniform_f64(generator);
        let radius = (-2.0 * (-next_uniform_f64(generator)).ln_1p()).sqrt();
        draws.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    draws.truncate(n);
    draws
}

fn next_uniform_f64(generator: &mut Mt19937) -> f64 {
    const STEP: f64 = 1.0 / (1u64 << 53) as f64;
    let high = u64::from(generator.next_u32());
    let word = (high << 32) | u64::from(generator.next_u32());
    (word & ((1 << 53) - 1)) as f64 * STEP
}

/// Sixteen uniforms in [0, 1) become sixteen normals; value j pairs with value j + 8.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * ln(1.0 - *first)).sqrt();
        let (sin, cos) = sin_cos(TAU * *second);
        *first = radius * cos;
        *second = radius * sin;
    }
}

/// Evaluates a polynomial, highest coefficient first, one rounding per term.
fn horner(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().copied().reduce(|sum, c| sum.mul_add(x, c)).unwrap_or(0.0)
}

/// Cephes `logf` for normal positive `x`.
fn ln(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ];
    // ln 2 in two parts: the first has few bits, so that its product with the exponent is exact.
    const LN_2_HIGH: f32 = 0.693359375;
    const LN_2_LOW: f32 = -2.12194440e-4;

    // x = mantissa * 2^exponent with the mantissa in [0.5, 1), then shifted to around zero.
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mut mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if mantissa < FRAC_1_SQRT_2 {
        exponent -= 1.0;
        mantissa = mantissa + mantissa - 1.0;
    } else {
        mantissa -= 1.0;
    }
    let square = mantissa * mantissa;
    let y = horner(mantissa, &COEFFICIENTS) * mantissa;
    let y = y.mul_add(square, exponent * LN_2_LOW);
    let y = square.mul_add(-0.5, y);
    exponent.mul_add(LN_2_HIGH, mantissa + y)
}

/// Cephes `sinf` and `cosf` of one angle in [0, 2 pi].
fn sin_cos(angle: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.273_239_5;
    // -pi/4 in three parts, so that the reduced angle keeps its bits.
    const MINUS_PI_OVER_4: [f32; 3] = [-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8];
    const COS: [f32; 3] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2];
    const SIN: [f32; 3] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1];

    // The octant, rounded up to even: the reduced angle lies in [-pi/4, pi/4].
    let octant = ((angle * FOUR_OVER_PI) as i32 + 1) & !1;
    let x = MINUS_PI_OVER_4.iter().fold(angle, |x, part| (octant as f32).mul_add(*part, x));
    let square = x * x;
    let cos = (horner(square, &COS) * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sin = (horner(square, &SIN) * square).mul_add(x, x);

    let (sin, cos) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let sin = if octant & 4 == 0 { sin } else { -sin };
    let cos = if (octant - 2) & 4 == 0 { -cos } else { cos };
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_agree_with_the_system() {
        for i in 1..=4096 {
            let x = i as f32 / 4096.0;
            assert!((ln(x) - x.ln()).abs() <= 1e-6 * (1.0 + x.ln().abs()), "ln({x})");
            let (sin, cos) = sin_cos(TAU * x);
            assert!((sin - (TAU * x).sin()).abs() <= 1e-6, "sin of {x} turns");
            assert!((cos - (TAU * x).cos()).abs() <= 1e-6, "cos of {x} turns");
        }
    }

    #[test]
    fn only_the_low_half_of_the_seed_counts() {
        assert_eq!(normal(42, 20), normal((7 << 32) | 42, 20));
    }
}
