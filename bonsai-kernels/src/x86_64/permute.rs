//! Tables of sums in registers: for one row of activations and a few neighbouring inputs, all sums that their weights can make are
//! 32 integers of 16 bits, one vector; the codes of 32 columns are another, and `vpermw` picks a sum for each.
//!
//! It suits CPUs where `vpermw` is one operation and as many of them start in a cycle as additions of the kind beside it. Those
//! saturate, where nothing saturates, because saturating ones run beside permutations where wrapping ones compete with them; on CPUs
//! that work off vectors by halves it is the other way round, if permutations and additions come in pairs ([`Additions`]).
#![expect(unsafe_code, reason = "loads and stores of vectors, and registers that the compiler would spill")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::columns::{CACHE_LINE, ColumnBytes, MOST_WORDS, words, words_of};
use crate::isa::Avx512Vnni;

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;
/// Columns of a panel.
pub(crate) const WIDTH: usize = VECTORS * LANES;
/// Columns of one vector of codes: the first sixteen in even lanes, the others in odd ones, so that a shift, or a mask, makes
/// floats of either half.
pub(crate) const LANES: usize = 32;
const VECTORS: usize = 4;
/// Inputs of a block, whose sums are exact.
pub(crate) const BLOCK: usize = 128;
/// What scales of columns are multiplied with, since sums become floats in the high half of a word.
pub(crate) const SCALE: f32 = 1.0 / 65536.0;
/// Entries of a table.
const ENTRIES: usize = 32;
/// Integers that a table is made from.
const PARTS: usize = 8;
/// Floats of a line.
const LINE: usize = CACHE_LINE / size_of::<f32>();
/// Tables whose parts are made at once.
const AT_ONCE: usize = 4;
/// Blocks that a call of [`Avx512Vnni::add_products`] meets, at most.
pub(crate) const MOST_BLOCKS: usize = 8;

/// What [`Avx512Vnni::add_products`] fetches meanwhile: bytes behind the first of its columns' codes, or before it.
#[derive(Clone, Copy)]
pub(crate) struct Coming {
    /// Codes of a later pass, from memory to the second-level cache, in the order in which they stand there.
    pub(crate) far: isize,
    /// The codes that are met next, from the second-level cache, to which they got in the pass before: so many blocks of columns as
    /// far apart as these.
    pub(crate) near: isize,
}

/// Which sums a table holds, and how codes of weights pick them.
pub(crate) trait Patterns: Copy + Send + Sync + 'static {
    /// Bits of a weight's code.
    const BITS: usize;
    /// Inputs of a table.
    const INPUTS: usize;
    /// Tables of a block.
    const STEPS: usize = BLOCK.div_ceil(Self::INPUTS);
    /// Whether two blocks at once meet the sums: where their tables and indices leave the first-level cache room for those.
    const PAIRED: bool;
    /// 16-bit words of codes of a block.
    const WORDS: usize = BLOCK * Self::BITS / 16;
    /// What each input counts in an entry of a table: -1, 0 or 1.
    const COUNTS: [[i8; 5]; ENTRIES];

    /// The parts of four tables, one of them in each 128 bits, from their inputs, which stand there in the first words.
    ///
    /// # Safety
    /// The CPU has the instructions of the token below.
    unsafe fn parts(x: __m512i) -> __m512i;
    /// A table from its parts, four times the same.
    ///
    /// # Safety
    /// As above.
    unsafe fn table(parts: __m512i) -> __m512i;
    /// Indices from codes in the low bits of words.
    ///
    /// # Safety
    /// As above.
    unsafe fn index(codes: __m512i) -> __m512i;
}

/// Bytes of a shuffle that brings word `words(i)` of 128 bits to word `i` of 512, or zero.
const fn word_shuffle(words: [Option<u8>; ENTRIES]) -> [u8; 64] {
    let mut bytes = [0x80; 64];
    let mut i = 0;
    while i < ENTRIES {
        if let Some(word) = words[i] {
            bytes[2 * i] = 2 * word;
            bytes[2 * i + 1] = 2 * word + 1;
        }
        i += 1;
    }
    bytes
}

