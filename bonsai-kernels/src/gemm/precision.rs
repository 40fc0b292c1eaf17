use crate::isa::Isa;

/// How activations enter a linear whose weights are packed codes. Dense weights meet activations as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ActivationPrecision {
    /// As they are. The error of a result is that of an f32 sum.
    F32,
    /// 16-bit integers with one scale a row, as fine as the sum of magnitudes over 128 inputs allows. Sums inside a
    /// group are exact integers. Errors are below those of bf16.
    #[default]
    Int16,
    /// Rounded to bf16, summed in f32. Looking sums up, where the instruction set can, outruns dot products of bf16.
    Bf16,
    /// 8-bit integers with one scale for each 128 inputs of a row; sums inside a group are exact.
    Int8,
    /// 8-bit integers with one scale a row.
    Int8Row,
    /// 4-bit integers (-7 to 7) with one scale for each 128 inputs of a row. They are multiplied as bytes: four planes of
    /// bits would take longer, and come to the same sums.
    Int4,
    /// 2-bit integers (-1, 0, 1) with one scale for each 128 inputs of a row: planes of bits for binary and ternary
    /// weights, bytes for others.
    Int2,
    /// Signs (`+` for both zeros) times the mean magnitude of the row: bits for binary and ternary weights, bytes for
    /// others.
    Binary,
}

impl ActivationPrecision {
    /// All precisions, finest first.
    pub const ALL: &'static [Self] = &[
        Self::F32,
        Self::Int16,
        Self::Bf16,
        Self::Int8,
        Self::Int8Row,
        Self::Int4,
        Self::Int2,
        Self::Binary,
    ];

    /// `f32`, `int16`, `bf16`, `int8`, `int8-row`, `int4`, `int2` or `binary`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int16 => "int16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8Row => "int8-row",
            Self::Int4 => "int4",
            Self::Int2 => "int2",
            Self::Binary => "binary",
        }
    }

    /// Bytes of a number in rows that are prepared for weights of signs, binary and ternary ones, or of codes of more bits:
    /// the most of all kernels of an instruction set.
    pub fn row_bytes(self, isa: Isa, signs: bool) -> usize {
        let tiles = isa.name() == "amx";
        match self {
            // two bf16
            Self::Int16 if tiles && !signs => 4,
            Self::F32 | Self::Bf16 => 4,
            Self::Int16 => 2,
            _ => 1,
        }
    }

    /// The precision of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|p| p.name() == name)
    }
}
