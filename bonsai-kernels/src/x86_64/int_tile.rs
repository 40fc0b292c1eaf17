//! Integer products on vectors of 256 and 512 bits: 6 rows by as many vectors of sums as registers allow.
//!
//! VNNI adds four products of bytes, or two of 16 bits, straight to 32-bit sums. Without it `vpmaddwd` takes an addition
//! of its own, and `vpmaddubsw` sums bytes into 16 bits, where they stay as long as they fit.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::int_tile::{Bytes, Digits, IntBlock, IntTile, LANES, LARGEST_BYTE, Pairs, Products};
use crate::isa::{Avx2, Avx512, Avx512Vnni, AvxVnni};

const MR: usize = 6;

/// How products are summed on vectors `V` of instruction set `T`.
trait Dot<T, V>: Products {
    /// Steps of digits up to `largest` whose products 16-bit sums hold; 0 where there are no such sums.
    fn narrow_steps(_largest: i32) -> usize {
        0
    }

    /// Adds products of `x` with digits to 16-bit sums.
    ///
    /// # Safety
    /// The CPU must be of this instruction set.
    unsafe fn narrow(_: V, _: V, _: V) -> V {
        unreachable!("no 16-bit sums")
    }

    /// Adds products of `x` with digits to 32-bit sums.
    ///
    /// # Safety
    /// The CPU must be of this instruction set.
    unsafe fn dot(sums: V, digits: V, x: V) -> V;
}

macro_rules! vnni_dot {
    ($products:ty, $token:ty, $vector:ty, $features:literal, $dot:ident) => {
        impl Dot<$token, $vector> for $products {
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn dot(sums: $vector, digits: $vector, x: $vector) -> $vector {
                $dot(sums, digits, x)
            }
        }
    };
}