/// The same pattern in each 128 bits.
const fn repeated(words: [Option<u8>; PARTS]) -> [u8; 64] {
    let mut all = [None; ENTRIES];
    let mut i = 0;
    while i < ENTRIES {
        all[i] = words[i % PARTS];
        i += 1;
    }
    word_shuffle(all)
}

/// # Safety
/// The CPU has AVX-512 BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn shuffle(x: __m512i, bytes: &[u8; 64]) -> __m512i {
    // SAFETY: as many bytes as a vector has.
    _mm512_shuffle_epi8(x, unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) })
}

/// Weights of -1 and +1: five bits pick one of 32 signed sums.
#[derive(Clone, Copy)]
pub(crate) struct Signs;

impl Signs {
    // parts: `+-x0 +-x1 - x2`, then `+-x3 +-x4`
    const FIRST: [u8; 64] =
        repeated([Some(0), Some(0), Some(0), Some(0), Some(3), Some(3), Some(3), Some(3)]);
    const SECOND: [u8; 64] =
        repeated([Some(1), Some(1), Some(1), Some(1), Some(4), Some(4), Some(4), Some(4)]);
    const THIRD: [u8; 64] = repeated([Some(2), Some(2), Some(2), Some(2), None, None, None, None]);
    /// Sums of three inputs: with `x2` counted positive they are those of the opposite signs, negated.
    const LOW: [u8; 64] = {
        let mut words = [None; ENTRIES];
        let mut i = 0;
        while i < ENTRIES {
            let low = i as u8 & 3;
            words[i] = Some(if i & 4 == 0 { low } else { 3 - low });
            i += 1;
        }
        word_shuffle(words)
    };
    const HIGH: [u8; 64] = {
        let mut words = [None; ENTRIES];
        let mut i = 0;
        while i < ENTRIES {
            words[i] = Some(4 + (i >> 3) as u8);
            i += 1;
        }
        word_shuffle(words)
    };
}

