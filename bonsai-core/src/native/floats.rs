//! Floats in the narrowest type that holds them exactly.

use bonsai_kernels::weights::{FloatType, Scales, f16_to_f32};

/// The half that is exactly `value`.
pub(super) fn exact_f16(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let (sign, exponent, fraction) =
        (bits >> 16 & 0x8000, (bits >> 23 & 0xff) as i32 - 127, bits & 0x7f_ffff);
    let magnitude = match exponent {
        -127 => 0,
        -14..=15 => (((exponent + 15) as u32) << 10) | fraction >> 13,
        -24..=-15 => (fraction | 0x80_0000) >> (13 - 14 - exponent),
        _ => return None,
    };
    // what did not fit shows on the way back
    (f16_to_f32(sign | magnitude).to_bits() == bits).then_some((sign | magnitude) as u16)
}

fn encode(values: &[f32], float_type: FloatType) -> Option<Vec<u8>> {
    match float_type {
        FloatType::F16 => {
            let halves: Option<Vec<u16>> = values.iter().map(|&v| exact_f16(v)).collect();
            Some(halves?.iter().flat_map(|h| h.to_le_bytes()).collect())
        }
        FloatType::Bf16 => values
            .iter()
            .all(|v| v.to_bits() & 0xffff == 0)
            .then(|| values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()),
        FloatType::F32 => Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

/// The values of `scales`, multiplied out: in their own type where it holds them, else in another.
pub(super) fn multiplied(scales: &Scales) -> (FloatType, Vec<u8>) {
    let values: Vec<f32> = scales.iter().collect();
    let types = [scales.float_type(), FloatType::Bf16, FloatType::F16, FloatType::F32];
    let found = types.into_iter().find_map(|t| Some((t, encode(&values, t)?)));
    found.expect("f32 holds every f32")
}

/// A row in a type: exactly, or else rounded to the nearest bf16 (ties to even).
pub(super) fn row(values: &[f32], float_type: FloatType) -> Vec<u8> {
    encode(values, float_type).unwrap_or_else(|| {
        values
            .iter()
            .flat_map(|v| {
                let bits = v.to_bits();
                (((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes()
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back_and_nothing_else_does() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits.into());
            if value.is_finite() {
                assert_eq!(exact_f16(value), Some(bits), "{bits:#x}");
            }
        }
        for value in [1.0 + f32::EPSILON, 65536.0, 2.0f32.powi(-25), f32::MIN_POSITIVE / 2.0, 0.1] {
            assert_eq!(exact_f16(value), None, "{value}");
        }
    }
}
