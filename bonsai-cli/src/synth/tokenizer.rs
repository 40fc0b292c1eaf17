//! `tokenizer.json` and `tokenizer_config.json` in the form of Qwen's.

use std::collections::BTreeMap;

use bonsai_core::Error;
use bonsai_core::tokenizer::{QWEN_ADDED_TOKENS, QWEN_SPECIAL_TOKENS, QWEN_SPLIT_PATTERN};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::presets::TokenizerShape;
use super::vocabulary::Vocabulary;
use super::writer::Output;

pub(super) fn write(output: &mut Output, shape: &TokenizerShape) -> Result<(), Error> {
    let vocabulary = Vocabulary::new(shape.merges, shape.pinned);
    output.json("tokenizer/tokenizer.json", &TokenizerJson::new(&vocabulary))?;
    output.json("tokenizer/tokenizer_config.json", &config(&vocabulary))
}

/// The whole file; fields in the usual order, the vocabulary by id.
#[derive(Serialize)]
pub(super) struct TokenizerJson<'a> {
    version: &'a str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'a str,
    dropout: Option<()>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "token_to_id")]
    vocab: &'a [String],
    merges: Vec<[&'a str; 2]>,
}

fn token_to_id<S: Serializer>(tokens: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(tokens.len()))?;
    for (id, token) in tokens.iter().enumerate() {
        map.serialize_entry(token, &id)?;
    }
    map.end()
}

impl<'a> TokenizerJson<'a> {
    pub(super) fn new(vocabulary: &'a Vocabulary) -> Self {
        let tokens = vocabulary.tokens.as_slice();
        let added_tokens = added(vocabulary).map(|(id, mut token)| {
            token["id"] = id.into();
            token
        });
        let byte_level = |add_prefix_space: bool, trim_offsets: bool, use_regex: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": add_prefix_space,
                "trim_offsets": trim_offsets,
                "use_regex": use_regex,
            })
        };
        let split = json!({
            "type": "Split",
            "pattern": { "Regex": QWEN_SPLIT_PATTERN },
            "behavior": "Isolated",
            "invert": false,
        });
        let merges = vocabulary.merges.iter().map(|&(a, b)| [a, b].map(|id| tokens[id as usize].as_str()));
        Self {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: added_tokens.collect(),
            normalizer: json!({ "type": "NFC" }),
            pre_tokenizer: json!({
                "type": "Sequence",
                "pretokenizers": [split, byte_level(false, false, false)],
            }),
            post_processor: byte_level(false, false, false),
            decoder: byte_level(true, true, true),
            model: Model {
                r#type: "BPE",
                dropout: None,
                unk_token: None,
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: false,
                vocab: tokens,
                merges: merges.collect(),
            },
        }
    }
}

fn config(vocabulary: &Vocabulary) -> Value {
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "added_tokens_decoder": added(vocabulary).collect::<BTreeMap<_, _>>(),
        "bos_token": null,
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131_072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": false,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
    })
}

/// Ids and descriptions of the added tokens.
fn added(vocabulary: &Vocabulary) -> impl Iterator<Item = (usize, Value)> {
    let first = vocabulary.tokens.len();
    QWEN_ADDED_TOKENS.iter().enumerate().map(move |(i, content)| {
        let token = json!({
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": i < QWEN_SPECIAL_TOKENS,
        });
        (first + i, token)
    })
}
