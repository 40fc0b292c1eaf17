use std::marker::PhantomData;
use std::ops::Range;

use super::driver::Blocking;
use super::microkernel::{Microkernel, Tile, TileRows};
use super::rows::{Int16Rows, RowForm, WideInt8Rows};
use crate::isa::{Avx512Vnni, Isa, Token, Work};
use crate::prefetch::prefetch;
use crate::weights::{BinaryWeights, Scales, TernaryWeights};
use crate::x86_64::columns::ColumnBytes;
use crate::x86_64::permute::{Additions, BLOCK, LANES, Patterns, Permuted, ROWS, SCALE, Signs, Trits, WIDTH};

/// Integer activations times one-bit or ternary weights by tables in registers; sums over a block are the integers that
/// tables in memory give, and products have the same bits.
#[derive(Clone, Copy)]
pub(crate) struct PermuteKernel<F> {
    t: Avx512Vnni,
    additions: Additions,
    rows: PhantomData<F>,
}

impl<F> PermuteKernel<F> {
    pub(crate) fn new(t: Avx512Vnni, _: F) -> Self {
        Self { t, additions: Additions::of(t), rows: PhantomData }
    }
}

/// Rows of integers that tables are made of.
pub(crate) trait TableRows: RowForm<Element = i16> {
    const METHOD: &'static str;
}

impl TableRows for Int16Rows {
    const METHOD: &'static str = "int16-permuted-tables";
}

impl TableRows for WideInt8Rows {
    const METHOD: &'static str = "int8-permuted-tables";
}

/// The instructions.
pub(super) fn of(isa: Isa) -> Option<Avx512Vnni> {
    match isa {
        Isa::Avx512Vnni(t) => Some(t),
        Isa::Avx512Bf16(t) => Some(t.lower()),
        Isa::Amx(t) => Some(t.lower().lower()),
        _ => None,
    }
}

/// The same where they outrun tables in memory.
pub(super) fn fast_of(isa: Isa) -> Option<Avx512Vnni> {
    of(isa).filter(|t| t.permutes_fast())
}

/// Whether groups are made of whole blocks.
pub(super) fn takes(group_size: usize) -> bool {
    group_size.is_multiple_of(BLOCK)
}

/// Weights whose codes permute.
pub(crate) trait PermutedWeights: Sync {
    type Patterns: Patterns;
    fn rows(&self) -> usize;
    fn group_size(&self) -> usize;
    /// The codes of all rows, one behind the other.
    fn codes(&self) -> &[u8];
    fn cols(&self) -> usize;
    /// The scales of all groups of all rows, one row behind the other.
    fn scales(&self) -> &Scales;
    fn gather_scales<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]);
}

macro_rules! permuted_weights {
    ($weights:ty, $patterns:ty) => {
        impl PermutedWeights for $weights {
            type Patterns = $patterns;
            fn rows(&self) -> usize {
                self.rows()
            }
            fn group_size(&self) -> usize {
                self.group_size()
            }
            fn codes(&self) -> &[u8] {
                self.codes()
            }
            fn cols(&self) -> usize {
                self.cols()
            }
            fn scales(&self) -> &Scales {
                self.scales()
            }
            #[inline(always)]
            fn gather_scales<T: Token>(&self, t: T, first_row: usize, group: usize, out: &mut [f32]) {
                self.gather_scales(t, first_row, group, out);
            }
        }
    };
}

permuted_weights!(BinaryWeights, Signs);
permuted_weights!(TernaryWeights, Trits);

/// Blocks of one pass over the sums: tables of more would leave the first-level cache.
const BLOCKS: usize = 2;
/// Laying out codes takes as long as multiplying so many rows.
const LAYING_OUT: usize = 32;
/// Building tables takes as long as multiplying so many columns.
const BUILDING: usize = 224;
const CACHE_LINE: usize = 64;
/// Vectors of columns whose codes are asked for before they are fetched.
const AHEAD: usize = 2;

