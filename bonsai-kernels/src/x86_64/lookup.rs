//! The look-up tile on AVX-512: a table of 32 floats is two registers, one permutation looks 16 columns up.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::isa::Avx512;
use crate::lookup::{ENTRIES, INPUTS, LookupTile, steps};

const MR: usize = 4;
const VECTORS: usize = 4;
const LANES: usize = 16;
const WIDTH: usize = VECTORS * LANES;

impl LookupTile for Avx512 {
    const MR: usize = MR;
    const WIDTH: usize = WIDTH;

    fn build(self, depth: usize, rows: &[f32], row_stride: usize, tables: &mut [f32]) {
        assert!(rows.len() >= (MR - 1) * row_stride + depth, "look-up rows: {} floats", rows.len());
        assert!(tables.len() >= steps(depth) * MR * ENTRIES, "look-up tables: {} floats", tables.len());
        // SAFETY: the token proves AVX-512; the lengths were checked.
        unsafe { build(depth, rows.as_ptr(), row_stride, tables.as_mut_ptr()) }
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
/// `rows` holds `(MR - 1) * row_stride + depth` floats, `tables` `steps(depth) * MR * ENTRIES`.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn build(depth: usize, rows: *const f32, row_stride: usize, tables: *mut f32) {
    // the sign that input j has in entries 0..16
    let signs: [__m512; INPUTS - 1] = std::array::from_fn(|j| {
        let mut signs = [0.0f32; LANES];
        for (i, sign) in signs.iter_mut().enumerate() {
            *sign = if i >> j & 1 == 1 { 1.0 } else { -1.0 };
        }
        // SAFETY: `signs` holds 16 floats.
        unsafe { _mm512_loadu_ps(signs.as_ptr()) }
    });
    for step in 0..steps(depth) {
        for m in 0..MR {
            let first = step * INPUTS;
            // SAFETY: `first + j < depth` is checked before each read; a table stands inside `tables`.
            unsafe {
                let x = |j: usize| {
                    let value = if first + j < depth { *rows.add(m * row_stride + first + j) } else { 0.0 };
                    _mm512_set1_ps(value)
                };
                let mut low = _mm512_mul_ps(x(0), signs[0]);
                for (j, &signs) in signs.iter().enumerate().skip(1) {
                    low = _mm512_fmadd_ps(x(j), signs, low);
                }
                let last = x(INPUTS - 1);
                let table = tables.add((step * MR + m) * ENTRIES);
                _mm512_storeu_ps(table, _mm512_sub_ps(low, last));
                _mm512_storeu_ps(table.add(LANES), _mm512_add_ps(low, last));
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
    for (i, acc) in acc.into_iter().flatten().enumerate() {
        // SAFETY: as above.
        unsafe {
            let at = sums.add(i * LANES);
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), acc));
        }
    }
}
