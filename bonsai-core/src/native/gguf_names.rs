//! Transformer and text encoder under the names and keys that other programs look for in GGUF files.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Item;
use super::gguf_writer::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::text_encoder::Qwen3Config;
use crate::tokenizer::GgufTokenizer;
use crate::weights::{Component, Rows, in_gguf};

/// A tensor of a GGUF file: rows of items, one behind the other.
pub(super) struct Tensor<'a> {
    pub(super) name: String,
    pub(super) parts: Vec<(&'a Item, Range<usize>)>,
}

fn rows(item: &Item) -> usize {
    match item {
        Item::Matrix(matrix) => matrix.rows(),
        Item::Values(_, _, shape) => shape.first().copied().unwrap_or(1),
        Item::Conv(conv) => conv.out_channels(),
    }
}

/// The items of a component. Three that are one in the other naming stand together in it.
///
/// # Errors
/// When the naming has no place for one.
pub(super) fn tensors(component: Component, items: &[(String, Item)]) -> Result<Vec<Tensor<'_>>> {
    let mut tensors: Vec<Tensor<'_>> = Vec::new();
    let mut thirds: BTreeMap<String, usize> = BTreeMap::new();
    for (name, item) in items {
        let full = if matches!(item, Item::Matrix(_)) { format!("{name}.weight") } else { name.clone() };
        let (stored, place) = in_gguf(component, &full)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("{full}: no name for it in GGUF")))?;
        let all = rows(item);
        let parts = match place {
            Rows::All | Rows::Third(0) => vec![(item, 0..all)],
            Rows::SwappedHalves => vec![(item, all / 2..all), (item, 0..all / 2)],
            Rows::Third(_) => {
                // models ask for the three in their order
                let first = thirds.get(&stored).and_then(|&at| tensors.get_mut(at));
                let first = first.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, format!("{full}: before its first third"))
                })?;
                first.parts.push((item, 0..all));
                continue;
            }
        };
        if place == Rows::Third(0) {
            thirds.insert(stored.clone(), tensors.len());
        }
        tensors.push(Tensor { name: stored, parts });
    }
    Ok(tensors)
}

/// What llama.cpp reads of a text encoder besides its tensors.
pub(super) fn text_encoder_keys(
    config: &Qwen3Config,
    layers: usize,
    tokenizer: Option<GgufTokenizer>,
) -> Vec<(String, Value)> {
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let mut keys: Vec<(String, Value)> = [
        ("block_count", number(layers)),
        ("context_length", number(config.max_position_embeddings)),
        ("embedding_length", number(config.hidden_size)),
        ("feed_forward_length", number(config.intermediate_size)),
        ("attention.head_count", number(config.num_attention_heads)),
        ("attention.head_count_kv", number(config.num_key_value_heads)),
        ("attention.key_length", number(config.head_dim)),
        ("attention.value_length", number(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps)),
        ("rope.freq_base", Value::F32(config.rope_theta() as f32)),
        ("vocab_size", number(config.vocab_size)),
    ]
    .map(|(key, value)| (format!("qwen3.{key}"), value))
    .into();
    if let Some(GgufTokenizer { tokens, types, merges, padding }) = tokenizer {
        keys.extend(
            [
                ("model", Value::Text("gpt2".to_owned())),
                ("pre", Value::Text("qwen2".to_owned())),
                ("tokens", Value::Texts(tokens)),
                ("token_type", Value::Ints(types)),
                ("merges", Value::Texts(merges)),
                ("padding_token_id", Value::U32(padding)),
            ]
            .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)),
        );
    }
    keys
}
