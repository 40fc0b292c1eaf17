//! Products of tiles (AMX): 16 rows of 64 bytes times 16 columns, into 16 x 16 sums that stay in the tile unit.
//!
//! Four tiles of sums cover 32 rows by 32 columns, two tiles each hold their factors. The sums of a group leave the tile
//! unit by memory, since its registers are no vectors; they are scaled and added up while the next group is multiplied.
#![expect(unsafe_code, reason = "instructions that the compiler does not know, loads and stores of vectors")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

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

/// What is multiplied, and what becomes of the sums.
pub(crate) trait Schedule: Copy + Send + Sync + 'static {
    const FACTORS: Factors;
    /// Whether rows have two lines for each step, of the high and of the low bytes of integers, each with sums of its own: 256
    /// times the first and the second are meant.
    const BYTE_PAIRS: bool = false;
    /// Whether rows have a scale for each group.
    const ROW_SCALES: bool = false;
    /// Whether columns have biases.
    const BIASES: bool = false;
    /// Lines of rows for each step.
    const LINES: usize = if Self::BYTE_PAIRS { 2 } else { 1 };
    /// Scales and biases of a panel.
    const FLOATS: usize = if Self::BIASES { 2 * COLUMNS } else { COLUMNS };
}

/// Groups of one panel for some tiles of [`ROWS`] rows.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) tiles: usize,
    /// Rows of lines `[steps of all groups][LINES]`, as bytes, `row_stride` apart.
    pub(crate) rows: &'a [u8],
    pub(crate) row_stride: usize,
    /// Steps of each group.
    pub(crate) steps: &'a [usize],
    /// For each group, tiles `[steps][2]` of `[16][16]` words, then [`COLUMNS`] scales as bits, and as many biases where
    /// there are any.
    pub(crate) panel: &'a [u32],
    /// For each tile of rows and group, if rows are scaled or columns have biases.
    pub(crate) row_groups: &'a [RowGroup],
    /// From the groups of one tile of rows to those of the next.
    pub(crate) groups_apart: usize,
    /// From the sums of one tile of rows to those of the next.
    pub(crate) acc_stride: usize,
}

/// What is known of the rows of one group: their scales, and their sums, which biases are multiplied with.
pub(crate) type RowGroup = [[f32; ROWS]; 2];

/// Words of a panel of one group.
pub(crate) const fn group_len<S: Schedule>(steps: usize) -> usize {
    steps * 2 * TILE_WORDS + S::FLOATS
}

