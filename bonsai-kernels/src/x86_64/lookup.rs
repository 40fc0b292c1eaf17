//! The look-up tile on AVX-512: a table of 32 floats is two registers, one permutation looks 16 columns up.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::isa::Avx512;
use crate::lookup::{Alphabet, ENTRIES, LookupTile};

const MR: usize = 4;
const VECTORS: usize = 4;
const LANES: usize = 16;
const WIDTH: usize = VECTORS * LANES;

impl LookupTile for Avx512 {
    const MR: usize = MR;
    const WIDTH: usize = WIDTH;

    fn build<A: Alphabet>(self, depth: usize, rows: &[f32], row_stride: usize, tables: &mut [f32]) {
        assert!(rows.len() >= (MR - 1) * row_stride + depth, "look-up rows: {} floats", rows.len());
        assert!(tables.len() >= A::steps(depth) * MR * ENTRIES, "look-up tables: {} floats", tables.len());
        // SAFETY: the token proves AVX-512; the lengths were checked.
        unsafe { build::<A>(depth, rows.as_ptr(), row_stride, tables.as_mut_ptr()) }
    }

    fn look_up(self, steps: usize, tables: &[f32], indices: &[u32], scales: &[f32], acc: &mut [f32]) {
        assert!(tables.len() >= steps * MR * ENTRIES, "look-up tables: {} floats", tables.len());
        assert!(indices.len() >= steps * WIDTH, "look-up indices: {} words", indices.len());
        assert!(scales.len() >= WIDTH, "look-up scales: {} floats", scales.len());
        assert!(acc.len() >= MR * WIDTH, "look-up sums: {} floats", acc.len());
        let (tables, indices) = (tables.as_ptr(), indices.as_ptr());
        // SAFETY: the token proves AVX-512; the lengths were checked.
        unsafe { look_up(steps, tables, indices, scales.as_ptr(), acc.as_mut_ptr()) }
    }
}

/// # Safety
/// `rows` holds `(MR - 1) * row_stride + depth` floats, `tables` `A::steps(depth) * MR * ENTRIES`.
#[target_feature(enable = "avx512f")]
unsafe fn build<A: Alphabet>(depth: usize, rows: *const f32, row_stride: usize, tables: *mut f32) {
    /// No alphabet has tables of more inputs.
    const MOST: usize = 5;
    let mut signs = [[0.0f32; ENTRIES]; MOST];
    for (j, signs) in signs.iter_mut().enumerate().take(A::INPUTS) {
        for (entry, sign) in signs.iter_mut().enumerate() {
            *sign = A::sign(entry, j);
        }
    }
    // SAFETY: each holds 32 floats.
    let signs: [[__m512; 2]; MOST] = std::array::from_fn(|j| unsafe {
        [_mm512_loadu_ps(signs[j].as_ptr()), _mm512_loadu_ps(signs[j].as_ptr().add(LANES))]
    });
    for step in 0..A::steps(depth) {
        let first = step * A::INPUTS;
        let inputs = A::INPUTS.min(depth - first);
        for m in 0..MR {
            let mut table = [_mm512_setzero_ps(); 2];
            for (j, signs) in signs.iter().enumerate().take(inputs) {
                // SAFETY: `first + j < depth`, and `m < MR`.
                let x = unsafe { _mm512_set1_ps(*rows.add(m * row_stride + first + j)) };
                table = std::array::from_fn(|half| _mm512_fmadd_ps(x, signs[half], table[half]));
            }
            // SAFETY: the table of this step and row stands inside `tables`.
            unsafe {
                let at = tables.add((step * MR + m) * ENTRIES);
                _mm512_storeu_ps(at, table[0]);
                _mm512_storeu_ps(at.add(LANES), table[1]);
            }
        }
    }
}

/// # Safety
/// `tables` holds `steps * MR * ENTRIES` floats, `indices` `steps * WIDTH` words, `scales` `WIDTH` floats, `acc`
/// `MR * WIDTH`.
#[target_feature(enable = "avx512f")]
unsafe fn look_up(steps: usize, tables: *const f32, indices: *const u32, scales: *const f32, acc: *mut f32) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; MR];
    for step in 0..steps {
        // SAFETY: `step < steps`, `m < MR` and `n < VECTORS` stay inside the lengths that the caller promised.
        unsafe {
            // the sums that are added at the end come from the second-level cache
            let line = LANES * step.min(MR * VECTORS - 1);
            _mm_prefetch::<_MM_HINT_T0>(acc.add(line).cast());
            let index: [__m512i; VECTORS] =
                std::array::from_fn(|n| _mm512_loadu_si512(indices.add(step * WIDTH + n * LANES).cast()));
            for (m, sums) in sums.iter_mut().enumerate() {
                let table = tables.add((step * MR + m) * ENTRIES);
                let (low, high) = (_mm512_loadu_ps(table), _mm512_loadu_ps(table.add(LANES)));
                for (sum, index) in sums.iter_mut().zip(index) {
                    *sum = _mm512_add_ps(*sum, _mm512_permutex2var_ps(low, index, high));
                }
            }
        }
    }
    for (m, sums) in sums.iter().enumerate() {
        for (n, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let at = acc.add((m * VECTORS + n) * LANES);
                let scale = _mm512_loadu_ps(scales.add(n * LANES));
                _mm512_storeu_ps(at, _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(at)));
            }
        }
    }
}
