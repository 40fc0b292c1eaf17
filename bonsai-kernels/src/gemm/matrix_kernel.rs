//! Products of tiles (AMX) behind the driver.

use std::ops::Range;

use super::codes::{Codes, Meaning, fetch_words};
use super::each_code_kind;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, Int8Rows, RowForm, SUMMED};
use super::split_rows::{Bf16Lines, BytePairs};
use crate::int_tile::{Bytes, Digits, IntTile, LANES, Pairs};
use crate::isa::{Amx, Token, Work};
use crate::weights::Weights;
use crate::x86_64::amx::{Blocks, COLUMNS, Factors, LINE, ROWS, RowGroup, Schedule, TILE_WORDS, group_len};

/// Rows in the form `R`, weights laid out in planes, multiplied as `S` says.
#[derive(Clone, Copy)]
pub(crate) struct MatrixKernel<S>(pub(crate) Amx, pub(crate) S);

/// The most groups of one pass over the sums.
const MOST_GROUPS: usize = 4;

/// How codes become tiles, and which rows meet them.
pub(crate) trait MatrixWeights: Schedule {
    const METHOD: &'static str;
    type Rows: RowForm<Element: bytemuck::Pod>;
    /// Inputs of one pass over the sums: their panel stays in the first-level cache.
    const PASS: usize = 64 * MOST_GROUPS;
    /// The sums of codes of a row over each [`SUMMED`] inputs, among what is kept beside it.
    fn sums(_scales: &[f32]) -> &[f32] {
        &[]
    }
}

/// Inputs of one step.
const fn step_inputs<S: Schedule>() -> usize {
    match S::FACTORS {
        Factors::SignedBytes | Factors::UnsignedBytes => LINE,
        Factors::Bf16 => LINE / 2,
    }
}

fn steps<S: Schedule>(inputs: usize) -> usize {
    inputs.div_ceil(step_inputs::<S>())
}

/// The groups of a pass.
fn groups(inputs: Range<usize>, depth: usize) -> impl Iterator<Item = Range<usize>> {
    inputs.clone().step_by(depth).map(move |start| start..inputs.end.min(start + depth))
}

impl<S: MatrixWeights> Microkernel<Weights> for MatrixKernel<S> {
    const NAME: &'static str = S::METHOD;
    const MR: usize = ROWS;
    const ROWS: usize = 1536;
    const TILES_BY_PANELS: Option<usize> = Some(384 / ROWS);
    // all columns of a task: their sums pass by once for each pass over the inputs
    const COLUMNS: usize = 512;
    type Rows = S::Rows;
    /// What is known of each row and group.
    type Operand = f32;
    /// Tiles, and floats as bits.
    type Panel = u32;

    fn depth(self, weights: &Weights) -> usize {
        let depth = Meaning::of(weights).depth;
        (S::PASS / depth).max(1) * depth
    }

    fn width(self, _: usize) -> usize {
        COLUMNS
    }

    fn panel_len(self, weights: &Weights, _: usize, depth: usize) -> usize {
        let groups = groups(0..depth, Meaning::of(weights).depth);
        groups.map(|group| group_len::<S>(steps::<S>(group.len()))).sum()
    }

    fn operand_len(self, _: usize) -> usize {
        MOST_GROUPS * size_of::<RowGroup>() / size_of::<f32>()
    }

    fn prepare_weights(
        self,
        weights: &Weights,
        first_column: usize,
        _: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        let mut rest = panel;
        for inputs in groups(inputs, Meaning::of(weights).depth) {
            let (panel, behind) = rest.split_at_mut(group_len::<S>(steps::<S>(inputs.len())));
            let (tiles, values) = panel.split_at_mut(panel.len() - S::FLOATS);
            values.fill(0);
            let values = bytemuck::must_cast_slice_mut(values);
            each_code_kind!(weights, w => match S::FACTORS {
                Factors::Bf16 => lay_out_bf16(self.0, w, first_column, inputs, tiles, values),
                _ => lay_out_bytes(self.0, w, first_column, inputs, tiles, values),
            });
            rest = behind;
        }
    }

