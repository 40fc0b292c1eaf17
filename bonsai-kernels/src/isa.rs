//! Instruction sets as values: who holds an [`Avx2`] token knows that AVX2 is there. The only place that asks the CPU.
#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "enters code that is compiled for detected instructions")
)]

use std::env;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// Name of the environment variable that may lower, never raise, the chosen instruction set.
pub const OVERRIDE: &str = "BONSAI_ISA";

/// A set of instructions that is proved to exist.
pub trait Token: Copy + Send + Sync + 'static {
    /// Name as [`Isa::name`] gives it.
    const NAME: &'static str;
    /// Whether `f32::mul_add` is one instruction.
    const FMA: bool;
    /// Runs a long piece of work compiled with these instructions, for certain: the compiler may leave a large closure
    /// out of [`Token::run`], but not a method that is `#[inline(always)]`.
    fn work<W: Work>(self, work: W) -> W::Output;
    /// Runs `body` compiled with these instructions. The body and what it calls must be inlined into it, so it
    /// consists of one call of an `#[inline(always)]` function.
    fn run<R>(self, body: impl FnOnce() -> R) -> R;
    /// The sum of all lanes, by halves.
    #[inline(always)]
    fn sum(self, lanes: [f32; 16]) -> f32 {
        halved(lanes, |a, b| a + b)
    }
    /// The largest lane, where none is NaN.
    #[inline(always)]
    fn largest(self, lanes: [f32; 16]) -> f32 {
        halved(lanes, |a, b| if b > a { b } else { a })
    }
    /// The bits of the largest magnitude, for which NaN is the largest of all, and the sum of squares.
    #[inline(always)]
    fn extent(self, blocks: &[[f32; 16]]) -> (u32, f64) {
        let (mut largest, mut squares) = ([0u32; 16], [0.0f64; 16]);
        for block in blocks {
            for i in 0..16 {
                largest[i] = largest[i].max(block[i].to_bits() & 0x7fff_ffff);
                squares[i] += f64::from(block[i]) * f64::from(block[i]);
            }
        }
        (halved(largest, u32::max), halved(squares, |a, b| a + b))
    }
    /// The sums of magnitudes, lane by lane.
    #[inline(always)]
    fn magnitudes(self, blocks: &[[f32; 16]]) -> [f64; 16] {
        let mut sums = [0.0f64; 16];
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x.abs());
            }
        }
        sums
    }
    /// Bit `i` of a word is set where number `i` is not negative, and not NaN.
    #[inline(always)]
    fn sign_bits(self, x: &[f32; 32]) -> u32 {
        let mut bits = [0u32; 32];
        for (i, (bit, &x)) in bits.iter_mut().zip(x).enumerate() {
            *bit = u32::from(x >= 0.0) << i;
        }
        bits.iter().fold(0, |word, bit| word | bit)
    }
    /// Rows of words become columns.
    #[inline(always)]
    fn turn(self, rows: &[&[u8; 16]; 16]) -> [[u32; 16]; 4] {
        let mut columns = [[0; 16]; 4];
        for (lane, row) in rows.iter().enumerate() {
            for (column, &word) in columns.iter_mut().zip(row.as_chunks().0) {
                column[lane] = u32::from_le_bytes(word);
            }
        }
        columns
    }
}

/// Combines lanes, by halves.
#[inline(always)]
fn halved<N: Copy>(mut lanes: [N; 16], f: impl Fn(N, N) -> N) -> N {
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high) {
            *a = f(*a, *b);
        }
    }
    lanes[0]
}

/// A piece of work with what it needs.
pub trait Work {
    /// What it makes.
    type Output;
    /// Does it; every implementation is `#[inline(always)]`.
    fn work(self) -> Self::Output;
}

/// What every CPU of the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portable;

impl Token for Portable {
    const NAME: &'static str = "portable";
    const FMA: bool = cfg!(target_arch = "aarch64");
    #[inline(always)]
    fn work<W: Work>(self, work: W) -> W::Output {
        work.work()
    }
    #[inline(always)]
    fn run<R>(self, body: impl FnOnce() -> R) -> R {
        body()
    }
}

