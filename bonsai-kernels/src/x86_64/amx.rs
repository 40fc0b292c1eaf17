//! Products of tiles (AMX): 16 rows of 64 bytes times 16 columns, into 16 x 16 sums that stay in the tile unit.
//!
//! Four tiles of sums cover 32 rows by 32 columns, two tiles each hold their factors. The columns of a group are spread from
//! their codes into the first-level cache and meet several tiles of rows. The sums of a group leave the tile unit by memory,
//! since its registers are no vectors; they are scaled and added up while the next tile is multiplied.
#![expect(unsafe_code, reason = "instructions that the compiler does not know, loads and stores of vectors")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::amx_columns::Columns;
use crate::Cpu;
use crate::int_tile::Digits;
use crate::isa::Amx;

/// Rows, or columns, of one tile of sums.
pub(super) const TILE: usize = 16;
/// Rows of a block.
pub(crate) const ROWS: usize = 2 * TILE;
/// Columns of a block.
pub(crate) const COLUMNS: usize = 2 * TILE;
/// Bytes of one row of a tile of factors: what one step multiplies.
pub(crate) const LINE: usize = 64;
/// Words of four bytes in one tile.
pub(crate) const TILE_WORDS: usize = TILE * LINE / 4;

/// Whether this CPU has the instructions and the operating system lets this process use their registers, for which it is
/// asked once.
pub(crate) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| has_instructions() && ask_permission())
}

#[expect(unused_unsafe, reason = "unsafe only in older compilers")]
fn has_instructions() -> bool {
    // SAFETY: every x86-64 CPU has this instruction.
    let cpuid = |leaf| unsafe { __cpuid_count(leaf, 0) };
    const OSXSAVE: u32 = 1 << 27;
    // bf16, tiles, bytes
    const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    // configuration and data of tiles
    const STATE: u64 = 3 << 17;
    if cpuid(0).eax < 7 || cpuid(1).ecx & OSXSAVE == 0 || cpuid(7).edx & AMX != AMX {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE says that this instruction may be used.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32 | u64::from(low)) & STATE == STATE
}

/// Linux saves the registers of tiles for processes that asked for it: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn ask_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let answer: i64;
    // SAFETY: a system call that reads and writes none of this process's memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") REQUEST,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Other systems have other ways, which nobody tried yet.
#[cfg(not(target_os = "linux"))]
fn ask_permission() -> bool {
    false
}

/// Formats of factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Factors {
    /// Signed bytes of rows and of columns.
    SignedBytes,
    /// Signed bytes of rows, unsigned ones of columns.
    UnsignedBytes,
    /// bf16, two in a word.
    Bf16,
}

impl Factors {
    /// Inputs of one step.
    pub(crate) const fn inputs(self) -> usize {
        match self {
            Self::SignedBytes | Self::UnsignedBytes => LINE,
            Self::Bf16 => LINE / 2,
        }
    }
}

/// What is multiplied, and what becomes of the sums.
pub(crate) trait Schedule: Copy + Send + Sync + 'static {
    const FACTORS: Factors;
    /// Whether rows have two lines for each step, of high and of low bytes of integers, and columns are at most 1. 256 times
    /// the first and the second are meant, each with sums of its own, or where rows are joined [`MULTIPLE`] times the first,
    /// which then meet columns of that size, and one sum serves both.
    const BYTE_PAIRS: bool = false;
    /// Whether rows have a scale for each group.
    const ROW_SCALES: bool = false;
    /// Whether columns have biases.
    const BIASES: bool = false;
    /// Sizes of columns.
    const SIZES: usize = if Self::BYTE_PAIRS { 2 } else { 1 };
    /// Scales and biases of a panel.
    const FLOATS: usize = if Self::BIASES { 2 * COLUMNS } else { COLUMNS };
}

/// Pairs of bytes times signs.
#[derive(Clone, Copy)]
pub(crate) struct BytePairs;

impl Schedule for BytePairs {
    const FACTORS: Factors = Factors::SignedBytes;
    const BYTE_PAIRS: bool = true;
}

/// Bytes times bytes, which have a sign where there are no biases.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<const BIASED: bool>;

impl<const BIASED: bool> Schedule for Bytes<BIASED> {
    const FACTORS: Factors = if BIASED { Factors::UnsignedBytes } else { Factors::SignedBytes };
    const ROW_SCALES: bool = true;
    const BIASES: bool = BIASED;
}