    fn prepare_tile(
        self,
        weights: &Weights,
        rows: TileRows<'_, <S::Rows as RowForm>::Element>,
        inputs: Range<usize>,
        operand: &mut [f32],
    ) {
        let operand: &mut [RowGroup] = bytemuck::cast_slice_mut(operand);
        for ([of_scales, of_sums], inputs) in
            operand.iter_mut().zip(groups(inputs, Meaning::of(weights).depth))
        {
            for m in 0..if S::ROW_SCALES || S::BIASES { ROWS } else { 0 } {
                let beside = &rows.scales[m * rows.scales_len..][..rows.scales_len];
                if S::ROW_SCALES {
                    of_scales[m] = beside[inputs.start / BLOCK];
                }
                if S::BIASES {
                    let sums = &S::sums(beside)[inputs.start / SUMMED..inputs.end.div_ceil(SUMMED)];
                    of_sums[m] = sums.iter().sum();
                }
            }
        }
    }

    fn multiply(
        self,
        weights: &Weights,
        tile: Tile<'_, Self, Weights>,
        inputs: Range<usize>,
        _: usize,
        acc: &mut [f32],
    ) {
        let TileRows { rows, row_len, .. } = tile.rows;
        let (mut group_steps, mut count) = ([0; MOST_GROUPS], 0);
        for (steps_of, inputs) in
            group_steps.iter_mut().zip(groups(inputs.clone(), Meaning::of(weights).depth))
        {
            *steps_of = steps::<S>(inputs.len());
            count += 1;
        }
        let blocks = Blocks {
            rows: bytemuck::cast_slice(&rows[inputs.start * S::LINES..]),
            row_stride: row_len * size_of::<<S::Rows as RowForm>::Element>(),
            steps: &group_steps[..count],
            panel: tile.panels,
            row_groups: bytemuck::cast_slice(tile.operand),
            groups_apart: MOST_GROUPS,
            tiles: tile.tiles,
            acc_stride: tile.acc_stride,
        };
        self.0.multiply(self.1, blocks, acc);
    }
}

/// Codes of the 16 columns of each tile as words of digits: what all layouts of codes begin with. Calls `place` with the
/// number of the tile of columns and the words of all its steps.
#[inline(always)]
fn spread_codes<P: crate::int_tile::Products, W: Codes>(
    t: Amx,
    how: Digits,
    weights: &W,
    first_column: usize,
    inputs: &Range<usize>,
    mut place: impl FnMut(usize, &[[u32; TILE_WORDS]]),
) where
    crate::isa::Avx512Vnni: IntTile<P>,
{
    let mut words = [[0; LANES]; BLOCK * 8 / 32];
    let words = &mut words[..(inputs.len() * W::BITS).div_ceil(32)];
    let mut digits = [[0; TILE_WORDS]; BLOCK / (LINE / 4)];
    let rows = inputs.len().div_ceil(P::DEPTH);
    let tiles = rows.div_ceil(LANES);
    for half in 0..COLUMNS / LANES {
        fetch_words(weights, first_column + half * LANES, inputs.start * W::BITS / 32, words);
        t.lower().lower().spread(how, words, &mut digits.as_flattened_mut()[..rows * LANES], LANES);
        place(half, &digits[..tiles]);
    }
}

/// Scales and biases of a group.
#[inline(always)]
fn gather<W: Codes>(weights: &W, first_column: usize, inputs: &Range<usize>, floats: &mut [f32]) {
    let group = inputs.start / weights.group_size();
    let (scales, biases) = floats.split_at_mut(COLUMNS);
    weights.gather_scales(first_column, group, scales);
    weights.gather_biases(first_column, group, biases);
}

/// A body that is compiled for the instruction set.
struct LayOut<F>(F);

impl<F: FnOnce()> Work for LayOut<F> {
    type Output = ();
    #[inline(always)]
    fn work(self) {
        (self.0)();
    }
}

