//! The forms in which rows of activations are prepared, each once for all linears that read it.

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use super::bit_rows::mean_magnitude;
use super::precision::ActivationPrecision;
use crate::aligned::Element;
use crate::isa::{Isa, Token, Work, dispatch};

/// Inputs that share a scale, or a bound: the group of the one-bit weights.
pub(crate) const BLOCK: usize = 128;
/// The sum of magnitudes over a block that 16-bit rows are scaled to. Rounding adds up to 0.5 for each of 128 inputs,
/// and the f32 sum of magnitudes may be off by `128 * 2^-24` of itself, so that no sum exceeds `i16::MAX`, and no code the
/// largest that is split in bytes, 32,639.
const LARGEST_L1: f32 = 32_600.0;
/// Adding this to a float below 2^22 leaves the nearest integer, ties to even, in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Rows that are prepared together.
pub(crate) const TOGETHER: usize = 32;

/// One form of prepared rows.
pub(crate) trait RowForm: Copy + Send + Sync + 'static {
    /// Tells the forms of one set of activations apart.
    const NAME: &'static str;
    /// Element of a prepared row.
    type Element: Element + Pod;
    /// Whether a finished product is still to be multiplied by the row's first scale.
    const ROW_SCALE: bool;
    /// Whether [`RowForm::arrange`] still mixes [`TOGETHER`] rows.
    const MIXED: bool = false;
    /// Elements of a row of `cols` inputs; kernels read whole groups of 256 inputs, so a row ends in zeros up to there.
    fn len(cols: usize) -> usize;
    /// Scales of a row of `cols` inputs.
    fn scales(cols: usize) -> usize;
    /// Prepares one row; `row` holds zeros before. `spare` is there for steps in between.
    fn prepare(isa: Isa, x: &[f32], row: &mut [Self::Element], scales: &mut [f32], spare: &mut Vec<i16>);
    /// The same for a form that several precisions share.
    fn prepare_for(
        _: ActivationPrecision,
        isa: Isa,
        x: &[f32],
        row: &mut [Self::Element],
        scales: &mut [f32],
        spare: &mut Vec<i16>,
    ) {
        Self::prepare(isa, x, row, scales, spare);
    }
    /// Brings [`TOGETHER`] prepared rows, one behind the other, and their scales into their last order: lines of rows side by
    /// side, where a form does nothing else.
    fn arrange(_: Isa, rows: &[Self::Element], to: &mut [Self::Element], _scales: &mut [f32]) {
        interleave(rows, to);
    }
}

/// Bytes of a line of a row, of which those of several rows may stand side by side.
pub(crate) const LINE: usize = 64;

/// The lines of [`TOGETHER`] rows, one row after the other before, become `[line][row]`.
fn interleave<E: Pod>(rows: &[E], to: &mut [E]) {
    let (from, to): (&[u8], &mut [u8]) = (cast_slice(rows), cast_slice_mut(to));
    let row_len = from.len() / TOGETHER;
    for (i, lines) in to.chunks_exact_mut(TOGETHER * LINE).enumerate() {
        for (line, row) in lines.chunks_exact_mut(LINE).zip(from.chunks_exact(row_len)) {
            line.copy_from_slice(&row[i * LINE..][..LINE]);
        }
    }
}

/// Keeps rows whose length is a power of two out of the same cache sets.
const ROW_PADDING: usize = 16;

fn padded(cols: usize) -> usize {
    cols.next_multiple_of(2 * BLOCK) + ROW_PADDING
}

fn blocks(cols: usize) -> usize {
    cols.next_multiple_of(2 * BLOCK) / BLOCK
}

/// Inputs whose codes are summed up beforehand: the smallest group. A sum is at most `i16::MAX`, which floats hold.
pub(crate) const SUMMED: usize = 32;

/// Sums of a row, which stand behind its scales.
pub(super) fn sums(cols: usize) -> usize {
    cols.next_multiple_of(2 * BLOCK) / SUMMED
}

/// f32, as it is.
#[derive(Clone, Copy)]
pub(crate) struct PlainRows;

impl RowForm for PlainRows {
    const NAME: &'static str = "plain";
    type Element = f32;
    const ROW_SCALE: bool = false;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(_: usize) -> usize {
        0
    }

    fn prepare(_: Isa, x: &[f32], row: &mut [f32], _: &mut [f32], _: &mut Vec<i16>) {
        row[..x.len()].copy_from_slice(x);
    }
}

/// Rounded to bf16, halves to even, and kept as f32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Rows;

