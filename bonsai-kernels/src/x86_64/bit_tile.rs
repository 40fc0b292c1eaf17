//! Products of bits: on AVX2 by a table of the counts of four bits, on AVX-512 by `vpopcntd`.
#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::*;

use crate::bit_tile::{BLOCK_WORDS, BitBlock, BitTile, group_len};
use crate::isa::{Avx2, Avx512Vnni};

/// `multiply` for the numbers of words that groups have.
macro_rules! each_group_size {
    ($body:ident, $block:ident, $panels:ident, $acc:ident) => {
        // SAFETY: the token proves the instructions; the lengths were checked.
        unsafe {
            match $block.words {
                1 => $body::<XZ, WZ, 1, false>($block, $panels, $acc.as_mut_ptr()),
                2 => $body::<XZ, WZ, 2, false>($block, $panels, $acc.as_mut_ptr()),
                4 if $block.carried && !XZ && !WZ => {
                    $body::<XZ, WZ, 4, true>($block, $panels, $acc.as_mut_ptr())
                }
                4 => $body::<XZ, WZ, 4, false>($block, $panels, $acc.as_mut_ptr()),
                words => unreachable!("no group of {words} words"),
            }
        }
    };
}

/// The same tile for vectors of `$lanes` words; `$count` counts the bits of a group's words, lane by lane, `$count_carried` those of
/// [carried](BitTile::CARRIES) ones.
macro_rules! bit_tile {
    (
        $token:ty, $multiply:ident, $features:literal, $vector:ty, $lanes:literal, $mr:literal, $vectors:literal,
        $count:ident, $carries:literal, $count_carried:ident, $splat:ident, $load:ident, $and:ident, $masked_xor:ident, $xor:ident, $sub:ident, $to_float:ident,
        $load_float:ident, $store_float:ident, $splat_float:ident, $mul:ident, $add:ident, $fma:ident
    ) => {
        impl BitTile for $token {
            const MR: usize = $mr;
            const WIDTH: usize = $vectors * $lanes;
            const CARRIES: bool = $carries;

            fn multiply<const XZ: bool, const WZ: bool>(self, block: BitBlock<'_>, acc: &mut [f32]) {
                let panels = block.checked_panels::<XZ, WZ>(Self::MR, Self::WIDTH, acc);
                each_group_size!($multiply, block, panels, acc);
            }
        }

        /// # Safety
        /// `block` was checked for this tile and has groups of `WORDS` words and `panels` panels; `acc` holds as many tiles.
        #[target_feature(enable = $features)]
        unsafe fn $multiply<const XZ: bool, const WZ: bool, const WORDS: usize, const CARRIED: bool>(
            block: BitBlock<'_>,
            panels: usize,
            acc: *mut f32,
        ) {
            const MR: usize = $mr;
            const NV: usize = $vectors;
            const WIDTH: usize = NV * $lanes;
            let (rows, stride) = (block.rows.as_ptr(), block.row_stride);
            for panel in 0..panels {
                // SAFETY: `panel < panels`, and all that follows stays inside one panel, one tile and one group of rows,
                // as the caller promised.
                unsafe {
                    let acc = acc.add(panel * MR * WIDTH);
                    let panel = block.panels.as_ptr().add(panel * block.panel_len(WZ, WIDTH));
                    let starts = panel.add(block.groups * group_len(WZ, WORDS, WIDTH)).cast::<f32>();
                    let starts: [_; NV] = std::array::from_fn(|n| $load_float(starts.add(n * $lanes)));
                    let mut sums: [[_; NV]; MR] = std::array::from_fn(|_| starts);
                    for g in 0..block.groups {
                        let line = |i: usize, n: usize| {
                            $load(panel.add(g * group_len(WZ, WORDS, WIDTH) + i * WIDTH + n * $lanes).cast())
                        };
                        let signs: [[$vector; WORDS]; NV] =
                            std::array::from_fn(|n| std::array::from_fn(|w| line(w, n)));
                        let scales = panel.add((g + 1) * group_len(WZ, WORDS, WIDTH) - WIDTH).cast::<f32>();
                        for (m, sums) in sums.iter_mut().enumerate() {
                            let row = rows.add(m * stride + g * WORDS).cast::<i32>();
                            let x: [$vector; WORDS] = std::array::from_fn(|w| $splat(*row.add(w)));
                            let x_counts: [$vector; WORDS] = std::array::from_fn(|w| {
                                if XZ { $splat(*row.add(block.plane_stride + w)) } else { x[w] }
                            });
                            // of one-sided zeros
                            let (mut total, mut row_scale) = (0, $splat_float(0.0));
                            if XZ {
                                for w in 0..WORDS {
                                    total += row.add(block.plane_stride + w).read().count_ones() as i32;
                                }
                                let block_of_group = g * WORDS / BLOCK_WORDS;
                                let scale =
                                    block.scales.as_ptr().add(m * block.scale_stride + block_of_group);
                                row_scale = $splat_float(*scale);
                            }
                            for n in 0..NV {
                                let both: [$vector; WORDS] = std::array::from_fn(|w| match (XZ, WZ) {
                                    (true, true) => $and(x_counts[w], line(WORDS + w, n)),
                                    (true, false) => x_counts[w],
                                    (false, true) => line(WORDS + w, n),
                                    (false, false) => x[w],
                                });
                                let differ = std::array::from_fn::<_, WORDS, _>(|w| {
                                    if XZ || WZ {
                                        $masked_xor(both[w], x[w], signs[n][w])
                                    } else {
                                        $xor(x[w], signs[n][w])
                                    }
                                });
                                let differ = if CARRIED { $count_carried(differ) } else { $count(differ) };
                                let scale = $load_float(scales.add(n * $lanes));
                                sums[n] = if XZ {
                                    let total = if WZ { $count(both) } else { $splat(total) };
                                    let sum = $to_float($sub($sub(total, differ), differ));
                                    $fma(sum, $mul(scale, row_scale), sums[n])
                                } else {
                                    $fma($to_float(differ), scale, sums[n])
                                };
                            }
                        }
                    }
                    for (m, sums) in sums.iter().enumerate() {
                        for (n, &sum) in sums.iter().enumerate() {
                            let at = acc.add((m * NV + n) * $lanes);
                            $store_float(at, if block.begins { sum } else { $add($load_float(at), sum) });
                        }
                    }
                }
            }
        }
    };
}

