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

    fn look_up(self, steps: usize, tables: &[f32], indices: &[u32], sums: &mut [f32]) {
        assert!(tables.len() >= steps * MR * ENTRIES, "look-up tables: {} floats", tables.len());
        assert!(indices.len() >= steps * WIDTH, "look-up indices: {} words", indices.len());
        assert!(sums.len() >= MR * WIDTH, "look-up sums: {} floats", sums.len());
        // SAFETY: the token proves AVX-512; the lengths were checked.
        unsafe { look_up(steps, tables.as_ptr(), indices.as_ptr(), sums.as_mut_ptr()) }
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
/// `tables` holds `steps * MR * ENTRIES` floats, `indices` `steps * WIDTH` words, `sums` `MR * WIDTH` floats.
#[target_feature(enable = "avx512f")]
unsafe fn look_up(steps: usize, tables: *const f32, indices: *const u32, sums: *mut f32) {
    let mut acc = [[_mm512_setzero_ps(); VECTORS]; MR];
    for step in 0..steps {
        // SAFETY: `step < steps`, `m < MR` and `n < VECTORS` stay inside the lengths that the caller promised.
        unsafe {
            let index: [__m512i; VECTORS] =
                std::array::from_fn(|n| _mm512_loadu_si512(indices.add(step * WIDTH + n * LANES).cast()));
            for (m, acc) in acc.iter_mut().enumerate() {
                let table = tables.add((step * MR + m) * ENTRIES);
                let (low, high) = (_mm512_loadu_ps(table), _mm512_loadu_ps(table.add(LANES)));
                for (acc, index) in acc.iter_mut().zip(index) {
                    *acc = _mm512_add_ps(*acc, _mm512_permutex2var_ps(low, index, high));
                }
            }
        }
    }
    for (m, acc) in acc.iter().enumerate() {
        for (n, &acc) in acc.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(sums.add((m * VECTORS + n) * LANES), acc) };
        }
    }
}