/// bf16 times bf16.
#[derive(Clone, Copy)]
pub(crate) struct Halves<const BIASED: bool>;

impl<const BIASED: bool> Schedule for Halves<BIASED> {
    const FACTORS: Factors = Factors::Bf16;
    const BIASES: bool = BIASED;
}

/// What high bytes are multiplied with where rows are joined: the most that a signed byte holds.
pub(crate) const MULTIPLE: i8 = i8::MAX;

/// The largest integer that two bytes make when they are joined.
pub(crate) const LARGEST_JOINED: i16 = MULTIPLE as i16 * i8::MAX as i16 + i8::MAX as i16;

/// Groups of one panel for some tiles of [`ROWS`] rows.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) tiles: usize,
    /// Lines of a row for each step; where there are several, its numbers are sums of as many.
    pub(crate) lines: usize,
    /// For each tile of rows, `[steps of all groups][lines][ROWS]` lines, as bytes.
    pub(crate) rows: &'a [u8],
    /// Bytes from one tile of rows to the next.
    pub(crate) rows_apart: usize,
    /// For each tile of rows, whether they are joined, where they may be.
    pub(crate) joined: &'a [bool],
    /// Steps of each group.
    pub(crate) steps: &'a [usize],
    /// For each group, codes of [`COLUMNS`] columns, which [`Digits`] says how to read, `[halves][words][16]`, then as many scales
    /// as bits, and biases where there are any.
    pub(crate) panel: &'a [u32],
    pub(crate) digits: Digits,
    /// For each tile of rows and group, if rows are scaled or columns have biases.
    pub(crate) row_groups: &'a [RowGroup],
    /// From the groups of one tile of rows to those of the next.
    pub(crate) groups_apart: usize,
    /// From the sums of one tile of rows to those of the next.
    pub(crate) acc_stride: usize,
    /// Whether they begin at zero, whatever they are.
    pub(crate) begins: bool,
}

/// What is known of the rows of one group: their scales, and their sums, which biases are multiplied with.
pub(crate) type RowGroup = [[f32; ROWS]; 2];

/// The most steps of a group, in all sizes.
pub(crate) const MOST_STEPS: usize = 4;

/// Words of codes of one half of a group.
pub(crate) const fn words(factors: Factors, bits: usize, steps: usize) -> usize {
    steps * factors.inputs() * bits / 32
}

/// Words of a panel of one group.
pub(crate) const fn group_len<S: Schedule>(bits: usize, steps: usize) -> usize {
    2 * words(S::FACTORS, bits, steps) * TILE + S::FLOATS
}

impl Amx {
    /// Whether the tile unit of some core that will work runs at its speed at the moment: tasks are many, so that one whose
    /// unit is held back does fewer of them.
    pub(crate) fn runs_somewhere(self, cpu: &Cpu, macs: usize) -> bool {
        // what is done in half a millisecond, which is worth waking threads for a question
        const LARGE: usize = 1 << 28;
        if macs < LARGE {
            return self.runs_freely(macs);
        }
        let runs = AtomicBool::new(false);
        let asked = cpu.for_each(
            vec![(); cpu.threads()],
            || Ok(()),
            |(), ()| {
                if !runs.load(Ordering::Relaxed) && self.runs_freely(macs) {
                    runs.store(true, Ordering::Relaxed);
                }
                Ok(())
            },
        );
        // a cancelled operation notices by itself
        asked.is_ok() && runs.into_inner()
    }

