//! Products of bytes by matrix products on NEON: two columns of digits by two rows of activations, eight inputs deep.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::int_tile::add_scaled;
use crate::int_tile::{Bytes, IntBlock, IntTile, LANES};
use crate::isa::I8mm;

/// Rows of a tile, worked off in pairs.
const MR: usize = 12;
/// Columns of one vector of a panel.
const COLUMNS: usize = 4;
/// Columns whose sums fit the registers for all rows.
const AT_ONCE: usize = 8;

impl IntTile<Bytes> for I8mm {
    const MR: usize = MR;
    const WIDTHS: &'static [usize] = &[LANES];

    #[inline(always)]
    fn multiply(self, block: IntBlock<'_, i8>, acc: &mut [f32]) {
        let panels = block.checked_panels(MR, 4, acc);
        assert_eq!(block.width, LANES, "a panel's width on this instruction set");
        for panel in 0..panels {
            // SAFETY: the token proves the instructions; the lengths were checked for all panels.
            unsafe {
                let digits = block.panels.as_ptr().add(panel * block.panel_len());
                multiply(&block, digits, acc.as_mut_ptr().add(panel * MR * LANES));
            }
        }
    }
}

/// # Safety
/// `block` was checked for `MR` rows; `digits` begins one of its panels, of `LANES` columns, and `acc` holds its tile.
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply(block: &IntBlock<'_, i8>, digits: *const u32, acc: *mut f32) {
    let rows = block.rows.as_ptr();
    for column in (0..LANES).step_by(AT_ONCE) {
        // of a pair of columns and a pair of rows: both rows of the first column, both of the second
        let mut sums: [[int32x4_t; AT_ONCE / 2]; MR / 2] = std::array::from_fn(|pair| {
            let [a, b] = [0, 1].map(|i| vdupq_n_s32(block.starts[2 * pair + i]));
            [vzip1q_s32(a, b); AT_ONCE / 2]
        });
        for step in (0..block.steps).step_by(2) {
            // the last step may stand alone
            let alone = step + 1 == block.steps;
            // SAFETY: `step < steps`, `step + 1 < steps` unless it stands alone, `m < MR` and `column + AT_ONCE <= LANES`
            // stay inside the lengths that were checked; the instructions are there.
            unsafe {
                let line = |step: usize, n: usize| vld1q_u32(digits.add(step * LANES + column + n * COLUMNS));
                let mut pairs = [vdupq_n_u8(0); AT_ONCE / 2];
                for n in 0..AT_ONCE / COLUMNS {
                    let low = line(step, n);
                    let high = if alone { vdupq_n_u32(0) } else { line(step + 1, n) };
                    // both steps of a column side by side
                    pairs[2 * n] = vreinterpretq_u8_u32(vzip1q_u32(low, high));
                    pairs[2 * n + 1] = vreinterpretq_u8_u32(vzip2q_u32(low, high));
                }
                for (pair, sums) in sums.iter_mut().enumerate() {
                    let inputs = |m: usize| {
                        let x = rows.add(m * block.row_stride + 4 * step);
                        // activations beyond the end meet digits of zero, but must not be read
                        if alone {
                            u64::from(x.cast::<u32>().read_unaligned())
                        } else {
                            x.cast::<u64>().read_unaligned()
                        }
                    };
                    let x = vcombine_u8(vcreate_u8(inputs(2 * pair)), vcreate_u8(inputs(2 * pair + 1)));
                    for (sum, &digits) in sums.iter_mut().zip(&pairs) {
                        *sum = matrix_product(*sum, digits, x);
                    }
                }
            }
        }
        // SAFETY: scales stand behind the digits.
        let scales = unsafe { digits.add(block.steps * LANES + column).cast::<f32>() };
        for (pair, sums) in sums.iter().enumerate() {
            for (n, sums) in sums.as_chunks::<2>().0.iter().enumerate() {
                let of_rows = [vuzp1q_s32(sums[0], sums[1]), vuzp2q_s32(sums[0], sums[1])];
                for (i, sum) in of_rows.into_iter().enumerate() {
                    let m = 2 * pair + i;
                    // SAFETY: `m < MR`, and the four columns are inside the panel.
                    unsafe {
                        let at = acc.add(m * LANES + column + n * COLUMNS);
                        add_scaled(at, sum, scales.add(n * COLUMNS), block, m);
                    }
                }
            }
        }
    }
}

/// Adds to each of four sums the products of eight unsigned bytes (of a column) and eight signed ones (of a row).
///
/// # Safety
/// The CPU must have matrix products of bytes.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn matrix_product(sums: int32x4_t, digits: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the caller's CPU has the instruction, which reads and writes these registers only.
    unsafe {
        asm!(
            "usmmla {sums:v}.4s, {digits:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums,
            digits = in(vreg) digits,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
