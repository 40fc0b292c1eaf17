//! Tables of sums, looked up in memory: for a few neighbouring inputs, each pattern that their weights can have picks one
//! entry, the signed sum of the inputs, for as many rows of activations at once as fill a vector. A look-up is one addition
//! with a memory operand whose address comes from the bits of the weights.
//!
//! For a CPU that is two loads and two additions a cycle, each of which stands for five or six multiply-accumulates in
//! every lane; nothing is permuted, and nothing waits for a port that is there once. Tables of a pass
//! fill 32 KiB with 512-bit vectors, 41 for ternary weights. With 256-bit ones half a word is looked up at a time, in entries of
//! two vectors ([`Pair`]), so that an address serves two additions: tables of 16 KiB, 23 for ternary weights.
#![expect(unsafe_code, reason = "loads of vectors at addresses that come from weights")]

use std::marker::PhantomData;
use std::ptr;

use crate::aligned::Element;
use crate::isa::{Portable, Token, Work};

/// One entry of a table: sums for `LANES` rows of activations.
///
/// Methods are unsafe because of the instructions behind them, which the token of a [`TableTile`] proves, and of pointers.
pub(crate) trait Lanes: Copy {
    /// 16-bit integers, which are added modulo 2^16, or f32.
    type Number: Element;
    const LANES: usize;
    /// What scales are multiplied with, because [`Lanes::accumulate`] takes a lane for so many times its value.
    const SCALE: f32;
    /// Bytes of an entry, as an exponent of 2.
    const ENTRY_SHIFT: u32;
    /// Quarters of a word that one pass looks up, so that their tables stay in the first-level cache: 4 or 2.
    const QUARTERS: usize = 4;

    /// The row of the tile that a lane stands for.
    fn row(lane: usize) -> usize {
        lane
    }
    /// # Safety
    /// `LANES` numbers are there, aligned to as many bytes.
    unsafe fn load(at: *const Self::Number) -> Self;
    /// # Safety
    /// The same.
    unsafe fn store(self, at: *mut Self::Number);
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn sub(self, other: Self) -> Self;
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn zero() -> Self;
    /// `sums[row] += scale * self[row]`, times `row_scales[row]` where there are any.
    ///
    /// # Safety
    /// `LANES` floats are at `sums`, and at `row_scales`, in the order of rows.
    unsafe fn accumulate(self, scale: f32, row_scales: Option<*const f32>, sums: *mut f32);
    /// The 16-bit field `INDEX` of a word, whose low three bits are zero.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    unsafe fn field<const INDEX: usize>(word: u64) -> usize {
        usize::from((word >> (16 * INDEX)) as u16)
    }
}

/// Two entries side by side, which one address brings: a tile of twice the rows, half a word at a time.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Pair<V>(V, V);

#[cfg(target_arch = "x86_64")]
impl<V: Lanes> Lanes for Pair<V> {
    type Number = V::Number;
    const LANES: usize = 2 * V::LANES;
    const SCALE: f32 = V::SCALE;
    const ENTRY_SHIFT: u32 = V::ENTRY_SHIFT + 1;
    const QUARTERS: usize = V::QUARTERS / 2;

    fn row(lane: usize) -> usize {
        lane / V::LANES * V::LANES + V::row(lane % V::LANES)
    }
    #[inline(always)]
    unsafe fn load(at: *const V::Number) -> Self {
        // SAFETY: as the caller promised, as in all that follow; each half has its half of the numbers.
        unsafe { Self(V::load(at), V::load(at.add(V::LANES))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut V::Number) {
        // SAFETY: see above.
        unsafe {
            self.0.store(at);
            self.1.store(at.add(V::LANES));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.sub(other.0), self.1.sub(other.1)) }
    }
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { Self(V::zero(), V::zero()) }
    }
    #[inline(always)]
    unsafe fn accumulate(self, scale: f32, row_scales: Option<*const f32>, sums: *mut f32) {
        // SAFETY: see above.
        unsafe {
            self.0.accumulate(scale, row_scales, sums);
            self.1.accumulate(scale, row_scales.map(|scales| scales.add(V::LANES)), sums.add(V::LANES));
        }
    }
    #[inline(always)]
    unsafe fn field<const INDEX: usize>(word: u64) -> usize {
        // SAFETY: see above.
        unsafe { V::field::<INDEX>(word) }
    }
}