    /// Whether the tile unit runs at its speed at the moment. Guests of a server see it held back for seconds on end, as CPUs do
    /// where power is short: its instructions then take up to four times as long, and no others do. A unit that sleeps looks the same
    /// until it has woken, for which so many multiply-accumulates are waited for as long as they are worth.
    fn runs_freely(self, macs: usize) -> bool {
        // 20 to 60 microseconds after a second without work
        const WAKING: u64 = 100_000;
        // a tenth of the time that they take
        const MACS_PER_NANOSECOND: u64 = 4096;
        // a tile is loaded and another multiplied in 16 cycles; a product of integers waits 3 for the one before
        const STEPS: u64 = 32;
        const PRODUCTS: u64 = STEPS * 4 * 16 / 3;
        #[repr(C, align(64))]
        struct Lines([u8; TILE * LINE]);
        static ZEROS: Lines = Lines([0; TILE * LINE]);
        let patience = Duration::from_nanos(WAKING.min(macs as u64 / MACS_PER_NANOSECOND));
        let asked = Instant::now();
        loop {
            let started = Instant::now();
            // SAFETY: registers alone.
            unsafe {
                asm!(
                    "2:",
                    "imul {product}, {product}",
                    "sub {left}, 1",
                    "jnz 2b",
                    product = inout(reg) 3u64 => _,
                    left = inout(reg) PRODUCTS => _,
                    options(nomem, nostack)
                );
            }
            let cycles = started.elapsed();
            let started = Instant::now();
            // SAFETY: the token proves the instructions; tiles are configured, loaded from one that is there, and given back.
            unsafe {
                configure();
                for _ in 0..STEPS {
                    load_columns(ZEROS.0.as_ptr().cast(), 0, LINE);
                    load_rows(ZEROS.0.as_ptr(), 0, LINE);
                    multiply_tiles(Factors::SignedBytes);
                }
                release();
            }
            let runs = started.elapsed() < 2 * cycles;
            if runs || asked.elapsed() >= patience {
                return runs;
            }
        }
    }

    /// For each tile of rows, `acc[m][n] += sum_group row_scale[m] (scale[n] sum_k row[m][k] column[n][k] + row_sum[m] bias[n])`,
    /// sums of bytes exact, those of bf16 in f32.
    ///
    /// # Panics
    /// When a slice is too short, or a group too deep.
    pub(crate) fn multiply<S: Schedule>(self, blocks: Blocks<'_>, acc: &mut [f32]) {
        let lines: usize = blocks.steps.iter().sum::<usize>() * blocks.lines;
        let Some(last) = blocks.tiles.checked_sub(1) else { return };
        assert!(blocks.rows.len() >= last * blocks.rows_apart + lines * ROWS * LINE, "rows of a block");
        assert!(!S::BYTE_PAIRS || blocks.lines == 2, "lines of pairs");
        assert!(!S::BYTE_PAIRS || blocks.joined.len() >= blocks.tiles, "tiles of a block");
        let bits = blocks.digits.bits;
        let panel_len: usize = blocks.steps.iter().map(|&steps| group_len::<S>(bits, steps)).sum();
        assert!(blocks.panel.len() >= panel_len, "a panel");
        assert!(blocks.steps.iter().all(|&steps| steps * S::SIZES <= MOST_STEPS), "steps of a group");
        assert!(acc.len() >= last * blocks.acc_stride + ROWS * COLUMNS, "sums");
        let needed =
            if S::ROW_SCALES || S::BIASES { last * blocks.groups_apart + blocks.steps.len() } else { 0 };
        assert!(blocks.row_groups.len() >= needed, "groups of rows");
        // SAFETY: the token proves the instructions, and the lengths of all slices were checked.
        unsafe {
            multiply::<S>(self, &blocks, acc);
        }
    }
}

/// Eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = LINE as u16;
        rows[tile] = TILE as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Rows that are added in one go.
const PART: usize = 8;

/// Sums of a group, four tiles.
#[repr(C, align(64))]
pub(super) struct Sums([u32; 4 * TILE_WORDS]);

/// Sums of one group that are still to be added.
#[derive(Clone, Copy)]
struct Pending {
    sums: *const u32,
    /// Whether they are sums of high bytes and of low ones, of as many rows as a tile has.
    apart: bool,
    /// Scales of columns, and biases.
    floats: *const f32,
    row_scales: *const f32,
    row_sums: *const f32,
    acc: *mut f32,
    /// Whether these are the first.
    begins: bool,
    /// Rows that were added, and all of them.
    added: usize,
    rows: usize,
}

