use super::codes::Codes;
#[cfg(target_arch = "x86_64")]
use crate::lookup::{Alphabet, Signs, Trits};
use crate::lookup::{Int16Alphabet, Int16LookupTile};
use crate::weights::{BinaryWeights, TernaryWeights};

/// Weights whose codes are signs.
pub(crate) trait SignCodes: Codes {
    /// What tables of f32 hold.
    #[cfg(target_arch = "x86_64")]
    type Alphabet: Alphabet;
    /// What tables of 16-bit integers hold on an instruction set.
    type Int16<T: Int16LookupTile>: Int16Alphabet;
    /// The entry in a table of f32 of the codes in the low bits; bits above them are left as they come.
    #[cfg(target_arch = "x86_64")]
    fn entry(codes: u32) -> u32;
}

impl SignCodes for BinaryWeights {
    #[cfg(target_arch = "x86_64")]
    type Alphabet = Signs;
    type Int16<T: Int16LookupTile> = T::Signs;
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn entry(codes: u32) -> u32 {
        codes
    }
}

impl SignCodes for TernaryWeights {
    #[cfg(target_arch = "x86_64")]
    type Alphabet = Trits;
    type Int16<T: Int16LookupTile> = T::Trits;
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn entry(codes: u32) -> u32 {
        (codes & 3) + (codes >> 2 & 3) * 3 + (codes >> 4 & 3) * 9
    }
}
