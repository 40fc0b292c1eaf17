//! The models that can be made up.

use clap::ValueEnum;

/// Which model to make up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Bonsai Image 4B with 1-bit weights, 3.4 GB
    #[value(name = "bonsai-4b-binary")]
    Bonsai4bBinary,
    /// Bonsai Image 4B with ternary weights, 3.9 GB
    #[value(name = "bonsai-4b-ternary")]
    Bonsai4bTernary,
    /// The same architecture with 1-bit weights at a quarter of the width and a third of the depth, 90 MB
    #[value(name = "medium")]
    Medium,
    /// The same architecture with 1-bit weights and a few small blocks, 7 MB
    #[value(name = "tiny")]
    Tiny,
}

/// Everything that tells one preset from another.
pub(super) struct Shapes {
    pub(super) tokenizer: TokenizerShape,
    pub(super) text_encoder: TextEncoderShape,
    pub(super) transformer: TransformerShape,
    pub(super) vae: VaeShape,
    /// What `bonsai.json` says, for models that are not the size of the published ones.
    pub(super) defaults: Option<Defaults>,
}

/// A byte-level BPE vocabulary: 256 byte tokens, then one token per merge, then Qwen's added tokens.
pub(super) struct TokenizerShape {
    pub(super) merges: usize,
    /// Words whose merge has a fixed rank, ranks ascending.
    pub(super) pinned: &'static [(usize, &'static str)],
}

/// Qwen3.
pub(super) struct TextEncoderShape {
    pub(super) vocab: u64,
    pub(super) hidden: u64,
    pub(super) intermediate: u64,
    pub(super) layers: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
}

/// The diffusion transformer; heads of 128 channels, an MLP of three times the hidden size.
pub(super) struct TransformerShape {
    pub(super) heads: u64,
    pub(super) double_blocks: u64,
    pub(super) single_blocks: u64,
    /// Width of the text features: taps times hidden size of the text encoder.
    pub(super) joint: u64,
    pub(super) weights: Weights,
}

/// How the big linears are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// −s or +s, one bit.
    Binary,
    /// −s, 0 or +s, two bits.
    Ternary,
}

/// The autoencoder; 32 latent channels.
pub(super) struct VaeShape {
    pub(super) channels: [u64; 4],
    pub(super) groups: u64,
}

/// Defaults of a model, as `bonsai.json` has them.
pub(super) struct Defaults {
    pub(super) text_encoder_out_layers: [u64; 3],
    pub(super) max_sequence_length: u64,
    pub(super) default_size: [u64; 2],
    pub(super) steps: u64,
}

impl Preset {
    pub(super) fn shapes(self) -> Shapes {
        match self {
            Self::Bonsai4bBinary => bonsai_4b(Weights::Binary),
            Self::Bonsai4bTernary => bonsai_4b(Weights::Ternary),
            Self::Medium => medium(),
            Self::Tiny => tiny(),
        }
    }
}

fn bonsai_4b(weights: Weights) -> Shapes {
    Shapes {
        // The ids of the chat template in the published vocabulary.
        tokenizer: TokenizerShape {
            merges: 151_387,
            pinned: &[(15, "\n\n"), (616, "user"), (76_835, "assistant")],
        },
        text_encoder: TextEncoderShape {
            vocab: 151_936,
            hidden: 2560,
            intermediate: 9728,
            layers: 36,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
        },
        transformer: TransformerShape {
            heads: 24,
            double_blocks: 5,
            single_blocks: 20,
            joint: 7680,
            weights,
        },
        vae: VaeShape { channels: [128, 256, 512, 512], groups: 32 },
        defaults: None,
    }
}

fn medium() -> Shapes {
    Shapes {
        tokenizer: TokenizerShape {
            merges: 7_000,
            pinned: &[(15, "\n\n"), (616, "user"), (6_835, "assistant")],
        },
        text_encoder: TextEncoderShape {
            vocab: 8192,
            hidden: 512,
            intermediate: 1536,
            layers: 8,
            heads: 4,
            kv_heads: 2,
            head_dim: 128,
        },
        transformer: TransformerShape {
            heads: 6,
            double_blocks: 2,
            single_blocks: 6,
            joint: 1536,
            weights: Weights::Binary,
        },
        vae: VaeShape { channels: [64, 128, 256, 256], groups: 32 },
        defaults: Some(Defaults {
            text_encoder_out_layers: [2, 4, 6],
            max_sequence_length: 256,
            default_size: [384, 384],
            steps: 4,
        }),
    }
}

fn tiny() -> Shapes {
    Shapes {
        tokenizer: TokenizerShape { merges: 700, pinned: &[(15, "\n\n"), (616, "user"), (690, "assistant")] },
        text_encoder: TextEncoderShape {
            vocab: 1024,
            hidden: 128,
            intermediate: 384,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
        },
        transformer: TransformerShape {
            heads: 2,
            double_blocks: 2,
            single_blocks: 2,
            joint: 384,
            weights: Weights::Binary,
        },
        vae: VaeShape { channels: [32, 32, 64, 64], groups: 8 },
        defaults: Some(Defaults {
            text_encoder_out_layers: [1, 2, 3],
            max_sequence_length: 64,
            default_size: [128, 128],
            steps: 4,
        }),
    }
}
