//! Products of tiles (AMX) behind the driver.

use std::ops::Range;

use super::codes::{Codes, Meaning, fetch_words};
use super::each_code_kind;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, Int8Rows, RowForm, SUMMED};
use super::split_rows::{Bf16Lines, BytePairs};
use crate::int_tile::{Bytes, Digits, IntTile, LANES, Pairs, Products};
use crate::isa::{Amx, Avx512Vnni, Token, Work};
use crate::weights::Weights;
use crate::x86_64::amx::{Blocks, COLUMNS, Factors, LINE, ROWS, RowGroup, Schedule, TILE_WORDS, group_len};

/// Rows and weights multiplied as `S` says.
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
        let Meaning { depth, zero, .. } = Meaning::of(weights);
        let mut rest = panel;
        for inputs in groups(inputs, depth) {
            let (panel, behind) = rest.split_at_mut(group_len::<S>(steps::<S>(inputs.len())));
            let (tiles, floats) = panel.split_at_mut(panel.len() - S::FLOATS);
            floats.fill(0);
            let panel = (tiles, bytemuck::must_cast_slice_mut(floats));
            each_code_kind!(weights, w => match S::FACTORS {
                Factors::Bf16 => {
                    lay_out::<Pairs, _>(self.0, w, first_column, inputs, panel, zero, to_bf16);
                }
                _ => lay_out::<Bytes, _>(self.0, w, first_column, inputs, panel, 0, |digits, tile| {
                    to_bytes(zero, digits, tile);
                }),
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

/// A body that is compiled for the instruction set.
struct LayOut<F>(F);

impl<F: FnOnce()> Work for LayOut<F> {
    type Output = ();
    #[inline(always)]
    fn work(self) {
        (self.0)();
    }
}

/// Lays out one group of [`COLUMNS`] columns: tiles `[steps][2]`, which `convert` makes of words of digits that count from
/// `zero`, and floats behind them, which are zeros before.
fn lay_out<P: Products, W: Codes>(
    t: Amx,
    weights: &W,
    first_column: usize,
    inputs: Range<usize>,
    panel: (&mut [u32], &mut [f32]),
    zero: i32,
    convert: impl Fn(&[u32; TILE_WORDS], &mut [u32; TILE_WORDS]),
) where
    Avx512Vnni: IntTile<P>,
{
    t.work(LayOut(
        #[inline(always)]
        || {
            let (tiles, floats) = panel;
            let group = inputs.start / weights.group_size();
            let (scales, biases) = floats.split_at_mut(COLUMNS);
            weights.gather_scales(t, first_column, group, scales);
            weights.gather_biases(t, first_column, group, biases);
            let tiles = tiles.as_chunks_mut::<TILE_WORDS>().0;
            let how = Digits { bits: W::BITS, step: W::STEP, zero };
            let mut words = [[0; LANES]; BLOCK * 8 / 32];
            let words = &mut words[..(inputs.len() * W::BITS).div_ceil(32)];
            let mut digits = [[0; TILE_WORDS]; BLOCK / (LINE / 4)];
            let rows = inputs.len().div_ceil(P::DEPTH);
            for half in 0..COLUMNS / LANES {
                fetch_words(t, weights, first_column + half * LANES, inputs.start * W::BITS / 32, words);
                t.lower().lower().spread(how, words, &mut digits.as_flattened_mut()[..rows * LANES], LANES);
                let digits = &digits[..rows.div_ceil(LANES)];
                for (digits, tiles) in digits.iter().zip(tiles.chunks_exact_mut(2)) {
                    convert(digits, &mut tiles[half]);
                }
            }
        },
    ));
}

/// Digits less what they count from, in bytes that may have a sign.
#[inline(always)]
fn to_bytes(zero: i32, digits: &[u32; TILE_WORDS], tile: &mut [u32; TILE_WORDS]) {
    let from: &[u8] = bytemuck::must_cast_slice(digits);
    let to: &mut [u8] = bytemuck::must_cast_slice_mut(tile);
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.wrapping_sub(zero as u8);
    }
}

/// Digits of 8 bits and a sign, which bf16 holds.
#[inline(always)]
fn to_bf16(digits: &[u32; TILE_WORDS], tile: &mut [u32; TILE_WORDS]) {
    for (word, &pair) in tile.iter_mut().zip(digits) {
        let [low, high] = [pair as i16, (pair >> 16) as i16].map(|digit| f32::from(digit).to_bits());
        *word = low >> 16 | high & 0xffff_0000;
    }
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
