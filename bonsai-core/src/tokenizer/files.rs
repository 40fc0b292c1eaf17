//! The tokenizer's files → [`Parts`], checked so far that building a tokenizer from them cannot go wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use bonsai_kernels::SharedBytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::model_source::ModelFiles;
use crate::{Error, ErrorKind, Result};

/// The published file is 11 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Keeps `max id + 1` and all that is sized by it small.
pub(super) const MAX_ID: u32 = 1 << 24;
const MAX_PATTERN_CHARS: usize = 4096;

/// How Qwen splits text before merging: words with one leading mark, single digits, punctuation, line ends.
pub const QWEN_SPLIT_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Qwen's added tokens in the order of their ids, which follow the vocabulary.
pub const QWEN_ADDED_TOKENS: [&str; 26] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
];
/// How many of [`QWEN_ADDED_TOKENS`], from the first, are special.
pub const QWEN_SPECIAL_TOKENS: usize = 14;

/// A token that is matched as a whole, before anything else.
pub(super) struct Added {
    pub(super) content: String,
    pub(super) special: bool,
}

/// All that makes a byte-level BPE tokenizer.
pub(super) struct Parts {
    /// Token → id; the added tokens are in it, so they keep the ids of their file whatever gaps there are.
    pub(super) vocab: HashMap<String, u32>,
    /// Pairs in the order of their rank; both parts and their union are in `vocab`.
    pub(super) merges: Vec<(String, String)>,
    pub(super) added: Vec<Added>,
    pub(super) pattern: String,
    pub(super) ignore_merges: bool,
    pub(super) pad_token: String,
}

impl Parts {
    /// The tables that lie in a folder.
    pub(super) fn tables_in(files: &ModelFiles, dir: &Path) -> Result<Option<SharedBytes>> {
        let tables = dir.join("tokenizer.tables");
        if !files.exists(&tables) {
            return Ok(None);
        }
        files.head(&tables, MAX_FILE_BYTES).map(Some)
    }

