//! Tables of f32 sums in registers: two vectors hold the 32 sums that the weights of a few inputs can make, and `vpermi2ps` picks
//! one for each of 16 columns. Otherwise as [`permute`](super::permute).
#![expect(unsafe_code, reason = "loads and stores of vectors, and registers that the compiler would spill")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::columns::{ColumnBytes, words_of};
use super::permute::{BLOCK, LANES, Patterns, each_step, index};
use crate::isa::Avx512Vnni;

/// Rows of a tile.
pub(crate) const ROWS: usize = 4;
/// Columns of a panel.
pub(crate) const WIDTH: usize = VECTORS * FLOATS;
/// Floats of a vector.
const FLOATS: usize = 16;
const VECTORS: usize = 4;
/// Entries of a table.
const ENTRIES: usize = 2 * FLOATS;
/// No table has more inputs.
const MOST: usize = 5;

impl Avx512Vnni {
    /// Floats of the tables of one block of a tile, `[STEPS][ROWS][ENTRIES]`.
    pub(crate) const fn f32_tables_len<P: Patterns>() -> usize {
        P::STEPS * ROWS * ENTRIES
    }

    /// Words of the indices of one block of a panel, `[STEPS][WIDTH]`.
    pub(crate) const fn f32_indices_len<P: Patterns>() -> usize {
        P::STEPS * WIDTH
    }

    /// Fills the tables of one block of `ROWS` rows, `row_stride` apart.
    ///
    /// # Panics
    /// When a slice is too short.
    #[inline(always)]
    pub(crate) fn build_f32_tables<P: Patterns>(self, rows: &[f32], row_stride: usize, tables: &mut [f32]) {
        assert!(rows.len() >= (ROWS - 1) * row_stride + BLOCK, "rows of a block");
        assert!(tables.len() >= Self::f32_tables_len::<P>(), "tables of a block");
        // SAFETY: the token proves the instructions; rows and tables were checked.
        unsafe { build::<P>(rows.as_ptr(), row_stride, tables.as_mut_ptr()) }
    }

    /// Lays out the indices of block `block` of 32 columns, for half `half` of a panel.
    ///
    /// # Panics
    /// When columns or the slice are too short.
    #[inline(always)]
    pub(crate) fn lay_out_f32_indices<P: Patterns>(
        self,
        codes: &ColumnBytes<'_>,
        block: usize,
        half: usize,
        indices: &mut [u32],
    ) {
        assert!(codes.len() >= (block + 1) * 2 * P::WORDS, "codes of a block");
        assert!(half < WIDTH / LANES && indices.len() >= Self::f32_indices_len::<P>(), "indices of a block");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { lay_out::<P>(codes, block * 2 * P::WORDS, indices.as_mut_ptr().add(half * LANES)) }
    }

    /// `acc[m][n] += scales[n] * sum_step tables[step][m][indices[step][n]]` over one block, steps in their order. What stands behind
    /// `acc` is fetched, for the next call.
    ///
    /// # Panics
    /// When a slice is too short.
    #[inline(always)]
    pub(crate) fn add_f32_permuted<P: Patterns>(
        self,
        tables: &[f32],
        indices: &[u32],
        scales: &[f32],
        acc: &mut [f32],
    ) {
        assert!(tables.len() >= Self::f32_tables_len::<P>(), "tables of a block");
        assert!(indices.len() >= Self::f32_indices_len::<P>(), "indices of a block");
        assert!(scales.len() >= WIDTH && acc.len() >= ROWS * WIDTH, "a tile of sums, and scales");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { add::<P>(tables.as_ptr(), indices.as_ptr(), scales.as_ptr(), acc.as_mut_ptr()) }
    }
}

/// What input `input` of a table counts in each of its entries.
const fn counts<P: Patterns>(input: usize) -> [f32; ENTRIES] {
    let mut counts = [0.0; ENTRIES];
    let mut entry = 0;
    while entry < ENTRIES {
        counts[entry] = P::COUNTS[entry][input] as f32;
        entry += 1;
    }
    counts
}

/// Inputs, from the first on, that count the same in both vectors of a table.
const fn shared<P: Patterns>() -> usize {
    let mut inputs = 0;
    while inputs < P::INPUTS {
        let mut entry = 0;
        while entry < FLOATS {
            if P::COUNTS[entry][inputs] != P::COUNTS[FLOATS + entry][inputs] {
                return inputs;
            }
            entry += 1;
        }
        inputs += 1;
    }
    inputs
}

/// # Safety
/// The CPU has the instructions; a block of inputs of each row is there, and room for the tables.
#[target_feature(enable = "avx512f")]
unsafe fn build<P: Patterns>(rows: *const f32, row_stride: usize, tables: *mut f32) {
    let mut signs = [[_mm512_setzero_ps(); 2]; MOST];
    for (input, signs) in signs.iter_mut().enumerate().take(P::INPUTS) {
        let counts = counts::<P>(input);
        // SAFETY: two vectors.
        *signs = unsafe { [_mm512_loadu_ps(counts.as_ptr()), _mm512_loadu_ps(counts.as_ptr().add(FLOATS))] };
    }
    for step in 0..P::STEPS {
        let first = step * P::INPUTS;
        for m in 0..ROWS {
            // SAFETY: inputs of the block of row `m`, and a table of two vectors; the last step may reach beyond the block.
            unsafe {
                let x = rows.add(m * row_stride + first);
                let at = tables.add((step * ROWS + m) * ENTRIES);
                if first + P::INPUTS <= BLOCK {
                    table::<P>(x, P::INPUTS, &signs, at);
                } else {
                    table::<P>(x, BLOCK - first, &signs, at);
                }
            }
        }
    }
}