/// `_mm512_dpwssd_epi32`, which the compiler parts in two instructions where it can.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn multiply_add_pairs(mut sums: __m512i, digits: __m512i, x: __m512i) -> __m512i {
    // SAFETY: the function has the instruction, which touches registers only.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sums}, {digits}, {x}",
            sums = inout(zmm_reg) sums,
            digits = in(zmm_reg) digits,
            x = in(zmm_reg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

vnni_dot!(Pairs, Avx512Vnni, __m512i, "avx512f,avx512vnni", multiply_add_pairs);
vnni_dot!(Bytes, Avx512Vnni, __m512i, "avx512f,avx512vnni", _mm512_dpbusd_epi32);
vnni_dot!(Pairs, AvxVnni, __m256i, "avx2,avxvnni", _mm256_dpwssd_avx_epi32);
vnni_dot!(Bytes, AvxVnni, __m256i, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);

macro_rules! madd_dot {
    (
        $token:ty, $vector:ty, $features:literal, $add16:ident, $add32:ident, $madd:ident, $maddubs:ident,
        $slli16:ident, $srai16:ident, $srli16:ident, $and:ident, $splat16:ident
    ) => {
        impl Dot<$token, $vector> for Pairs {
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn dot(sums: $vector, digits: $vector, x: $vector) -> $vector {
                $add32(sums, $madd(digits, x))
            }
        }

        impl Dot<$token, $vector> for Bytes {
            /// A step adds two products of at most `127 * largest`, and no product pair may saturate.
            fn narrow_steps(largest: i32) -> usize {
                (i32::from(i16::MAX) / (2 * LARGEST_BYTE * largest)) as usize
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn narrow(sums: $vector, digits: $vector, x: $vector) -> $vector {
                $add16(sums, $maddubs(digits, x))
            }

            /// Even and odd bytes apart, each made 16 bits.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn dot(sums: $vector, digits: $vector, x: $vector) -> $vector {
                let even = $madd($and(digits, $splat16(0xff)), $srai16::<8>($slli16::<8>(x)));
                let odd = $madd($srli16::<8>(digits), $srai16::<8>(x));
                $add32(sums, $add32(even, odd))
            }
        }
    };
}

madd_dot!(
    Avx2,
    __m256i,
    "avx2",
    _mm256_add_epi16,
    _mm256_add_epi32,
    _mm256_madd_epi16,
    _mm256_maddubs_epi16,
    _mm256_slli_epi16,
    _mm256_srai_epi16,
    _mm256_srli_epi16,
    _mm256_and_si256,
    _mm256_set1_epi16
);
madd_dot!(
    Avx512,
    __m512i,
    "avx512f,avx512bw",
    _mm512_add_epi16,
    _mm512_add_epi32,
    _mm512_madd_epi16,
    _mm512_maddubs_epi16,
    _mm512_slli_epi16,
    _mm512_srai_epi16,
    _mm512_srli_epi16,
    _mm512_and_si512,
    _mm512_set1_epi16
);

/// The tile for vectors of `$lanes` sums, with panels of `$vectors` vectors.
macro_rules! int_tile {
    (
        $token:ty, $module:ident, $features:literal, $vector:ident, $lanes:literal, [$($vectors:literal),+], {$($spread:tt)*},
        $zero:ident, $load:ident, $splat:ident, $splat16:ident, $add:ident, $madd:ident, $float:ident,
        $load_floats:ident, $store_floats:ident, $splat_float:ident, $mul:ident, $fma:ident
    ) => {
        impl<P: Dot<$token, $vector>> IntTile<P> for $token {
            const MR: usize = MR;
            const WIDTHS: &'static [usize] = &[$($vectors * $lanes),+];

            $($spread)*

            #[inline(always)]
            fn multiply(self, block: IntBlock<'_, P::Row>, acc: &mut [f32]) {
                let panels = block.checked_panels(MR, P::DEPTH, acc);
                let narrow_steps = P::narrow_steps(block.largest);
                match block.width / $lanes {
                    $($vectors if block.width == $vectors * $lanes => {
                        for panel in 0..panels {
                            // SAFETY: the token proves the instructions; the lengths were checked for all panels.
                            unsafe {
                                let digits = block.panels.as_ptr().add(panel * block.panel_len());
                                let acc = acc.as_mut_ptr().add(panel * MR * block.width);
                                if narrow_steps > 0 {
                                    $module::multiply::<P, $vectors, true>(&block, narrow_steps, digits, acc);
                                } else {
                                    $module::multiply::<P, $vectors, false>(&block, block.steps, digits, acc);
                                }
                            }
                        }
                    })+
                    _ => unreachable!("no panel of {} columns on this instruction set", block.width),
                }
            }
        }

        mod $module {
            use super::*;

            /// # Safety
            /// As [`multiply`], for steps of the block.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn add_steps<P: Dot<$token, $vector>, const NV: usize, const NARROW: bool>(
                block: &IntBlock<'_, P::Row>,
                steps: std::ops::Range<usize>,
                digits: *const u32,
                sums: &mut [[$vector; NV]; MR],
            ) {
                let rows = block.rows.as_ptr();
                // in registers, whatever the caller does with the sums
                let mut part = *sums;
                for step in steps {
                    // SAFETY: `step < block.steps`, `m < MR` and `n < NV` stay inside the lengths that were checked.
                    unsafe {
                        let digits: [$vector; NV] =
                            std::array::from_fn(|n| $load(digits.add((step * NV + n) * $lanes).cast()));
                        for (m, part) in part.iter_mut().enumerate() {
                            let x = rows.add(m * block.row_stride).cast::<i32>().add(step).read_unaligned();
                            let x = $splat(x);
                            for (sum, digits) in part.iter_mut().zip(digits) {
                                *sum = if NARROW { P::narrow(*sum, digits, x) } else { P::dot(*sum, digits, x) };
                            }
                        }
                    }
                }
                *sums = part;
            }

            /// # Safety
            /// `block` was checked for `MR` rows; `digits` begins one of its panels, of `NV` vectors, and `acc` holds
            /// its tile. With `NARROW`, so many `steps` fit 16-bit sums.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn multiply<P: Dot<$token, $vector>, const NV: usize, const NARROW: bool>(
                block: &IntBlock<'_, P::Row>,
                steps: usize,
                digits: *const u32,
                acc: *mut f32,
            ) {
                let mut sums = [[$zero(); NV]; MR];
                for (m, sums) in sums.iter_mut().enumerate() {
                    *sums = [$splat(block.starts[m]); NV];
                }
                if NARROW {
                    for first in (0..block.steps).step_by(steps) {
                        let mut part = [[$zero(); NV]; MR];
                        let end = block.steps.min(first + steps);
                        // SAFETY: as the caller promised.
                        unsafe { add_steps::<P, NV, true>(block, first..end, digits, &mut part) };
                        for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                            *sum = $add(*sum, $madd(*part, $splat16(1)));
                        }
                    }
                } else {
                    // SAFETY: as the caller promised.
                    unsafe { add_steps::<P, NV, false>(block, 0..block.steps, digits, &mut sums) };
                }
                // SAFETY: scales stand behind the digits, biases behind the scales.
                let scales = unsafe { digits.add(block.steps * NV * $lanes).cast::<f32>() };
                // SAFETY: as the caller promised.
                unsafe {
                    if block.biased {
                        scale_sums::<P, NV, true>(block, &sums, scales, acc);
                    } else {
                        scale_sums::<P, NV, false>(block, &sums, scales, acc);
                    }
                }
            }

            /// # Safety
            /// `scales` begins those of `NV` vectors, with biases behind them if there are any; `acc` holds the tile.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn scale_sums<P: Dot<$token, $vector>, const NV: usize, const BIASED: bool>(
                block: &IntBlock<'_, P::Row>,
                sums: &[[$vector; NV]; MR],
                scales: *const f32,
                acc: *mut f32,
            ) {
                for (m, sums) in sums.iter().enumerate() {
                    let row_scale = block.row_scales[m];
                    let factor = $splat_float(block.row_sums[m] as f32 * row_scale);
                    for (n, &sum) in sums.iter().enumerate() {
                        // SAFETY: as the caller promised.
                        unsafe {
                            let at = acc.add((m * NV + n) * $lanes);
                            let mut scale = $load_floats(scales.add(n * $lanes));
                            if P::BLOCK_SCALES {
                                scale = $mul(scale, $splat_float(row_scale));
                            }
                            let mut sum = $fma($float(sum), scale, $load_floats(at));
                            if BIASED {
                                sum = $fma(factor, $load_floats(scales.add((NV + n) * $lanes)), sum);
                            }
                            $store_floats(at, sum);
                        }
                    }
                }
            }
        }
    };
}