macro_rules! token {
    (
        $(#[$doc:meta])* $arch:literal, $token:ident, $name:literal, $detect:ident, $($feature:tt),+
        $(; $also:expr)? $(=> $long:expr)?
    ) => {
        $(#[$doc])*
        #[cfg(target_arch = $arch)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $token(());

        #[cfg(target_arch = $arch)]
        impl $token {
            /// The token, if this CPU has all its instructions.
            pub fn detect() -> Option<Self> {
                ($(std::arch::$detect!($feature))&&+ $(&& $also)?).then_some(Self(()))
            }
        }

        #[cfg(target_arch = $arch)]
        impl Token for $token {
            const NAME: &'static str = $name;
            const FMA: bool = true;
            #[inline(always)]
            fn work<W: Work>(self, work: W) -> W::Output {
                $(#[target_feature(enable = $feature)])+
                fn enabled<W: Work>(work: W) -> W::Output {
                    work.work()
                }
                // SAFETY: a token exists only after `detect` saw every feature of this list.
                unsafe {
                    enabled(work)
                }
            }
            #[inline(always)]
            fn run<R>(self, body: impl FnOnce() -> R) -> R {
                $(#[target_feature(enable = $feature)])+
                fn enabled<R>(body: impl FnOnce() -> R) -> R {
                    body()
                }
                // SAFETY: a token exists only after `detect` saw every feature of this list.
                unsafe {
                    enabled(body)
                }
            }
            $(
                #[inline(always)]
                fn sum(self, lanes: [f32; 16]) -> f32 {
                    $long(self).sum_lanes(lanes)
                }
                #[inline(always)]
                fn largest(self, lanes: [f32; 16]) -> f32 {
                    $long(self).largest_lane(lanes)
                }
                #[inline(always)]
                fn extent(self, blocks: &[[f32; 16]]) -> (u32, f64) {
                    $long(self).extent_of(blocks)
                }
                #[inline(always)]
                fn magnitudes(self, blocks: &[[f32; 16]]) -> [f64; 16] {
                    $long(self).magnitudes_of(blocks)
                }
                #[inline(always)]
                fn sign_bits(self, x: &[f32; 32]) -> u32 {
                    $long(self).sign_bits_of(x)
                }
                #[inline(always)]
                fn turn(self, rows: &[&[u8; 16]; 16]) -> [[u32; 16]; 4] {
                    $long(self).turned(rows)
                }
            )?
        }
    };
}

/// A token whose instructions include those of `$lower`.
macro_rules! includes {
    ($arch:literal, $token:ident => $lower:ident) => {
        #[cfg(target_arch = $arch)]
        impl $token {
            /// The next lower level.
            pub fn lower(self) -> $lower {
                $lower(())
            }
        }
    };
}

token!(
    /// AVX2 with FMA and half-precision conversion.
    "x86_64", Avx2, "avx2", is_x86_feature_detected, "avx2", "fma", "f16c"
);
token!(
    /// AVX2 and products of bytes (VNNI) on 256 bits.
    "x86_64", AvxVnni, "avxvnni", is_x86_feature_detected, "avx2", "fma", "f16c", "avxvnni"
);
token!(
    /// AVX-512 F, BW, DQ and VL.
    "x86_64", Avx512, "avx512", is_x86_feature_detected,
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "bmi2", "fma", "f16c"
    => |t: Self| t
);
token!(
    /// AVX-512 with products of bytes (VNNI), byte permutations (VBMI) and popcounts.
    "x86_64", Avx512Vnni, "avx512vnni", is_x86_feature_detected,
    "avx512vnni", "avx512vbmi", "avx512vbmi2", "avx512vpopcntdq", "avx512bitalg",
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "bmi2", "fma", "f16c"
    => |t: Self| t.lower()
);
token!(
    /// The same with dot products of bf16.
    "x86_64", Avx512Bf16, "avx512bf16", is_x86_feature_detected,
    "avx512bf16", "avx512vnni", "avx512vbmi", "avx512vbmi2", "avx512vpopcntdq", "avx512bitalg",
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "bmi2", "fma", "f16c"
    => |t: Self| t.lower().lower()
);
token!(
    /// The same with products of tiles (AMX) of bytes and of bf16, which the operating system lets this process use.
    "x86_64", Amx, "amx", is_x86_feature_detected,
    "avx512bf16", "avx512vnni", "avx512vbmi", "avx512vbmi2", "avx512vpopcntdq", "avx512bitalg",
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "bmi2", "fma", "f16c"; crate::x86_64::amx::permitted()
    => |t: Self| t.lower().lower().lower()
);
includes!("x86_64", AvxVnni => Avx2);
includes!("x86_64", Avx512 => Avx2);
includes!("x86_64", Avx512Vnni => Avx512);
includes!("x86_64", Avx512Bf16 => Avx512Vnni);
includes!("x86_64", Amx => Avx512Bf16);

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// Whether the first-level cache holds tables of 512-bit entries with room for what streams past them. Where it does
    /// not, it holds those of 256-bit entries.
    pub(crate) fn holds_tables(self) -> bool {
        static LEVEL_1: OnceLock<usize> = OnceLock::new();
        *LEVEL_1.get_or_init(level_1_data_cache) >= 48 << 10
    }
}

/// Bytes of the first-level data cache; 0 if the CPU does not tell.
#[cfg(target_arch = "x86_64")]
#[expect(unused_unsafe, reason = "unsafe only in older compilers")]
fn level_1_data_cache() -> usize {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // SAFETY: every x86-64 CPU has this instruction.
    let cpuid = |leaf, index| unsafe { __cpuid_count(leaf, index) };
    // AMD's leaf of the same layout, where there is one
    // SAFETY: as above.
    let extended = unsafe { __cpuid(0x8000_0000) }.eax;
    let leaves = [(4, cpuid(0, 0).eax >= 4), (0x8000_001d, extended >= 0x8000_001d)];
    for leaf in leaves.into_iter().filter_map(|(leaf, known)| known.then_some(leaf)) {
        for cache in (0..8).map(|index| cpuid(leaf, index)) {
            let (kind, level) = (cache.eax & 31, cache.eax >> 5 & 7);
            if kind == 1 && level == 1 {
                let field =
                    |value: u32, shift: u32, bits: u32| ((value >> shift & ((1 << bits) - 1)) + 1) as usize;
                let (line, parts, ways) =
                    (field(cache.ebx, 0, 12), field(cache.ebx, 12, 10), field(cache.ebx, 22, 10));
                return line * parts * ways * (cache.ecx as usize + 1);
            }
        }
    }
    0
}

#[cfg(target_arch = "x86_64")]
impl Avx512Vnni {
    /// Whether permutations of 16-bit words are single operations, as many of which start in a cycle as of dot products: so on
    /// AMD's CPUs, where Intel's take two operations on the same port for each.
    pub(crate) fn permutes_fast(self) -> bool {
        is_amd()
    }

    /// Whether the CPU works off 512-bit vectors by halves, as AMD's family 25 does (Zen 4, the first there with AVX-512).
    pub(crate) fn halves_vectors(self) -> bool {
        static HALVES: OnceLock<bool> = OnceLock::new();
        *HALVES.get_or_init(|| is_amd() && family() == 25)
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// Whether a bf16 dot product is as fast as two f32 products: on AMD's CPUs it is, on Intel's it takes four times
    /// as long as the f32 instruction of the same width.
    pub fn is_fast(self) -> bool {
        is_amd()
    }
}

/// The CPU's family, as its maker counts.
#[cfg(target_arch = "x86_64")]
fn family() -> u32 {
    #[expect(unused_unsafe, reason = "unsafe only in older compilers")]
    // SAFETY: every x86-64 CPU has this instruction.
    let version = unsafe { std::arch::x86_64::__cpuid(1) }.eax;
    // the second field counts on where the first is full
    match version >> 8 & 15 {
        15 => 15 + (version >> 20 & 255),
        family => family,
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    #[expect(unused_unsafe, reason = "unsafe only in older compilers")]
    // SAFETY: every x86-64 CPU has this instruction.
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

token!(
    /// NEON, which every aarch64 CPU has.
    "aarch64", Neon, "neon", is_aarch64_feature_detected, "neon"
);
token!(
    /// NEON with dot products of bytes.
    "aarch64", DotProd, "dotprod", is_aarch64_feature_detected, "neon", "dotprod"
);
token!(
    /// NEON with products of small matrices of bytes.
    "aarch64", I8mm, "i8mm", is_aarch64_feature_detected, "neon", "dotprod", "i8mm"
);
includes!("aarch64", DotProd => Neon);
includes!("aarch64", I8mm => DotProd);

/// The instruction set that kernels run with: one level of its architecture, each of which includes those below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// Baseline of the target, without kernels of its own.
    Portable(Portable),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX2 and VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX-512 with VNNI, VBMI and VPOPCNTDQ.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
    /// The same with BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    /// The same with AMX.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// NEON and dot products.
    #[cfg(target_arch = "aarch64")]
    DotProd(DotProd),
    /// NEON, dot products and matrix products.
    #[cfg(target_arch = "aarch64")]
    I8mm(I8mm),
}

/// Calls `$body` with `$t` bound to the token of the vector width inside `$isa`: levels that add only special
/// instructions share the code of the level that set the width.
macro_rules! dispatch {
    ($isa:expr, $t:ident => $body:expr) => {
        match $isa.vectors() {
            $crate::isa::Vectors::Portable($t) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Vectors::Avx2($t) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Vectors::Avx512($t) => $body,
        }
    };
}
pub(crate) use dispatch;

/// What code that knows only vectors tells apart.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Vectors {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// `BONSAI_ISA` holds a word that is no instruction set of this CPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{OVERRIDE}={value}: expected one of {known}")]
pub struct UnknownIsa {
    value: String,
    known: String,
}

impl Isa {
    /// The best instruction set of this CPU.
    pub fn best() -> Self {
        // `available` always holds at least the portable one
        Self::available().pop().unwrap_or(Self::Portable(Portable))
    }

    /// All instruction sets of this CPU, lowest first.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable(Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Self::Avx2));
            found.extend(AvxVnni::detect().map(Self::AvxVnni));
            found.extend(Avx512::detect().map(Self::Avx512));
            found.extend(Avx512Vnni::detect().map(Self::Avx512Vnni));
            found.extend(Avx512Bf16::detect().map(Self::Avx512Bf16));
            found.extend(Amx::detect().map(Self::Amx));
        }
        #[cfg(target_arch = "aarch64")]
        {
            found.extend(Neon::detect().map(Self::Neon));
            found.extend(DotProd::detect().map(Self::DotProd));
            found.extend(I8mm::detect().map(Self::I8mm));
        }
        found
    }

    /// The best instruction set, or the lower one that `BONSAI_ISA` names.
    ///
    /// # Errors
    /// When the variable holds something that this CPU does not offer.
    pub fn from_env() -> Result<Self, UnknownIsa> {
        match env::var_os(OVERRIDE) {
            None => Ok(Self::best()),
            Some(value) if value.is_empty() => Ok(Self::best()),
            Some(value) => Self::named(&value.to_string_lossy()),
        }
    }

    /// The instruction set of this name, if this CPU has it.
    ///
    /// # Errors
    /// When it has not.
    pub fn named(value: &str) -> Result<Self, UnknownIsa> {
        let available = Self::available();
        available.iter().copied().find(|isa| isa.name() == value).ok_or_else(|| UnknownIsa {
            value: value.to_owned(),
            known: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// `portable`, `avx2`, `avxvnni`, `avx512`, `avx512vnni`, `avx512bf16`, `amx`, `neon`, `dotprod` or `i8mm`.
    pub fn name(self) -> &'static str {
        fn name_of<T: Token>(_: T) -> &'static str {
            T::NAME
        }
        match self {
            Self::Portable(t) => name_of(t),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(t) => name_of(t),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(t) => name_of(t),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(t) => name_of(t),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(t) => name_of(t),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(t) => name_of(t),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(t) => name_of(t),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(t) => name_of(t),
            #[cfg(target_arch = "aarch64")]
            Self::DotProd(t) => name_of(t),
            #[cfg(target_arch = "aarch64")]
            Self::I8mm(t) => name_of(t),
        }
    }

    pub(crate) fn vectors(self) -> Vectors {
        match self {
            Self::Portable(t) => Vectors::Portable(t),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(t) => Vectors::Avx2(t),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(t) => Vectors::Avx2(t.lower()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(t) => Vectors::Avx512(t),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(t) => Vectors::Avx512(t.lower()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(t) => Vectors::Avx512(t.lower().lower()),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(t) => Vectors::Avx512(t.lower().lower().lower()),
            // the baseline has these vectors
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) | Self::DotProd(_) | Self::I8mm(_) => Vectors::Portable(Portable),
        }
    }
}