/// # Safety
/// As [`Amx::multiply`] checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn multiply<S: Schedule>(t: Amx, blocks: &Blocks<'_>, acc: &mut [f32]) {
    // of the group that is multiplied, and of the one that is added
    let mut sums = [const { MaybeUninit::<Sums>::uninit() }; 2];
    let sums = sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<u32>());
    let mut columns = Columns::new();
    let mut pending = Pending {
        sums: sums[0],
        apart: false,
        floats: ptr::null(),
        row_scales: ptr::null(),
        row_sums: ptr::null(),
        acc: ptr::null_mut(),
        begins: true,
        added: 0,
        rows: 0,
    };
    let mut turn = 0;
    let acc = acc.as_mut_ptr();
    let (mut panel, mut line) = (blocks.panel, 0);
    let sizes = S::SIZES;
    // SAFETY: all tiles are configured before they are used and given back after, and nothing in between leaves this
    // function. Lines lie inside the rows, scales inside the panel, sums inside `acc`, as the lengths that were checked
    // say; columns hold the tiles of as many steps as a group may have.
    unsafe {
        configure();
        for (group, &steps) in blocks.steps.iter().enumerate() {
            let (codes, behind) =
                panel.split_at_unchecked(2 * words(S::FACTORS, blocks.digits.bits, steps) * TILE);
            let floats = behind.as_ptr().cast();
            panel = &behind[S::FLOATS..];
            columns.spread(t, S::FACTORS, sizes, blocks.digits, codes, steps);
            for tile in 0..blocks.tiles {
                let lines = blocks.rows.as_ptr().add(tile * blocks.rows_apart + line * ROWS * LINE);
                let of_rows = blocks.row_groups.as_ptr().wrapping_add(tile * blocks.groups_apart + group);
                let of_rows = of_rows.cast::<f32>();
                let apart = S::BYTE_PAIRS && !*blocks.joined.get_unchecked(tile);
                let rows = if apart { TILE } else { ROWS };
                let parts = (ROWS / PART).div_ceil((steps * blocks.lines).max(1));
                for first in (0..ROWS).step_by(rows) {
                    zero_sums();
                    for step in 0..steps {
                        let lines = lines.add(step * blocks.lines * ROWS * LINE);
                        if apart {
                            // one step has a line of each
                            load_columns(columns.at(step * sizes + 1), TILE * LINE, LINE);
                            load_rows(lines.add(first * LINE), ROWS * LINE, LINE);
                            multiply_tiles(S::FACTORS);
                            add::<S>(&mut pending, parts);
                        } else {
                            for i in 0..blocks.lines {
                                if i == 0 || S::BYTE_PAIRS {
                                    load_columns(columns.at(step * sizes + i), TILE * LINE, LINE);
                                }
                                load_rows(lines.add(i * ROWS * LINE), TILE * LINE, LINE);
                                multiply_tiles(S::FACTORS);
                                add::<S>(&mut pending, parts);
                            }
                        }
                    }
                    add::<S>(&mut pending, ROWS / PART);
                    store_sums(sums[turn]);
                    pending = Pending {
                        sums: sums[turn],
                        apart,
                        floats,
                        row_scales: of_rows.wrapping_add(first),
                        row_sums: of_rows.wrapping_add(ROWS + first),
                        acc: acc.add(tile * blocks.acc_stride + first * COLUMNS),
                        begins: blocks.begins && group == 0,
                        added: 0,
                        rows,
                    };
                    turn ^= 1;
                }
            }
            line += steps * blocks.lines;
        }
        add::<S>(&mut pending, ROWS / PART);
        release();
    }
}

/// Makes tiles usable on this thread, until [`release`].
///
/// # Safety
/// This process may use tiles.
#[inline(always)]
pub(crate) unsafe fn configure() {
    // SAFETY: as the caller promised.
    unsafe {
        asm!("ldtilecfg [{at}]", at = in(reg) &raw const CONFIGURATION, options(nostack, readonly, preserves_flags));
    }
}

/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(crate) unsafe fn release() {
    // SAFETY: as the caller promised.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
}