impl Patterns for Signs {
    const BITS: usize = 1;
    const INPUTS: usize = 5;
    const PAIRED: bool = true;
    const COUNTS: [[i8; 5]; ENTRIES] = {
        let mut counts = [[-1; 5]; ENTRIES];
        let mut i = 0;
        while i < 5 * ENTRIES {
            if (i / 5) >> (i % 5) & 1 == 1 {
                counts[i / 5][i % 5] = 1;
            }
            i += 1;
        }
        counts
    };

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn parts(x: __m512i) -> __m512i {
        // SAFETY: as the caller promised.
        let (first, second, third) =
            unsafe { (shuffle(x, &Self::FIRST), shuffle(x, &Self::SECOND), shuffle(x, &Self::THIRD)) };
        let one = _mm512_mask_sub_epi16(first, 0x5555_5555, _mm512_setzero_si512(), first);
        let two = _mm512_mask_sub_epi16(_mm512_add_epi16(one, second), 0x3333_3333, one, second);
        _mm512_sub_epi16(two, third)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn table(parts: __m512i) -> __m512i {
        // SAFETY: as the caller promised.
        let (low, high) = unsafe { (shuffle(parts, &Self::LOW), shuffle(parts, &Self::HIGH)) };
        _mm512_mask_sub_epi16(_mm512_add_epi16(high, low), 0xf0f0_f0f0, high, low)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn index(codes: __m512i) -> __m512i {
        // five low bits of each word are all that counts
        codes
    }
}

/// Weights of -1, 0 and +1: three of them pick one of 27 sums, by their value in base 3.
#[derive(Clone, Copy)]
pub(crate) struct Trits;

impl Trits {
    // parts: `x0, x1, x0 + x1, x0 - x1, x2, -x2`
    const FIRST: [u8; 64] = repeated([Some(0), None, Some(0), Some(0), Some(2), None, None, None]);
    const SECOND: [u8; 64] = repeated([None, Some(1), Some(1), Some(1), None, Some(2), None, None]);
    /// For `d0 + 3 d1` the sum `(d0 - 1) x0 + (d1 - 1) x1`, but for its sign.
    const PAIR: [Option<u8>; 9] =
        [Some(2), Some(1), Some(3), Some(0), None, Some(0), Some(3), Some(1), Some(2)];
    const LOW: [u8; 64] = {
        let mut words = [None; ENTRIES];
        let mut i = 0;
        while i < 27 {
            words[i] = Self::PAIR[i % 9];
            i += 1;
        }
        word_shuffle(words)
    };
    /// Entries whose sum of two inputs is negated: `-x0 - x1`, `-x1`, `-x0`, and `x1 - x0`.
    const NEGATED: u32 = {
        let mut mask = 0;
        let mut i = 0;
        while i < 27 {
            if matches!(i % 9, 0 | 1 | 3 | 6) {
                mask |= 1 << i;
            }
            i += 1;
        }
        mask
    };
    const HIGH: [u8; 64] = {
        let mut words = [None; ENTRIES];
        let mut i = 0;
        while i < 9 {
            words[i] = Some(5);
            words[18 + i] = Some(4);
            i += 1;
        }
        word_shuffle(words)
    };
    /// Three codes of two bits, as a number in base 3.
    const INDEX: [u8; 64] = {
        let mut index = [0; 64];
        let mut code = 0;
        while code < 64 {
            index[code] = (code & 3) as u8 + 3 * (code >> 2 & 3) as u8 + 9 * (code >> 4) as u8;
            code += 1;
        }
        index
    };
}

impl Patterns for Trits {
    const BITS: usize = 2;
    const INPUTS: usize = 3;
    const PAIRED: bool = false;
    const COUNTS: [[i8; 5]; ENTRIES] = {
        let mut counts = [[0; 5]; ENTRIES];
        let mut entry = 0;
        while entry < 27 {
            counts[entry] = [entry as i8 % 3 - 1, entry as i8 / 3 % 3 - 1, entry as i8 / 9 - 1, 0, 0];
            entry += 1;
        }
        counts
    };

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn parts(x: __m512i) -> __m512i {
        // SAFETY: as the caller promised.
        let (first, second) = unsafe { (shuffle(x, &Self::FIRST), shuffle(x, &Self::SECOND)) };
        // words 3 and 5 are differences
        _mm512_mask_sub_epi16(_mm512_add_epi16(first, second), 0x2828_2828, first, second)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn table(parts: __m512i) -> __m512i {
        // SAFETY: as the caller promised.
        let (low, high) = unsafe { (shuffle(parts, &Self::LOW), shuffle(parts, &Self::HIGH)) };
        _mm512_mask_sub_epi16(_mm512_add_epi16(high, low), Self::NEGATED, high, low)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi")]
    unsafe fn index(codes: __m512i) -> __m512i {
        // six low bits of a byte count; what the high bytes become does not
        // SAFETY: as many bytes as a vector has.
        _mm512_permutexvar_epi8(codes, unsafe { _mm512_loadu_si512(Self::INDEX.as_ptr().cast()) })
    }
}

impl Avx512Vnni {
    /// Integers of the tables of one block of a tile, `[STEPS][ROWS][ENTRIES]`.
    pub(crate) const fn tables_len<P: Patterns>() -> usize {
        P::STEPS * ROWS * ENTRIES
    }

    /// Words of the indices of one block of a panel, `[STEPS][WIDTH]`.
    pub(crate) const fn indices_len<P: Patterns>() -> usize {
        P::STEPS * WIDTH
    }

    /// Fills the tables of the blocks of one row, `[blocks][STEPS][ENTRIES]`.
    ///
    /// # Panics
    /// When there are not as many tables as the row has blocks.
    pub(crate) fn build_row<P: Patterns>(self, row: &[i16], tables: &mut [i16]) {
        assert_eq!(tables.len(), Self::row_tables_len::<P>(row.len()), "tables of a row");
        for (row, tables) in row.chunks_exact(BLOCK).zip(tables.chunks_exact_mut(P::STEPS * ENTRIES)) {
            // SAFETY: the token proves the instructions; a block of inputs, and its tables.
            unsafe { build::<P, 1>(row.as_ptr(), tables.as_mut_ptr()) };
        }
    }

    /// Integers of the tables of a row of so many inputs.
    pub(crate) const fn row_tables_len<P: Patterns>(inputs: usize) -> usize {
        inputs / BLOCK * P::STEPS * ENTRIES
    }

    /// `totals[row][column] += ` the products of rows with 32 columns over some blocks from `first_block` on, given the tables of each
    /// row, the codes of columns, and the scales of blocks times [`SCALE`]. The bits are those of [`Avx512Vnni::add_permuted`].
    /// What is `coming` is fetched whole where there are [`MOST_BLOCKS`] blocks.
    ///
    /// # Panics
    /// When a slice is too short.
    #[inline(always)]
    pub(crate) fn add_products<P: Patterns, const ROWS: usize>(
        self,
        tables: [&[i16]; ROWS],
        codes: &ColumnBytes<'_>,
        first_block: usize,
        scales: &[[f32; LANES]],
        coming: Coming,
        totals: &mut [[f32; LANES]; ROWS],
    ) {
        let blocks = first_block + scales.len();
        assert!(codes.count == LANES && codes.len >= blocks * 2 * P::WORDS, "codes of all blocks");
        assert!(tables.iter().all(|t| t.len() >= blocks * P::STEPS * ENTRIES), "tables of all blocks");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { add_products::<P, ROWS>(tables, codes, first_block, scales, coming, totals) }
    }

    /// Eight floats of 32 columns from stored ones of 16 bits, of which `first` come before, times `times`. As many bytes as are
    /// read are fetched, `ahead` bytes behind the first column.
    ///
    /// # Panics
    /// When columns are too short.
    #[inline(always)]
    pub(crate) fn turn_floats(
        self,
        stored: &ColumnBytes<'_>,
        first: usize,
        bf16: bool,
        times: f32,
        ahead: isize,
        out: &mut [[f32; LANES]; MOST_BLOCKS],
    ) {
        assert!(
            stored.count == LANES && stored.len >= 2 * (first + out.len()),
            "eight floats of each column"
        );
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { turn_floats(stored, 2 * first, bf16, times, ahead, out) }
    }

    /// Fills the tables of one block of `ROWS` rows, `row_stride` apart.
    ///
    /// # Panics
    /// When a slice is too short.
    #[inline(always)]
    pub(crate) fn build_tables<P: Patterns>(self, rows: &[i16], row_stride: usize, tables: &mut [i16]) {
        assert!(rows.len() >= (ROWS - 1) * row_stride + BLOCK, "rows of a block");
        assert!(tables.len() >= Self::tables_len::<P>(), "tables of a block");
        for m in 0..ROWS {
            // SAFETY: the token proves the instructions; rows and tables were checked.
            unsafe {
                build::<P, ROWS>(rows.as_ptr().add(m * row_stride), tables.as_mut_ptr().add(m * ENTRIES));
            }
        }
    }

    /// Lays out the indices of block `block` of 32 columns, for vector `vector` of a panel.
    ///
    /// # Panics
    /// When columns or the slice are too short.
    #[inline(always)]
    pub(crate) fn lay_out_indices<P: Patterns>(
        self,
        codes: &ColumnBytes<'_>,
        block: usize,
        vector: usize,
        indices: &mut [u16],
    ) {
        assert!(codes.len >= (block + 1) * 2 * P::WORDS, "codes of a block");
        assert!(vector < VECTORS && indices.len() >= Self::indices_len::<P>(), "indices of a block");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { lay_out::<P>(codes, block * 2 * P::WORDS, indices.as_mut_ptr().add(vector * LANES)) }
    }

    /// `acc[m][n] += scales[n] / SCALE * sum_step tables[step][m][indices[step][n]]` over one block after the other, times the scale
    /// of row `m` where rows have some, exactly where the sums of magnitudes stay below 2^15; `=` where sums begin. What stands behind
    /// `acc` is fetched, for the next panel.
    ///
    /// # Panics
    /// When a slice is too short.
    #[inline(always)]
    pub(crate) fn add_permuted<P: Patterns, const BLOCKS: usize>(
        self,
        blocks: Permuted<'_, BLOCKS>,
        acc: &mut [f32],
    ) {
        let Permuted { tables, indices, scales, .. } = &blocks;
        assert!(tables.iter().all(|t| t.len() >= Self::tables_len::<P>()), "tables of a block");
        assert!(indices.iter().all(|i| i.len() >= Self::indices_len::<P>()), "indices of a block");
        assert!(scales.iter().all(|s| s.len() >= WIDTH), "scales of a block");
        assert!(acc.len() >= ROWS * WIDTH, "a tile of sums");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe {
            if blocks.row_scales.is_some() {
                add::<P, BLOCKS, true>(&blocks, acc.as_mut_ptr());
            } else {
                add::<P, BLOCKS, false>(&blocks, acc.as_mut_ptr());
            }
        }
    }
}

/// Blocks of a tile of rows and a panel.
pub(crate) struct Permuted<'a, const BLOCKS: usize> {
    /// Of each block.
    pub(crate) tables: [&'a [i16]; BLOCKS],
    pub(crate) indices: [&'a [u16]; BLOCKS],
    pub(crate) scales: [&'a [f32]; BLOCKS],
    /// Of all blocks, where each has scales of its rows.
    pub(crate) row_scales: Option<[f32; ROWS]>,
    /// How many blocks of the pass come before.
    pub(crate) first: usize,
    /// Whether sums begin, whatever stands in their places.
    pub(crate) begins: bool,
    pub(crate) additions: Additions,
}

/// Which additions run best beside permutations; the sums are the same.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Additions {
    /// One after each permutation.
    Saturating,
    /// Two after two permutations.
    Wrapping,
}

impl Additions {
    /// Those for this CPU.
    pub(crate) fn of(t: Avx512Vnni) -> Self {
        if t.halves_vectors() { Self::Wrapping } else { Self::Saturating }
    }
}

/// The words that bring the inputs of four tables to the front of 128 bits each.
const fn spread(inputs: usize) -> [u16; ENTRIES] {
    let mut words = [0; ENTRIES];
    let mut i = 0;
    while i < ENTRIES {
        words[i] = (i / PARTS * inputs + i % PARTS) as u16;
        i += 1;
    }
    words
}

/// # Safety
/// The CPU has the instructions; a block of inputs is at `row`, and its tables are `APART * ENTRIES` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn build<P: Patterns, const APART: usize>(row: *const i16, tables: *mut i16) {
    #[repr(align(64))]
    struct Parts([MaybeUninit<i16>; (BLOCK / 3 + AT_ONCE) * PARTS]);
    let mut parts = Parts([MaybeUninit::uninit(); (BLOCK / 3 + AT_ONCE) * PARTS]);
    const { assert!(P::STEPS.next_multiple_of(AT_ONCE) <= BLOCK / 3 + AT_ONCE) };
    let spread = const { &spread(P::INPUTS) };
    // SAFETY: masks keep loads inside the block; parts and tables have room for all steps, and parts are stored before they
    // are loaded.
    unsafe {
        let spread = _mm512_loadu_si512(spread.as_ptr().cast());
        let parts = parts.0.as_mut_ptr();
        for step in (0..P::STEPS).step_by(AT_ONCE) {
            let first = step * P::INPUTS;
            let left = (BLOCK - first).min(AT_ONCE * P::INPUTS);
            let x = _mm512_maskz_loadu_epi16((1 << left) - 1, row.add(first));
            let x = _mm512_permutexvar_epi16(spread, x);
            _mm512_store_si512(parts.add(step * PARTS).cast(), P::parts(x));
        }
        for step in 0..P::STEPS {
            let parts = _mm512_broadcast_i32x4(_mm_load_si128(parts.add(step * PARTS).cast()));
            _mm512_storeu_si512(tables.add(step * APART * ENTRIES).cast(), P::table(parts));
        }
    }
}

/// The indices of a step.
///
/// # Safety
/// The CPU has the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
pub(super) unsafe fn index<P: Patterns>(words: &[__m512i; MOST_WORDS + 1], step: usize) -> __m512i {
    let bit = step * P::INPUTS * P::BITS;
    let shift = _mm512_set1_epi16((bit % 16) as i16);
    // SAFETY: as the caller promised.
    unsafe { P::index(_mm512_shrdv_epi16(words[bit / 16], words[bit / 16 + 1], shift)) }
}

/// The body for each of so many steps, at most 43, spelt out, so that what it keeps between them stays in registers.
macro_rules! each_step {
    ($steps:expr, |$step:ident| $body:block) => {
        each_step!($steps, |$step| $body,
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42)
    };
    ($steps:expr, |$step:ident| $body:block, $($number:literal)*) => {
        $(if $number < $steps {
            let $step = $number;
            $body
        })*
    };
}

pub(super) use each_step;

/// # Safety
/// The CPU has the instructions; each column has `WORDS` words from byte `at` on, and indices of steps are `WIDTH` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
unsafe fn lay_out<P: Patterns>(codes: &ColumnBytes<'_>, at: usize, indices: *mut u16) {
    // SAFETY: as the caller promised; there is room for the indices of all steps.
    unsafe {
        let words = words_of(codes, at, P::WORDS);
        each_step!(P::STEPS, |step| {
            _mm512_storeu_si512(indices.add(step * WIDTH).cast(), index::<P>(&words, step));
        });
    }
}

/// # Safety
/// The CPU has the instructions; tables, indices, scales and sums are those of so many blocks.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add<P: Patterns, const BLOCKS: usize, const ROW_SCALES: bool>(
    blocks: &Permuted<'_, BLOCKS>,
    acc: *mut f32,
) {
    let high_half = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
    // zeros instead of what stands there
    let kept = if blocks.begins { 0 } else { 0xffff };
    let row_scales = blocks.row_scales.unwrap_or([1.0; ROWS]);
    // SAFETY: as the caller promised.
    unsafe {
        // not zeros first, which would take as long as a few steps
        let mut all = [const { MaybeUninit::<[[__m512i; VECTORS]; ROWS]>::uninit() }; BLOCKS];
        for (i, of_block) in all.iter_mut().enumerate() {
            // a line with each step, so that two blocks reach the end of the next sums
            let behind = (blocks.first + i) % 2 * (ROWS * WIDTH - P::STEPS * LINE);
            let next = acc.wrapping_add(ROWS * WIDTH + behind);
            let (tables, indices) = (blocks.tables[i].as_ptr(), blocks.indices[i].as_ptr());
            of_block.write(sums(blocks.additions, P::STEPS, tables, indices, next));
        }
        for n in 0..VECTORS {
            let mut of_columns = [[_mm512_setzero_ps(); 2]; BLOCKS];
            for (of_block, scales) in of_columns.iter_mut().zip(&blocks.scales) {
                let scales = scales.as_ptr().add(n * LANES);
                *of_block = [_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16))];
            }
            for (m, &row_scale) in row_scales.iter().enumerate() {
                let at = acc.add(m * WIDTH + n * LANES);
                let mut totals = [_mm512_maskz_loadu_ps(kept, at), _mm512_maskz_loadu_ps(kept, at.add(16))];
                for (of_block, scales) in all.iter().zip(&of_columns) {
                    let sums = of_block.assume_init_ref()[m][n];
                    let halves = [_mm512_slli_epi32::<16>(sums), _mm512_and_si512(sums, high_half)];
                    for half in 0..2 {
                        let mut scale = scales[half];
                        if ROW_SCALES {
                            scale = _mm512_mul_ps(scale, _mm512_set1_ps(row_scale));
                        }
                        totals[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(halves[half]), scale, totals[half]);
                    }
                }
                _mm512_storeu_ps(at, totals[0]);
                _mm512_storeu_ps(at.add(16), totals[1]);
            }
        }
    }
}

/// The sums of a tile over `steps` steps, while a line of `next` for each of them is fetched. In assembly, so that 24 sums, 4 vectors of
/// indices and what flows between keep to the 32 registers that there are.
///
/// # Safety
/// The CPU has the instructions; tables and indices are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sums(
    additions: Additions,
    steps: usize,
    tables: *const i16,
    indices: *const u16,
    next: *const f32,
) -> [[__m512i; VECTORS]; ROWS] {
    macro_rules! pick {
        ($picked:literal = $table:literal[$index:literal]) => {
            concat!("vpermw zmm", $picked, ", zmm", $index, ", zmm", $table, "\n")
        };
    }
    macro_rules! plus {
        ($add:literal, $sum:literal, $picked:literal) => {
            concat!($add, " zmm", $sum, ", zmm", $sum, ", zmm", $picked, "\n")
        };
    }
    macro_rules! row {
        (saturating, $row:literal, $table:literal: $a:literal $b:literal $c:literal $d:literal) => {
            concat!(
                "vmovdqu64 zmm",
                $table,
                ", [{tables} + 64 * ",
                $row,
                "]\n",
                pick!(30 = $table[24]),
                plus!("vpaddsw", $a, 30),
                pick!(31 = $table[25]),
                plus!("vpaddsw", $b, 31),
                pick!(30 = $table[26]),
                plus!("vpaddsw", $c, 30),
                pick!(31 = $table[27]),
                plus!("vpaddsw", $d, 31),
            )
        };
        (wrapping, $row:literal, $table:literal: $a:literal $b:literal $c:literal $d:literal) => {
            concat!(
                "vmovdqu64 zmm",
                $table,
                ", [{tables} + 64 * ",
                $row,
                "]\n",
                pick!(30 = $table[24]),
                pick!(31 = $table[25]),
                plus!("vpaddw", $a, 30),
                plus!("vpaddw", $b, 31),
                pick!(30 = $table[26]),
                pick!(31 = $table[27]),
                plus!("vpaddw", $c, 30),
                plus!("vpaddw", $d, 31),
            )
        };
    }
    macro_rules! steps {
        ($kind:ident: $($number:literal $sum:tt $name:ident),*) => {{
            $(let $name: __m512i;)*
            // SAFETY: reads `steps` tables of each row and indices, as the caller promised, and prefetches, which never faults.
            unsafe {
                asm!(
                    $(concat!("vpxord zmm", $number, ", zmm", $number, ", zmm", $number),)*
                    ".p2align 6",
                    "2:",
                    "vmovdqu64 zmm24, [{indices}]",
                    "vmovdqu64 zmm25, [{indices} + 64]",
                    "vmovdqu64 zmm26, [{indices} + 128]",
                    "vmovdqu64 zmm27, [{indices} + 192]",
                    row!($kind, 0, 28: 0 1 2 3),
                    row!($kind, 1, 29: 4 5 6 7),
                    row!($kind, 2, 28: 8 9 10 11),
                    row!($kind, 3, 29: 12 13 14 15),
                    row!($kind, 4, 28: 16 17 18 19),
                    row!($kind, 5, 29: 20 21 22 23),
                    "prefetcht0 [{next}]",
                    "add {next}, 64",
                    "add {tables}, 384",
                    "add {indices}, 256",
                    "dec {steps}",
                    "jnz 2b",
                    tables = inout(reg) tables => _,
                    indices = inout(reg) indices => _,
                    next = inout(reg) next => _,
                    steps = inout(reg) steps => _,
                    $(out($sum) $name,)*
                    out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                    out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(nostack, readonly)
                );
            }
            [$($name),*]
        }};
    }
    macro_rules! all_steps {
        ($kind:ident) => {
            steps!($kind:
                0 "zmm0" s0, 1 "zmm1" s1, 2 "zmm2" s2, 3 "zmm3" s3, 4 "zmm4" s4, 5 "zmm5" s5,
                6 "zmm6" s6, 7 "zmm7" s7, 8 "zmm8" s8, 9 "zmm9" s9, 10 "zmm10" s10, 11 "zmm11" s11,
                12 "zmm12" s12, 13 "zmm13" s13, 14 "zmm14" s14, 15 "zmm15" s15, 16 "zmm16" s16, 17 "zmm17" s17,
                18 "zmm18" s18, 19 "zmm19" s19, 20 "zmm20" s20, 21 "zmm21" s21, 22 "zmm22" s22, 23 "zmm23" s23)
        };
    }
    let sums: [__m512i; ROWS * VECTORS] = match additions {
        Additions::Saturating => all_steps!(saturating),
        Additions::Wrapping => all_steps!(wrapping),
    };
    let mut tile = [[_mm512_setzero_si512(); VECTORS]; ROWS];
    for (row, sums) in tile.iter_mut().zip(sums.as_chunks::<VECTORS>().0) {
        *row = *sums;
    }
    tile
}

