//! The JSON files around the tensors.

use serde_json::{Value, json};

use super::presets::{Shapes, TextEncoderShape, TransformerShape, VaeShape};
use super::transformer::MLP_RATIO;

/// Path in the model folder and contents, in the order of writing.
pub(super) fn all(shapes: &Shapes) -> Vec<(&'static str, Value)> {
    let mut files = vec![
        ("scheduler/scheduler_config.json", scheduler()),
        ("text_encoder/config.json", text_encoder(&shapes.text_encoder)),
        ("transformer/config.json", transformer(&shapes.transformer)),
        ("vae/config.json", vae(&shapes.vae)),
    ];
    if let Some(defaults) = &shapes.defaults {
        let json = json!({
            "text_encoder_out_layers": defaults.text_encoder_out_layers,
            "max_sequence_length": defaults.max_sequence_length,
            "default_size": defaults.default_size,
            "steps": defaults.steps,
        });
        files.push(("bonsai.json", json));
    }
    files.push(("model_index.json", model_index()));
    files
}

fn model_index() -> Value {
    json!({
        "_class_name": "Flux2KleinPipeline",
        "is_distilled": true,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    })
}

fn scheduler() -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "invert_sigmas": false,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "shift_terminal": null,
        "stochastic_sampling": false,
        "time_shift_type": "exponential",
        "use_beta_sigmas": false,
        "use_dynamic_shifting": true,
        "use_exponential_sigmas": false,
        "use_karras_sigmas": false,
    })
}

fn text_encoder(shape: &TextEncoderShape) -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 40960,
        "max_window_layers": shape.layers,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "quantization": { "bits": 4, "group_size": 64 },
        "rms_norm_eps": 1e-6,
        "rope_scaling": null,
        "rope_theta": 1_000_000,
        "sliding_window": null,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "use_sliding_window": false,
        "vocab_size": shape.vocab,
    })
}

fn transformer(shape: &TransformerShape) -> Value {
    json!({
        "_class_name": "Flux2Transformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": [32, 32, 32, 32],
        "eps": 1e-6,
        "guidance_embeds": false,
        "in_channels": 128,
        "joint_attention_dim": shape.joint,
        "mlp_ratio": MLP_RATIO as f64,
        "num_attention_heads": shape.heads,
        "num_layers": shape.double_blocks,
        "num_single_layers": shape.single_blocks,
        "out_channels": null,
        "patch_size": 1,
        "rope_theta": 2000,
        "timestep_guidance_channels": 256,
    })
}

fn vae(shape: &VaeShape) -> Value {
    json!({
        "_class_name": "AutoencoderKLFlux2",
        "act_fn": "silu",
        "batch_norm_eps": 1e-4,
        "batch_norm_momentum": 0.1,
        "block_out_channels": shape.channels,
        "decoder_block_out_channels": null,
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "force_upcast": true,
        "in_channels": 3,
        "latent_channels": 32,
        "layers_per_block": 2,
        "mid_block_add_attention": true,
        "norm_num_groups": shape.groups,
        "out_channels": 3,
        "patch_size": [2, 2],
        "sample_size": 1024,
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "use_post_quant_conv": true,
        "use_quant_conv": true,
    })
}