macro_rules! int_tile_256 {
    ($token:ty, $module:ident, $features:literal) => {
        int_tile!(
            $token,
            $module,
            $features,
            __m256i,
            8,
            [2],
            {
                #[inline(always)]
                fn spread(self, digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
                    // SAFETY: the token proves the instructions.
                    unsafe { shifted_spread::<P>(digits, words, panel, stride) }
                }
            },
            _mm256_setzero_si256,
            _mm256_loadu_si256,
            _mm256_set1_epi32,
            _mm256_set1_epi16,
            _mm256_add_epi32,
            _mm256_madd_epi16,
            _mm256_cvtepi32_ps,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_set1_ps,
            _mm256_mul_ps,
            _mm256_fmadd_ps
        );
    };
}

macro_rules! int_tile_512 {
    ($token:ty, $module:ident, $features:literal, {$($spread:tt)*}) => {
        int_tile!(
            $token,
            $module,
            $features,
            __m512i,
            16,
            [1, 2, 4],
            {$($spread)*},
            _mm512_setzero_si512,
            _mm512_loadu_si512,
            _mm512_set1_epi32,
            _mm512_set1_epi16,
            _mm512_add_epi32,
            _mm512_madd_epi16,
            _mm512_cvtepi32_ps,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_set1_ps,
            _mm512_mul_ps,
            _mm512_fmadd_ps
        );
    };
}

int_tile_256!(Avx2, avx2, "avx2,fma");
int_tile_256!(AvxVnni, avx_vnni, "avx2,fma,avxvnni");
int_tile_512!(Avx512, avx512, "avx512f,avx512bw", {
    #[inline(always)]
    fn spread(self, digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
        // SAFETY: the token proves the instructions.
        unsafe { shifted_spread::<P>(digits, words, panel, stride) }
    }
});
int_tile_512!(Avx512Vnni, avx512_vnni, "avx512f,avx512bw,avx512vnni", {
    #[inline(always)]
    fn spread(self, digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
        let steps_per_word = 32 / digits.bits / P::DEPTH;
        assert!(words.len() * steps_per_word >= panel.len().div_ceil(stride), "words of codes");
        assert!(stride >= LANES && (panel.len() % stride).is_multiple_of(LANES), "a panel of whole vectors");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { spread::<P>(digits, words, panel, stride) }
    }
});

