//! Rows in lines of 64 bytes, of which those of [`ROWS`] rows stand side by side, as products of tiles take them.

use std::mem::take;

use bytemuck::cast_slice_mut;

use super::precision::ActivationPrecision;
use super::rows::{self, BLOCK, Int8Rows, Int16Rows, RowForm, SUMMED, TOGETHER, nearest_bf16, sums};
use crate::isa::{Isa, Token, Work, dispatch};
use crate::x86_64::amx::{LARGEST_JOINED, LINE, MULTIPLE, ROWS};

/// The inputs that rows end in zeros at.
fn padded(cols: usize) -> usize {
    cols.next_multiple_of(2 * BLOCK)
}

const _: () = assert!(TOGETHER == ROWS && rows::LINE == LINE, "what stands side by side is a tile");

/// The codes of [`Int16Rows`] in two signed bytes each: lines of the high ones and of the low ones of 64 inputs in turn. They
/// are joined, `code = 127 high + low`, where all codes of [`ROWS`] rows are small enough, which the last of a row's scales
/// says by a 1; elsewhere `code = 256 high + low`.
#[derive(Clone, Copy)]
pub(crate) struct BytePairs;

impl RowForm for BytePairs {
    const NAME: &'static str = "int16 in pairs of bytes";
    type Element = i16;
    const ROW_SCALE: bool = true;
    const MIXED: bool = true;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(cols: usize) -> usize {
        Int16Rows::scales(cols) + 1
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i16], scales: &mut [f32], spare: &mut Vec<i16>) {
        Int16Rows::prepare(isa, x, row, &mut scales[..Int16Rows::scales(x.len())], spare);
    }

    fn arrange(isa: Isa, rows: &[i16], to: &mut [i16], scales: &mut [f32]) {
        let lines = cast_slice_mut(to);
        let joined = dispatch!(isa, t => t.work(SplitCodes { codes: rows, lines }));
        for scales in scales.chunks_exact_mut(scales.len() / ROWS) {
            if let Some(last) = scales.last_mut() {
                *last = f32::from(u8::from(joined));
            }
        }
    }
}

struct SplitCodes<'a> {
    /// `[ROWS][inputs]`
    codes: &'a [i16],
    /// `[lines][ROWS][LINE]`
    lines: &'a mut [i8],
}

impl Work for SplitCodes<'_> {
    type Output = bool;

    #[inline(always)]
    fn work(self) -> bool {
        let mut largest = 0;
        for &code in self.codes {
            largest = code.abs().max(largest);
        }
        let joined = largest <= LARGEST_JOINED;
        let row_len = self.codes.len() / ROWS;
        for (step, lines) in self.lines.chunks_exact_mut(2 * ROWS * LINE).enumerate() {
            let (high, low) = lines.split_at_mut(ROWS * LINE);
            let (high, low) = (high.as_chunks_mut::<LINE>().0, low.as_chunks_mut::<LINE>().0);
            for row in 0..ROWS {
                let codes = self.codes[row * row_len..][..row_len].as_chunks::<LINE>().0;
                split(&codes[step], joined, &mut high[row], &mut low[row]);
            }
        }
        joined
    }
}

/// Codes up to 32,639, or [`LARGEST_JOINED`] if they are joined.
#[inline(always)]
fn split(codes: &[i16; LINE], joined: bool, high: &mut [i8; LINE], low: &mut [i8; LINE]) {
    if joined {
        const INVERSE: i32 = ((1 << 15) + MULTIPLE as i32 / 2) / MULTIPLE as i32;
        for i in 0..LINE {
            // the nearest multiple, by one instruction
            let nearest = ((((i32::from(codes[i]) * INVERSE) >> 14) + 1) >> 1) as i16;
            let nearest = nearest.clamp(-i16::from(i8::MAX), i8::MAX.into());
            high[i] = nearest as i8;
            low[i] = (codes[i] - nearest * i16::from(MULTIPLE)) as i8;
        }
    } else {
        for i in 0..LINE {
            low[i] = codes[i] as i8;
            high[i] = ((codes[i] - i16::from(low[i])) >> 8) as i8;
        }
    }
}

