//! Prompt → token ids: byte-level BPE of Qwen and the chat template around every prompt.

use std::path::Path;
use std::sync::Arc;

use bonsai_kernels::{AlignedBuf, Allocator, SharedBytes};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    TokenizerImpl,
};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::model_source::ModelFiles;
use crate::page_allocator::PageAllocator;
use crate::weights::MappedFile;
use crate::{Error, ErrorKind, Result};

mod bpe;
mod files;
mod gguf;
mod tables;
#[cfg(test)]
mod tests;

use bpe::Bpe;
use files::Parts;
pub(crate) use gguf::GgufTokenizer;

pub use files::{QWEN_ADDED_TOKENS, QWEN_SPECIAL_TOKENS, QWEN_SPLIT_PATTERN};
use tables::{Head, Tables};

/// Tokens without which the chat template would silently fall apart into letters.
const TEMPLATE_TOKENS: [&str; 4] = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"];

/// The parts by their own types: the library's `Tokenizer` is of wrappers that bring every other model's parts along.
type Qwen = TokenizerImpl<Bpe, Nfc, SplitBytes, ByteLevel, ByteLevel>;

/// Letters and their marks as one character where there is one. The library's own keeps track of where each character came
/// from, by tables many times as large; nobody asks that here.
struct Nfc;

impl Normalizer for Nfc {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if is_nfc_quick(text.get().chars()) != IsNormalized::Yes {
            *text = NormalizedString::from(text.get().nfc().collect::<String>());
        }
        Ok(())
    }
}

/// Text in pieces by the pattern, each piece in letters that stand for bytes.
struct SplitBytes {
    split: Split,
    bytes: ByteLevel,
}

impl PreTokenizer for SplitBytes {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        self.split.pre_tokenize(text)?;
        self.bytes.pre_tokenize(text)
    }
}

/// Text ↔ token ids of one model.
pub struct Tokenizer {
    inner: Qwen,
    pad_id: u32,
    vocab_size: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("pad_id", &self.pad_id)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

/// A prompt as the text encoder takes it: exactly `max_sequence_length` tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTokens {
    /// Token ids, padded on the right; length `max_sequence_length`.
    pub ids: Vec<u32>,
    /// True where the token is real, false where it is padding; as long as `ids`.
    pub mask: Vec<bool>,
    /// Tokens that did not fit and were cut off on the right; 0 for an ordinary prompt.
    pub cut: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of `dir`, or `vocab.json` and `merges.txt` where that is absent, and
    /// `tokenizer_config.json` where there is one; or the keys of a GGUF file, where `dir` is one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if none of these is there; [`ErrorKind::Tokenizer`] if a file is not what its
    /// format demands, or if a token of the chat template or the padding token is missing.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_from(&ModelFiles::disk(), dir)
    }

    /// The same from wherever the model's files come from.
    pub(crate) fn open_from(files: &ModelFiles, dir: &Path) -> Result<Self> {
        let built = Self::build(Self::tables(files, dir)?);
        built.map_err(|e| e.context(dir.display()))
    }

    /// The tokenizer of `dir` in the form of [`tables`]: as it lies there, or made from other files.
    pub(crate) fn tables(files: &ModelFiles, dir: &Path) -> Result<SharedBytes> {
        match Parts::tables_in(files, dir)? {
            Some(tables) => Ok(tables),
            None => in_a_mapping(&Parts::read(files, dir)?.to_tables()),
        }
    }

    fn build(tables: SharedBytes) -> Result<Self> {
        let (Head { pattern, pad_token, added }, tables) = Tables::open(tables)?;
        let vocab_size = tables.last_id().map_or(0, |id| id as usize + 1);
        let pattern = SplitPattern::Regex(pattern);
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
        let bytes = ByteLevel::new(false, false, false);

        let mut inner = Qwen::new(Bpe::new(tables));
        inner.with_normalizer(Some(Nfc)).map_err(failed)?;
        inner.with_pre_tokenizer(Some(SplitBytes { split, bytes }));
        inner.with_decoder(Some(bytes));
        let added = added.into_iter().map(|t| AddedToken::from(t.content, t.special).normalized(false));
        inner.add_tokens(added).map_err(failed)?;

        let mut tokenizer = Self { inner, pad_id: 0, vocab_size };
        for token in TEMPLATE_TOKENS {
            tokenizer.single(token)?;
        }
        tokenizer.pad_id = tokenizer.single(&pad_token)?;
        Ok(tokenizer)
    }

    /// The id of a token that must be one piece.
    fn single(&self, token: &str) -> Result<u32> {
        match self.encode_text(token)?.as_slice() {
            &[id] => Ok(id),
            ids => Err(Error::new(
                ErrorKind::Tokenizer,
                format!("missing token `{token}`: expected one id for it, found {}", ids.len()),
            )),
        }
    }

    /// The text that is encoded for `prompt`: one user turn and the start of an answer whose thinking is
    /// switched off. The prompt goes in verbatim.
    pub fn chat_text(prompt: &str) -> String {
        format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    }

    /// Encodes `prompt` inside the chat template, cut on the right or padded on the right to
    /// `max_sequence_length` tokens. The empty prompt is fine.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `max_sequence_length` is 0.
    pub fn encode_prompt(&self, prompt: &str, max_sequence_length: usize) -> Result<PromptTokens> {
        if max_sequence_length == 0 {
            return Err(Error::invalid("max_sequence_length: expected at least 1, found 0"));
        }
        // The template and the prompt are encoded as one string: a prompt that begins with a newline
        // merges with the newline before it.
        let mut ids = self.encode_text(&Self::chat_text(prompt))?;
        let real = ids.len().min(max_sequence_length);
        let cut = ids.len() - real;
        ids.resize(max_sequence_length, self.pad_id);
        let mask = (0..max_sequence_length).map(|i| i < real).collect();
        Ok(PromptTokens { ids, mask, cut })
    }

    /// Encodes `text` as it stands: special tokens recognised, no template, no padding, nothing added.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if the encoder refuses the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens included; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(Error::invalid(format!("token id {id} is not in the vocabulary")));
        }
        self.inner.decode(ids, false).map_err(failed)
    }

    /// The id that fills a prompt up to its length.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// One more than the largest id, added tokens included: the rows an embedding table must have at least.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// A copy that lies outside the heap, which would keep all that parsing has left behind below it.
fn in_a_mapping(bytes: &[u8]) -> Result<SharedBytes> {
    let pages: Arc<dyn Allocator> = Arc::new(PageAllocator::default());
    let mut copy = AlignedBuf::<u8>::zeroed(&pages, bytes.len())?;
    copy.copy_from_slice(bytes);
    Ok(MappedFile::owned(copy).bytes())
}

fn failed(source: tokenizers::Error) -> Error {
    Error::new(ErrorKind::Tokenizer, "tokenizer").with_source(source)
}