/// What codes of weights mean, and how a word of them is cut into look-ups.
pub(crate) trait Alphabet: Copy + Send + Sync + 'static {
    /// Inputs of one word of 64 bits.
    const INPUTS: usize;
    /// Words of fields.
    const PLANES: usize;
    /// Entries of the table that a field stands for, plane by plane.
    const TABLES: &'static [usize];
    /// Entries behind the last table that an invalid code reaches.
    const BEYOND: usize;

    /// The word that passes read, from one of stored codes.
    fn word(stored: u64) -> u64;
    /// The fields of a word: numbers of entries times their size, four in each.
    fn planes(word: u64, entry_shift: u32) -> [u64; 3];
    /// Fills the tables of the inputs of a pass `[pass_inputs][LANES]`.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; there are so many inputs, and [`entries`] entries.
    unsafe fn build<V: Lanes>(inputs: *const V::Number, tables: *mut V::Number);
    /// The entries that the fields of the first quarters of these planes pick, added to a sum if there is one.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; there are [`entries`] entries.
    unsafe fn sum<V: Lanes>(tables: *const V::Number, planes: [u64; 3], start: Option<V>) -> V;
}

/// Inputs that one pass adds up.
pub(crate) const fn pass_inputs<A: Alphabet, V: Lanes>() -> usize {
    A::INPUTS * V::QUARTERS / 4
}

/// Entries of the tables of a pass, and as many behind them as an invalid code reaches.
pub(crate) const fn entries<A: Alphabet, V: Lanes>() -> usize {
    first_entry::<A>(0, V::QUARTERS) + A::BEYOND
}

/// The entry that field `QUARTER` of plane `PLANE` picks.
///
/// # Safety
/// The CPU has the instructions; all tables are there.
#[inline(always)]
unsafe fn entry<A: Alphabet, V: Lanes, const PLANE: usize, const QUARTER: usize>(
    tables: *const V::Number,
    planes: [u64; 3],
) -> V {
    // SAFETY: a field counts entries of its own table, or of those behind it where its code is invalid.
    unsafe {
        let table = tables.add(first_entry::<A>(PLANE, QUARTER) * V::LANES);
        V::load(table.byte_add(V::field::<QUARTER>(planes[PLANE])))
    }
}

/// Adds the entries of these planes and quarters in two sums, so that additions of floats need not wait for each other.
/// Spelt out, since a loop over them may stay one.
macro_rules! add_entries {
    ($tables:ident, $planes:ident, $start:ident: $first:tt $second:tt $($entry:tt)*) => {{
        macro_rules! at {
            (($plane:literal $quarter:literal)) => {
                entry::<Self, V, $plane, $quarter>($tables, $planes)
            };
        }
        let first = at!($first);
        let sums = ($start.map_or(first, |start| start.add(first)), at!($second));
        $(let sums = (sums.1, sums.0.add(at!($entry)));)*
        sums.0.add(sums.1)
    }};
}

/// Weights of -1 and +1: each 16 bits are three fields, of 6, 5 and 5 inputs.
#[derive(Clone, Copy)]
pub(crate) struct Signs;

impl Alphabet for Signs {
    const INPUTS: usize = 64;
    const PLANES: usize = 3;
    const TABLES: &'static [usize] = &[64, 32, 32];
    const BEYOND: usize = 0;

    #[inline(always)]
    fn word(stored: u64) -> u64 {
        stored
    }

    #[inline(always)]
    fn planes(word: u64, entry_shift: u32) -> [u64; 3] {
        let field = |bits: u32, shift: u32| {
            let mask = ((1 << bits) - 1) * 0x0001_0001_0001_0001;
            let in_place = mask << shift;
            // to its place in the word of codes first, then to where it counts entries
            let codes = word & in_place;
            if entry_shift >= shift { codes << (entry_shift - shift) } else { codes >> (shift - entry_shift) }
        };
        [field(6, 0), field(5, 6), field(5, 11)]
    }