impl RowForm for Bf16Rows {
    const NAME: &'static str = "bf16";
    type Element = f32;
    const ROW_SCALE: bool = false;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(_: usize) -> usize {
        0
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [f32], _: &mut [f32], _: &mut Vec<i16>) {
        dispatch!(isa, t => t.run(|| round_to_bf16(x, row)));
    }
}

#[inline(always)]
fn round_to_bf16(x: &[f32], row: &mut [f32]) {
    for (out, &x) in row.iter_mut().zip(x) {
        *out = nearest_bf16(x);
    }
}

#[inline(always)]
pub(super) fn nearest_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    // a NaN is cut, which may not make it infinite
    let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits + 0x7fff + (bits >> 16 & 1) };
    f32::from_bits(rounded & 0xffff_0000)
}

/// f32 rows that the f32 kernels multiply.
pub(crate) trait F32Rows: RowForm<Element = f32> {
    const FMA: &'static str;
    #[cfg(target_arch = "x86_64")]
    const PERMUTED: &'static str;
}

impl F32Rows for PlainRows {
    const FMA: &'static str = "f32-fma";
    #[cfg(target_arch = "x86_64")]
    const PERMUTED: &'static str = "f32-permuted-tables";
}

impl F32Rows for Bf16Rows {
    const FMA: &'static str = "bf16-fma";
    #[cfg(target_arch = "x86_64")]
    const PERMUTED: &'static str = "bf16-permuted-tables";
}

/// 16-bit integers with one scale a row, such that no sum of magnitudes over a block of 128 exceeds `i16::MAX`.
#[derive(Clone, Copy)]
pub(crate) struct Int16Rows;

impl RowForm for Int16Rows {
    const NAME: &'static str = "int16";
    type Element = i16;
    const ROW_SCALE: bool = true;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(cols: usize) -> usize {
        1 + sums(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i16], scales: &mut [f32], _: &mut Vec<i16>) {
        dispatch!(isa, t => t.work(Int16Row { x, row, scales }));
    }
}

struct Int16Row<'a> {
    x: &'a [f32],
    row: &'a mut [i16],
    scales: &'a mut [f32],
}

impl Work for Int16Row<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let (scale, sums) = self.scales.split_at_mut(1);
        scale[0] = quantize_int16(self.x, self.row);
        sum_codes(self.row, sums);
    }
}

/// Sums of the codes over each [`SUMMED`] inputs.
#[inline(always)]
pub(super) fn sum_codes<C: Copy + Into<i32>>(codes: &[C], sums: &mut [f32]) {
    for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(SUMMED)) {
        *sum = codes.iter().map(|&code| code.into()).sum::<i32>() as f32;
    }
}

/// Codes and scale of one row; see [`Int16Rows`]. A row that is not finite becomes zeros with a scale that is not.
#[inline(always)]
pub(super) fn quantize_int16(x: &[f32], row: &mut [i16]) -> f32 {
    // loops, since what a library's closures call is not compiled for these instructions
    let mut largest = 0.0;
    for block in x.chunks(BLOCK) {
        largest = largest_or_nan(largest, l1(block));
    }
    let scale = largest / LARGEST_L1;
    if !(scale > 0.0 && scale.is_finite()) {
        row.fill(0);
        return scale;
    }
    let inverse = 1.0 / scale;
    for (x, out) in x.iter().zip(row) {
        *out = nearest(x * inverse) as i16;
    }
    scale
}

/// The sum of magnitudes, in the same order on every instruction set.
#[inline(always)]
fn l1(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (lanes, rest) = x.as_chunks::<16>();
    for x in lanes {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.abs();
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x.abs();
    }
    sums.iter().sum()
}

#[inline(always)]
fn largest_or_nan(a: f32, b: f32) -> f32 {
    if a >= b || a.is_nan() { a } else { b }
}

/// The nearest integer of a number below 2^22, ties to even.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}

/// Integers in bytes, of as many bits as the precision says, with one scale for each block of 128, or the same scale for all blocks of a row.
#[derive(Clone, Copy)]
pub(crate) struct Int8Rows<const WHOLE_ROW: bool>;

impl<const WHOLE_ROW: bool> RowForm for Int8Rows<WHOLE_ROW> {
    const NAME: &'static str = if WHOLE_ROW { "int8-row" } else { "int8" };
    type Element = i8;
    const ROW_SCALE: bool = false;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(cols: usize) -> usize {
        blocks(cols) + sums(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i8], scales: &mut [f32], spare: &mut Vec<i16>) {
        Self::prepare_for(ActivationPrecision::Int8, isa, x, row, scales, spare);
    }

