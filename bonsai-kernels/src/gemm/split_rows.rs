//! Rows in lines of 64 bytes, which products of tiles take.

use super::rows::{BLOCK, RowForm, SUMMED, nearest_bf16, quantize_int16, sum_codes, sums};
use crate::isa::{Isa, Token, Work, dispatch};
use crate::x86_64::amx::LINE;

/// The inputs that rows end in zeros at.
fn padded(cols: usize) -> usize {
    cols.next_multiple_of(2 * BLOCK)
}

/// Bytes of a row of `bytes` that is read in lines of 64: an odd multiple of an eighth of the page, so that the lines of 32
/// rows spread over all sets of a cache.
fn line_stride(bytes: usize) -> usize {
    const EIGHTH: usize = 512;
    (bytes.div_ceil(EIGHTH) | 1) * EIGHTH
}

/// The codes of [`Int16Rows`](super::rows::Int16Rows) in two signed bytes, `code = 256 high + low`: lines of the high ones
/// and of the low ones of 64 inputs in turn.
#[derive(Clone, Copy)]
pub(crate) struct BytePairs;

impl RowForm for BytePairs {
    const NAME: &'static str = "int16 in pairs of bytes";
    type Element = i8;
    const ROW_SCALE: bool = true;

    fn len(cols: usize) -> usize {
        line_stride(2 * padded(cols))
    }

    fn scales(cols: usize) -> usize {
        1 + sums(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i8], scales: &mut [f32], spare: &mut Vec<i16>) {
        spare.clear();
        spare.resize(padded(x.len()), 0);
        dispatch!(isa, t => t.work(SplitCodes { x, codes: spare, row, scales }));
    }
}

struct SplitCodes<'a> {
    x: &'a [f32],
    codes: &'a mut [i16],
    row: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Work for SplitCodes<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let (scale, sums) = self.scales.split_at_mut(1);
        scale[0] = quantize_int16(self.x, &mut self.codes[..self.x.len()]);
        sum_codes(self.codes, sums);
        let (lines, _) = self.row.as_chunks_mut::<LINE>();
        for (codes, lines) in self.codes.as_chunks::<LINE>().0.iter().zip(lines.as_chunks_mut::<2>().0) {
            let [high, low] = lines;
            for i in 0..LINE {
                [high[i], low[i]] = split(codes[i]);
            }
        }
    }
}

/// Codes up to 32,639.
#[inline(always)]
fn split(code: i16) -> [i8; 2] {
    let low = code as i8;
    [((code - i16::from(low)) >> 8) as i8, low]
}

/// Rounded to bf16, halves to even, those of 32 inputs in a line.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Lines;

impl RowForm for Bf16Lines {
    const NAME: &'static str = "bf16 in lines";
    type Element = u16;
    const ROW_SCALE: bool = false;

    fn len(cols: usize) -> usize {
        line_stride(2 * padded(cols)) / 2
    }

    fn scales(cols: usize) -> usize {
        sums(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [u16], scales: &mut [f32], _: &mut Vec<i16>) {
        dispatch!(isa, t => t.run(|| round(x, row, scales)));
    }
}

/// The rounded numbers, and their sums over each [`SUMMED`] inputs.
#[inline(always)]
fn round(x: &[f32], row: &mut [u16], sums: &mut [f32]) {
    for ((x, row), sum) in x.chunks(SUMMED).zip(row.chunks_mut(SUMMED)).zip(sums) {
        for (out, &x) in row.iter_mut().zip(x) {
            let rounded = nearest_bf16(x);
            *sum += rounded;
            *out = (rounded.to_bits() >> 16) as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_are_split_without_loss() {
        for code in -32_639..=32_639i16 {
            let [high, low] = split(code).map(i32::from);
            assert_eq!(256 * high + low, i32::from(code));
        }
    }
}