/// The table of `inputs` inputs, one added to another in their order.
///
/// # Safety
/// The CPU has the instructions; the inputs are there, and room for two vectors.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn table<P: Patterns>(x: *const f32, inputs: usize, signs: &[[__m512; 2]; MOST], at: *mut f32) {
    let (mut low, mut high) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for (input, signs) in signs.iter().enumerate() {
        if input < inputs {
            // SAFETY: as the caller promised.
            let x = _mm512_set1_ps(unsafe { *x.add(input) });
            low = _mm512_fmadd_ps(x, signs[0], low);
            high = if input < const { shared::<P>() } { low } else { _mm512_fmadd_ps(x, signs[1], high) };
        }
    }
    // SAFETY: as above.
    unsafe {
        _mm512_storeu_ps(at, low);
        _mm512_storeu_ps(at.add(FLOATS), high);
    }
}

/// # Safety
/// The CPU has the instructions; each column has `WORDS` words from byte `at` on, and indices of steps are `WIDTH` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
unsafe fn lay_out<P: Patterns>(codes: &ColumnBytes<'_>, at: usize, indices: *mut u32) {
    // SAFETY: as the caller promised; there is room for the indices of all steps.
    unsafe {
        let words = words_of(codes, at, P::WORDS);
        each_step!(P::STEPS, |step| {
            // five low bits of each word are all that counts
            let index = index::<P>(&words, step);
            let out = indices.add(step * WIDTH);
            _mm512_storeu_si512(out.cast(), index);
            _mm512_storeu_si512(out.add(FLOATS).cast(), _mm512_srli_epi32::<16>(index));
        });
    }
}

/// # Safety
/// The CPU has the instructions; tables, indices, scales and sums are those of a block.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add<P: Patterns>(tables: *const f32, indices: *const u32, scales: *const f32, acc: *mut f32) {
    // SAFETY: as the caller promised.
    unsafe {
        let sums = sums(P::STEPS, tables, indices, acc.wrapping_add(ROWS * WIDTH));
        for (m, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let at = acc.add(m * WIDTH + n * FLOATS);
                let scale = _mm512_loadu_ps(scales.add(n * FLOATS));
                _mm512_storeu_ps(at, _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(at)));
            }
        }
    }
}

/// The sums of a tile over `steps` steps, while a line of `next` for each of them is fetched. In assembly, for the reason that
/// [`permute`](super::permute) has.
///
/// # Safety
/// The CPU has the instructions; tables and indices are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sums(
    steps: usize,
    tables: *const f32,
    indices: *const u32,
    next: *const f32,
) -> [[__m512; VECTORS]; ROWS] {
    macro_rules! pick {
        ($sum:literal, $index:literal, $low:literal, $high:literal, $picked:literal) => {
            concat!(
                "vmovdqa64 zmm",
                $picked,
                ", zmm",
                $index,
                "\n",
                "vpermi2ps zmm",
                $picked,
                ", zmm",
                $low,
                ", zmm",
                $high,
                "\n",
                "vaddps zmm",
                $sum,
                ", zmm",
                $sum,
                ", zmm",
                $picked,
                "\n",
            )
        };
    }
    macro_rules! row {
        ($row:literal, $low:literal $high:literal: $a:literal $b:literal $c:literal $d:literal) => {
            concat!(
                "vmovups zmm",
                $low,
                ", [{tables} + 128 * ",
                $row,
                "]\n",
                "vmovups zmm",
                $high,
                ", [{tables} + 128 * ",
                $row,
                " + 64]\n",
                pick!($a, 16, $low, $high, 20),
                pick!($b, 17, $low, $high, 21),
                pick!($c, 18, $low, $high, 22),
                pick!($d, 19, $low, $high, 23),
            )
        };
    }
    macro_rules! steps {
        ($($number:literal $sum:tt $name:ident),*) => {{
            $(let $name: __m512;)*
            // SAFETY: reads `steps` tables of each row and indices, as the caller promised, and prefetches, which never faults.
            unsafe {
                asm!(
                    $(concat!("vpxord zmm", $number, ", zmm", $number, ", zmm", $number),)*
                    ".p2align 6",
                    "2:",
                    "vmovdqu64 zmm16, [{indices}]",
                    "vmovdqu64 zmm17, [{indices} + 64]",
                    "vmovdqu64 zmm18, [{indices} + 128]",
                    "vmovdqu64 zmm19, [{indices} + 192]",
                    row!(0, 28 29: 0 1 2 3),
                    row!(1, 30 31: 4 5 6 7),
                    row!(2, 28 29: 8 9 10 11),
                    row!(3, 30 31: 12 13 14 15),
                    "prefetcht0 [{next}]",
                    "add {next}, 64",
                    "add {tables}, 512",
                    "add {indices}, 256",
                    "dec {steps}",
                    "jnz 2b",
                    tables = inout(reg) tables => _,
                    indices = inout(reg) indices => _,
                    next = inout(reg) next => _,
                    steps = inout(reg) steps => _,
                    $(out($sum) $name,)*
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                    out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(nostack, readonly)
                );
            }
            [$($name),*]
        }};
    }
    let sums: [__m512; ROWS * VECTORS] = steps!(
        0 "zmm0" s0, 1 "zmm1" s1, 2 "zmm2" s2, 3 "zmm3" s3, 4 "zmm4" s4, 5 "zmm5" s5,
        6 "zmm6" s6, 7 "zmm7" s7, 8 "zmm8" s8, 9 "zmm9" s9, 10 "zmm10" s10, 11 "zmm11" s11,
        12 "zmm12" s12, 13 "zmm13" s13, 14 "zmm14" s14, 15 "zmm15" s15
    );
    let mut tile = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    for (row, sums) in tile.iter_mut().zip(sums.as_chunks::<VECTORS>().0) {
        *row = *sums;
    }
    tile
}
