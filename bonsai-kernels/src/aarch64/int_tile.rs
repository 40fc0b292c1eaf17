//! Integer products on NEON: 6 rows by as many columns as registers allow.
//!
//! Plain NEON adds products of bytes to 16-bit sums, as long as they fit, and products of 16 bits to 32-bit ones; a sum
//! then has an element for each input of a word. Dot products add up a word's four products of bytes by themselves. They
//! are named in assembly, as the compiler's own names for them are not stable. Where there are matrix products, bytes have a
//! tile of their own.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::aarch64::*;
use std::arch::asm;

use crate::int_tile::{Bytes, IntBlock, IntTile, LANES, LARGEST_BYTE, Pairs, Products};
use crate::isa::{DotProd, I8mm, Neon};

const MR: usize = 6;
/// Columns of one vector of sums.
const COLUMNS: usize = 4;

/// How products are summed on instruction set `T`; vectors are of four words of digits.
trait Dot<T>: Products {
    /// Sums of four columns, in parts.
    type Sums: Copy;
    /// Vectors of columns whose sums fit the registers for all rows; divides `LANES / COLUMNS`.
    const VECTORS: usize;
    /// Whether digits are taken for signed bytes, so that those beyond 127 must be made such.
    const SIGNED_BYTES: bool;
    /// Steps of digits of at most this magnitude that sums hold.
    fn steps(largest: i32) -> usize;
    /// No products.
    ///
    /// # Safety
    /// The CPU must be of this instruction set.
    unsafe fn zero() -> Self::Sums;
    /// Adds products of `x` with digits.
    ///
    /// # Safety
    /// The CPU must be of this instruction set.
    unsafe fn dot(sums: Self::Sums, digits: uint8x16_t, x: uint8x16_t) -> Self::Sums;
    /// The sum of each column.
    ///
    /// # Safety
    /// The CPU must be of this instruction set.
    unsafe fn total(sums: Self::Sums) -> int32x4_t;
}

/// 16-bit products on every level: two 32-bit sums a column.
macro_rules! pairs_dot {
    ($token:ty) => {
        impl Dot<$token> for Pairs {
            type Sums = (int32x4_t, int32x4_t);
            const VECTORS: usize = 2;
            const SIGNED_BYTES: bool = false;
            fn steps(_: i32) -> usize {
                usize::MAX
            }
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn zero() -> Self::Sums {
                (vdupq_n_s32(0), vdupq_n_s32(0))
            }
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn dot((low, high): Self::Sums, digits: uint8x16_t, x: uint8x16_t) -> Self::Sums {
                let (digits, x) = (vreinterpretq_s16_u8(digits), vreinterpretq_s16_u8(x));
                (vmlal_s16(low, vget_low_s16(digits), vget_low_s16(x)), vmlal_high_s16(high, digits, x))
            }
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn total((low, high): Self::Sums) -> int32x4_t {
                vpaddq_s32(low, high)
            }
        }
    };
}

pairs_dot!(Neon);
pairs_dot!(DotProd);
pairs_dot!(I8mm);

