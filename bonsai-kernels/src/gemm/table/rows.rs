use bytemuck::Pod;

use super::super::precision::ActivationPrecision;
use super::super::rows::{BLOCK, Bf16Rows, Int8Rows, RowForm, quantize_int16};
use super::super::source::Source;
use super::{QUAD, transpose};
use crate::Cpu;
use crate::aligned::{AlignedBuf, Element};
use crate::error::Result;
use crate::isa::{Isa, Token, Work, dispatch};
use crate::spare::SpareBuf;
use crate::table::{Lanes, TableTile};

/// Activations in tiles of as many rows as an entry has lanes, input by input: `[tiles][inputs][LANES]`.
pub(crate) struct TableRows<N: Element> {
    data: SpareBuf<N>,
    /// Of rows, `[tiles][LANES]`, or of the blocks of rows, `[tiles][blocks][LANES]`.
    scales: AlignedBuf<f32>,
    scale_blocks: bool,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Numbers that tables are made of, and how activations become such numbers.
pub(crate) trait TableNumber: Element + Pod + Default {
    /// Tells the forms of one set of activations apart.
    const TILES: &'static str;
    /// Whether sums over a block of 128 are exact, so that they may wait for its end.
    const EXACT: bool;
    /// Numbers of a row, into `row`, and its scales: one for each block, all the same where a row has one scale.
    fn prepare(precision: ActivationPrecision, isa: Isa, x: &[f32], row: &mut [Self], scales: &mut [f32]);
    /// Whether a precision has a scale for each block.
    fn scales_blocks(precision: ActivationPrecision) -> bool;
}

impl TableNumber for f32 {
    const TILES: &'static str = "tiles of floats";
    const EXACT: bool = false;

    fn prepare(precision: ActivationPrecision, isa: Isa, x: &[f32], row: &mut [f32], scales: &mut [f32]) {
        match precision {
            ActivationPrecision::Bf16 => Bf16Rows::prepare(isa, x, row, &mut [], &mut Vec::new()),
            _ => row[..x.len()].copy_from_slice(x),
        }
        scales.fill(1.0);
    }

    fn scales_blocks(_: ActivationPrecision) -> bool {
        false
    }
}

impl TableNumber for i16 {
    const TILES: &'static str = "tiles of integers";
    const EXACT: bool = true;

    fn prepare(precision: ActivationPrecision, isa: Isa, x: &[f32], row: &mut [i16], scales: &mut [f32]) {
        if precision == ActivationPrecision::Int16 {
            scales.fill(dispatch!(isa, t => t.work(Quantize { x, row })));
            return;
        }
        let mut bytes = vec![0i8; Int8Rows::<false>::len(x.len())];
        let mut byte_scales = vec![0.0; Int8Rows::<false>::scales(x.len())];
        let prepare = match precision {
            ActivationPrecision::Int8Row => Int8Rows::<true>::prepare_for,
            _ => Int8Rows::<false>::prepare_for,
        };
        prepare(precision, isa, x, &mut bytes, &mut byte_scales, &mut Vec::new());
        for (number, &byte) in row.iter_mut().zip(&bytes[..x.len()]) {
            *number = byte.into();
        }
        scales.copy_from_slice(&byte_scales[..scales.len()]);
    }

    fn scales_blocks(precision: ActivationPrecision) -> bool {
        use ActivationPrecision as P;
        matches!(precision, P::Int8 | P::Int4 | P::Int2)
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    row: &'a mut [i16],
}

impl Work for Quantize<'_> {
    type Output = f32;

    #[inline(always)]
    fn work(self) -> f32 {
        quantize_int16(self.x, &mut self.row[..self.x.len()])
    }
}

/// The number of inputs that tiles have: whole blocks, zeros behind the last input.
pub(super) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(BLOCK)
}