/// # Safety
/// The CPU has the instructions; each row has tables, and each column codes, up to the last block.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
unsafe fn add_products<P: Patterns, const ROWS: usize>(
    tables: [&[i16]; ROWS],
    codes: &ColumnBytes<'_>,
    first_block: usize,
    scales: &[[f32; LANES]],
    coming: Coming,
    out: &mut [[f32; LANES]; ROWS],
) {
    /// A row's sums take turns, so that additions wait for none.
    const TURNS: usize = 2;
    let high_half = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
    // a block has as many lines of codes as words: all of them come in a block's steps, those of one place and of the other in turn
    let every = P::STEPS / P::WORDS;
    const { assert!(P::STEPS / P::WORDS >= 2) };
    // of a column
    let lines = P::WORDS * MOST_BLOCKS / LANES;
    let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: as the caller promised; a row's totals are two vectors.
    unsafe {
        for (totals, out) in totals.iter_mut().zip(&*out) {
            *totals = [_mm512_loadu_ps(out.as_ptr()), _mm512_loadu_ps(out.as_ptr().add(16))];
        }
        for (i, scales) in scales.iter().enumerate() {
            let block = first_block + i;
            let at = block * 2 * P::WORDS;
            let words = words(codes.first.add(at), codes.len, P::WORDS);
            let mut sums = [[_mm512_setzero_si512(); TURNS]; ROWS];
            each_step!(P::STEPS, |step| {
                let index = index::<P>(&words, step);
                // line by line: of many at once the CPU drops some
                let (line, turn) = (step / every, step % every);
                if line < P::WORDS && turn == 0 {
                    let behind = coming.far + ((i * P::WORDS + line) * CACHE_LINE) as isize;
                    codes.fetch::<_MM_HINT_T1>(behind);
                } else if line < P::WORDS && turn == 1 {
                    let (column, line) = (i * LANES / MOST_BLOCKS + line / lines, line % lines);
                    let behind = coming.near + (column * codes.len + line * CACHE_LINE) as isize;
                    codes.fetch::<_MM_HINT_T0>(behind);
                }
                for (sums, tables) in sums.iter_mut().zip(&tables) {
                    let table = tables.as_ptr().add((block * P::STEPS + step) * ENTRIES);
                    let picked = _mm512_permutexvar_epi16(index, _mm512_loadu_si512(table.cast()));
                    sums[step % TURNS] = _mm512_adds_epi16(sums[step % TURNS], picked);
                }
            });
            for (totals, [even, odd]) in totals.iter_mut().zip(sums) {
                let sums = _mm512_adds_epi16(even, odd);
                let halves = [_mm512_slli_epi32::<16>(sums), _mm512_and_si512(sums, high_half)];
                for (half, sums) in halves.into_iter().enumerate() {
                    let scale = _mm512_loadu_ps(scales.as_ptr().add(16 * half));
                    totals[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, totals[half]);
                }
            }
        }
        for (out, [low, high]) in out.iter_mut().zip(totals) {
            _mm512_storeu_ps(out.as_mut_ptr(), low);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), high);
        }
    }
}

/// # Safety
/// The CPU has the instructions; each column has 16 bytes from byte `at` on.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn turn_floats(
    stored: &ColumnBytes<'_>,
    at: usize,
    bf16: bool,
    times: f32,
    ahead: isize,
    out: &mut [[f32; LANES]; MOST_BLOCKS],
) {
    let times = _mm512_set1_ps(times);
    // SAFETY: as the caller promised; each line of `out` is two vectors.
    unsafe {
        for line in 0..LANES * 16 / CACHE_LINE {
            stored.fetch::<_MM_HINT_T0>(ahead + (line * CACHE_LINE) as isize);
        }
        let words = words(stored.first.add(at), stored.len, 8);
        for (out, word) in out.iter_mut().zip(words) {
            let halves = [word, _mm512_srli_epi32::<16>(word)];
            for (half, word) in halves.into_iter().enumerate() {
                let floats = if bf16 {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(word))
                } else {
                    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word))
                };
                _mm512_storeu_ps(out.as_mut_ptr().add(16 * half), _mm512_mul_ps(floats, times));
            }
        }
    }
}