    #[inline(always)]
    unsafe fn build<V: Lanes>(mut inputs: *const V::Number, tables: *mut V::Number) {
        for quarter in 0..V::QUARTERS {
            for (plane, chunk) in [6, 5, 5].into_iter().enumerate() {
                // SAFETY: the chunks of a quarter are 16 inputs, and the tables of all of them the entries.
                unsafe {
                    let table = tables.add(first_entry::<Self>(plane, quarter) * V::LANES);
                    let low = signed_sums::<V>(inputs);
                    let rest = inputs.add(3 * V::LANES);
                    if chunk == 6 {
                        cross(low, signed_sums::<V>(rest), table);
                    } else {
                        cross(low, signed_pairs::<V>(rest), table);
                    }
                    inputs = inputs.add(chunk * V::LANES);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn sum<V: Lanes>(tables: *const V::Number, planes: [u64; 3], start: Option<V>) -> V {
        // SAFETY: as the caller promised.
        unsafe {
            if V::QUARTERS == 2 {
                return add_entries!(tables, planes, start: (0 0) (1 0) (2 0) (0 1) (1 1) (2 1));
            }
            add_entries!(tables, planes, start:
                (0 0) (1 0) (2 0) (0 1) (1 1) (2 1) (0 2) (1 2) (2 2) (0 3) (1 3) (2 3))
        }
    }
}

/// Weights of -1, 0 and +1, four in a byte: its value in base 3 is the entry.
#[derive(Clone, Copy)]
pub(crate) struct Trits;

/// Patterns of four weights.
const TRIT_ENTRIES: usize = 81;

impl Alphabet for Trits {
    const INPUTS: usize = 32;
    const PLANES: usize = 2;
    const TABLES: &'static [usize] = &[TRIT_ENTRIES; 2];
    // codes of 3, which mean nothing, make 120 at most
    const BEYOND: usize = 40;

    #[inline(always)]
    fn word(stored: u64) -> u64 {
        const PAIRS: u64 = 0x3333_3333_3333_3333;
        const FOURS: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        // no digit overflows into the next: 3 + 3 * 3 < 16, 12 + 9 * 12 < 256
        let pairs = (stored & PAIRS) + 3 * (stored >> 2 & PAIRS);
        (pairs & FOURS) + 9 * (pairs >> 4 & FOURS)
    }

    #[inline(always)]
    fn planes(word: u64, entry_shift: u32) -> [u64; 3] {
        const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
        [(word & EVEN) << entry_shift, (word >> 8 & EVEN) << entry_shift, 0]
    }

    #[inline(always)]
    unsafe fn build<V: Lanes>(mut inputs: *const V::Number, tables: *mut V::Number) {
        for quarter in 0..V::QUARTERS {
            for plane in 0..2 {
                // SAFETY: twice four inputs for each quarter, and their tables.
                unsafe {
                    let table = tables.add(first_entry::<Self>(plane, quarter) * V::LANES);
                    let low = trit_pairs::<V>(inputs);
                    let high = trit_pairs::<V>(inputs.add(2 * V::LANES));
                    cross(low, high, table);
                    inputs = inputs.add(4 * V::LANES);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn sum<V: Lanes>(tables: *const V::Number, planes: [u64; 3], start: Option<V>) -> V {
        // SAFETY: as the caller promised.
        unsafe {
            if V::QUARTERS == 2 {
                return add_entries!(tables, planes, start: (0 0) (1 0) (0 1) (1 1));
            }
            add_entries!(tables, planes, start: (0 0) (1 0) (0 1) (1 1) (0 2) (1 2) (0 3) (1 3))
        }
    }
}

/// Where the table of a field stands.
#[inline(always)]
const fn first_entry<A: Alphabet>(plane: usize, quarter: usize) -> usize {
    let (mut of_quarter, mut before, mut p) = (0, 0, 0);
    while p < A::PLANES {
        of_quarter += A::TABLES[p];
        if p < plane {
            before += A::TABLES[p];
        }
        p += 1;
    }
    quarter * of_quarter + before
}

/// `+-a +-b`, bits counting from `a`.
///
/// # Safety
/// The CPU has the instructions; two inputs are there.
#[inline(always)]
unsafe fn signed_pairs<V: Lanes>(inputs: *const V::Number) -> [V; 4] {
    // SAFETY: as the caller promised.
    unsafe {
        let (a, b) = (V::load(inputs), V::load(inputs.add(V::LANES)));
        let (sum, difference) = (a.add(b), a.sub(b));
        [V::zero().sub(sum), difference, V::zero().sub(difference), sum]
    }
}

/// `+-a +-b +-c`.
///
/// # Safety
/// The CPU has the instructions; three inputs are there.
#[inline(always)]
unsafe fn signed_sums<V: Lanes>(inputs: *const V::Number) -> [V; 8] {
    // SAFETY: as the caller promised.
    unsafe {
        let [p, q, r, s] = signed_pairs::<V>(inputs);
        let c = V::load(inputs.add(2 * V::LANES));
        [p.sub(c), q.sub(c), r.sub(c), s.sub(c), p.add(c), q.add(c), r.add(c), s.add(c)]
    }
}

/// `t a + u b` for `t` and `u` of -1, 0, 1.
///
/// # Safety
/// The CPU has the instructions; two inputs are there.
#[inline(always)]
unsafe fn trit_pairs<V: Lanes>(inputs: *const V::Number) -> [V; 9] {
    // SAFETY: as the caller promised.
    unsafe {
        let (a, b, zero) = (V::load(inputs), V::load(inputs.add(V::LANES)), V::zero());
        let (sum, difference) = (a.add(b), a.sub(b));
        [zero.sub(sum), zero.sub(b), difference, zero.sub(a), zero, a, zero.sub(difference), b, sum]
    }
}

/// `table[h][l] = low[l] + high[h]`: an entry has few roundings, and none of sums larger than itself.
///
/// # Safety
/// The CPU has the instructions; there is room for all sums.
#[inline(always)]
unsafe fn cross<V: Lanes, const LOW: usize, const HIGH: usize>(
    low: [V; LOW],
    high: [V; HIGH],
    table: *mut V::Number,
) {
    for (h, high) in high.into_iter().enumerate() {
        for (l, low) in low.into_iter().enumerate() {
            // SAFETY: as the caller promised.
            unsafe { low.add(high).store(table.add((h * LOW + l) * V::LANES)) }
        }
    }
}

/// A word for each column, and where their sums go.
pub(crate) struct Columns<'a, N> {
    /// As [`Alphabet::word`] makes them, one for each column.
    pub(crate) words: &'a [u64],
    /// The half of them that the pass looks up, where it is one of two.
    pub(crate) half: usize,
    /// Sums so far, `[columns][LANES]`, which the first pass of a block does not read and the last one does not write.
    pub(crate) partial: &'a mut [N],
    pub(crate) first: bool,
    pub(crate) last: Option<Totals<'a>>,
}

/// What the last pass of a block adds its sums to.
pub(crate) struct Totals<'a> {
    /// One for each column, times [`Lanes::SCALE`].
    pub(crate) scales: &'a [f32],
    /// One for each row of the tile, or none.
    pub(crate) row_scales: Option<&'a [f32]>,
    /// `[columns][LANES]`
    pub(crate) sums: &'a mut [f32],
}

/// An instruction set with a vector for tables of these numbers.
pub(crate) trait TableTile<N: Element>: Token {
    type Lanes: Lanes<Number = N>;
    /// Rows of a tile.
    const ROWS: usize = Self::Lanes::LANES;

    /// Fills the tables of a pass from `inputs` `[pass_inputs][ROWS]`.
    ///
    /// # Panics
    /// When a slice is too short.
    fn build<A: Alphabet>(self, inputs: &[N], tables: &mut [N]) {
        let (needed, entries) = (pass_inputs::<A, Self::Lanes>(), entries::<A, Self::Lanes>());
        assert!(inputs.len() >= needed * Self::ROWS && aligned(inputs), "{needed} inputs");
        assert!(tables.len() >= entries * Self::ROWS && aligned(tables), "tables of {entries} entries");
        self.work(Build::<A, Self::Lanes> { inputs, tables, alphabet: PhantomData });
    }

    /// Adds up one entry of each table for every column.
    ///
    /// # Panics
    /// When a slice is too short.
    fn look_up<A: Alphabet>(self, tables: &[N], columns: Columns<'_, N>) {
        let count = columns.words.len();
        let entries = entries::<A, Self::Lanes>();
        assert!(tables.len() >= entries * Self::ROWS && aligned(tables), "tables of {entries} entries");
        assert!(columns.half < 4 / Self::Lanes::QUARTERS, "a word of {} passes", 4 / Self::Lanes::QUARTERS);
        assert!(
            columns.partial.len() >= count * Self::ROWS && aligned(columns.partial),
            "sums of {count} columns"
        );
        if let Some(totals) = &columns.last {
            assert!(totals.scales.len() >= count, "scales of {count} columns");
            assert!(totals.row_scales.is_none_or(|s| s.len() >= Self::ROWS), "scales of rows");
            assert!(
                totals.sums.len() >= count * Self::ROWS && aligned(totals.sums),
                "sums of {count} columns"
            );
        }
        self.work(LookUp::<A, Self::Lanes> { tables, columns, alphabet: PhantomData });
    }
}

/// Whether vectors may be loaded from the front of a slice.
fn aligned<T>(slice: &[T]) -> bool {
    slice.as_ptr().addr().is_multiple_of(crate::ALIGN)
}

struct Build<'a, A, V: Lanes> {
    inputs: &'a [V::Number],
    tables: &'a mut [V::Number],
    alphabet: PhantomData<A>,
}

impl<A: Alphabet, V: Lanes> Work for Build<'_, A, V> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        // SAFETY: `TableTile::build` checked the lengths, and its token proves the instructions.
        unsafe { A::build::<V>(self.inputs.as_ptr(), self.tables.as_mut_ptr()) }
    }
}

struct LookUp<'a, A, V: Lanes> {
    tables: &'a [V::Number],
    columns: Columns<'a, V::Number>,
    alphabet: PhantomData<A>,
}

impl<A: Alphabet, V: Lanes> Work for LookUp<'_, A, V> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Self { tables, columns, .. } = self;
        let first = columns.first;
        // SAFETY: `TableTile::look_up` checked the lengths, and its token proves the instructions.
        unsafe {
            match &columns.last {
                None if first => pass::<A, V, true, false, false>(tables, columns),
                None => pass::<A, V, false, false, false>(tables, columns),
                Some(t) if t.row_scales.is_some() => {
                    if first {
                        pass::<A, V, true, true, true>(tables, columns);
                    } else {
                        pass::<A, V, false, true, true>(tables, columns);
                    }
                }
                Some(_) if first => pass::<A, V, true, true, false>(tables, columns),
                Some(_) => pass::<A, V, false, true, false>(tables, columns),
            }
        }
    }
}