impl<N: TableNumber> TableRows<N> {
    pub(in crate::gemm) fn new<T: TableTile<N>>(cpu: &Cpu, _: T, source: Source<'_>) -> Result<Self> {
        let (rows, cols) = (source.nrows(), source.ncols());
        let (tiles, inputs, blocks) = (rows.div_ceil(T::ROWS), padded(cols), padded(cols) / BLOCK);
        let scale_blocks = N::scales_blocks(cpu.precision());
        let tile_len = inputs * T::ROWS;
        let scales_len = if scale_blocks { blocks * T::ROWS } else { T::ROWS };
        let mut data = cpu.spare::<N>(tiles * tile_len)?;
        let mut scales = cpu.buffer(tiles * scales_len)?;
        let parts = data.chunks_exact_mut(tile_len.max(1)).zip(scales.chunks_exact_mut(scales_len.max(1)));
        let tasks: Vec<_> = (0..rows).step_by(T::ROWS).zip(parts).collect();
        cpu.for_each(
            tasks,
            || Ok((cpu.buffer::<N>(tile_len)?, vec![0.0; blocks], Vec::new())),
            |(numbers, row_scales, made), (first, (data, scales))| {
                let count = T::ROWS.min(rows - first);
                for (i, row) in numbers.chunks_exact_mut(inputs).take(count).enumerate() {
                    let x = source.row(cpu.isa(), first + i, made);
                    N::prepare(cpu.precision(), cpu.isa(), x, row, row_scales);
                    for (scales, &scale) in scales.chunks_exact_mut(T::ROWS).zip(&*row_scales) {
                        scales[i] = scale;
                    }
                }
                numbers[count * inputs..].fill(N::default());
                dispatch!(cpu.isa(), t => t.work(Transpose::<T::Lanes> { numbers, inputs, out: data }));
                Ok(())
            },
        )?;
        Ok(Self { data, scales, scale_blocks, rows, cols })
    }

    /// Inputs `first_input..` of a tile.
    pub(super) fn inputs<T: TableTile<N>>(&self, tile: usize, first_input: usize) -> &[N] {
        &self.data[(tile * padded(self.cols) + first_input) * T::ROWS..]
    }

    /// Scales of the rows of a tile for one block, if blocks have their own.
    pub(super) fn block_scales<T: TableTile<N>>(&self, tile: usize, block: usize) -> Option<&[f32]> {
        let blocks = padded(self.cols) / BLOCK;
        self.scale_blocks.then(|| &self.scales[(tile * blocks + block) * T::ROWS..][..T::ROWS])
    }

    /// Scales that finished sums of a tile are still to be multiplied with, if there are any.
    pub(super) fn row_scales<T: TableTile<N>>(&self, tile: usize) -> Option<&[f32]> {
        (!self.scale_blocks).then(|| &self.scales[tile * T::ROWS..][..T::ROWS])
    }
}

/// `out[input][lane] = numbers[row][input]`
struct Transpose<'a, V: Lanes> {
    numbers: &'a [V::Number],
    inputs: usize,
    out: &'a mut [V::Number],
}

impl<V: Lanes> Work for Transpose<'_, V> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        // a line of inputs of four rows at a time
        const LINE: usize = 16;
        let Self { numbers, inputs, out } = self;
        for first in (0..inputs).step_by(LINE) {
            let out = &mut out[first * V::LANES..][..LINE * V::LANES];
            for first_lane in (0..V::LANES).step_by(QUAD) {
                let lines: [&[V::Number; LINE]; QUAD] = std::array::from_fn(|i| {
                    let row = V::row(first_lane + i);
                    numbers[row * inputs + first..].first_chunk().expect("inputs are whole blocks")
                });
                for part in (0..LINE).step_by(QUAD) {
                    let square = lines.map(|line| *line[part..].first_chunk().expect("a part of a line"));
                    for (i, lanes) in transpose(square).into_iter().enumerate() {
                        out[(part + i) * V::LANES + first_lane..][..QUAD].copy_from_slice(&lanes);
                    }
                }
            }
        }
    }
}