/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(crate) unsafe fn zero_sums() {
    // SAFETY: as the caller promised.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// # Safety
/// Tiles are configured; a tile of lines begins at `lines`, and one `second` bytes on.
// the hint leaves the first-level cache to sums and columns, which come again
#[inline(always)]
pub(super) unsafe fn load_rows(lines: *const u8, second: usize, stride: usize) {
    // SAFETY: as the caller promised.
    unsafe {
        asm!(
            "tileloaddt1 tmm4, [{first} + 1*{stride}]",
            "tileloaddt1 tmm5, [{second} + 1*{stride}]",
            first = in(reg) lines,
            second = in(reg) lines.add(second),
            stride = in(reg) stride,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// # Safety
/// Tiles are configured; a tile of columns begins at `tiles`, with its rows `stride` bytes apart, and one `second` bytes on.
#[inline(always)]
pub(super) unsafe fn load_columns(tiles: *const u32, second: usize, stride: usize) {
    // SAFETY: as the caller promised.
    unsafe {
        asm!(
            "tileloadd tmm6, [{first} + 1*{stride}]",
            "tileloadd tmm7, [{second} + 1*{stride}]",
            first = in(reg) tiles,
            second = in(reg) tiles.byte_add(second),
            stride = in(reg) stride,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn multiply_tiles(factors: Factors) {
    macro_rules! products {
        ($instruction:literal) => {
            asm!(
                concat!($instruction, " tmm0, tmm4, tmm6"),
                concat!($instruction, " tmm1, tmm4, tmm7"),
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                options(nomem, nostack, preserves_flags)
            )
        };
    }
    // SAFETY: as the caller promised; only tiles are read and written.
    unsafe {
        match factors {
            Factors::SignedBytes => products!("tdpbssd"),
            Factors::UnsignedBytes => products!("tdpbsud"),
            Factors::Bf16 => products!("tdpbf16ps"),
        }
    }
}

/// # Safety
/// Tiles are configured, and four of them fit at `sums`.
#[inline(always)]
pub(super) unsafe fn store_sums(sums: *mut u32) {
    // SAFETY: as the caller promised.
    unsafe {
        asm!(
            "tilestored [{sums} + 1*{stride}], tmm0",
            "tilestored [{sums} + 1*{stride} + 1024], tmm1",
            "tilestored [{sums} + 1*{stride} + 2048], tmm2",
            "tilestored [{sums} + 1*{stride} + 3072], tmm3",
            sums = in(reg) sums,
            stride = in(reg) LINE,
            options(nostack, preserves_flags)
        );
    }
}

/// Adds some more parts of what is pending, if there are any left.
///
/// # Safety
/// All that `pending` points to is there.
#[inline(always)]
unsafe fn add<S: Schedule>(pending: &mut Pending, parts: usize) {
    for _ in 0..parts {
        if pending.added >= pending.rows {
            break;
        }
        // SAFETY: as the caller promised.
        unsafe {
            if S::BYTE_PAIRS && pending.apart {
                add_part::<S, true>(pending);
            } else {
                add_part::<S, false>(pending);
            }
        }
        pending.added += PART;
    }
}

/// # Safety
/// As for [`add`], with a part that is left, of such sums.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn add_part<S: Schedule, const APART: bool>(pending: &Pending) {
    let first = pending.added;
    // a part lies in one tile
    let at = (first / TILE * 2 * TILE + first % TILE) * TILE;
    // SAFETY: as the caller promised; a row of sums lies in two tiles, or in two of high and two of low bytes.
    unsafe {
        let scales = [_mm512_loadu_ps(pending.floats), _mm512_loadu_ps(pending.floats.add(TILE))];
        for row in 0..PART {
            let acc = pending.acc.add((first + row) * COLUMNS);
            let sums = pending.sums.add(at + row * TILE);
            for (half, &scales) in scales.iter().enumerate() {
                let acc = acc.add(half * TILE);
                let first_sums = _mm512_load_si512(sums.add(half * TILE_WORDS).cast());
                let mut sums = match S::FACTORS {
                    Factors::Bf16 => _mm512_castsi512_ps(first_sums),
                    _ if APART => {
                        let low = _mm512_load_si512(sums.add((2 + half) * TILE_WORDS).cast());
                        _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(first_sums), low))
                    }
                    _ => _mm512_cvtepi32_ps(first_sums),
                };
                if S::ROW_SCALES {
                    sums = _mm512_mul_ps(sums, _mm512_set1_ps(*pending.row_scales.add(first + row)));
                }
                let before = if pending.begins { _mm512_setzero_ps() } else { _mm512_loadu_ps(acc) };
                let mut all = _mm512_fmadd_ps(sums, scales, before);
                if S::BIASES {
                    let biases = _mm512_loadu_ps(pending.floats.add(COLUMNS + half * TILE));
                    let mut factor = *pending.row_sums.add(first + row);
                    if S::ROW_SCALES {
                        factor *= *pending.row_scales.add(first + row);
                    }
                    all = _mm512_fmadd_ps(_mm512_set1_ps(factor), biases, all);
                }
                _mm512_storeu_ps(acc, all);
            }
        }
    }
}