/// Adds up the entries of all columns; what the pass of a block does before and after is known beforehand.
///
/// # Safety
/// The CPU has the instructions; there are [`entries`] entries, and sums and scales for each column.
#[inline(always)]
unsafe fn pass<A: Alphabet, V: Lanes, const FIRST: bool, const LAST: bool, const ROW_SCALES: bool>(
    tables: &[V::Number],
    columns: Columns<'_, V::Number>,
) {
    let Columns { words, half, partial, last, .. } = columns;
    let (tables, mut partial) = (tables.as_ptr(), partial.as_mut_ptr());
    let (mut scales, row_scales, mut sums) = match last {
        Some(t) => {
            (t.scales.as_ptr(), t.row_scales.map_or(ptr::null(), <[f32]>::as_ptr), t.sums.as_mut_ptr())
        }
        None => (ptr::null(), ptr::null(), ptr::null_mut()),
    };
    for &word in words {
        // SAFETY: as the caller promised; each column is one step further.
        unsafe {
            let start = if FIRST { None } else { Some(V::load(partial)) };
            // two passes look at one half each, one pass at all of it
            let word = if V::QUARTERS == 2 { word >> (32 * half) } else { word };
            let sum = A::sum(tables, A::planes(word, V::ENTRY_SHIFT), start);
            if LAST {
                sum.accumulate(*scales, ROW_SCALES.then_some(row_scales), sums);
                scales = scales.add(1);
                sums = sums.add(V::LANES);
            } else {
                sum.store(partial);
            }
            if !(FIRST && LAST) {
                partial = partial.add(V::LANES);
            }
        }
    }
}

