//! Products of tiles (AMX) behind the driver.

use std::ops::Range;

use super::codes::{Codes, Meaning, fetch_words};
use super::driver::Blocking;
use super::each_code_kind;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{BLOCK, RowForm, SUMMED};
use super::split_rows::{self, Bf16Lines, Bf16Pairs, Int8Lines};
use crate::int_tile::{Digits, LANES};
use crate::isa::{Amx, Token, Work};
use crate::weights::Weights;
use crate::x86_64::amx::{
    Blocks, BytePairs, Bytes, COLUMNS, Halves, LINE, ROWS, RowGroup, Schedule, group_len, words,
};

/// Rows and weights multiplied as `S` says.
#[derive(Clone, Copy)]
pub(crate) struct MatrixKernel<S>(pub(crate) Amx, pub(crate) S);

/// How rows meet weights.
pub(crate) trait MatrixWeights: Copy + Send + Sync + 'static {
    const METHOD: &'static str;
    /// Lines of rows for each step.
    const LINES: usize = 1;
    type Products: Schedule;
    type Rows: RowForm<Element: bytemuck::Pod>;
    /// The sums of codes of a row over each [`SUMMED`] inputs, among what is kept beside it.
    fn sums(_scales: &[f32]) -> &[f32] {
        &[]
    }
}

/// Tiles of rows that a panel meets once its group is spread.
const TILES: usize = 4;
/// Bytes of a row in one pass over the sums: [`TILES`] tiles of such rows take less than half of the second-level cache.
const PASS_BYTES: usize = 6144;
/// Inputs in one pass of columns of more than two bits, whose codes take the room that rows leave.
const PASS_OF_CODES: usize = 1024;
/// Groups of one pass: the smallest have one step.
const MOST_GROUPS: usize = PASS_BYTES / LINE;

/// Laying out the weights of a task takes as long as multiplying so many rows.
const LAYING_OUT: usize = 48;

fn steps<P: Schedule>(inputs: usize) -> usize {
    inputs.div_ceil(P::FACTORS.inputs())
}

/// The groups of a pass.
fn groups(inputs: Range<usize>, depth: usize) -> impl Iterator<Item = Range<usize>> {
    inputs.clone().step_by(depth).map(move |start| start..inputs.end.min(start + depth))
}

/// Inputs of one pass.
fn pass<S: MatrixWeights>(bits: usize) -> usize {
    let bytes = S::LINES * LINE / S::Products::FACTORS.inputs();
    let inputs = PASS_BYTES / bytes;
    if bits > 2 { inputs.min(PASS_OF_CODES) } else { inputs }
}

impl<S: MatrixWeights> Microkernel<Weights> for MatrixKernel<S> {
    const NAME: &'static str = S::METHOD;
    const MR: usize = ROWS;
    const ROWS: usize = 6 * TILES * ROWS;
    const TILES_BY_PANELS: Option<usize> = Some(TILES);
    const BEGINS: bool = true;
    const COLUMNS: usize = 1024;
    type Rows = S::Rows;
    /// What is known of each row and group.
    type Operand = f32;
    /// Codes, and floats as bits.
    type Panel = u32;

    fn task(self, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
        let kernel = Blocking {
            rows: <Self as Microkernel<Weights>>::ROWS,
            // tasks enough that a core whose tile unit is held back does not keep the others waiting
            columns: <Self as Microkernel<Weights>>::COLUMNS,
            tile: (ROWS, COLUMNS),
            laying_out: LAYING_OUT,
            building: 0,
        };
        kernel.task(rows, columns, threads)
    }

    fn depth(self, weights: &Weights) -> usize {
        let Meaning { depth, bits, .. } = Meaning::of(weights);
        (pass::<S>(bits) / depth).max(1) * depth
    }

    fn width(self, _: usize) -> usize {
        COLUMNS
    }

    fn panel_len(self, weights: &Weights, _: usize, depth: usize) -> usize {
        let Meaning { depth: group, bits, .. } = Meaning::of(weights);
        groups(0..depth, group)
            .map(|group| group_len::<S::Products>(bits, steps::<S::Products>(group.len())))
            .sum()
    }

    fn operand_len(self, _: usize) -> usize {
        if S::Products::ROW_SCALES || S::Products::BIASES {
            MOST_GROUPS * size_of::<RowGroup>() / size_of::<f32>()
        } else {
            0
        }
    }

