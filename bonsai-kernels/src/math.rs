//! Scalar bodies that become vector code inside a [`Token::run`](crate::Token::run).

use crate::isa::Token;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn mul_add<T: Token>(a: f32, b: f32, c: f32) -> f32 {
    if T::FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` within 2 ULP for x in -87..=88; 0 below -87, `e^88` above 88, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (ln 2 in two parts), `e^r` by the degree-7 polynomial of the Cephes
/// library's `expf`, times `2^n` through the exponent bits.
#[inline(always)]
pub(crate) fn exp<T: Token>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // adding it rounds to an integer that then stands in the low bits
    const ROUNDER: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = mul_add::<T>(clamped, LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = mul_add::<T>(n, -LN_2_LOW, mul_add::<T>(n, -LN_2_HIGH, clamped));
    let mut p = 1.987_569_2e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_06] {
        p = mul_add::<T>(p, r, c);
    }
    let p = mul_add::<T>(p * r, r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * power }
}

/// `2^x` within 2 ULP for x in -126..=0; 0 for x <= -127, NaN for NaN.
///
/// `x = n + r` with `|r| <= 1 / 2`, `2^r` by the polynomial of degree 6 with the smallest relative error, 2^-28.
#[inline(always)]
pub(crate) fn exp2<T: Token>(x: f32) -> f32 {
    exp2_by::<T, 6>(
        x,
        [1.559_467_8e-4, 1.340_664_3e-3, 9.617_692e-3, 5.550_310_3e-2, 0.240_226_52, 0.693_147_24],
    )
}

/// `2^x` with a relative error of at most 2^-17.9 for x in -126..=0; 0 for x <= -127, NaN for NaN. The polynomial has
/// degree 4.
#[inline(always)]
#[cfg(any(target_arch = "x86_64", test))]
pub(crate) fn exp2_coarse<T: Token>(x: f32) -> f32 {
    exp2_by::<T, 4>(x, [9.782_912e-3, 5.597_688_3e-2, 0.240_207_1, 0.693_113_6])
}

/// The polynomial is 1 at 0, so that whole numbers give powers of two.
#[inline(always)]
fn exp2_by<T: Token, const DEGREE: usize>(x: f32, coefficients: [f32; DEGREE]) -> f32 {
    // adding it rounds to an integer that then stands in the low bits, moved up by the bias of an exponent
    const ROUNDER: f32 = 12_582_912.0 + 127.0;
    // at -127 the power of two becomes 0; written so that NaN stays
    let x = if x < -127.0 { -127.0 } else { x };
    let shifted = x + ROUNDER;
    let r = x - (shifted - ROUNDER);
    let mut p = coefficients[0];
    for c in &coefficients[1..] {
        p = mul_add::<T>(p, r, *c);
    }
    mul_add::<T>(p, r, 1.0) * f32::from_bits(shifted.to_bits() << 23)
}

/// `x / (1 + e^-x)`
#[inline(always)]
pub(crate) fn silu<T: Token>(x: f32) -> f32 {
    x / (1.0 + exp::<T>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, dispatch};

    fn ulp_error(got: f32, want: f64) -> f64 {
        let ulp = f64::from((want as f32).to_bits().wrapping_add(1)).max(1.0);
        let spacing = f64::from(f32::from_bits(ulp as u32)) - f64::from(f32::from_bits(ulp as u32 - 1));
        ((f64::from(got) - want) / spacing).abs()
    }

    fn exp_of<T: Token>(token: T, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        token.run(|| y.iter_mut().for_each(|v| *v = exp::<T>(*v)));
        y
    }

    #[test]
    fn exp_is_within_two_ulp_on_every_isa() {
        let x: Vec<f32> = (0..400_000).map(|i| -86.9 + 174.8 * i as f32 / 400_000.0).collect();
        for isa in Isa::available() {
            let y = dispatch!(isa, t => exp_of(t, &x));
            let worst = x.iter().zip(&y).map(|(&x, &y)| ulp_error(y, f64::from(x).exp())).fold(0.0, f64::max);
            assert!(worst <= 2.0, "{}: {worst} ULP", isa.name());
        }
    }

    fn exp2_of<T: Token>(token: T, x: &[f32]) -> Vec<[f32; 2]> {
        let mut y = vec![[0.0; 2]; x.len()];
        token.run(|| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = [exp2::<T>(x), exp2_coarse::<T>(x)];
            }
        });
        y
    }

    #[test]
    fn exp2_is_as_near_as_it_says() {
        let mut x: Vec<f32> = (0..400_000).map(|i| -126.0 * i as f32 / 400_000.0).collect();
        x.extend([f32::NEG_INFINITY, -1e30, -127.0, f32::NAN]);
        for isa in Isa::available() {
            let y = dispatch!(isa, t => exp2_of(t, &x));
            for (&x, &[fine, coarse]) in x.iter().zip(&y) {
                let want = f64::from(x).exp2();
                if x >= -126.0 {
                    assert!(ulp_error(fine, want) <= 2.0, "{}: 2^{x} = {fine}", isa.name());
                    let error = (f64::from(coarse) / want - 1.0).abs();
                    assert!(error <= 2f64.powf(-17.9), "{}: 2^{x} = {coarse}", isa.name());
                } else if x.is_nan() {
                    assert!(fine.is_nan() && coarse.is_nan());
                } else {
                    assert_eq!([fine, coarse], [0.0, 0.0]);
                }
            }
        }
    }

    #[test]
    fn exp_at_the_edges() {
        for isa in Isa::available() {
            let y = dispatch!(isa, t => exp_of(t, &[f32::NEG_INFINITY, -1e30, -88.0, 0.0, 1e30, f32::NAN]));
            assert_eq!(y[..4], [0.0, 0.0, 0.0, 1.0]);
            assert!(y[4].is_finite() && y[4] > 1e38 && y[5].is_nan(), "{y:?}");
        }
    }

    #[test]
    fn silu_of_extremes() {
        assert_eq!(silu::<crate::Portable>(0.0), 0.0);
        assert!(silu::<crate::Portable>(-1e9).abs() < 1e-20);
        assert_eq!(silu::<crate::Portable>(1e9), 1e9);
    }
}
