//! Instruction sets as values: who holds an [`Avx2`] token knows that AVX2 is there. The only place that asks the CPU.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "enters code that is compiled for detected instructions")
)]

use std::env;

/// Name of the environment variable that may lower, never raise, the chosen instruction set.
pub const OVERRIDE: &str = "BONSAI_ISA";

/// A set of instructions that is proved to exist.
pub trait Token: Copy + Send + Sync + 'static {
    /// Name as [`Isa::name`] gives it.
    const NAME: &'static str;
    /// Whether `f32::mul_add` is one instruction.
    const FMA: bool;
    /// Runs `body` compiled with these instructions. The body and what it calls must be inlined into it, so it
    /// consists of one call of an `#[inline(always)]` function.
    fn run<R>(self, body: impl FnOnce() -> R) -> R;
}

/// What every CPU of the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portable;

impl Token for Portable {
    const NAME: &'static str = "portable";
    const FMA: bool = cfg!(target_arch = "aarch64");
    #[inline(always)]
    fn run<R>(self, body: impl FnOnce() -> R) -> R {
        body()
    }
}

macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $name:literal, $($feature:tt),+) => {
        $(#[$doc])*
        #[cfg(target_arch = "x86_64")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $token(());

        #[cfg(target_arch = "x86_64")]
        impl $token {
            /// The token, if this CPU has all its instructions.
            pub fn detect() -> Option<Self> {
                ($(std::arch::is_x86_feature_detected!($feature))&&+).then_some(Self(()))
            }
        }

        #[cfg(target_arch = "x86_64")]
        impl Token for $token {
            const NAME: &'static str = $name;
            const FMA: bool = true;
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
        }
    };
}

token!(
    /// AVX2 with FMA and half-precision conversion.
    Avx2, "avx2", "avx2", "fma", "f16c"
);
token!(
    /// AVX-512 F, BW, DQ and VL.
    Avx512, "avx512", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"
);

/// The instruction set that kernels run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// Baseline of the target.
    Portable(Portable),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// Calls `$body` with `$t` bound to the token inside `$isa`.
macro_rules! dispatch {
    ($isa:expr, $t:ident => $body:expr) => {
        match $isa {
            $crate::Isa::Portable($t) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::Isa::Avx2($t) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::Isa::Avx512($t) => $body,
        }
    };
}
pub(crate) use dispatch;

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
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86-64 adds to it"))]
        let mut found = vec![Self::Portable(Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Self::Avx2));
            found.extend(Avx512::detect().map(Self::Avx512));
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

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        fn name_of<T: Token>(_: T) -> &'static str {
            T::NAME
        }
        dispatch!(self, t => name_of(t))
    }
}
