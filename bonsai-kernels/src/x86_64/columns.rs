//! Codes of columns where they stand, and how their words are turned: word by word for 32 columns instead of column by column.
#![expect(unsafe_code, reason = "loads of vectors, and addresses that the compiler would multiply")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::permute::LANES;

pub(super) const CACHE_LINE: usize = 64;
/// The most 16-bit words of codes of a block.
pub(super) const MOST_WORDS: usize = 16;

/// The bytes of up to 32 columns, as they are stored, one column behind the other.
#[derive(Clone, Copy)]
pub(crate) struct ColumnBytes<'a> {
    pub(super) first: *const u8,
    /// Of each column.
    pub(super) len: usize,
    pub(super) count: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> ColumnBytes<'a> {
    /// Columns `first..first + count` of those that stand in `bytes`, `len` bytes each; the last of them takes the place of those
    /// beyond it.
    ///
    /// # Panics
    /// When there is none, or they are not there.
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8], len: usize, first: usize, count: usize) -> Self {
        assert!((1..=LANES).contains(&count) && bytes.len() / len.max(1) >= first + count, "columns");
        Self { first: bytes[first * len..].as_ptr(), len, count, bytes: PhantomData }
    }

    /// Bytes of each column.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Asks for the line of cache `behind` bytes behind the first of these columns, or before it, with one of the CPU's hints of
    /// how near it shall come.
    #[inline(always)]
    pub(super) fn fetch<const HINT: i32>(&self, behind: isize) {
        let line = self.first.wrapping_offset(behind);
        // SAFETY: every x86-64 CPU has the instruction, which faults nowhere.
        unsafe { _mm_prefetch::<HINT>(line.cast()) };
    }
}

/// How far behind the first of columns the first and every eighth behind it stand, and columns 0 to 7. Factors of 2 and 4 are an
/// address's own, so that a few registers make all addresses. A compiler that sees through these numbers keeps 32 pointers instead,
/// most of them in memory.
#[inline(always)]
fn places(len: usize) -> ([usize; 4], [usize; 8]) {
    let (mut len, mut eight, mut sixteen, mut more) = (len, 8 * len, 16 * len, 24 * len);
    // SAFETY: no instruction at all, which leaves all numbers as they are.
    unsafe {
        asm!(
            "/* {} {} {} {} */",
            inout(reg) len,
            inout(reg) eight,
            inout(reg) sixteen,
            inout(reg) more,
            options(nomem, nostack, preserves_flags)
        );
    }
    ([0, eight, sixteen, more], [0, len, 2 * len, 3 * len, 4 * len, 5 * len, 6 * len, 7 * len])
}

/// The first `count` 16-bit words of 32 columns, `len` bytes apart, 8 or 16 of them: word `i` of all columns in vector `i`. The
/// others stay zero, one of them for steps that reach beyond the block.
///
/// # Safety
/// The CPU has the instructions; each column has so many words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn words(columns: *const u8, len: usize, count: usize) -> [__m512i; MOST_WORDS + 1] {
    let mut words = [_mm512_setzero_si512(); MOST_WORDS + 1];
    let (eights, behind) = places(len);
    let eights = eights.map(|eight| columns.wrapping_add(eight));
    for part in 0..count / 8 {
        // words of two columns side by side, sixteen apart; of columns 0, 4, 8 and 12 and their others in the first vector
        let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
        for i in 0..4 {
            let mut halves = [_mm512_setzero_si512(); 2];
            for (half, all) in halves.iter_mut().enumerate() {
                // SAFETY: each column has so many bytes.
                unsafe {
                    let of = |lane: usize| {
                        let column = 16 * half + 4 * lane + i;
                        _mm_loadu_si128(eights[column / 8].add(behind[column % 8] + 16 * part).cast())
                    };
                    *all = _mm512_castsi128_si512(of(0));
                    *all = _mm512_inserti32x4::<1>(*all, of(1));
                    *all = _mm512_inserti32x4::<2>(*all, of(2));
                    *all = _mm512_inserti32x4::<3>(*all, of(3));
                }
            }
            low[i] = _mm512_unpacklo_epi16(halves[0], halves[1]);
            high[i] = _mm512_unpackhi_epi16(halves[0], halves[1]);
        }
        for (i, [a, b, c, d]) in [low, high].into_iter().enumerate() {
            let words = &mut words[8 * part + 4 * i..][..4];
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            words[0] = _mm512_unpacklo_epi64(ab, cd);
            words[1] = _mm512_unpackhi_epi64(ab, cd);
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            words[2] = _mm512_unpacklo_epi64(ab, cd);
            words[3] = _mm512_unpackhi_epi64(ab, cd);
        }
    }
    words
}

/// The same words, from byte `at` of all columns on, the last of which takes the place of those that are not there.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn words_of(codes: &ColumnBytes<'_>, at: usize, count: usize) -> [__m512i; MOST_WORDS + 1] {
    let mut copies = [[MaybeUninit::<u8>::uninit(); 2 * MOST_WORDS]; LANES];
    // SAFETY: as the caller promised; a copy has room for the most words.
    unsafe {
        if codes.count == LANES {
            return words(codes.first.add(at), codes.len, count);
        }
        for (lane, copy) in copies.iter_mut().enumerate() {
            let column = codes.first.add(lane.min(codes.count - 1) * codes.len + at);
            column.copy_to_nonoverlapping(copy.as_mut_ptr().cast(), 2 * count);
        }
        words(copies.as_ptr().cast(), 2 * MOST_WORDS, count)
    }
}
