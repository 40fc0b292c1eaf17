//! Integer products on AVX-512 with VNNI: 6 rows by 4 vectors of sums.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::int_tile::{Bytes, Digits, IntBlock, IntTile, LANES, Pairs, Products};
use crate::isa::Avx512Vnni;

const MR: usize = 6;

/// What differs between 16-bit and 8-bit activations.
trait Vnni: Products {
    /// Adds the products of `x` with digits to sums, lane by lane.
    ///
    /// # Safety
    /// The CPU must have AVX-512 VNNI.
    unsafe fn dot(sums: __m512i, digits: __m512i, x: __m512i) -> __m512i;
}

impl Vnni for Pairs {
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dot(sums: __m512i, digits: __m512i, x: __m512i) -> __m512i {
        _mm512_dpwssd_epi32(sums, digits, x)
    }
}

impl Vnni for Bytes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dot(sums: __m512i, digits: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, digits, x)
    }
}

impl<P: Vnni> IntTile<P> for Avx512Vnni {
    const MR: usize = MR;
    const WIDTHS: &'static [usize] = &[16, 32, 64];

    #[inline(always)]
    fn spread(self, digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
        let steps_per_word = 32 / digits.bits / P::DEPTH;
        assert!(words.len() * steps_per_word >= panel.len().div_ceil(stride), "words of codes");
        assert!(stride >= LANES && (panel.len() % stride).is_multiple_of(LANES), "a panel of whole vectors");
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe { spread::<P>(digits, words, panel, stride) }
    }

    #[inline(always)]
    fn multiply(self, block: IntBlock<'_, P::Row>, acc: &mut [f32]) {
        let panels = block.checked_panels(MR, P::DEPTH, acc);
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe {
            match block.width {
                64 => multiply::<P, 4>(block, panels, acc.as_mut_ptr()),
                32 => multiply::<P, 2>(block, panels, acc.as_mut_ptr()),
                16 => multiply::<P, 1>(block, panels, acc.as_mut_ptr()),
                width => unreachable!("no panel of {width} columns on this instruction set"),
            }
        }
    }
}

/// Each byte of a digit takes the eight bits from where its code begins, and keeps those that are the code's.
///
/// # Safety
/// `words` has one word for each `32 / bits / DEPTH` rows of the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn spread<P: Vnni>(digits: Digits, words: &[[u32; LANES]], panel: &mut [u32], stride: usize) {
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

/// # Safety
/// `block` was checked for `MR` rows and holds `panels` panels of `16 * NV` columns, `acc` as many tiles.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply<P: Vnni, const NV: usize>(block: IntBlock<'_, P::Row>, panels: usize, acc: *mut f32) {
    for panel in 0..panels {
        // SAFETY: what the caller promised, for one panel.
        unsafe {
            let digits = block.panels.as_ptr().add(panel * block.panel_len());
            multiply_panel::<P, NV>(&block, digits, acc.add(panel * MR * NV * LANES));
        }
    }
}

/// # Safety
/// As [`multiply`], for the panel that begins at `digits`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply_panel<P: Vnni, const NV: usize>(
    block: &IntBlock<'_, P::Row>,
    digits: *const u32,
    acc: *mut f32,
) {
    let rows = block.rows.as_ptr();
    let mut sums = [[_mm512_setzero_si512(); NV]; MR];
    for (m, sums) in sums.iter_mut().enumerate() {
        *sums = [_mm512_set1_epi32(block.starts[m]); NV];
    }
    for step in 0..block.steps {
        // SAFETY: `step < steps`, `m < MR` and `n < NV` stay inside the lengths that were checked.
        unsafe {
            let digits: [__m512i; NV] =
                std::array::from_fn(|n| _mm512_loadu_si512(digits.add((step * NV + n) * LANES).cast()));
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = rows.add(m * block.row_stride).cast::<i32>().add(step).read_unaligned();
                let x = _mm512_set1_epi32(x);
                for (sum, digits) in sums.iter_mut().zip(digits) {
                    *sum = P::dot(*sum, digits, x);
                }
            }
        }
    }
    // SAFETY: scales stand behind the digits, biases behind the scales.
    let scales = unsafe { digits.add(block.steps * NV * LANES).cast::<f32>() };
    for (m, sums) in sums.iter().enumerate() {
        let row_scale = _mm512_set1_ps(block.row_scales[m]);
        for (n, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let at = acc.add((m * NV + n) * LANES);
                let scale = _mm512_mul_ps(_mm512_loadu_ps(scales.add(n * LANES)), row_scale);
                let product = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_loadu_ps(at));
                _mm512_storeu_ps(at, product);
            }
        }
    }
    if block.biased {
        for m in 0..MR {
            let factor = _mm512_set1_ps(block.row_sums[m] as f32 * block.row_scales[m]);
            for n in 0..NV {
                // SAFETY: as above.
                unsafe {
                    let at = acc.add((m * NV + n) * LANES);
                    let bias = _mm512_loadu_ps(scales.add((NV + n) * LANES));
                    _mm512_storeu_ps(at, _mm512_fmadd_ps(factor, bias, _mm512_loadu_ps(at)));
                }
            }
        }
    }
}