/// The codes of [`Int8Rows`], with one scale for a whole row where the precision says so.
#[derive(Clone, Copy)]
pub(crate) struct Int8Lines;

impl RowForm for Int8Lines {
    const NAME: &'static str = "int8 in lines";
    type Element = i8;
    const ROW_SCALE: bool = false;
    const MIXED: bool = true;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(cols: usize) -> usize {
        Int8Rows::<false>::scales(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i8], scales: &mut [f32], spare: &mut Vec<i16>) {
        Int8Rows::<false>::prepare(isa, x, row, scales, spare);
    }

    fn prepare_for(
        precision: ActivationPrecision,
        isa: Isa,
        x: &[f32],
        row: &mut [i8],
        scales: &mut [f32],
        spare: &mut Vec<i16>,
    ) {
        if precision == ActivationPrecision::Int8Row {
            Int8Rows::<true>::prepare_for(precision, isa, x, row, scales, spare);
        } else {
            Int8Rows::<false>::prepare_for(precision, isa, x, row, scales, spare);
        }
    }
}

/// Rounded to bf16, halves to even, those of 32 inputs in a line.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Lines;

impl RowForm for Bf16Lines {
    const NAME: &'static str = "bf16 in lines";
    type Element = u16;
    const ROW_SCALE: bool = false;
    const MIXED: bool = true;

    fn len(cols: usize) -> usize {
        padded(cols)
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

/// Inputs of a line of bf16.
const HALVES: usize = LINE / 2;

/// The codes of [`Int16Rows`] as the sum of two bf16, `256 high + low`: lines of the first and of the second of 32 inputs in turn.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Pairs;

impl RowForm for Bf16Pairs {
    const NAME: &'static str = "int16 in two bf16";
    type Element = u16;
    const ROW_SCALE: bool = true;
    const MIXED: bool = true;

    fn len(cols: usize) -> usize {
        2 * padded(cols)
    }

    fn scales(cols: usize) -> usize {
        Int16Rows::scales(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [u16], scales: &mut [f32], spare: &mut Vec<i16>) {
        let mut codes = take(spare);
        codes.clear();
        codes.resize(padded(x.len()), 0);
        Int16Rows::prepare(isa, x, &mut codes, scales, spare);
        dispatch!(isa, t => t.work(CodesToBf16 { codes: &codes, row }));
        *spare = codes;
    }
}

struct CodesToBf16<'a> {
    codes: &'a [i16],
    row: &'a mut [u16],
}

impl Work for CodesToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let lines = self.row.as_chunks_mut::<{ 2 * HALVES }>().0;
        for (codes, lines) in self.codes.as_chunks::<HALVES>().0.iter().zip(lines) {
            for (i, &code) in codes.iter().enumerate() {
                [lines[i], lines[HALVES + i]] = two(code);
            }
        }
    }
}

/// Both have eight bits at most.
#[inline(always)]
fn two(code: i16) -> [u16; 2] {
    let low = i16::from(code as i8);
    [code - low, low].map(|part| (f32::from(part).to_bits() >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(codes: &[i16; LINE], joined: bool) -> ([i8; LINE], [i8; LINE]) {
        let (mut high, mut low) = ([0; LINE], [0; LINE]);
        split(codes, joined, &mut high, &mut low);
        (high, low)
    }

    #[test]
    fn all_codes_are_split_without_loss() {
        for (joined, largest, times) in [(true, LARGEST_JOINED, i32::from(MULTIPLE)), (false, 32_639, 256)] {
            for code in -largest..=largest {
                let (high, low) = halves(&[code; LINE], joined);
                assert_eq!(times * i32::from(high[0]) + i32::from(low[0]), i32::from(code));
            }
        }
    }

    fn whole(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[test]
    fn codes_are_the_sum_of_two() {
        for code in -32_639..=32_639 {
            let [high, low] = two(code).map(whole);
            assert_eq!(high + low, f32::from(code));
        }
    }
}
