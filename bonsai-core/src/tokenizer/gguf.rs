//! The tokenizer inside a GGUF file, as llama.cpp's converter writes that of Qwen.

use std::collections::HashMap;

use super::files::{AddedEntry, Parts, QWEN_SPLIT_PATTERN, split_merge};
use crate::weights::{TokenizerKeys, tokenizer_keys};
use crate::{Error, ErrorKind, Result};

/// `tokenizer.ggml.token_type` of tokens that are matched as a whole: special ones, and others.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// The type of rows that fill the embedding up.
const UNUSED: i64 = 5;

impl Parts {
    /// From the bytes of a file, or of so much of its beginning as holds the keys.
    pub(super) fn from_gguf(bytes: &[u8]) -> Result<Self> {
        let bad = |what: String| Error::new(ErrorKind::Tokenizer, what);
        let TokenizerKeys { model, pre, tokens, types, merges, padding } = tokenizer_keys(bytes)?;
        if tokens.is_empty() {
            let message =
                "no tokenizer in this GGUF file (tokenizer.ggml.tokens); give a tokenizer.json beside it";
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        match (model, pre) {
            (Some("gpt2"), Some("qwen2")) => {}
            (model, pre) => {
                let [model, pre] = [model, pre].map(|name| name.unwrap_or("none"));
                return Err(bad(format!(
                    "tokenizer.ggml.model {model} with tokenizer.ggml.pre {pre}: expected gpt2 with qwen2; give a \
                     tokenizer.json beside it"
                )));
            }
        }
        if types.len() != tokens.len() {
            let (found, expected) = (types.len(), tokens.len());
            return Err(bad(format!("tokenizer.ggml.token_type: expected {expected} types, found {found}")));
        }
        let (mut vocab, mut added) = (HashMap::new(), Vec::new());
        for (id, (&token, &kind)) in (0..).zip(tokens.iter().zip(&types)) {
            match kind {
                UNUSED => {}
                CONTROL | USER_DEFINED => {
                    added.push((id, AddedEntry::plain(token.to_owned(), kind == CONTROL)));
                }
                _ => {
                    if let Some(other) = vocab.insert(token.to_owned(), id) {
                        return Err(bad(format!("token `{token}` has two ids, {other} and {id}")));
                    }
                }
            }
        }
        let merge = |(rank, line): (usize, &&str)| {
            split_merge(line).ok_or_else(|| bad(format!("merge {rank}: expected two tokens")))
        };
        let merges = merges.iter().enumerate().map(merge).collect::<Result<_>>()?;
        let pad_token = match padding {
            Some(id) => usize::try_from(id)
                .ok()
                .and_then(|id| tokens.get(id))
                .map(|token| (*token).to_owned())
                .ok_or_else(|| bad(format!("tokenizer.ggml.padding_token_id {id}: no such token")))?,
            None => "<|endoftext|>".to_owned(),
        };
        Self::check(vocab, merges, added, QWEN_SPLIT_PATTERN.to_owned(), false, pad_token)
    }
}