/// Vectors for CPUs without kernels of their own, and for NEON, which is the baseline of its architecture.
macro_rules! array_lanes {
    ($number:ty, $lanes:literal, $shift:literal, $zero:literal, $add:expr, $sub:expr, $to_f32:expr) => {
        impl Lanes for [$number; $lanes] {
            type Number = $number;
            const LANES: usize = $lanes;
            const SCALE: f32 = 1.0;
            const ENTRY_SHIFT: u32 = $shift;

            #[inline(always)]
            unsafe fn load(at: *const $number) -> Self {
                // SAFETY: as the caller promised.
                unsafe { at.cast::<Self>().read() }
            }
            #[inline(always)]
            unsafe fn store(self, at: *mut $number) {
                // SAFETY: as the caller promised.
                unsafe { at.cast::<Self>().write(self) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                std::array::from_fn(|i| $add(self[i], other[i]))
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                std::array::from_fn(|i| $sub(self[i], other[i]))
            }
            #[inline(always)]
            unsafe fn zero() -> Self {
                [$zero; $lanes]
            }
            #[inline(always)]
            unsafe fn accumulate(self, scale: f32, row_scales: Option<*const f32>, sums: *mut f32) {
                // SAFETY: as the caller promised.
                let (sums, row_scales) = unsafe {
                    (&mut *sums.cast::<[f32; $lanes]>(), row_scales.map(|s| &*s.cast::<[f32; $lanes]>()))
                };
                for i in 0..$lanes {
                    let scale = row_scales.map_or(scale, |s| s[i] * scale);
                    sums[i] += $to_f32(self[i]) * scale;
                }
            }
        }

        impl TableTile<$number> for Portable {
            type Lanes = [$number; $lanes];
        }
    };
}

array_lanes!(i16, 16, 5, 0, i16::wrapping_add, i16::wrapping_sub, f32::from);
array_lanes!(f32, 8, 5, 0.0, |a: f32, b: f32| a + b, |a: f32, b: f32| a - b, |a: f32| a);