impl<W: PermutedWeights, F: TableRows> Microkernel<W> for PermuteKernel<F> {
    const NAME: &'static str = F::METHOD;
    const MR: usize = ROWS;
    const ROWS: usize = 512;
    const BEGINS: bool = true;
    // tables of a tile of rows serve so many columns, whose indices stay in the second-level cache
    const COLUMNS: usize = 3072;
    type Rows = F;
    type Operand = i16;
    /// For each block the indices of columns, two in a word, then their scales as bits.
    type Panel = u32;

    fn task(self, rows: usize, columns: usize, threads: usize) -> (usize, usize) {
        let kernel = Blocking {
            rows: <Self as Microkernel<W>>::ROWS,
            columns: <Self as Microkernel<W>>::COLUMNS,
            tile: (ROWS, WIDTH),
            laying_out: LAYING_OUT,
            building: BUILDING,
        };
        kernel.task(rows, columns, threads)
    }

    fn depth(self, _: &W) -> usize {
        if <W::Patterns as Patterns>::PAIRED { BLOCKS * BLOCK } else { BLOCK }
    }

    fn width(self, _: usize) -> usize {
        WIDTH
    }

    fn panel_len(self, _: &W, _: usize, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * block_len::<W>()
    }

    fn operand_len(self, depth: usize) -> usize {
        depth.div_ceil(BLOCK) * Avx512Vnni::tables_len::<W::Patterns>()
    }

    fn prepare_weights(
        self,
        weights: &W,
        first_column: usize,
        _: usize,
        inputs: Range<usize>,
        panel: &mut [u32],
    ) {
        self.t.work(LayOut { t: self.t, weights, first_column, inputs, panel });
    }

    fn prepare_tile(self, _: &W, rows: TileRows<'_, i16>, inputs: Range<usize>, operand: &mut [i16]) {
        // those of the next tile are far from these
        for next in rows.rows.chunks(rows.row_len).skip(ROWS).take(ROWS) {
            for line in inputs.clone().step_by(CACHE_LINE / size_of::<i16>()) {
                prefetch(bytemuck::must_cast_slice(next), line * size_of::<i16>());
            }
        }
        let blocks = operand.chunks_exact_mut(Avx512Vnni::tables_len::<W::Patterns>());
        for (tables, start) in blocks.zip(inputs.step_by(BLOCK)) {
            self.t.build_tables::<W::Patterns>(&rows.rows[start..], rows.row_len, tables);
        }
    }

    fn multiply(self, _: &W, tile: Tile<'_, Self, W>, inputs: Range<usize>, _: usize, acc: &mut [f32]) {
        let blocks = inputs.len().div_ceil(BLOCK);
        let (block_len, tables_len) = (block_len::<W>(), Avx512Vnni::tables_len::<W::Patterns>());
        let panels = tile.panels.chunks_exact(blocks * block_len);
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(ROWS * WIDTH)) {
            let tables = |i: usize| &tile.operand[i * tables_len..][..tables_len];
            let indices = |i: usize| bytemuck::must_cast_slice(&panel[i * block_len..][..block_len - WIDTH]);
            let scales = |i: usize| bytemuck::must_cast_slice(&panel[(i + 1) * block_len - WIDTH..][..WIDTH]);
            if F::ROW_SCALE && <W::Patterns as Patterns>::PAIRED && blocks == BLOCKS {
                let each: [usize; BLOCKS] = std::array::from_fn(|i| i);
                let blocks = Permuted {
                    tables: each.map(tables),
                    indices: each.map(indices),
                    scales: each.map(scales),
                    row_scales: None,
                    first: 0,
                    begins: tile.begins,
                    additions: self.additions,
                };
                self.t.add_permuted::<W::Patterns, BLOCKS>(blocks, acc);
                continue;
            }
            for i in 0..blocks {
                let row_scales = (!F::ROW_SCALE).then(|| {
                    let block = inputs.start / BLOCK + i;
                    std::array::from_fn(|m| tile.rows.scales[m * tile.rows.scales_len + block])
                });
                let block = Permuted {
                    tables: [tables(i)],
                    indices: [indices(i)],
                    scales: [scales(i)],
                    row_scales,
                    first: i,
                    begins: tile.begins && i == 0,
                    additions: self.additions,
                };
                self.t.add_permuted::<W::Patterns, 1>(block, acc);
            }
        }
    }
}

