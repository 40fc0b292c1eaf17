//! The streaming softmax: a row of scores arrives in blocks, and no block waits for the next.

use crate::isa::Token;
use crate::math;

/// Turns scores into `e^(score - maximum)`, with the running maximum and total brought up to date. Returns the factor
/// that earlier sums of the row take on.
#[inline(always)]
pub(crate) fn softmax_step<T: Token>(_: T, scores: &mut [f32], maximum: &mut f32, total: &mut f32) -> f32 {
    let (blocks, _) = scores.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for block in blocks {
        for i in 0..8 {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    let new = lanes.iter().fold(*maximum, |max, &v| if v > max { v } else { max });
    if new == f32::NEG_INFINITY {
        // nothing seen so far; NaN scores stay NaN, so that they are noticed
        scores.iter_mut().for_each(|s| *s = if s.is_nan() { *s } else { 0.0 });
        *total += scores.iter().sum::<f32>();
        return 1.0;
    }
    let rescale = math::exp::<T>(*maximum - new);
    // one simple loop for each thing, which is what becomes vector code
    for score in scores.iter_mut() {
        *score = math::exp::<T>(*score - new);
    }
    let (blocks, _) = scores.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for block in blocks {
        for (sum, p) in sums.iter_mut().zip(block) {
            *sum += p;
        }
    }
    *maximum = new;
    *total = *total * rescale + sums.iter().sum::<f32>();
    rescale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, dispatch};
    use crate::reference;

    /// The softmax of a row that arrives in blocks of 24.
    fn streamed<T: Token>(token: T, scores: &[f32]) -> Vec<f32> {
        let (mut maximum, mut total) = (f32::NEG_INFINITY, 0.0);
        let mut row: Vec<f32> = Vec::new();
        for block in scores.chunks(24) {
            let mut block = block.to_vec();
            let rescale = token.run(|| softmax_step(token, &mut block, &mut maximum, &mut total));
            row.iter_mut().for_each(|p| *p *= rescale);
            row.extend(block);
        }
        row.iter().map(|p| p / total).collect()
    }

    #[test]
    fn blocks_make_the_softmax_of_the_whole_row() {
        let mut scores: Vec<f32> = (0..240).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3).collect();
        scores[30..60].fill(f32::NEG_INFINITY);
        scores[..24].fill(f32::NEG_INFINITY);
        let want = reference::softmax(&scores);
        for isa in Isa::available() {
            let got = dispatch!(isa, t => streamed(t, &scores));
            for (got, want) in got.iter().zip(&want) {
                // 2 ULP of each exp, of each of ten rescalings, of the total; scores of 15 shift by their own rounding
                assert!(
                    (f64::from(*got) - want).abs() <= 60.0 * want / f64::from(1 << 24),
                    "{got} for {want}"
                );
            }
        }
    }

    #[test]
    fn nan_is_noticed() {
        for isa in Isa::available() {
            let mut scores = [0.0, f32::NAN, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0];
            assert!(dispatch!(isa, t => streamed(t, &scores)).iter().any(|p| p.is_nan()));
            scores.fill(f32::NAN);
            assert!(dispatch!(isa, t => streamed(t, &scores)).iter().any(|p| p.is_nan()));
        }
    }
}