bit_tile!(
    Avx512Vnni,
    multiply_avx512,
    "avx512f,avx512vpopcntdq,avx512vnni,popcnt",
    __m512i,
    16,
    6,
    2,
    count_avx512,
    true,
    count_carried_avx512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_and_si512,
    masked_xor_avx512,
    _mm512_xor_si512,
    _mm512_sub_epi32,
    _mm512_cvtepi32_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_mul_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps
);

bit_tile!(
    Avx2,
    multiply_avx2,
    "avx2,fma,popcnt",
    __m256i,
    8,
    4,
    2,
    count_avx2,
    false,
    count_avx2,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_and_si256,
    masked_xor_avx2,
    _mm256_xor_si256,
    _mm256_sub_epi32,
    _mm256_cvtepi32_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_mul_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps
);

#[inline]
#[target_feature(enable = "avx512f")]
fn masked_xor_avx512(mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // the entries of the truth table where the mask is set and the other two differ
    _mm512_ternarylogic_epi32::<0b0110_0000>(mask, a, b)
}

/// The bits of all words, lane by lane.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn count_avx512<const WORDS: usize>(words: [__m512i; WORDS]) -> __m512i {
    let [first, rest @ ..] = words.as_slice() else { return _mm512_setzero_si512() };
    let mut count = _mm512_popcnt_epi32(*first);
    for &word in rest {
        count = _mm512_add_epi32(count, _mm512_popcnt_epi32(word));
    }
    count
}

/// The bits of four words, lane by lane, the third of which is the exclusive or of the first two and one more, which counts too.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq,avx512vnni")]
fn count_carried_avx512<const WORDS: usize>(words: [__m512i; WORDS]) -> __m512i {
    let [a, b, sum, other] = *words.as_slice() else { unreachable!("{WORDS} words") };
    // the entries of the truth table where `a` and `b` are set, or differ and `sum` is not set
    let carry = _mm512_ternarylogic_epi32::<0b1101_0100>(a, b, sum);
    let ones = _mm512_add_epi32(_mm512_popcnt_epi32(sum), _mm512_popcnt_epi32(other));
    // counts of a word fit its lowest byte
    _mm512_dpbusd_epi32(ones, _mm512_popcnt_epi32(carry), _mm512_set1_epi32(2))
}

#[inline]
#[target_feature(enable = "avx2")]
fn masked_xor_avx2(mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_and_si256(mask, _mm256_xor_si256(a, b))
}

/// The bits of all words, lane by lane: at most 32 in each byte of four words.
#[inline]
#[target_feature(enable = "avx2")]
fn count_avx2<const WORDS: usize>(words: [__m256i; WORDS]) -> __m256i {
    let nibble = _mm256_set1_epi8(15);
    let counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    let mut bytes = _mm256_setzero_si256();
    for word in words {
        let low = _mm256_shuffle_epi8(counts, _mm256_and_si256(word, nibble));
        let high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16::<4>(word), nibble));
        bytes = _mm256_add_epi8(bytes, _mm256_add_epi8(low, high));
    }
    _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1))
}
