use std::fmt;

use bonsai_kernels::weights::FloatType;
use safetensors::Dtype as SafetensorsDtype;

/// How the elements of a stored tensor are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dtype {
    /// A plain float.
    Float(FloatType),
    /// Bytes of packed codes.
    U8,
    /// 32-bit words of packed codes.
    U32,
    /// The same, and small tables.
    I32,
    /// 64-bit counters.
    I64,
    /// A block format of GGUF files.
    Block(BlockType),
    /// Something that no tensor of these models is made of.
    Other(String),
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(t) => f.write_str(&t.name().to_uppercase()),
            Self::U8 => f.write_str("U8"),
            Self::U32 => f.write_str("U32"),
            Self::I32 => f.write_str("I32"),
            Self::I64 => f.write_str("I64"),
            Self::Block(b) => f.write_str(b.name()),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Dtype {
    /// Bytes of one element, where elements are whole bytes.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Float(float_type) => Some(float_type.size()),
            Self::U8 => Some(1),
            Self::U32 | Self::I32 => Some(4),
            Self::I64 => Some(8),
            Self::Block(_) | Self::Other(_) => None,
        }
    }
}

impl From<SafetensorsDtype> for Dtype {
    fn from(dtype: SafetensorsDtype) -> Self {
        match dtype {
            SafetensorsDtype::F32 => Self::Float(FloatType::F32),
            SafetensorsDtype::F16 => Self::Float(FloatType::F16),
            SafetensorsDtype::BF16 => Self::Float(FloatType::Bf16),
            SafetensorsDtype::U8 => Self::U8,
            SafetensorsDtype::U32 => Self::U32,
            SafetensorsDtype::I32 => Self::I32,
            SafetensorsDtype::I64 => Self::I64,
            other => Self::Other(format!("{other:?}")),
        }
    }
}

macro_rules! block_types {
    ($($name:ident = $text:literal, $id:literal, $weights:literal, $bytes:literal;)*) => {
        /// A ggml block type whose size is known.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "named as ggml names them")]
        #[expect(non_camel_case_types, reason = "named as ggml names them")]
        pub enum BlockType { $($name),* }

        impl BlockType {
            /// The type of this id in a GGUF file.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }
            /// ggml's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
            /// Weights of one block.
            pub fn weights(self) -> usize {
                match self { $(Self::$name => $weights),* }
            }
            /// Bytes of one block.
            pub fn bytes(self) -> usize {
                match self { $(Self::$name => $bytes),* }
            }
        }
    };
}

block_types! {
    Q4_0 = "Q4_0", 2, 32, 18;
    Q4_1 = "Q4_1", 3, 32, 20;
    Q5_0 = "Q5_0", 6, 32, 22;
    Q5_1 = "Q5_1", 7, 32, 24;
    Q8_0 = "Q8_0", 8, 32, 34;
    Q2_K = "Q2_K", 10, 256, 84;
    Q3_K = "Q3_K", 11, 256, 110;
    Q4_K = "Q4_K", 12, 256, 144;
    Q5_K = "Q5_K", 13, 256, 176;
    Q6_K = "Q6_K", 14, 256, 210;
    IQ4_NL = "IQ4_NL", 20, 32, 18;
    IQ4_XS = "IQ4_XS", 23, 256, 136;
    TQ1_0 = "TQ1_0", 34, 256, 54;
    TQ2_0 = "TQ2_0", 35, 256, 66;
    MXFP4 = "MXFP4", 39, 32, 17;
    NVFP4 = "NVFP4", 40, 64, 36;
    Q1_0 = "Q1_0", 41, 128, 18;
    Q2_0 = "Q2_0", 42, 64, 18;
    TQ2_0_G128 = "TQ2_0_g128", 0x1_0000, 128, 34;
}