    pub(super) fn read(files: &ModelFiles, dir: &Path) -> Result<Self> {
        if dir.extension().is_some_and(|ending| ending == "gguf") && files.is_file(dir) {
            let head = files.head(dir, MAX_FILE_BYTES)?;
            return Self::from_gguf(head.as_slice()).map_err(|e| e.context(dir.display()));
        }
        // a file that was named, or what a folder holds
        let (dir, single) = match dir.parent() {
            Some(parent) if files.is_file(dir) => (parent, dir.to_owned()),
            _ => (dir, dir.join("tokenizer.json")),
        };
        let config = read_config(files, &dir.join("tokenizer_config.json"))?;
        if files.exists(&single) {
            return Self::from_tokenizer_json(files, &single, config);
        }
        let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
        for path in [&vocab, &merges] {
            if !files.exists(path) {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{}: expected tokenizer.json, or vocab.json and merges.txt", dir.display()),
                ));
            }
        }
        Self::from_vocab_and_merges(files, &vocab, &merges, config)
    }

    fn from_tokenizer_json(files: &ModelFiles, path: &Path, config: Config) -> Result<Self> {
        let file: TokenizerFile =
            read_json(files, path, "a tokenizer with `model`, `normalizer`, `pre_tokenizer`")?;
        let bad = |what: &str| Error::new(ErrorKind::Tokenizer, format!("{}: {what}", path.display()));
        let Model { kind, vocab, merges, dropout, prefix, suffix, ignore_merges } = file.model;
        if kind.as_deref().is_some_and(|kind| kind != "BPE") {
            return Err(bad("model.type: expected `BPE`"));
        }
        if dropout.is_some_and(|p| p != 0.0) {
            return Err(bad("model.dropout: expected none"));
        }
        if prefix.is_some_and(|s| !s.is_empty()) || suffix.is_some_and(|s| !s.is_empty()) {
            return Err(bad("model: expected no continuing_subword_prefix and no end_of_word_suffix"));
        }
        let pattern = split_pattern(file.pre_tokenizer).ok_or_else(|| {
            bad("pre_tokenizer: expected a Sequence of an isolating Split by a pattern and a plain ByteLevel")
        })?;
        if !is_tame(&pattern) {
            return Err(bad("pre_tokenizer: expected a short pattern without counted repetition"));
        }
        let merges = merges
            .into_iter()
            .enumerate()
            .map(|(rank, merge)| match merge {
                Merge::Pair(a, b) => Ok((a, b)),
                Merge::Line(line) => {
                    split_merge(&line).ok_or_else(|| bad(&format!("merge {rank}: expected two tokens")))
                }
            })
            .collect::<Result<_>>()?;
        let added = file.added_tokens.into_iter().map(|token| (token.id, token.token)).collect();
        let pad_token = config.pad_token();
        Self::check(vocab, merges, added, pattern, ignore_merges, pad_token)
            .map_err(|e| e.context(path.display()))
    }

    fn from_vocab_and_merges(
        files: &ModelFiles,
        vocab_path: &Path,
        merges_path: &Path,
        config: Config,
    ) -> Result<Self> {
        let vocab: HashMap<String, u32> = read_json(files, vocab_path, "an object of token: id")?;
        let text = read_text(files, merges_path)?;
        let mut merges = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || (number == 0 && line.starts_with("#version")) {
                continue;
            }
            merges.push(split_merge(line).ok_or_else(|| {
                let line = number + 1;
                let message = format!("{}: line {line}: expected two tokens", merges_path.display());
                Error::new(ErrorKind::Tokenizer, message)
            })?);
        }
        let pad_token = config.pad_token();
        let added = match config.added_tokens_decoder {
            Some(added) => added.into_iter().collect(),
            None => published_added_tokens(&vocab),
        };
        Self::check(vocab, merges, added, QWEN_SPLIT_PATTERN.to_owned(), false, pad_token)
            .map_err(|e| e.context(format_args!("{}, {}", vocab_path.display(), merges_path.display())))
    }

    pub(super) fn check(
        mut vocab: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        added: Vec<(u32, AddedEntry)>,
        pattern: String,
        ignore_merges: bool,
        pad_token: String,
    ) -> Result<Self> {
        let bad = |what: String| Err(Error::new(ErrorKind::Tokenizer, what));
        if vocab.contains_key("") {
            return bad("vocabulary: expected no empty token".into());
        }
        let mut letter = [0; 4];
        for c in ByteLevel::alphabet() {
            if !vocab.contains_key(&*c.encode_utf8(&mut letter)) {
                return bad(format!("vocabulary: expected all 256 byte tokens, `{c}` is missing"));
            }
        }
        let mut joined = String::new();
        for (rank, (a, b)) in merges.iter().enumerate() {
            joined.clear();
            joined.push_str(a);
            joined.push_str(b);
            if let Some(token) = [a, b, &joined].into_iter().find(|&t| !vocab.contains_key(t)) {
                return bad(format!("merge {rank} (`{a}` `{b}`): `{token}` is not in the vocabulary"));
            }
        }

        let mut tokens = Vec::with_capacity(added.len());
        for (id, entry) in added {
            let content = entry.content;
            if content.is_empty() {
                return bad(format!("added token {id}: expected some content"));
            }
            if entry.single_word || entry.lstrip || entry.rstrip || entry.normalized {
                return bad(format!(
                    "added token `{content}`: expected single_word, lstrip, rstrip and normalized to be false"
                ));
            }
            if *vocab.entry(content.clone()).or_insert(id) != id {
                return bad(format!("added token `{content}`: has two ids, {id} and another"));
            }
            tokens.push(Added { content, special: entry.special });
        }
        let mut ids = HashSet::with_capacity(vocab.len());
        for (token, &id) in &vocab {
            if id > MAX_ID {
                return bad(format!("token `{token}`: expected an id up to {MAX_ID}, found {id}"));
            }
            if !ids.insert(id) {
                return bad(format!("token `{token}`: its id {id} belongs to another token too"));
            }
        }
        Ok(Self { vocab, merges, added: tokens, pattern, ignore_merges, pad_token })
    }
}