/// Lays out one group of [`COLUMNS`] columns: tiles `[steps][2]` of bytes, and floats behind them, which are zeros before.
fn lay_out_bytes<W: Codes>(
    t: Amx,
    weights: &W,
    first_column: usize,
    inputs: Range<usize>,
    tiles: &mut [u32],
    floats: &mut [f32],
) {
    t.work(LayOut(
        #[inline(always)]
        || {
            gather(weights, first_column, &inputs, floats);
            let tiles = tiles.as_chunks_mut::<TILE_WORDS>().0;
            let how = Digits { bits: W::BITS, step: W::STEP, zero: 0 };
            spread_codes::<Bytes, W>(t, how, weights, first_column, &inputs, |half, digits| {
                for (digits, tiles) in digits.iter().zip(tiles.chunks_exact_mut(2)) {
                    let from: &[u8] = bytemuck::must_cast_slice(digits);
                    let to: &mut [u8] = bytemuck::must_cast_slice_mut(&mut tiles[half]);
                    for (to, &from) in to.iter_mut().zip(from) {
                        *to = from.wrapping_sub(W::ZERO as u8);
                    }
                }
            });
        },
    ));
}

/// The same with tiles of bf16.
fn lay_out_bf16<W: Codes>(
    t: Amx,
    weights: &W,
    first_column: usize,
    inputs: Range<usize>,
    tiles: &mut [u32],
    floats: &mut [f32],
) {
    t.work(LayOut(
        #[inline(always)]
        || {
            gather(weights, first_column, &inputs, floats);
            let tiles = tiles.as_chunks_mut::<TILE_WORDS>().0;
            let how = Digits { bits: W::BITS, step: W::STEP, zero: W::ZERO };
            spread_codes::<Pairs, W>(t, how, weights, first_column, &inputs, |half, digits| {
                for (digits, tiles) in digits.iter().zip(tiles.chunks_exact_mut(2)) {
                    for (word, &pair) in tiles[half].iter_mut().zip(digits) {
                        let [low, high] =
                            [pair as i16, (pair >> 16) as i16].map(|digit| f32::from(digit).to_bits());
                        *word = low >> 16 | high & 0xffff_0000;
                    }
                }
            });
        },
    ));
}

/// 16-bit codes in pairs of bytes times codes of weights in bytes, which have a sign where there are no biases.
#[derive(Clone, Copy)]
pub(crate) struct Int16Codes<const BIASED: bool>;

impl<const BIASED: bool> Schedule for Int16Codes<BIASED> {
    const FACTORS: Factors = bytes(BIASED);
    const BYTE_PAIRS: bool = true;
    const BIASES: bool = BIASED;
}

/// Codes of one byte times such codes of weights.
#[derive(Clone, Copy)]
pub(crate) struct Int8Codes<const WHOLE_ROW: bool, const BIASED: bool>;

impl<const WHOLE_ROW: bool, const BIASED: bool> Schedule for Int8Codes<WHOLE_ROW, BIASED> {
    const FACTORS: Factors = bytes(BIASED);
    const ROW_SCALES: bool = true;
    const BIASES: bool = BIASED;
}

const fn bytes(biased: bool) -> Factors {
    if biased { Factors::UnsignedBytes } else { Factors::SignedBytes }
}

impl<const BIASED: bool> MatrixWeights for Int16Codes<BIASED> {
    const METHOD: &'static str = "int16-tiles";
    type Rows = BytePairs;

    fn sums(scales: &[f32]) -> &[f32] {
        &scales[1..]
    }
}

impl<const WHOLE_ROW: bool, const BIASED: bool> MatrixWeights for Int8Codes<WHOLE_ROW, BIASED> {
    const METHOD: &'static str = if WHOLE_ROW { "int8-row-tiles" } else { "int8-tiles" };
    type Rows = Int8Rows<WHOLE_ROW>;

    fn sums(scales: &[f32]) -> &[f32] {
        // a scale and some sums for each block
        &scales[scales.len() / (1 + BLOCK / SUMMED)..]
    }
}

/// bf16 times codes, which bf16 holds.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Codes<const BIASED: bool>;

impl<const BIASED: bool> Schedule for Bf16Codes<BIASED> {
    const FACTORS: Factors = Factors::Bf16;
    const BIASES: bool = BIASED;
}

impl<const BIASED: bool> MatrixWeights for Bf16Codes<BIASED> {
    const METHOD: &'static str = "bf16-tiles";
    type Rows = Bf16Lines;

    fn sums(scales: &[f32]) -> &[f32] {
        scales
    }
}
