//! The streaming softmax: a row of scores arrives in blocks, and no block waits for the next.

use super::KEYS;
use super::panels::probability_scale;
use crate::dot::{DotTile, Number, pack_row};
use crate::isa::Work;

/// Rows that are worked on together: what is one number for each row is a vector then.
pub(super) const ROWS: usize = 16;

/// A block of scores becomes probabilities, for up to [`ROWS`] rows: `2^(score - maximum)`, with the running maximum
/// and total of each row brought up to date.
pub(super) struct SoftmaxStep<'a, N: Number, T> {
    pub(super) token: T,
    /// `[rows][KEYS]`
    pub(super) scores: &'a mut [f32],
    /// The probabilities, `[rows][words]`, each row multiplied with a scale of its own where the format wants it.
    pub(super) words: &'a mut [N::Word],
    /// The largest score so far; all of these `[rows]`.
    pub(super) maxima: &'a mut [f32],
    /// The sum of probabilities so far.
    pub(super) totals: &'a mut [f32],
    /// The factor that earlier sums take on.
    pub(super) keep: &'a mut [f32],
    /// The inverse of the scale.
    pub(super) units: &'a mut [f32],
}

/// The larger one; NaN is passed over.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

impl<N: Number, T: DotTile<N>> Work for SoftmaxStep<'_, N, T> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let rows = self.maxima.len();
        let (mut of_block, mut old) = ([f32::NEG_INFINITY; ROWS], [f32::NEG_INFINITY; ROWS]);
        old[..rows].copy_from_slice(self.maxima);
        for (row, of_block) in self.scores.chunks_exact(KEYS).zip(&mut of_block) {
            let mut lanes = [f32::NEG_INFINITY; 16];
            for block in row.as_chunks::<16>().0 {
                for (lane, score) in lanes.iter_mut().zip(block) {
                    *lane = larger(*lane, *score);
                }
            }
            *of_block = self.token.largest(lanes);
        }
        let (mut new, mut keep, mut largest) = ([0.0; ROWS], [0.0; ROWS], [0.0; ROWS]);
        for i in 0..ROWS {
            let maximum = larger(old[i], of_block[i]);
            // a row that sees nothing so far has no maximum; its probabilities are zeros whatever this is
            new[i] = if maximum == f32::NEG_INFINITY { 0.0 } else { maximum };
            keep[i] = N::exp2::<T>(old[i] - new[i]);
            largest[i] = N::exp2::<T>(of_block[i] - new[i]);
            old[i] = maximum;
        }
        let mut sums = [0.0; ROWS];
        for ((row, new), sum) in self.scores.chunks_exact_mut(KEYS).zip(new).zip(&mut sums) {
            for score in row.iter_mut() {
                *score = N::exp2::<T>(*score - new);
            }
            let mut lanes = [0.0; 16];
            for block in row.as_chunks::<16>().0 {
                for (lane, p) in lanes.iter_mut().zip(block) {
                    *lane += p;
                }
            }
            *sum = self.token.sum(lanes);
        }
        let (mut scales, mut units) = ([1.0; ROWS], [1.0; ROWS]);
        if N::SCALED {
            for i in 0..ROWS {
                scales[i] = probability_scale(largest[i], sums[i]);
                units[i] = if scales[i] == 0.0 { 0.0 } else { 1.0 / scales[i] };
            }
        }
        for i in 0..rows {
            self.maxima[i] = old[i];
            self.totals[i] = self.totals[i] * keep[i] + sums[i];
            self.keep[i] = keep[i];
            self.units[i] = units[i];
        }
        let words = self.words.chunks_exact_mut(N::words(KEYS));
        for ((row, scale), words) in self.scores.chunks_exact(KEYS).zip(scales).zip(words) {
            pack_row::<N>(row, scale, words);
            self.token.arrange(words, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dot::{DotPrecision, with_dots};
    use crate::isa::Isa;
    use crate::reference;

    /// The softmax of a row that arrives in blocks, computed beside a row of other scores.
    fn streamed<N: Number, T: DotTile<N>>(token: T, scores: &[f32]) -> Vec<f32> {
        let (mut maxima, mut totals) = ([f32::NEG_INFINITY; 2], [0.0; 2]);
        let mut row: Vec<f32> = Vec::new();
        for block in scores.chunks_exact(KEYS) {
            let block = block.iter().map(|s| s * std::f32::consts::LOG2_E);
            let mut scores: Vec<f32> = (0..KEYS).map(|i| i as f32).chain(block).collect();
            let (mut keep, mut units) = ([0.0; 2], [0.0; 2]);
            let mut words = vec![N::word(0.0, 0.0); 2 * KEYS];
            token.work(SoftmaxStep::<N, _> {
                token,
                scores: &mut scores,
                words: &mut words,
                maxima: &mut maxima,
                totals: &mut totals,
                keep: &mut keep,
                units: &mut units,
            });
            row.iter_mut().for_each(|p| *p *= keep[1]);
            row.extend(&scores[KEYS..]);
        }
        row.iter().map(|p| p / totals[1]).collect()
    }

    #[test]
    fn blocks_make_the_softmax_of_the_whole_row() {
        let mut scores: Vec<f32> = (0..8 * KEYS).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3).collect();
        scores[200..260].fill(f32::NEG_INFINITY);
        scores[..KEYS].fill(f32::NEG_INFINITY);
        let want = reference::softmax(&scores);
        for isa in Isa::available() {
            for precision in DotPrecision::available(isa) {
                let got = with_dots!(isa, precision, |t, N| streamed::<N, _>(t, &scores));
                for (got, want) in got.iter().zip(&want) {
                    // 2 ULP of each exp, of each of eight rescalings, of the total; scores of 22, in base 2, shift by
                    // their own rounding; the coarse exp is off by 2^-17.9
                    let exp = if precision == DotPrecision::F32 { 2.0 } else { 68.6 };
                    let bound = (44.0 + 10.0 * exp) * want / f64::from(1 << 24);
                    assert!((f64::from(*got) - want).abs() <= bound, "{got} for {want}");
                }
            }
        }
    }

    #[test]
    fn nan_is_noticed() {
        for isa in Isa::available() {
            let softmax = |x: &[f32]| with_dots!(isa, DotPrecision::F32, |t, N| streamed::<N, _>(t, x));
            for nan in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xff80_0001)] {
                let mut scores = [0.0; KEYS];
                scores[1] = nan;
                assert!(softmax(&scores).iter().any(|p| p.is_nan()));
                scores.fill(nan);
                assert!(softmax(&scores).iter().any(|p| p.is_nan()));
            }
        }
    }
}
