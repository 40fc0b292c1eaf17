//! 16-bit floats to f32 without branches, so that loops over them become vector code on any instruction set.

use super::FloatType;

/// Whether stored floats hold neither infinity nor NaN, whose exponents are all ones.
pub(crate) fn is_finite(bytes: &[u8], float_type: FloatType) -> bool {
    const BLOCK: usize = 1 << 14;
    let exponent = match float_type {
        FloatType::F16 => 0x7c00,
        FloatType::Bf16 => 0x7f80,
        FloatType::F32 => 0x7f80_0000u32,
    };
    // whole blocks without a branch inside, so that they become vector code
    bytes.chunks(BLOCK).all(|block| match float_type {
        FloatType::F32 => {
            let words = block.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
            words.fold(true, |ok, w| ok & (w & exponent != exponent))
        }
        FloatType::F16 | FloatType::Bf16 => {
            let halves = block.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            let exponent = exponent as u16;
            halves.fold(true, |ok, h| ok & (h & exponent != exponent))
        }
    })
}

/// The f32 of a bf16's bits (in the low half of `bits`).
#[inline(always)]
pub fn bf16_to_f32(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// The f32 of an IEEE half's bits (in the low half of `bits`).
///
/// Moving the exponent field up leaves a value that is 2^112 too small, subnormal halves included; one exact
/// multiplication mends both. Infinity and NaN take the all-ones exponent instead.
#[inline(always)]
pub fn f16_to_f32(bits: u32) -> f32 {
    const TWO_POW_112: f32 = f32::from_bits(0x7780_0000);
    let magnitude = bits & 0x7fff;
    let finite = (f32::from_bits(magnitude << 13) * TWO_POW_112).to_bits();
    let special = 0x7f80_0000 | (magnitude << 13);
    let value = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_and_bf16_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits.into()), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "f16 {bits:#x}");
            let (ours, theirs) = (bf16_to_f32(bits.into()), half::bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "bf16 {bits:#x}");
        }
    }
}
