//! Which tensors a file has and what is in them: everything but the bytes.

use std::collections::BTreeMap;

use super::random::Fill;

/// One safetensors file.
pub(super) struct TensorFile {
    /// Relative to the model folder.
    pub(super) path: &'static str,
    /// Bits and group size of the quantised tensors, which the header names.
    pub(super) quantization: Option<(u64, u64)>,
    /// By name, which is also the order in the file.
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// One tensor.
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    /// Row-major; empty for a scalar.
    pub(super) shape: Vec<u64>,
    pub(super) fill: Fill,
    /// Names the random stream. Scales and biases of a matrix share one: they depend on each other.
    pub(super) stream: String,
}

/// The element types that occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    Bf16,
    U32,
    I64,
}

impl Dtype {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I64 => "I64",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::U32 => 4,
            Self::I64 => 8,
        }
    }
}

impl Tensor {
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.dtype.bytes()
    }
}

impl TensorFile {
    pub(super) fn new(path: &'static str, quantization: Option<(u64, u64)>) -> Self {
        Self { path, quantization, tensors: BTreeMap::new() }
    }

    /// Bytes of all tensors, without the header.
    pub(super) fn data_bytes(&self) -> u64 {
        self.tensors.values().map(Tensor::bytes).sum()
    }

    pub(super) fn add(&mut self, name: String, dtype: Dtype, shape: &[u64], fill: Fill) {
        let stream = name.clone();
        self.tensors.insert(name, Tensor { dtype, shape: shape.to_vec(), fill, stream });
    }

    /// A 16-bit tensor of Gaussian numbers.
    pub(super) fn normal(&mut self, name: String, shape: &[u64], mean: f32, std: f32) {
        self.add(name, Dtype::Bf16, shape, Fill::Normal { mean, std });
    }

    /// A 16-bit matrix [out, in] whose outputs are `gain` times as large as its inputs.
    pub(super) fn dense(&mut self, base: &str, [rows, cols]: [u64; 2], gain: f32) {
        self.normal(format!("{base}.weight"), &[rows, cols], 0.0, gain * inverse_sqrt(cols));
    }

    /// A 16-bit matrix [out, in] that makes shifts, scales and gates of `cols` channels; of `outliers` channels the
    /// scales are much larger.
    pub(super) fn modulation(&mut self, base: &str, [rows, cols]: [u64; 2], gain: f32, outliers: u64) {
        let std = gain * inverse_sqrt(cols);
        let fill = match cols.checked_div(outliers) {
            Some(every) => Fill::Modulation { std, width: cols, every: every.max(1) },
            None => Fill::Normal { mean: 0.0, std },
        };
        self.add(format!("{base}.weight"), Dtype::Bf16, &[rows, cols], fill);
    }

    /// The weight of an RMSNorm, near one.
    pub(super) fn rms_norm(&mut self, base: &str, width: u64) {
        self.normal(format!("{base}.weight"), &[width], 1.0, 0.05);
    }

    /// A quantised matrix [out, in] in the affine layout of MLX, outputs `gain` times as large as inputs.
    pub(super) fn quantized(&mut self, base: &str, [rows, cols]: [u64; 2], codes: Codes, gain: f32) {
        let group = codes.group_size();
        let std = gain * inverse_sqrt(cols);
        let words = [rows, cols * codes.bits() / 32];
        let groups = [rows, cols / group];
        let scale = std * codes.scale_per_std();
        let bias_per_scale = codes.bias_per_scale();
        self.add(format!("{base}.weight"), Dtype::U32, &words, codes.fill());
        let stream = format!("{base}.scales");
        for (part, fill) in
            [("scales", Fill::Scales { scale }), ("biases", Fill::Biases { scale, bias_per_scale })]
        {
            let tensor = Tensor { dtype: Dtype::Bf16, shape: groups.to_vec(), fill, stream: stream.clone() };
            self.tensors.insert(format!("{base}.{part}"), tensor);
        }
    }
}

/// What the codes of a quantised matrix stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// 0, 1 → −s, +s.
    Binary,
    /// 0, 1, 2 → −s, 0, +s.
    Ternary,
    /// 0..=15, evenly spaced around zero.
    Int4,
}

impl Codes {
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::Binary => 1,
            Self::Ternary => 2,
            Self::Int4 => 4,
        }
    }

    pub(super) fn group_size(self) -> u64 {
        match self {
            Self::Binary | Self::Ternary => 128,
            Self::Int4 => 64,
        }
    }

    fn fill(self) -> Fill {
        match self {
            Self::Binary | Self::Int4 => Fill::Words,
            Self::Ternary => Fill::TernaryWords,
        }
    }

    /// The scale that gives weights of standard deviation one, all codes being equally likely.
    fn scale_per_std(self) -> f32 {
        match self {
            Self::Binary => 2.0,
            Self::Ternary => (3.0_f32 / 2.0).sqrt(),
            Self::Int4 => (12.0_f32 / 255.0).sqrt(),
        }
    }

    /// The bias that centres the codes on zero.
    fn bias_per_scale(self) -> f32 {
        match self {
            Self::Binary => -0.5,
            Self::Ternary => -1.0,
            Self::Int4 => -7.5,
        }
    }
}

fn inverse_sqrt(fan_in: u64) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}