impl Amx {
    /// For each tile of rows, `acc[m][n] += sum_group row_scale[m] (scale[n] sum_k row[m][k] column[n][k] + row_sum[m] bias[n])`,
    /// sums of bytes exact, those of bf16 in f32.
    ///
    /// # Panics
    /// When a slice is too short.
    pub(crate) fn multiply<S: Schedule>(self, _: S, blocks: Blocks<'_>, acc: &mut [f32]) {
        let lines: usize = blocks.steps.iter().sum::<usize>() * S::LINES;
        let Some(last) = blocks.tiles.checked_sub(1) else { return };
        let last_row = blocks.tiles * ROWS - 1;
        assert!(blocks.rows.len() >= last_row * blocks.row_stride + lines * LINE, "rows of a block");
        let panel_len: usize = blocks.steps.iter().map(|&steps| group_len::<S>(steps)).sum();
        assert!(blocks.panel.len() >= panel_len, "a panel");
        assert!(acc.len() >= last * blocks.acc_stride + ROWS * COLUMNS, "sums");
        let needed =
            if S::ROW_SCALES || S::BIASES { last * blocks.groups_apart + blocks.steps.len() } else { 0 };
        assert!(blocks.row_groups.len() >= needed, "groups of rows");
        // SAFETY: the token proves the instructions, and the lengths of all slices were checked.
        unsafe {
            multiply::<S>(&blocks, acc);
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

/// Groups whose sums are added up at once: what they are added to is then loaded and stored once for all of them.
const AT_ONCE: usize = 2;

/// Rows that are added in one go.
const PART: usize = 4;

/// Sums of a group, four tiles.
#[repr(C, align(64))]
pub(super) struct Sums([u32; 4 * TILE_WORDS]);

/// Sums of a group, and what they are scaled with.
#[derive(Clone, Copy)]
struct Group {
    sums: *const u32,
    /// Scales of columns, and biases.
    floats: *const f32,
    row_scales: *const f32,
    row_sums: *const f32,
}

/// Sums of one or two groups that are still to be added.
#[derive(Clone, Copy)]
struct Pending {
    groups: [Group; AT_ONCE],
    count: usize,
    acc: *mut f32,
    /// Rows that were added.
    added: usize,
}

/// Rows whose sums fill the four tiles.
const fn rows_at_once<S: Schedule>() -> usize {
    if S::BYTE_PAIRS { TILE } else { ROWS }
}

/// # Safety
/// As [`Amx::multiply`] checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn multiply<S: Schedule>(blocks: &Blocks<'_>, acc: &mut [f32]) {
    // of the groups that are multiplied, and of those that are added
    let mut sums = [const { [const { MaybeUninit::<Sums>::uninit() }; AT_ONCE] }; 2];
    let sums = sums.each_mut().map(|sums| sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<u32>()));
    let nothing =
        Group { sums: sums[0][0], floats: ptr::null(), row_scales: ptr::null(), row_sums: ptr::null() };
    let mut pending = Pending { groups: [nothing; AT_ONCE], count: 0, acc: ptr::null_mut(), added: ROWS };
    let mut turn = 0;
    let acc = acc.as_mut_ptr();
    // SAFETY: all tiles are configured before they are used and given back after, and nothing in between leaves this
    // function. Lines lie inside the rows, tiles and scales inside the panel, sums inside `acc`, as the lengths that were
    // checked say.
    unsafe {
        configure();
        for tile in 0..blocks.tiles {
            let acc = acc.add(tile * blocks.acc_stride);
            let mut lines = blocks.rows.as_ptr().add(tile * ROWS * blocks.row_stride);
            let mut panel = blocks.panel.as_ptr();
            for (first, steps) in blocks.steps.chunks(AT_ONCE).enumerate() {
                let slots = steps.iter().sum::<usize>().max(1);
                let parts = (rows_at_once::<S>() / PART).div_ceil(slots);
                let mut behind = panel;
                for first_row in (0..ROWS).step_by(rows_at_once::<S>()) {
                    let (mut line_at, mut panel_at) = (lines.add(first_row * blocks.row_stride), panel);
                    let mut groups = [nothing; AT_ONCE];
                    for (i, (&steps, to)) in steps.iter().zip(&mut groups).enumerate() {
                        zero_sums();
                        for _ in 0..steps {
                            let second = if S::BYTE_PAIRS { LINE } else { TILE * blocks.row_stride };
                            load_rows(line_at, second, blocks.row_stride);
                            load_columns(panel_at, 4 * TILE_WORDS, LINE);
                            multiply_tiles(S::FACTORS);
                            add::<S>(&mut pending, parts);
                            line_at = line_at.add(S::LINES * LINE);
                            panel_at = panel_at.add(2 * TILE_WORDS);
                        }
                        store_sums(sums[turn][i]);
                        let group = tile * blocks.groups_apart + first * AT_ONCE + i;
                        let of_rows = blocks.row_groups.as_ptr().wrapping_add(group).cast::<f32>();
                        *to = Group {
                            sums: sums[turn][i],
                            floats: panel_at.cast(),
                            row_scales: of_rows.wrapping_add(first_row),
                            row_sums: of_rows.wrapping_add(ROWS + first_row),
                        };
                        panel_at = panel_at.add(S::FLOATS);
                    }
                    add::<S>(&mut pending, ROWS / PART);
                    let acc = acc.add(first_row * COLUMNS);
                    pending = Pending { groups, count: steps.len(), acc, added: 0 };
                    turn ^= 1;
                    behind = panel_at;
                }
                lines = lines.add(steps.iter().sum::<usize>() * S::LINES * LINE);
                panel = behind;
            }
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
#[inline(always)]
pub(super) unsafe fn load_rows(lines: *const u8, second: usize, stride: usize) {
    // SAFETY: as the caller promised.
    unsafe {
        asm!(
            "tileloadd tmm4, [{first} + 1*{stride}]",
            "tileloadd tmm5, [{second} + 1*{stride}]",
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
        if pending.added >= rows_at_once::<S>() {
            break;
        }
        // SAFETY: as the caller promised.
        unsafe {
            match pending.count {
                AT_ONCE => add_part::<S, AT_ONCE>(pending),
                _ => add_part::<S, 1>(pending),
            }
        }
        pending.added += PART;
    }
}

/// # Safety
/// As for [`add`], with `GROUPS` groups and a part that is left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn add_part<S: Schedule, const GROUPS: usize>(pending: &Pending) {
    let groups = &pending.groups[..GROUPS];
    let first = pending.added;
    // a part lies in one tile
    let at = (first / TILE * 2 * TILE + first % TILE) * TILE;
    // SAFETY: as the caller promised; a row of sums lies in two tiles, or in two of high and two of low bytes.
    unsafe {
        let mut scales = [[_mm512_setzero_ps(); 2]; GROUPS];
        for (scales, group) in scales.iter_mut().zip(groups) {
            *scales = [_mm512_loadu_ps(group.floats), _mm512_loadu_ps(group.floats.add(TILE))];
        }
        for row in 0..PART {
            let acc = pending.acc.add((first + row) * COLUMNS);
            let mut all = [_mm512_loadu_ps(acc), _mm512_loadu_ps(acc.add(TILE))];
            for (group, scales) in groups.iter().zip(&scales) {
                let sums = group.sums.add(at + row * TILE);
                for half in 0..2 {
                    let first_sums = _mm512_load_si512(sums.add(half * TILE_WORDS).cast());
                    let mut sums = match S::FACTORS {
                        Factors::Bf16 => _mm512_castsi512_ps(first_sums),
                        _ if S::BYTE_PAIRS => {
                            let low = _mm512_load_si512(sums.add((2 + half) * TILE_WORDS).cast());
                            _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(first_sums), low))
                        }
                        _ => _mm512_cvtepi32_ps(first_sums),
                    };
                    if S::ROW_SCALES {
                        sums = _mm512_mul_ps(sums, _mm512_set1_ps(*group.row_scales.add(first + row)));
                    }
                    all[half] = _mm512_fmadd_ps(sums, scales[half], all[half]);
                    if S::BIASES {
                        let biases = _mm512_loadu_ps(group.floats.add(COLUMNS + half * TILE));
                        let mut factor = *group.row_sums.add(first + row);
                        if S::ROW_SCALES {
                            factor *= *group.row_scales.add(first + row);
                        }
                        all[half] = _mm512_fmadd_ps(_mm512_set1_ps(factor), biases, all[half]);
                    }
                }
            }
            _mm512_storeu_ps(acc, all[0]);
            _mm512_storeu_ps(acc.add(TILE), all[1]);
        }
    }
}