/// Four 16-bit sums a column.
impl Dot<Neon> for Bytes {
    type Sums = (int16x8_t, int16x8_t);
    const VECTORS: usize = 2;
    const SIGNED_BYTES: bool = true;
    fn steps(largest: i32) -> usize {
        (i32::from(i16::MAX) / (LARGEST_BYTE * largest)) as usize
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn zero() -> Self::Sums {
        (vdupq_n_s16(0), vdupq_n_s16(0))
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot((low, high): Self::Sums, digits: uint8x16_t, x: uint8x16_t) -> Self::Sums {
        let (digits, x) = (vreinterpretq_s8_u8(digits), vreinterpretq_s8_u8(x));
        (vmlal_s8(low, vget_low_s8(digits), vget_low_s8(x)), vmlal_high_s8(high, digits, x))
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn total((low, high): Self::Sums) -> int32x4_t {
        vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))
    }
}

/// One 32-bit sum a column.
impl Dot<DotProd> for Bytes {
    type Sums = int32x4_t;
    const VECTORS: usize = 4;
    const SIGNED_BYTES: bool = true;
    fn steps(_: i32) -> usize {
        usize::MAX
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn zero() -> int32x4_t {
        vdupq_n_s32(0)
    }
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dot(sums: int32x4_t, digits: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        let mut sums = sums;
        // SAFETY: the caller's CPU has the instruction, which reads and writes these registers only.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {digits:v}.16b, {x:v}.16b",
                sums = inout(vreg) sums,
                digits = in(vreg) digits,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn total(sums: int32x4_t) -> int32x4_t {
        sums
    }
}

macro_rules! int_tile {
    ($token:ty, $module:ident, $features:literal) => {
        impl<P: Dot<$token>> IntTile<P> for $token {
            const MR: usize = MR;
            const WIDTHS: &'static [usize] = &[LANES];

            #[inline(always)]
            fn multiply(self, block: IntBlock<'_, P::Row>, acc: &mut [f32]) {
                let panels = block.checked_panels(MR, P::DEPTH, acc);
                assert_eq!(block.width, LANES, "a panel's width on this instruction set");
                let signed = P::SIGNED_BYTES && block.largest > i32::from(i8::MAX);
                for panel in 0..panels {
                    // SAFETY: the token proves the instructions; the lengths were checked for all panels.
                    unsafe {
                        let digits = block.panels.as_ptr().add(panel * block.panel_len());
                        let acc = acc.as_mut_ptr().add(panel * MR * LANES);
                        match (P::VECTORS, signed) {
                            (2, false) => $module::multiply::<P, 2, false>(&block, digits, acc),
                            (2, true) => $module::multiply::<P, 2, true>(&block, digits, acc),
                            (_, false) => $module::multiply::<P, 4, false>(&block, digits, acc),
                            (_, true) => $module::multiply::<P, 4, true>(&block, digits, acc),
                        }
                    }
                }
            }
        }

        mod $module {
            use super::*;

            /// With `SIGNED`, digits are counted from 128, which makes them signed bytes.
            ///
            /// # Safety
            /// `block` was checked for `MR` rows; `digits` begins one of its panels, of `LANES` columns, and `acc`
            /// holds its tile.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn multiply<P: Dot<$token>, const NV: usize, const SIGNED: bool>(
                block: &IntBlock<'_, P::Row>,
                digits: *const u32,
                acc: *mut f32,
            ) {
                const MIDDLE: i32 = 128;
                let rows = block.rows.as_ptr();
                let at_once = P::steps(if SIGNED { MIDDLE } else { block.largest });
                for column in (0..LANES).step_by(NV * COLUMNS) {
                    let mut sums = [[vdupq_n_s32(0); NV]; MR];
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let middle = if SIGNED { MIDDLE * block.row_sums[m] } else { 0 };
                        *sums = [vdupq_n_s32(block.starts[m] + middle); NV];
                    }
                    let mut first = 0;
                    while first < block.steps {
                        let end = block.steps.min(first.saturating_add(at_once));
                        // SAFETY: `step < steps`, `m < MR` and `column + 4 NV <= LANES` stay inside the lengths that
                        // were checked; the instructions are there.
                        unsafe {
                            let mut part = [[P::zero(); NV]; MR];
                            for step in first..end {
                                let digits: [uint8x16_t; NV] = std::array::from_fn(|n| {
                                    let digits =
                                        vld1q_u8(digits.add(step * LANES + column + n * COLUMNS).cast());
                                    if SIGNED { veorq_u8(digits, vdupq_n_u8(0x80)) } else { digits }
                                });
                                for (m, part) in part.iter_mut().enumerate() {
                                    let x = rows.add(m * block.row_stride).cast::<u32>().add(step);
                                    let x = vreinterpretq_u8_u32(vdupq_n_u32(x.read_unaligned()));
                                    for (sum, digits) in part.iter_mut().zip(digits) {
                                        *sum = P::dot(*sum, digits, x);
                                    }
                                }
                            }
                            for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                                *sum = vaddq_s32(*sum, P::total(*part));
                            }
                        }
                        first = end;
                    }
                    // SAFETY: scales stand behind the digits, biases behind the scales.
                    let scales = unsafe { digits.add(block.steps * LANES + column).cast::<f32>() };
                    for (m, sums) in sums.iter().enumerate() {
                        for (n, &sum) in sums.iter().enumerate() {
                            // SAFETY: as above.
                            unsafe {
                                let at = acc.add(m * LANES + column + n * COLUMNS);
                                add_scaled(at, sum, scales.add(n * COLUMNS), block, m);
                            }
                        }
                    }
                }
            }
        }
    };
}

/// Adds the sums of four columns of row `m`, scaled, and what biases make of the row.
///
/// # Safety
/// `at` holds four sums; `scales` are those of the four columns in a panel of `block`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn add_scaled<R>(
    at: *mut f32,
    sum: int32x4_t,
    scales: *const f32,
    block: &IntBlock<'_, R>,
    m: usize,
) {
    // SAFETY: the caller's; biases stand `LANES` columns behind the scales.
    unsafe {
        let scale = vmulq_n_f32(vld1q_f32(scales), block.row_scales[m]);
        let mut product = vfmaq_f32(vld1q_f32(at), vcvtq_f32_s32(sum), scale);
        if block.biased {
            let factor = block.row_sums[m] as f32 * block.row_scales[m];
            product = vfmaq_n_f32(product, vld1q_f32(scales.add(LANES)), factor);
        }
        vst1q_f32(at, product);
    }
}

int_tile!(Neon, neon, "neon");
int_tile!(DotProd, dotprod, "neon,dotprod");
int_tile!(I8mm, i8mm, "neon,dotprod,i8mm");