    fn prepare_weights(
        self,
        weights: &Weights,
        first_column: usize,
        _: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        let Meaning { depth, bits, .. } = Meaning::of(weights);
        let mut rest = panel;
        for inputs in groups(inputs, depth) {
            let steps = steps::<S::Products>(inputs.len());
            let (panel, behind) = rest.split_at_mut(group_len::<S::Products>(bits, steps));
            let (codes, floats) = panel.split_at_mut(panel.len() - S::Products::FLOATS);
            floats.fill(0);
            let codes = codes.as_chunks_mut().0;
            let panel = (codes, bytemuck::must_cast_slice_mut(floats));
            let words = words(S::Products::FACTORS, bits, steps);
            each_code_kind!(weights, w => {
                self.0.work(LayOut { t: self.0, weights: w, first_column, inputs, words, panel });
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
            for m in 0..ROWS {
                let beside = &rows.scales[m * rows.scales_len..][..rows.scales_len];
                if S::Products::ROW_SCALES {
                    of_scales[m] = beside[inputs.start / BLOCK];
                }
                if S::Products::BIASES {
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
        let TileRows { rows, row_len, scales, scales_len } = tile.rows;
        let Meaning { depth, bits, step, zero, .. } = Meaning::of(weights);
        let (mut group_steps, mut count) = ([0; MOST_GROUPS], 0);
        for (steps_of, inputs) in group_steps.iter_mut().zip(groups(inputs.clone(), depth)) {
            *steps_of = steps::<S::Products>(inputs.len());
            count += 1;
        }
        let mut joined = [false; TILES];
        if S::Products::BYTE_PAIRS {
            // the last of each row's scales, which is the same for all rows of a tile
            for (joined, scales) in joined.iter_mut().zip(scales.chunks(ROWS * scales_len)) {
                *joined = scales[scales_len - 1] > 0.0;
            }
        }
        let rows: &[u8] = bytemuck::cast_slice(rows);
        let blocks = Blocks {
            tiles: tile.tiles,
            lines: S::LINES,
            rows: &rows[steps::<S::Products>(inputs.start) * S::LINES * ROWS * LINE..],
            rows_apart: ROWS * row_len * size_of::<<S::Rows as RowForm>::Element>(),
            joined: &joined,
            steps: &group_steps[..count],
            panel: tile.panels,
            digits: Digits { bits, step, zero },
            row_groups: bytemuck::cast_slice(tile.operand),
            groups_apart: MOST_GROUPS,
            acc_stride: tile.acc_stride,
            begins: tile.begins,
        };
        self.0.multiply::<S::Products>(blocks, acc);
    }
}

/// Lays out one group of [`COLUMNS`] columns: codes `[halves][words]`, and floats, which are zeros before.
struct LayOut<'a, W> {
    t: Amx,
    weights: &'a W,
    first_column: usize,
    inputs: Range<usize>,
    words: usize,
    panel: (&'a mut [[u32; LANES]], &'a mut [f32]),
}

impl<W: Codes> Work for LayOut<'_, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { t, weights, first_column, inputs, words, panel: (codes, floats) } = self;
        let group = inputs.start / weights.group_size();
        let (scales, biases) = floats.split_at_mut(COLUMNS);
        weights.gather_scales(t, first_column, group, scales);
        weights.gather_biases(t, first_column, group, biases);
        for (half, codes) in codes.chunks_exact_mut(words).enumerate() {
            fetch_words(t, weights, first_column + half * LANES, inputs.start * W::BITS / 32, codes);
        }
    }
}

/// 16-bit codes times signs.
#[derive(Clone, Copy)]
pub(crate) struct Int16Signs;

impl MatrixWeights for Int16Signs {
    const METHOD: &'static str = "int16-tiles";
    const LINES: usize = 2;
    type Products = BytePairs;
    type Rows = split_rows::BytePairs;
}

/// 16-bit codes times codes of weights. The f32 sums are those of integers, which are exact: a group of codes of eight bits
/// makes less than 2^24. In bytes there would be sums of high and of low ones, which take more time to bring out and to add
/// than the products do.
#[derive(Clone, Copy)]
pub(crate) struct Int16Codes;

impl MatrixWeights for Int16Codes {
    const METHOD: &'static str = "int16-tiles";
    const LINES: usize = 2;
    type Products = Halves<true>;
    type Rows = Bf16Pairs;

    fn sums(scales: &[f32]) -> &[f32] {
        &scales[1..]
    }
}

/// Codes of one byte times such codes of weights, which have a sign where there are no biases.
#[derive(Clone, Copy)]
pub(crate) struct Int8Codes<const BIASED: bool>;

impl<const BIASED: bool> MatrixWeights for Int8Codes<BIASED> {
    const METHOD: &'static str = "int8-tiles";
    type Products = Bytes<BIASED>;
    type Rows = Int8Lines;

    fn sums(scales: &[f32]) -> &[f32] {
        // a scale and some sums for each block
        &scales[scales.len() / (1 + BLOCK / SUMMED)..]
    }
}

/// bf16 times codes, which bf16 holds.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Codes<const BIASED: bool>;

impl<const BIASED: bool> MatrixWeights for Bf16Codes<BIASED> {
    const METHOD: &'static str = "bf16-tiles";
    type Products = Halves<BIASED>;
    type Rows = Bf16Lines;

    fn sums(scales: &[f32]) -> &[f32] {
        scales
    }
}
