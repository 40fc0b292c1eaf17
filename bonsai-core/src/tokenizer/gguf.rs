//! The tokenizer inside a GGUF file, as llama.cpp's converter writes that of Qwen: read, and written.

use std::collections::HashMap;

use bonsai_kernels::SharedBytes;

use super::files::{AddedEntry, Parts, QWEN_SPLIT_PATTERN, split_merge};
use super::tables::{Head, Tables};
use crate::weights::{TokenizerKeys, tokenizer_keys};
use crate::{Error, ErrorKind, Result};

/// `tokenizer.ggml.token_type` of tokens that are matched as a whole: special ones, and others.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// The type of ordinary tokens.
const NORMAL: i64 = 1;
/// The type of rows that fill the embedding up.
const UNUSED: i64 = 5;

/// What the keys of a GGUF file say of a tokenizer; texts and types in the order of ids, merges in that of ranks.
pub(crate) struct GgufTokenizer {
    pub(crate) tokens: Vec<String>,
    pub(crate) types: Vec<i32>,
    pub(crate) merges: Vec<String>,
    pub(crate) padding: u32,
}

impl GgufTokenizer {
    /// From tables, with tokens for all `rows` of the embedding; `None` for a tokenizer that is not Qwen's, for which there
    /// are no such keys.
    ///
    /// # Errors
    /// When the tables are unsound.
    pub(crate) fn from_tables(tables: SharedBytes, rows: usize) -> Result<Option<Self>> {
        let (Head { pattern, pad_token, added }, tables) = Tables::open(tables)?;
        let last = tables.last_id().map_or(0, |id| id as usize + 1);
        let Some(padding) = tables.id_of(&pad_token) else { return Ok(None) };
        if pattern != QWEN_SPLIT_PATTERN || tables.ignore_merges() || last > rows {
            return Ok(None);
        }
        let added: HashMap<&str, bool> = added.iter().map(|t| (t.content.as_str(), t.special)).collect();
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; rows];
        for (id, text) in tables.iter() {
            text.clone_into(&mut tokens[id as usize]);
            types[id as usize] = match added.get(text) {
                None => NORMAL,
                Some(true) => CONTROL,
                Some(false) => USER_DEFINED,
            };
        }
        let text = |id: u32| tables.text_of(id).unwrap_or_default();
        let mut merges: Vec<_> = tables.merges().collect();
        merges.sort_unstable_by_key(|(rank, _)| *rank);
        let merges = merges.into_iter().map(|(_, (a, b))| format!("{} {}", text(a), text(b))).collect();
        let types = types.into_iter().map(|kind| kind as i32).collect();
        Ok(Some(Self { tokens, types, merges, padding }))
    }
}

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
