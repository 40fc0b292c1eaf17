use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

#[derive(Deserialize)]
struct Golden {
    max_length: usize,
    pad_id: u32,
    vocab_with_added: usize,
    prompts: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    text: String,
    ids: Vec<u32>,
    mask_ones: usize,
    untruncated: usize,
    plain_ids: Vec<u32>,
    plain_decoded: String,
}

fn golden_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden")
}

fn model_file(name: &str) -> PathBuf {
    golden_dir().join("model/tokenizer").join(name)
}

/// A folder with the named files of the golden tokenizer.
fn copy(names: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in names {
        fs::copy(model_file(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// The golden tokenizer.json after `edit`.
fn edited(edit: impl FnOnce(&mut Value)) -> TempDir {
    let mut json: Value = serde_json::from_slice(&fs::read(model_file("tokenizer.json")).unwrap()).unwrap();
    edit(&mut json);
    with_files(&[("tokenizer.json", json.to_string().as_bytes())])
}

fn with_files(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn assert_golden(dir: &Path) {
    let golden: Golden =
        serde_json::from_slice(&fs::read(golden_dir().join("tokenizer/prompts.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::open(dir).unwrap();
    assert_eq!(tokenizer.pad_id(), golden.pad_id);
    assert_eq!(tokenizer.vocab_size(), golden.vocab_with_added);
    assert_eq!(golden.prompts.len(), 60);
    for case in golden.prompts {
        let prompt = &case.prompt;
        assert_eq!(Tokenizer::chat_text(prompt), case.text);
        let tokens = tokenizer.encode_prompt(prompt, golden.max_length).unwrap();
        assert_eq!(tokens.ids, case.ids, "{prompt:?}");
        let mask: Vec<bool> = (0..golden.max_length).map(|i| i < case.mask_ones).collect();
        assert_eq!(tokens.mask, mask, "{prompt:?}");
        assert_eq!(case.mask_ones + tokens.cut, case.untruncated, "{prompt:?}");
        let plain = tokenizer.encode_text(prompt).unwrap();
        assert_eq!(plain, case.plain_ids, "{prompt:?}");
        assert_eq!(tokenizer.decode(&plain).unwrap(), case.plain_decoded);
    }
}

fn open_error(dir: &TempDir) -> (ErrorKind, String) {
    let error = Tokenizer::open(dir.path()).unwrap_err();
    (error.kind(), error.to_string())
}

fn assert_refused(dir: &TempDir, words: &[&str]) {
    let (kind, message) = open_error(dir);
    assert_eq!(kind, ErrorKind::Tokenizer, "{message}");
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

#[test]
fn tokenizer_json_matches_the_reference() {
    assert_golden(&golden_dir().join("model/tokenizer"));
    assert_golden(copy(&["tokenizer.json"]).path());
}

#[test]
fn vocab_and_merges_match_the_reference() {
    assert_golden(copy(&["vocab.json", "merges.txt", "tokenizer_config.json"]).path());
    assert_golden(copy(&["vocab.json", "merges.txt"]).path());
}

#[test]
fn merges_as_lines_match_the_reference() {
    let dir = edited(|json| {
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
    });
    assert_golden(dir.path());
}

#[test]
fn padding_and_truncation_of_the_file_are_off() {
    let dir = edited(|json| {
        json["truncation"] =
            json!({"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 99}, "direction": "Left", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    });
    assert_golden(dir.path());
}

#[test]
fn pad_token_comes_from_the_config() {
    for config in [json!({"pad_token": "<|im_end|>"}), json!({"pad_token": {"content": "<|im_end|>"}})] {
        let dir = copy(&["tokenizer.json"]);
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        assert_eq!(Tokenizer::open(dir.path()).unwrap().pad_id(), 902);
    }
}

#[test]
fn lengths() {
    let tokenizer = Tokenizer::open(&golden_dir().join("model/tokenizer")).unwrap();
    let error = tokenizer.encode_prompt("a cat", 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let tokens = tokenizer.encode_prompt("", 5).unwrap();
    assert_eq!((tokens.ids.len(), tokens.mask, tokens.cut), (5, vec![true; 5], 7));
    assert_eq!(tokenizer.decode(&[5000]).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_long_run_of_anything_is_encoded() {
    let tokenizer = Tokenizer::open(&golden_dir().join("model/tokenizer")).unwrap();
    for c in [" ", "\n", "a", "é", "<|im_end|>", "\u{0}", "\t \n", "'s"] {
        let text = c.repeat(20_000);
        let ids = tokenizer.encode_text(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn missing_files() {
    for dir in [TempDir::new().unwrap(), copy(&["vocab.json"]), copy(&["merges.txt"])] {
        let (kind, message) = open_error(&dir);
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(message.contains("vocab.json and merges.txt"), "{message}");
    }
}

#[test]
fn garbage_is_refused() {
    let deep = "[".repeat(100_000);
    let files: [&[u8]; 7] = [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"{\"model\":{\"vocab\":{},\"merges\":[]}}",
        deep.as_bytes(),
    ];
    for bytes in files {
        assert_refused(&with_files(&[("tokenizer.json", bytes)]), &["tokenizer.json", "expected"]);
        assert_refused(
            &with_files(&[("vocab.json", bytes), ("merges.txt", b"")]),
            &["vocab.json", "expected"],
        );
    }
    let dir = copy(&["vocab.json"]);
    for merges in ["#version: 0.2\ns  t\n", "st\n", " t\n", "a b c\n"] {
        fs::write(dir.path().join("merges.txt"), merges).unwrap();
        assert_refused(&dir, &["merges.txt", "expected two tokens"]);
    }
    let dir = copy(&["tokenizer.json"]);
    fs::write(dir.path().join("tokenizer_config.json"), "{\"pad_token\": 3}").unwrap();
    assert_refused(&dir, &["tokenizer_config.json"]);
}

#[test]
fn every_truncation_of_the_file_is_refused() {
    let bytes = fs::read(model_file("tokenizer.json")).unwrap();
    for end in (0..bytes.len() - 1).step_by(997) {
        let dir = with_files(&[("tokenizer.json", &bytes[..end])]);
        assert_eq!(open_error(&dir).0, ErrorKind::Tokenizer);
    }
}

#[test]
fn hostile_models_are_refused() {
    // Each of these would make the underlying crate panic, or go wrong in silence.
    let long = "x".repeat(1000);
    assert_refused(&edited(|j| j["model"]["merges"][0] = json!(["s", "tttttttttttttttt"])), &["merge 0"]);
    assert_refused(&edited(|j| j["model"]["merges"][0] = json!([long, long])), &["merge 0"]);
    assert_refused(&edited(|j| j["model"]["continuing_subword_prefix"] = json!("##")), &["prefix"]);
    assert_refused(&edited(|j| j["model"]["vocab"]["st"] = json!(0)), &["id 0"]);
    assert_refused(&edited(|j| j["model"]["vocab"]["st"] = json!(u32::MAX)), &["4294967295"]);
    assert_refused(&edited(|j| j["model"]["vocab"]["st"] = json!(-1)), &["tokenizer.json"]);
    assert_refused(&edited(|j| drop(j["model"]["vocab"].as_object_mut().unwrap().remove("a"))), &["`a`"]);
    assert_refused(&edited(|j| j["model"]["type"] = json!("WordPiece")), &["BPE"]);
    assert_refused(&edited(|j| j["model"]["dropout"] = json!(0.5)), &["dropout"]);
    assert_refused(&edited(|j| j["normalizer"] = json!({"type": "Lowercase"})), &["NFC"]);
    assert_refused(
        &edited(|j| j["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": []})),
        &["Split"],
    );
    let pattern = |p: &str| {
        let p = p.to_owned();
        edited(move |j| j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": p}))
    };
    assert_refused(&pattern("((((?=a){1000}){1000}){1000})"), &["repetition"]);
    assert_refused(&pattern(&"(".repeat(4000)), &[]);
    assert_refused(&pattern(&"(".repeat(5000)), &["short"]);
    assert_refused(&edited(|j| j["added_tokens"][0]["lstrip"] = json!(true)), &["<|endoftext|>"]);
    assert_refused(&edited(|j| j["added_tokens"][0]["id"] = json!(7)), &["id 7"]);
    assert_refused(&edited(|j| j["added_tokens"][0]["content"] = json!("")), &["content"]);
}

#[test]
fn missing_template_tokens_are_named() {
    for (i, token) in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().enumerate() {
        assert_refused(&edited(|j| drop(j["added_tokens"].as_array_mut().unwrap().remove(i))), &[token]);
    }
    assert_refused(&edited(|j| j["added_tokens"] = json!([])), &["<|im_start|>"]);
}

#[test]
fn marks_join_their_letters_as_in_the_library() {
    use tokenizers::normalizers::unicode::{NFC, NFD};
    use tokenizers::{NormalizedString, Normalizer};

    let by = |normalizer: &dyn Fn(&mut NormalizedString) -> tokenizers::Result<()>, text: &str| {
        let mut text = NormalizedString::from(text);
        normalizer(&mut text).unwrap();
        text.get().to_owned()
    };
    let mut taken_apart = 0;
    for letter in (0..0x30000).filter_map(char::from_u32) {
        let apart = by(&|text| NFD.normalize(text), &letter.to_string());
        if apart.chars().eq([letter]) {
            continue;
        }
        taken_apart += 1;
        // alone, with a mark that comes before its own, and with one that may or may not join
        for text in [letter.to_string(), format!("x{apart}\u{323}"), format!("{apart}\u{301}y")] {
            let want = by(&|text| NFC.normalize(text), &text);
            assert_eq!(by(&|text| super::Nfc.normalize(text), &text), want, "{text:?}");
        }
    }
    assert!(taken_apart > 10_000, "{taken_apart}");
}

/// Texts that splitting, merging and added tokens all have something to do with.
fn texts() -> Vec<String> {
    const PARTS: [&str; 24] = [
        "a",
        "st",
        "the ",
        " bonsai",
        "user",
        "assistant",
        "\n",
        "\n\n",
        "  ",
        "'s",
        "'LL",
        "7",
        "2024",
        "\u{e9}",
        "e\u{301}",
        "\u{6811}",
        "\u{1f333}",
        "<|im_end|>",
        "<think>",
        "<|im",
        "...",
        "\t",
        "\u{0}",
        "QWEN",
    ];
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..400).map(|i| (0..i % 40).map(|_| PARTS[next(PARTS.len())]).collect()).collect()
}

#[test]
fn ids_are_those_of_the_crate_whose_model_this_replaces() {
    for ignore_merges in [false, true] {
        let dir = edited(|json| json["model"]["ignore_merges"] = json!(ignore_merges));
        let theirs = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
        let ours = Tokenizer::open(dir.path()).unwrap();
        for text in texts() {
            let want = theirs.encode(text.as_str(), false).unwrap();
            assert_eq!(ours.encode_text(&text).unwrap(), want.get_ids(), "{text:?}");
            assert_eq!(ours.decode(want.get_ids()).unwrap(), theirs.decode(want.get_ids(), false).unwrap());
        }
    }
}

#[test]
fn of_a_merge_that_is_there_twice_the_last_counts() {
    let dir = edited(|json| {
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        let first = merges[0].clone();
        merges.push(first);
    });
    let theirs = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    let ours = Tokenizer::open(dir.path()).unwrap();
    for text in texts() {
        let want = theirs.encode(text.as_str(), false).unwrap();
        assert_eq!(ours.encode_text(&text).unwrap(), want.get_ids(), "{text:?}");
    }
}

#[test]
fn damaged_tables_never_panic() {
    let model = golden_dir().join("model/tokenizer");
    let tables = Tokenizer::tables(&ModelFiles::disk(), &model).unwrap();
    let whole = tables.as_slice();
    let dir = with_files(&[("tokenizer.tables", whole)]);
    assert_golden(dir.path());
    for end in (0..whole.len()).step_by(211) {
        let dir = with_files(&[("tokenizer.tables", &whole[..end])]);
        if end == 0 {
            // an empty file can't be mapped
            assert!(Tokenizer::open(dir.path()).is_err());
        } else {
            assert_refused(&dir, &["tokenizer tables"]);
        }
    }
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x41;
        let dir = with_files(&[("tokenizer.tables", &bytes)]);
        // some are refused, some are another tokenizer
        if let Ok(tokenizer) = Tokenizer::open(dir.path()) {
            let _ = tokenizer.encode_text("the bonsai's user <|im_end|>\n\n");
            let _ = tokenizer.decode(&[0, 300, 900]);
        }
    }
}