/// Four codes are parted in pairs, and pairs in codes, as [`IntTile::spread`] does by itself; with uniform shifts, which
/// the compiler makes many single ones of.
#[target_feature(enable = "avx2")]
fn shifted_spread<P: Products>(digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
    let Digits { bits, step, zero } = digits;
    let steps_per_word = 32 / bits / P::DEPTH;
    let slot = 32 / P::DEPTH;
    let splat = |word: u32| _mm256_set1_epi32(word.cast_signed());
    let count = |bits: usize| _mm_cvtsi32_si128(bits as i32);
    // one in every slot, and in its top bit
    let ones = (0..P::DEPTH).fold(0u32, |ones, j| ones | 1 << (j * slot));
    let (tops, zeros) = (splat(ones << (slot - 1)), splat(zero.cast_unsigned() * ones));
    let code = u32::MAX >> (32 - bits);
    let pair = splat(code << bits | code);
    let keep = splat(code * if P::DEPTH == 4 { 0x0001_0001 } else { 1 });
    let (by_slot, by_step) = (count(slot), count(step.trailing_zeros() as usize));
    let (by_code, by_pair) = (count(bits), count(2 * bits));
    for (i, panel) in panel.chunks_mut(stride).enumerate() {
        let (words, _) = words[i / steps_per_word].as_chunks::<8>();
        let first = count(i % steps_per_word * P::DEPTH * bits);
        let (panel, _) = panel[..LANES].as_chunks_mut::<8>();
        for (out, word) in panel.iter_mut().zip(words) {
            // SAFETY: eight words.
            let mut codes = unsafe { _mm256_srl_epi32(_mm256_loadu_si256(word.as_ptr().cast()), first) };
            if P::DEPTH == 4 {
                let upper = _mm256_and_si256(_mm256_srl_epi32(codes, by_pair), pair);
                codes = _mm256_or_si256(_mm256_and_si256(codes, pair), _mm256_slli_epi32::<16>(upper));
            }
            let odd = _mm256_and_si256(_mm256_srl_epi32(codes, by_code), keep);
            codes = _mm256_or_si256(_mm256_and_si256(codes, keep), _mm256_sll_epi32(odd, by_slot));
            codes = _mm256_sll_epi32(codes, by_step);
            if P::SIGNED {
                // the top bit of a slot keeps a subtraction from borrowing from the next
                codes = _mm256_sub_epi32(_mm256_or_si256(codes, tops), zeros);
                codes = _mm256_xor_si256(codes, tops);
            }
            // SAFETY: eight words.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) };
        }
    }
}

/// Each byte of a digit takes the eight bits from where its code begins, and keeps those that are the code's.
///
/// # Safety
/// `words` has one word for each `32 / bits / DEPTH` rows of the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn spread<P: Products>(digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
    let bytes_per_digit = 4 / P::DEPTH;
    let (mut from, mut keep) = ([0u8; 64], [0u8; 64]);
    for (i, (from, keep)) in from.iter_mut().zip(&mut keep).enumerate() {
        if i % bytes_per_digit == 0 {
            let code = i % 4 / bytes_per_digit;
            // of the two words of 64 bits; a digit that counts in steps of two begins a bit earlier
            *from = (i % 8 / 4 * 32 + code * digits.bits + 64 - digits.step.trailing_zeros() as usize) as u8;
            *keep = (((1u32 << digits.bits) - 1) * digits.step) as u8;
        }
    }
    let zero = match bytes_per_digit {
        1 => _mm512_set1_epi8(digits.zero as i8),
        _ => _mm512_set1_epi16(digits.zero as i16),
    };
    // SAFETY: the arrays hold 64 bytes.
    let (from, keep) =
        unsafe { (_mm512_loadu_si512(from.as_ptr().cast()), _mm512_loadu_si512(keep.as_ptr().cast())) };
    let steps_per_word = 32 / digits.bits / P::DEPTH;
    for (i, panel) in panel.chunks_mut(stride).enumerate() {
        let first = (i % steps_per_word * P::DEPTH * digits.bits) as i8;
        let from = _mm512_add_epi8(from, _mm512_set1_epi8(first));
        // SAFETY: a row of words, and of the panel, holds at least 16.
        unsafe {
            let words = _mm512_loadu_si512(words[i / steps_per_word].as_ptr().cast());
            let codes = _mm512_and_si512(_mm512_multishift_epi64_epi8(from, words), keep);
            let signed = match bytes_per_digit {
                1 => _mm512_sub_epi8(codes, zero),
                _ => _mm512_sub_epi16(codes, zero),
            };
            _mm512_storeu_si512(panel[..LANES].as_mut_ptr().cast(), signed);
        }
    }
}
