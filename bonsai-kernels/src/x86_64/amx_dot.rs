//! Dot products of bf16 by products of tiles: 32 rows by 32 or 64 columns.
#![expect(unsafe_code, reason = "instructions that the compiler does not know, loads and stores of vectors")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::amx::{
    COLUMNS, Factors, ROWS, Sums, TILE, TILE_WORDS, configure, load_columns, load_rows, multiply_tiles,
    release, store_sums, zero_sums,
};
use crate::dot::{Bf16, DEPTH, Dot, DotTile};
use crate::isa::Amx;

/// Words of a row that one step multiplies.
const STEP: usize = TILE;
/// The widest panel, in blocks of columns.
const MOST_BLOCKS: usize = 2;

impl DotTile<Bf16> for Amx {
    const MR: usize = ROWS;
    const WIDTHS: &'static [usize] = &[COLUMNS, MOST_BLOCKS * COLUMNS];

    #[inline]
    fn dot(self, dot: Dot<'_, u32>, sums: &mut [f32], stride: usize) {
        dot.check(ROWS, sums, stride);
        assert!(
            <Self as DotTile<Bf16>>::WIDTHS.contains(&dot.width) && dot.depth <= DEPTH,
            "a panel of this instruction set"
        );
        // SAFETY: the token proves the instructions; `check` proved the lengths.
        unsafe { multiply(&dot, sums.as_mut_ptr(), stride) }
    }
}

/// How far apart rows stand, if evenly and upwards; there are at least two.
pub(super) fn evenly(at: &[usize]) -> Option<usize> {
    let apart = at[1].checked_sub(at[0])?;
    at.windows(2).all(|at| at[1].checked_sub(at[0]) == Some(apart)).then_some(apart)
}

/// # Safety
/// All slices are as long as `Dot::check` demands for [`ROWS`] rows and `dot.width` columns, one or two blocks.
#[target_feature(enable = "avx512f")]
unsafe fn multiply(dot: &Dot<'_, u32>, sums: *mut f32, stride: usize) {
    let &Dot { width, depth, .. } = dot;
    let apart = evenly(dot.at);
    let (whole, rest) = (depth / STEP * STEP, depth % STEP);
    // rows that do not stand evenly, and words that fill no step
    let mut gathered = [MaybeUninit::<[u32; DEPTH]>::uninit(); ROWS];
    let mut tail = MaybeUninit::<[[u32; MOST_BLOCKS * COLUMNS]; STEP]>::uninit();
    let mut tiles = [const { MaybeUninit::<Sums>::uninit() }; MOST_BLOCKS];
    // SAFETY: rows begin inside the slice and have `depth` words, of which `gathered` holds all, with zeros up to a whole
    // step; so does `tail` for the panel, which is read only where words are left over. Tiles are configured before they
    // are used and given back after, and nothing in between leaves this function.
    unsafe {
        let (mut rows, mut row_stride) = (dot.rows.as_ptr().add(dot.at[0]), 4 * apart.unwrap_or(0));
        if apart.is_none() || rest > 0 {
            for (to, &at) in gathered.iter_mut().zip(dot.at) {
                let to = to.as_mut_ptr().cast::<u32>();
                to.copy_from_nonoverlapping(dot.rows.as_ptr().add(at), depth);
                to.add(depth).write_bytes(0, depth.next_multiple_of(STEP) - depth);
            }
            (rows, row_stride) = (gathered.as_ptr().cast(), 4 * DEPTH);
        }
        // most often there is none, and zeros would take as long as a step
        if rest > 0 {
            let left = dot.panel[whole * width..depth * width].chunks_exact(width);
            tail.as_mut_ptr().write_bytes(0, 1);
            for (to, from) in tail.assume_init_mut().iter_mut().zip(left) {
                to[..width].copy_from_slice(from);
            }
        }
        configure();
        for (block, tiles) in tiles.iter_mut().enumerate().take(width / COLUMNS) {
            zero_sums();
            for step in (0..depth).step_by(STEP) {
                load_rows(rows.add(step).cast(), TILE * row_stride, row_stride);
                let (panel, panel_stride) = if step < whole {
                    (dot.panel.as_ptr().add(step * width), 4 * width)
                } else {
                    (tail.as_ptr().cast(), 4 * MOST_BLOCKS * COLUMNS)
                };
                load_columns(panel.add(block * COLUMNS), 4 * TILE, panel_stride);
                multiply_tiles(Factors::Bf16);
            }
            store_sums(tiles.as_mut_ptr().cast());
        }
        release();
        for (block, tiles) in tiles.iter().enumerate().take(width / COLUMNS) {
            let (tiles, first) = (tiles.as_ptr().cast::<f32>(), block * COLUMNS);
            let columns = dot.column.as_ptr().add(first);
            let columns = [_mm512_loadu_ps(columns), _mm512_loadu_ps(columns.add(TILE))];
            for m in 0..ROWS {
                let from = tiles.add(m / TILE * 2 * TILE_WORDS + m % TILE * TILE);
                let to = sums.add(m * stride + first);
                let (keep, row) = (dot.keep[m], _mm512_set1_ps(dot.row[m]));
                for (half, &column) in columns.iter().enumerate() {
                    let to = to.add(half * TILE);
                    let mut sum = _mm512_mul_ps(
                        _mm512_load_ps(from.add(half * TILE_WORDS)),
                        _mm512_mul_ps(row, column),
                    );
                    if keep != 0.0 {
                        sum = _mm512_fmadd_ps(_mm512_set1_ps(keep), _mm512_loadu_ps(to), sum);
                    }
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
    }
}