/// The ids that follow the vocabulary, as in the published model.
fn published_added_tokens(vocab: &HashMap<String, u32>) -> Vec<(u32, AddedEntry)> {
    let first = vocab.values().max().map_or(0, |id| id.saturating_add(1));
    let entry = |(i, content): (usize, &&str)| {
        let token = AddedEntry::plain((*content).to_owned(), i < QWEN_SPECIAL_TOKENS);
        (first.saturating_add(i as u32), token)
    };
    QWEN_ADDED_TOKENS.iter().enumerate().map(entry).collect()
}

pub(super) fn split_merge(line: &str) -> Option<(String, String)> {
    let (a, b) = line.split_once(' ')?;
    let whole = !a.is_empty() && !b.is_empty() && !b.contains(' ');
    whole.then(|| (a.to_owned(), b.to_owned()))
}

fn split_pattern(pre_tokenizer: PreTokenizer) -> Option<String> {
    let PreTokenizer::Sequence { pretokenizers } = pre_tokenizer else { return None };
    match <[PreTokenizer; 2]>::try_from(pretokenizers).ok()? {
        [
            PreTokenizer::Split { pattern: Pattern::Regex(pattern), behavior, invert: false },
            PreTokenizer::ByteLevel { add_prefix_space: false, use_regex: false },
        ] if behavior == "Isolated" => Some(pattern),
        _ => None,
    }
}

/// Whether a pattern compiles into something no larger than itself: counted repetition can be nested into a
/// program that fills the memory.
pub(super) fn is_tame(pattern: &str) -> bool {
    let classes = pattern.matches("\\p{").count() + pattern.matches("\\P{").count();
    pattern.len() <= MAX_PATTERN_CHARS && pattern.matches('{').count() == classes
}

fn read_text(files: &ModelFiles, path: &Path) -> Result<String> {
    let bad = |what: &str| Error::new(ErrorKind::Tokenizer, format!("expected {what}"));
    let bytes = files.read(path, MAX_FILE_BYTES)?.map_err(|_| bad("at most 256 MiB").in_file(path))?;
    String::from_utf8(bytes).map_err(|e| bad("UTF-8").with_source(e.utf8_error()).in_file(path))
}

fn read_json<T: DeserializeOwned>(files: &ModelFiles, path: &Path, expected: &str) -> Result<T> {
    serde_json::from_str(&read_text(files, path)?).map_err(|e| {
        Error::new(ErrorKind::Tokenizer, format!("{}: expected {expected}", path.display())).with_source(e)
    })
}

fn read_config(files: &ModelFiles, path: &Path) -> Result<Config> {
    if !files.exists(path) {
        return Ok(Config::default());
    }
    read_json(files, path, "a tokenizer config with `pad_token`, `added_tokens_decoder`")
}

#[derive(Deserialize, Default)]
struct Config {
    pad_token: Option<PadToken>,
    added_tokens_decoder: Option<BTreeMap<u32, AddedEntry>>,
}

impl Config {
    fn pad_token(&self) -> String {
        match &self.pad_token {
            Some(PadToken::Plain(content) | PadToken::Entry { content }) => content.clone(),
            None => "<|endoftext|>".to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PadToken {
    Plain(String),
    Entry { content: String },
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedWithId>,
    #[expect(dead_code, reason = "reading it is the check: no other normaliser parses")]
    normalizer: Normalizer,
    pre_tokenizer: PreTokenizer,
    model: Model,
}

#[derive(Deserialize)]
struct AddedWithId {
    id: u32,
    #[serde(flatten)]
    token: AddedEntry,
}

#[derive(Deserialize)]
pub(super) struct AddedEntry {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

impl AddedEntry {
    /// One that is matched wherever it stands.
    pub(super) fn plain(content: String, special: bool) -> Self {
        Self { content, special, single_word: false, lstrip: false, rstrip: false, normalized: false }
    }
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "by_default")]
        use_regex: bool,
    },
}

/// What the format means by an absent `use_regex`.
fn by_default() -> bool {
    true
}

#[derive(Deserialize)]
enum Pattern {
    Regex(String),
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f32>,
    #[serde(rename = "continuing_subword_prefix")]
    prefix: Option<String>,
    #[serde(rename = "end_of_word_suffix")]
    suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}