/// Words of one block of a panel.
fn block_len<W: PermutedWeights>() -> usize {
    Avx512Vnni::indices_len::<W::Patterns>() / 2 + WIDTH
}

/// Lays out a panel.
struct LayOut<'a, W> {
    t: Avx512Vnni,
    weights: &'a W,
    first_column: usize,
    inputs: Range<usize>,
    panel: &'a mut [u32],
}

impl<W: PermutedWeights> Work for LayOut<'_, W> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { t, weights, first_column, inputs, panel } = self;
        for first in (0..WIDTH).step_by(LANES) {
            let columns = Columns::new(weights, first_column + first, inputs.start);
            for (panel, start) in panel.chunks_exact_mut(block_len::<W>()).zip(inputs.clone().step_by(BLOCK))
            {
                let (indices, scales) = panel.split_at_mut(block_len::<W>() - WIDTH);
                let indices = bytemuck::must_cast_slice_mut(indices);
                columns.codes(start / BLOCK, |codes, block| {
                    t.lay_out_indices::<W::Patterns>(codes, block, first / LANES, indices);
                });
                let scales: &mut [f32] = &mut bytemuck::must_cast_slice_mut(scales)[first..first + LANES];
                columns.scales(t, start, scales);
                for scale in scales {
                    *scale *= SCALE;
                }
            }
        }
    }
}

/// 32 columns that are laid out.
pub(super) struct Columns<'a, W> {
    weights: &'a W,
    first: usize,
    codes: ColumnBytes<'a>,
}

impl<'a, W: PermutedWeights> Columns<'a, W> {
    /// Those from `first` on, which panels may begin behind the last of. Asks for the codes of columns further on, from
    /// `first_input`.
    #[inline(always)]
    pub(super) fn new(weights: &'a W, first: usize, first_input: usize) -> Self {
        let (all, row_bytes) = (weights.codes(), row_bytes(weights));
        let there = first.min(weights.rows() - 1);
        let count = (weights.rows() - there).min(LANES);
        for lane in 0..LANES {
            // rows are far apart, so that the CPU does not guess which lines come next
            let at = first_input / BLOCK * 2 * <W::Patterns as Patterns>::WORDS;
            prefetch(all, (first + AHEAD * LANES + lane) * row_bytes + at);
        }
        Self { weights, first, codes: ColumnBytes::new(all, row_bytes, there, count) }
    }