    fn prepare_for(
        precision: ActivationPrecision,
        isa: Isa,
        x: &[f32],
        row: &mut [i8],
        scales: &mut [f32],
        _: &mut Vec<i16>,
    ) {
        let most = match precision {
            ActivationPrecision::Int4 => Some(7.0),
            ActivationPrecision::Int2 => Some(1.0),
            ActivationPrecision::Binary => None,
            _ => Some(127.0),
        };
        dispatch!(isa, t => t.work(Int8Row { t, x, row, scales, whole_row: WHOLE_ROW, most }));
    }
}

struct Int8Row<'a, T> {
    t: T,
    x: &'a [f32],
    row: &'a mut [i8],
    scales: &'a mut [f32],
    whole_row: bool,
    /// The largest code; signs alone if there is none.
    most: Option<f32>,
}

impl<T: Token> Work for Int8Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let (scales, sums) = self.scales.split_at_mut(blocks(self.x.len()));
        match self.most {
            Some(most) => quantize_int8(self.x, self.row, scales, self.whole_row, most),
            None => {
                for (out, &x) in self.row.iter_mut().zip(self.x) {
                    *out = if x >= 0.0 { 1 } else { -1 };
                }
                scales.fill(mean_magnitude(self.t, self.x));
            }
        }
        sum_codes(self.row, sums);
    }
}

/// The codes of [`Int8Rows`] as 16-bit integers, of which tables are made, with a scale for each block.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct WideInt8Rows;

#[cfg(target_arch = "x86_64")]
impl RowForm for WideInt8Rows {
    const NAME: &'static str = "wide-int8";
    type Element = i16;
    const ROW_SCALE: bool = false;

    fn len(cols: usize) -> usize {
        padded(cols)
    }

    fn scales(cols: usize) -> usize {
        blocks(cols)
    }

    fn prepare(isa: Isa, x: &[f32], row: &mut [i16], scales: &mut [f32], spare: &mut Vec<i16>) {
        Self::prepare_for(ActivationPrecision::Int8, isa, x, row, scales, spare);
    }

    fn prepare_for(
        precision: ActivationPrecision,
        isa: Isa,
        x: &[f32],
        row: &mut [i16],
        scales: &mut [f32],
        spare: &mut Vec<i16>,
    ) {
        let mut codes = vec![0; Int8Rows::<false>::len(x.len())];
        let mut beside = vec![0.0; Int8Rows::<false>::scales(x.len())];
        Int8Rows::<false>::prepare_for(precision, isa, x, &mut codes, &mut beside, spare);
        for (wide, &code) in row.iter_mut().zip(&codes) {
            *wide = code.into();
        }
        scales.copy_from_slice(&beside[..scales.len()]);
    }
}

/// Codes `-most..=most` with scales `max|x| / most`, halves rounded to even.
#[inline(always)]
pub(super) fn quantize_int8(x: &[f32], row: &mut [i8], scales: &mut [f32], whole_row: bool, most: f32) {
    let mut of_row = 0.0;
    for block in x.chunks(BLOCK) {
        of_row = largest_or_nan(of_row, largest_magnitude(block));
    }
    for ((x, row), scale) in x.chunks(BLOCK).zip(row.chunks_mut(BLOCK)).zip(&mut *scales) {
        let largest = if whole_row { of_row } else { largest_magnitude(x) };
        *scale = largest / most;
        if *scale > 0.0 && scale.is_finite() {
            for (x, out) in x.iter().zip(row) {
                // a true division, as it is recorded: its result rounds to no more than `most`
                *out = nearest(x / *scale) as i8;
            }
        }
    }
}

#[inline(always)]
pub(super) fn largest_magnitude(x: &[f32]) -> f32 {
    let mut largest = [0.0f32; 16];
    let (lanes, rest) = x.as_chunks::<16>();
    for x in lanes {
        for (largest, x) in largest.iter_mut().zip(x) {
            *largest = largest_or_nan(*largest, x.abs());
        }
    }
    for (largest, x) in largest.iter_mut().zip(rest) {
        *largest = largest_or_nan(*largest, x.abs());
    }
    largest.into_iter().fold(0.0, largest_or_nan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_rows_stand_side_by_side() {
        let lines = 3;
        let rows: Vec<u8> = (0..TOGETHER * lines * LINE).map(|i| (i / LINE) as u8).collect();
        let mut mixed = vec![0; rows.len()];
        interleave(&rows, &mut mixed);
        for (i, line) in mixed.chunks_exact(LINE).enumerate() {
            let (row, line_of_row) = (i % TOGETHER, i / TOGETHER);
            assert!(line.iter().all(|&byte| usize::from(byte) == row * lines + line_of_row));
        }
    }
}