    /// Calls `body` with codes, and the block of them that is block `block` of these.
    #[inline(always)]
    pub(super) fn codes(&self, block: usize, body: impl FnOnce(&ColumnBytes<'_>, usize)) {
        let bytes = 2 * <W::Patterns as Patterns>::WORDS;
        let row_bytes = row_bytes(self.weights);
        if row_bytes >= (block + 1) * bytes {
            body(&self.codes, block);
            return;
        }
        let all = self.weights.codes();
        let mut padded = [[0; BLOCK * 2 / 8]; LANES];
        for (padded, row) in padded.iter_mut().zip(all.chunks_exact(row_bytes).skip(self.first)) {
            let rest = &row[block * bytes..];
            padded[..rest.len()].copy_from_slice(rest);
        }
        body(&ColumnBytes::new(padded.as_flattened(), padded[0].len(), 0, LANES), 0);
    }

    /// Their scales of the group of this input, zeros behind the last column.
    #[inline(always)]
    pub(super) fn scales<T: Token>(&self, t: T, input: usize, out: &mut [f32]) {
        out.fill(0.0);
        self.weights.gather_scales(t, self.first, input / self.weights.group_size(), out);
    }
}

fn row_bytes<W: PermutedWeights>(weights: &W) -> usize {
    weights.codes().len() / weights.rows()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;
    use crate::gemm::permute_f32_kernel::PermuteF32Kernel;
    use crate::gemm::rows::PlainRows;
    use crate::gemm::{ActivationPrecision, Activations, Epilogue, few_permuted};
    use crate::weights::{FloatType, Weights};
    use crate::{Cpu, SharedBytes};

    /// Bytes of a sequence of well-mixed numbers.
    fn bytes(len: usize, seed: u64) -> Vec<u8> {
        let byte =
            |i: u64| (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(27).wrapping_mul(seed | 1);
        (0..len as u64).map(|i| (byte(i) >> 40) as u8).collect()
    }

    /// Some numbers, or powers of two.
    fn scales(len: usize, float_type: FloatType, powers: bool) -> Scales {
        let bytes = (0..len).flat_map(|i| {
            let mantissa = if powers { 0 } else { i * 37 % 128 };
            let exponent = i % 3;
            match float_type {
                FloatType::F32 => {
                    ((0x3c00 + exponent * 0x80 + mantissa) as u32).rotate_left(16).to_le_bytes().to_vec()
                }
                FloatType::Bf16 => ((0x3c00 + exponent * 0x80 + mantissa) as u16).to_le_bytes().to_vec(),
                FloatType::F16 => ((0x2000 + exponent * 0x400 + mantissa * 8) as u16).to_le_bytes().to_vec(),
            }
        });
        Scales::new(SharedBytes::from_vec(bytes.collect()), float_type, 0.5)
    }

    /// Both kinds of weights; not all of a ternary code's values mean something.
    fn weights(n: usize, k: usize, group: usize, float_type: FloatType, powers: bool) -> [Weights; 2] {
        let scales = || scales(n * k.div_ceil(group), float_type, powers);
        let signs = SharedBytes::from_vec(bytes(n * k.div_ceil(8), 5));
        let mut codes = bytes(n * k.div_ceil(4), 7);
        for byte in &mut codes {
            *byte &= !(*byte >> 1 & 0x55);
        }
        let codes = SharedBytes::from_vec(codes);
        [
            Weights::Binary(BinaryWeights::new(n, k, group, signs, scales()).unwrap()),
            Weights::Ternary(TernaryWeights::new(n, k, group, codes, scales()).unwrap()),
        ]
    }

    /// On every CPU that has the instructions, fast or not.
    #[test]
    fn tables_in_registers_make_the_bits_of_tables_in_memory() {
        let Some(t) = Avx512Vnni::detect() else {
            println!("skipped: this CPU has no AVX-512 with byte permutations");
            return;
        };
        let cpu = Cpu::new(Isa::Avx512(t.lower())).with_precision(ActivationPrecision::Int16);
        for (n, k, group, float_type) in [
            (1, 128, 128, FloatType::F16),
            (31, 1280, 128, FloatType::F16),
            (33, 2432, 128, FloatType::Bf16),
            (130, 1024, 128, FloatType::F32),
            // passes of four vectors for one or two rows, of two for more; of two and one where weights are ternary
            (161, 6144, 128, FloatType::F16),
            (127, 200, 128, FloatType::F32),
            (129, 100, 256, FloatType::F16),
            (3300, 648, 256, FloatType::Bf16),
        ] {
            const ROWS: usize = 13;
            let x = Array2::from_shape_vec((ROWS, k), bytes(ROWS * k, 3)).unwrap();
            let x = x.mapv(|b| f32::from(b) / 64.0 - 2.0);
            let rows = Activations::new(&cpu, x.view());
            for weights in weights(n, k, group, float_type, false) {
                let [mut want, mut got] = std::array::from_fn(|_| Array2::zeros((ROWS, n)));
                rows.matmul(&cpu, &weights, want.view_mut(), Epilogue::Store).unwrap();
                super::super::each_sign_kind!(&weights, w => {
                    for additions in [Additions::Saturating, Additions::Wrapping] {
                        let kernel = PermuteKernel { additions, ..PermuteKernel::new(t, Int16Rows) };
                        rows.multiply(&cpu, kernel, w, n, got.view_mut(), Epilogue::Store).unwrap();
                        assert_eq!(got, want, "{} {n}x{k} {additions:?}", weights.kind());
                        got.fill(0.0);
                    }
                    for some in (1..=ROWS).filter(|&some| few_permuted::takes(some, w)) {
                        let (x, mut few) = (x.slice(s![..some, ..]), Array2::ones((some, n)));
                        few_permuted::multiply(&cpu, t, x, w, few.view_mut(), Epilogue::Add).unwrap();
                        assert_eq!(few, 1.0 + &want.slice(s![..some, ..]), "{} {some}x{n}x{k}", weights.kind());
                    }
                });
            }
        }
    }

    /// Of numbers whose sums are exact, so that the order does not matter.
    #[test]
    fn tables_of_floats_in_registers_make_the_sums_of_tables_in_memory() {
        let Some(t) = Avx512Vnni::detect() else {
            println!("skipped: this CPU has no AVX-512 with byte permutations");
            return;
        };
        let cpu = Cpu::new(Isa::Avx512(t.lower())).with_precision(ActivationPrecision::F32);
        for (n, k, group, float_type) in
            [(1, 128, 128, FloatType::F16), (65, 200, 128, FloatType::Bf16), (1600, 648, 256, FloatType::F32)]
        {
            let x = Array2::from_shape_vec((13, k), bytes(13 * k, 3)).unwrap().mapv(|b| f32::from(b) - 128.0);
            let rows = Activations::new(&cpu, x.view());
            for weights in weights(n, k, group, float_type, true) {
                let [mut want, mut got] = std::array::from_fn(|_| Array2::zeros((13, n)));
                rows.matmul(&cpu, &weights, want.view_mut(), Epilogue::Store).unwrap();
                super::super::each_sign_kind!(&weights, w => {
                    let kernel = PermuteF32Kernel(t, PlainRows);
                    rows.multiply(&cpu, kernel, w, n, got.view_mut(), Epilogue::Store).unwrap();
                });
                assert_eq!(got, want, "{} {n}x{k}", weights.kind());
            }
        }
    }

    #[test]
    fn codes_of_eight_bits_make_the_bits_of_tables_in_memory() {
        let Some(t) = Avx512Vnni::detect() else {
            println!("skipped: this CPU has no AVX-512 with byte permutations");
            return;
        };
        for precision in [ActivationPrecision::Int8, ActivationPrecision::Int4] {
            let cpu = Cpu::new(Isa::Avx512(t.lower())).with_precision(precision);
            for (n, k, group) in [(1, 128, 128), (130, 200, 128), (300, 648, 256)] {
                let x = Array2::from_shape_vec((13, k), bytes(13 * k, 3)).unwrap();
                let x = x.mapv(|b| f32::from(b) / 64.0 - 2.0);
                let rows = Activations::new(&cpu, x.view());
                for weights in weights(n, k, group, FloatType::F16, false) {
                    let [mut want, mut got] = std::array::from_fn(|_| Array2::zeros((13, n)));
                    rows.matmul(&cpu, &weights, want.view_mut(), Epilogue::Store).unwrap();
                    super::super::each_sign_kind!(&weights, w => {
                        let out = got.view_mut();
                        rows.multiply(&cpu, PermuteKernel::new(t, WideInt8Rows), w, n, out, Epilogue::Store).unwrap();
                    });
                    assert_eq!(got, want, "{} {} {n}x{k}", precision.name(), weights.kind());
                }
            }
        }
    }
}
