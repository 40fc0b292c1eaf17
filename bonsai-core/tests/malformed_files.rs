//! More than two hundred malformed files, each made from a sound one or written by hand: every one is refused by a typed
//! error, and a counting allocator watches that no header talks the reader into large allocations.
#![expect(unsafe_code, reason = "counts allocations")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use bonsai_core::model_dir::ModelDir;
use bonsai_core::tokenizer::Tokenizer;
use bonsai_core::weights::{Component, TensorFile, Weights};
use bonsai_core::{ErrorKind, Result};
use common::torch::zip;
use tempfile::TempDir;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, and what this thread asks it for.
struct Counting;

fn count(size: usize) {
    // a thread that is ending has no counters, and nobody asks for them
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    let _ = TOTAL.try_with(|total| total.set(total.get() + size));
}

// SAFETY: every call is handed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of `realloc`; the block came from the system's allocator.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is done with a file.
#[derive(Clone, Copy)]
enum Open {
    Weights,
    /// Also asks for `layer` of this shape.
    Matrix(usize, usize),
    /// The folder as the `transformer` of a model directory.
    Shards,
    Index,
    SideFile,
    Tokenizer,
    /// The tokenizer inside a GGUF file.
    GgufTokenizer,
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    /// Bytes before the tensors, of the sound file that it was made from.
    header: usize,
    open: Open,
}

impl Case {
    fn file(&self) -> &'static str {
        match self.open {
            Open::Weights | Open::Matrix(..) => "weights",
            Open::Shards => "transformer/model.safetensors.index.json",
            Open::Index => "model_index.json",
            Open::SideFile => "bonsai.json",
            Open::Tokenizer => "tokenizer.json",
            Open::GgufTokenizer => "encoder.gguf",
        }
    }

    fn run(&self, dir: &Path) -> Result<()> {
        let path = dir.join(self.file());
        match self.open {
            Open::Weights => {
                TensorFile::open(&path)?;
                Weights::open(&[path], Component::Transformer).map(drop)
            }
            Open::Matrix(rows, cols) => {
                let weights = Weights::open(&[path], Component::Transformer)?;
                weights.matrix("layer", rows, cols)?;
                weights.finish()
            }
            Open::Shards => ModelDir::open(dir)?.component("transformer").map(drop),
            Open::Index => ModelDir::open(dir)?.index_warnings().map(drop),
            Open::SideFile => ModelDir::open(dir)?.side_file().map(drop),
            Open::Tokenizer => Tokenizer::open(dir).map(drop),
            Open::GgufTokenizer => Tokenizer::open(&path).map(drop),
        }
    }
}

/// The case by itself: what went wrong, or how long it took.
fn check(case: &Case) -> std::result::Result<Duration, String> {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("transformer")).unwrap();
    std::fs::write(dir.path().join(case.file()), &case.bytes).unwrap();
    LARGEST.set(0);
    TOTAL.set(0);
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| case.run(dir.path())));
    let took = started.elapsed();
    let (largest, total) = (LARGEST.get(), TOTAL.get());
    match result {
        Err(_) => return Err("a panic".into()),
        Ok(Ok(())) => return Err("taken for sound".into()),
        Ok(Err(error)) => {
            let typed = [
                ErrorKind::ModelFormat,
                ErrorKind::ModelMismatch,
                ErrorKind::Unsupported,
                ErrorKind::NotFound,
                ErrorKind::Tokenizer,
            ];
            if !typed.contains(&error.kind()) {
                return Err(format!("{:?}: {error}", error.kind()));
            }
            if error.to_string().len() > 2000 {
                return Err(format!("a message of {} bytes", error.to_string().len()));
            }
            // a place that people are told, programs are told too
            let text = error.to_string();
            let digits = text.split_once("at byte ").map_or("", |(_, rest)| rest);
            let digits = digits.split(|c: char| !c.is_ascii_digit()).next();
            let told = digits.and_then(|digits| digits.parse::<u64>().ok());
            if told != error.offset() {
                return Err(format!("offset {:?} of: {text}", error.offset()));
            }
        }
    }
    let len = case.bytes.len();
    if largest > len + (64 << 10) {
        return Err(format!("one allocation of {largest} bytes for a file of {len}"));
    }
    if total > 16 * case.header + (1 << 20) {
        return Err(format!("{total} bytes allocated for a header of {}", case.header));
    }
    Ok(took)
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: impl Into<String>, open: Open, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.0.push(Case { name: name.into(), header: bytes.len(), bytes, open });
    }

    fn add_damaged(&mut self, name: String, whole: &[u8], header: usize, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = whole.to_vec();
        damage(&mut bytes);
        let header = header.min(bytes.len());
        self.0.push(Case { name, header, bytes, open: Open::Weights });
    }

    /// Cuts at `count` places of the header, and before the last byte.
    fn add_cuts(&mut self, kind: &str, whole: &[u8], header: usize, count: usize) {
        for at in (0..count).map(|i| header * i / count).chain([whole.len() - 1]) {
            self.add_damaged(format!("{kind} cut to {at}"), whole, header, |bytes| bytes.truncate(at));
        }
    }
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(common::MODEL).join("../formats").join(name)).unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn deep(open: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + &close.repeat(depth)
}

fn safetensors_cases(cases: &mut Cases) {
    let whole = golden("mlx_ternary_positive.safetensors");
    let len = u64::from_le_bytes(whole[..8].try_into().unwrap());
    let header = 8 + len as usize;
    cases.add_cuts("safetensors", &whole, header, 24);
    for wrong in [0, 1, len - 2, len + 8, len + 1000, u64::MAX, 1 << 63, 100_000_001, whole.len() as u64] {
        let put = |bytes: &mut Vec<u8>| bytes[..8].copy_from_slice(&wrong.to_le_bytes());
        cases.add_damaged(format!("safetensors header length {wrong}"), &whole, header, put);
    }
    let marks = (8..header).filter(|&at| b"{}[]:\"".contains(&whole[at]));
    for at in marks.step_by(3) {
        cases.add_damaged(format!("safetensors byte {at} 0"), &whole, header, |bytes| bytes[at] = 0);
    }
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (name, header) in [
        ("no JSON", "not json at all".to_owned()),
        ("a list", "[]".into()),
        ("a number", "12345678".into()),
        ("deep lists", deep("[", "]", 4000)),
        ("deep objects", deep("{\"a\":", "}", 4000)),
        ("deep metadata", format!("{{\"__metadata__\":{}}}", deep("[", "]", 4000))),
        ("metadata of numbers", r#"{"__metadata__":{"a":1}}"#.into()),
        ("unknown dtype", tensor("\"Q9\"", "[2]", "[0,8]")),
        ("dtype of a number", tensor("1", "[2]", "[0,8]")),
        ("negative shape", tensor("\"F32\"", "[-2]", "[0,8]")),
        ("fractional shape", tensor("\"F32\"", "[2.5]", "[0,8]")),
        ("shape that overflows", tensor("\"F32\"", "[4294967296,4294967296,4]", "[0,8]")),
        ("shape beyond 64 bits", tensor("\"F32\"", "[99999999999999999999]", "[0,8]")),
        ("shape of text", tensor("\"F32\"", "\"2\"", "[0,8]")),
        ("larger shape", tensor("\"F32\"", "[3]", "[0,8]")),
        ("smaller shape", tensor("\"F32\"", "[1]", "[0,8]")),
        ("reversed offsets", tensor("\"F32\"", "[2]", "[8,0]")),
        ("offsets outside", tensor("\"F32\"", "[2]", "[8,16]")),
        ("huge offsets", tensor("\"F32\"", "[2]", "[18446744073709551608,18446744073709551615]")),
        ("one offset", tensor("\"F32\"", "[2]", "[8]")),
        ("no shape", r#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#.into()),
        ("no dtype", r#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#.into()),
        ("no offsets", r#"{"a":{"dtype":"F32","shape":[2]}}"#.into()),
        ("nothing of the data", "{}".into()),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#
                .into(),
        ),
        (
            "a gap",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#
                .into(),
        ),
        (
            "a name twice",
            r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#
                .into(),
        ),
        ("a megabyte of name", format!("{{\"{}", "n".repeat(1 << 20))),
        ("a megabyte of brackets", deep("[", "", 1 << 20)),
    ] {
        cases.add(format!("safetensors: {name}"), Open::Weights, safetensors(&header, 8));
    }
    cases.add(
        "safetensors: not UTF-8",
        Open::Weights,
        [&[4, 0, 0, 0, 0, 0, 0, 0][..], b"{\xff\xfe}"].concat(),
    );
    let many: Vec<String> = (0..20_000)
        .map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    let many = format!("{{{}}}", many.join(","));
    cases.add("safetensors: many tensors, one byte short", Open::Weights, safetensors(&many, 19_999));
}

/// A GGUF file of these pairs and tensors, whose counts can be claimed to be others.
fn gguf(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    file.extend([pairs.concat(), tensors.concat()].concat());
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

fn text(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

fn info(name: &[u8], dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut info = text(name);
    info.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| info.extend(dim.to_le_bytes()));
    info.extend(kind.to_le_bytes());
    info.extend(offset.to_le_bytes());
    info
}

fn gguf_cases(cases: &mut Cases) {
    let whole = golden("tiny.gguf");
    let path = Path::new(common::MODEL).join("../formats/tiny.gguf");
    let tensors = TensorFile::open(&path).unwrap().tensors;
    let header = tensors.values().map(|tensor| tensor.range.start).min().unwrap();
    cases.add_cuts("GGUF", &whole, header, 24);
    for version in [0, 1, 4, u32::MAX, 2u32.swap_bytes(), 3u32.swap_bytes()] {
        let put = |bytes: &mut Vec<u8>| bytes[4..8].copy_from_slice(&version.to_le_bytes());
        cases.add_damaged(format!("GGUF version {version}"), &whole, header, put);
    }
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 63, 1 << 32, 4000, 1000] {
            let put = |bytes: &mut Vec<u8>| bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            cases.add_damaged(format!("GGUF count {count} at {at}"), &whole, header, put);
        }
    }
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let nested = [array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(4, 0)].concat();
    let alignment = |value: u32| pair("general.alignment", 4, &value.to_le_bytes());
    for (name, pairs) in [
        ("value type 13", vec![pair("k", 13, &[0; 8])]),
        ("value type of all ones", vec![pair("k", u32::MAX, &[0; 8])]),
        ("text beyond the file", vec![pair("k", 8, &u64::MAX.to_le_bytes())]),
        ("text of a terabyte", vec![pair("k", 8, &(1u64 << 40).to_le_bytes())]),
        ("text that is not UTF-8", vec![pair("k", 8, &text(b"\xff\xfe"))]),
        ("array beyond the file", vec![pair("k", 9, &array(0, u64::MAX))]),
        ("array of a billion", vec![pair("k", 9, &array(8, 1 << 30))]),
        ("array of an unknown type", vec![pair("k", 9, &array(77, 2))]),
        ("arrays in arrays", vec![pair("k", 9, &nested)]),
        ("alignment of 0", vec![alignment(0)]),
        ("alignment of 3", vec![alignment(3)]),
        ("alignment of all ones", vec![alignment(u32::MAX)]),
        ("alignment of text", vec![pair("general.alignment", 8, &text(b"32"))]),
        ("key beyond the file", vec![u64::MAX.to_le_bytes().to_vec()]),
        ("key that is not UTF-8", vec![[&text(b"\xff")[..], &4u32.to_le_bytes(), &[0; 4]].concat()]),
    ] {
        cases.add(format!("GGUF: {name}"), Open::Weights, gguf(&pairs, &[], 64));
    }
    for (name, tensors) in [
        ("five axes", vec![info(b"t", &[1, 1, 1, 1, 1], 0, 0)]),
        ("thousand axes", vec![info(b"t", &[1; 1000], 0, 0)]),
        ("shape that overflows", vec![info(b"t", &[1 << 40, 1 << 40], 0, 0)]),
        ("shape beyond the file", vec![info(b"t", &[1 << 20, 1 << 20], 0, 0)]),
        ("unknown type", vec![info(b"t", &[32], 200, 0)]),
        ("removed type", vec![info(b"t", &[32], 4, 0)]),
        ("type with a codebook", vec![info(b"t", &[256], 16, 0)]),
        ("type that only this reader has", vec![info(b"t", &[128], 0x1_0000, 0)]),
        ("part of a block", vec![info(b"t", &[100], 41, 0)]),
        ("offset outside", vec![info(b"t", &[16], 0, 4096)]),
        ("offset of all ones", vec![info(b"t", &[16], 0, u64::MAX)]),
        ("offset that is not aligned", vec![info(b"t", &[4], 0, 4)]),
        ("overlap", vec![info(b"a", &[16], 0, 0), info(b"b", &[8], 0, 32)]),
        ("a name twice", vec![info(b"a", &[8], 0, 0), info(b"a", &[8], 0, 32)]),
        ("name that is not UTF-8", vec![info(b"\xff", &[8], 0, 0)]),
        ("name beyond the file", vec![u64::MAX.to_le_bytes().to_vec()]),
    ] {
        cases.add(format!("GGUF: {name}"), Open::Weights, gguf(&[], &tensors, 64));
    }
    cases.add("GGUF: a type that is not computed", Open::Matrix(1, 32), {
        gguf(&[], &[info(b"layer.weight", &[32, 1], 20, 0)], 32)
    });
    let many: Vec<_> = (0..20_000).map(|i| info(format!("t{i}").as_bytes(), &[8], 0, 32 * i)).collect();
    cases.add("GGUF: many tensors, the last outside", Open::Weights, gguf(&[], &many, 32 * 19_999));
}

fn gguf_tokenizer_cases(cases: &mut Cases) {
    let array = |kind: u32, count: u64, elements: &[u8]| {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
    };
    let letters: Vec<u8> = (b'a'..=b'z').flat_map(|letter| text(&[letter])).collect();
    let tokens = |value: Vec<u8>| pair("tokenizer.ggml.tokens", 9, &value);
    let types = |value: Vec<u8>| pair("tokenizer.ggml.token_type", 9, &value);
    let kind =
        || [pair("tokenizer.ggml.model", 8, &text(b"gpt2")), pair("tokenizer.ggml.pre", 8, &text(b"qwen2"))];
    let plain = || types(array(5, 26, &[1, 0, 0, 0].repeat(26)));
    let all = || tokens(array(8, 26, &letters));
    for (name, pairs) in [
        ("no tokens", vec![]),
        ("a billion tokens", vec![tokens(array(8, 1 << 30, &[]))]),
        ("all ones tokens", vec![tokens(array(8, u64::MAX, &[]))]),
        ("tokens that are numbers", vec![tokens(array(5, 2, &[0; 8]))]),
        ("a token beyond the file", vec![tokens(array(8, 1, &u64::MAX.to_le_bytes()))]),
        ("a token that is not UTF-8", vec![tokens(array(8, 1, &text(b"\xff")))]),
        ("a token twice", vec![tokens(array(8, 2, &text(b"a").repeat(2))), types(array(5, 2, &[1; 8]))]),
        ("types that are texts", vec![all(), types(array(8, 26, &letters))]),
        ("types that are arrays", vec![all(), types(array(9, 1, &array(9, 1, &[0; 12])))]),
        ("a billion types", vec![all(), types(array(0, 1 << 30, &[]))]),
        ("no types", vec![all()]),
        ("too few letters", vec![all(), plain()]),
        (
            "merges of nothing",
            vec![all(), plain(), pair("tokenizer.ggml.merges", 9, &array(8, 1, &text(b"x")))],
        ),
        ("padding of a text", vec![all(), plain(), pair("tokenizer.ggml.padding_token_id", 8, &text(b"a"))]),
        ("padding outside", vec![all(), plain(), pair("tokenizer.ggml.padding_token_id", 4, &[255; 4])]),
    ] {
        let bytes = gguf(&[&kind()[..], &pairs].concat(), &[], 64);
        cases.add(format!("GGUF tokenizer: {name}"), Open::GgufTokenizer, bytes);
    }
    cases.add("GGUF tokenizer: no GGUF", Open::GgufTokenizer, &b"{}"[..]);
}

/// A checkpoint of this pickle and one storage of 64 bytes.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl".into(), pickle.to_vec()), ("a/data/0".into(), vec![0; 64])])
}

/// Sets bytes behind each place where `mark` stands.
fn after(bytes: &mut [u8], mark: &[u8], offset: usize, value: &[u8]) {
    let places: Vec<usize> =
        (0..bytes.len() - mark.len()).filter(|&at| bytes[at..].starts_with(mark)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + offset..at + offset + value.len()].copy_from_slice(value);
    }
}

/// `{"t": tensor}` of f32 with these raw opcodes for offset, size and stride.
fn tensor_pickle(storage: &[u8], offset: &[u8], size: &[u8], stride: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02}X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage";
    let tail = b"\x89ccollections\nOrderedDict\n)RtRs.";
    [&head[..], storage, b"X\x03\x00\x00\x00cpuK\x10tQ", offset, size, stride, tail].concat()
}

fn torch_cases(cases: &mut Cases) {
    let whole = fixture("hqq.pt");
    let end = whole.len() - 22;
    let directory = u32::from_le_bytes(whole[end + 16..end + 20].try_into().unwrap()) as usize;
    for i in 0..24 {
        let at = 4 + (whole.len() - 4) * i / 24;
        cases.add_damaged(format!("torch cut to {at}"), &whole, whole.len(), |bytes| bytes.truncate(at));
    }
    let mut damage = |name: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        cases.add_damaged(format!("torch: {name}"), &whole, whole.len(), damage);
    };
    const ENTRY: &[u8] = b"PK\x01\x02";
    damage("compressed entries", &|b| after(b, ENTRY, 10, &[8, 0]));
    damage("entries that unpack to 4 GB", &|b| after(b, ENTRY, 24, &[0xfe, 0xff, 0xff, 0xff]));
    damage("encrypted entries", &|b| after(b, ENTRY, 8, &[1, 0]));
    damage("entries of no ZIP64 field", &|b| after(b, ENTRY, 20, &[0xff; 8]));
    damage("entries outside", &|b| after(b, ENTRY, 42, &[0xf0, 0xff, 0xff, 0x7f]));
    damage("entries in one place", &|b| after(b, ENTRY, 42, &[0; 4]));
    damage("names beyond the directory", &|b| after(b, ENTRY, 28, &[0xff, 0xff]));
    damage("fields beyond the directory", &|b| after(b, ENTRY, 30, &[0xff, 0xff]));
    damage("names that are not UTF-8", &|b| after(b, ENTRY, 46, &[0xff]));
    damage("no entries where they should be", &|b| after(b, b"PK\x03\x04", 1, b"?"));
    damage("more entries than fit", &|b| b[end + 10..end + 12].fill(0x7f));
    damage("a directory beyond the file", &|b| b[end + 16..end + 20].fill(0x7f));
    damage("a directory of 2 GB", &|b| b[end + 12..end + 16].fill(0x7f));
    damage("a directory of something else", &|b| b[directory] = b'?');
    damage("a comment that is not there", &|b| b[end + 20] = 9);
    damage("no end", &|b| b[end] = b'?');

    let entry = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let empty: &[u8] = b"\x80\x02}.";
    for (name, entries) in [
        ("no pickle", vec![entry("a/data/0", b"")]),
        ("two pickles", vec![entry("a/data.pkl", empty), entry("b/data.pkl", empty)]),
        ("a pickle without a folder", vec![entry("data.pkl", empty)]),
        ("a way out", vec![entry("../../../etc/passwd", b"x")]),
        ("an entry twice", vec![entry("a/data.pkl", empty), entry("a/data.pkl", empty)]),
        ("big-endian", vec![entry("a/data.pkl", empty), entry("a/byteorder", b"big")]),
        ("no entries", vec![]),
    ] {
        let mut file = zip(&entries);
        if entries.is_empty() {
            // still a zip file by its first bytes
            file.splice(0..0, *b"PK\x03\x04");
        }
        cases.add(format!("torch: {name}"), Open::Weights, file);
    }

    let key: &[u8] = b"ctorch\nFloatStorage\nX\x01\x00\x00\x000";
    let (zero, four, sixteen) = (&b"K\x00"[..], &b"K\x04\x85"[..], &b"K\x10\x85"[..]);
    let one: &[u8] = b"K\x01\x85";
    let nested =
        [&b"\x80\x02"[..], &b"}X\x01\x00\x00\x00a".repeat(2000), b"}", &b"s".repeat(2000), b"."].concat();
    // each dict holds the one before it twice
    let mut laughs = b"\x80\x02}q\x00".to_vec();
    for i in 1..40u8 {
        laughs.extend(
            [b"}(X\x01\x00\x00\x00ah", &[i - 1][..], b"X\x01\x00\x00\x00bh", &[i - 1], b"uq", &[i]].concat(),
        );
    }
    laughs.push(b'.');
    for (name, pickle) in [
        ("runs a command", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.".to_vec()),
        ("runs code", b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.".to_vec()),
        ("makes an object", b"\x80\x02ctorch.nn.modules.linear\nLinear\n)R.".to_vec()),
        ("protocol 4", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}.".to_vec()),
        ("an unknown opcode", b"\x80\x02\xfe.".to_vec()),
        ("nothing", b"".to_vec()),
        ("no end", b"\x80\x02}".to_vec()),
        ("an empty stack", b"\x80\x02.".to_vec()),
        ("no mark", b"\x80\x02}u.".to_vec()),
        ("nothing remembered", b"\x80\x02h\x07.".to_vec()),
        ("a text beyond it", b"\x80\x02X\xff\xff\xff\x7fa.".to_vec()),
        ("a text that is not UTF-8", b"\x80\x02X\x01\x00\x00\x00\xff.".to_vec()),
        ("an integer of 255 bytes", b"\x80\x02\x8a\xff.".to_vec()),
        ("a list", b"\x80\x02].".to_vec()),
        ("a number", b"\x80\x02K\x01.".to_vec()),
        ("a key of a number", b"\x80\x02}K\x01K\x02s.".to_vec()),
        ("a megabyte of dicts", [&b"\x80\x02"[..], &b"}".repeat(1 << 20), b"."].concat()),
        ("a megabyte of marks", [&b"\x80\x02"[..], &b"(".repeat(1 << 20), b"."].concat()),
        ("dicts in dicts", nested),
        ("dicts that double", laughs),
        ("no such storage", tensor_pickle(b"ctorch\nFloatStorage\nX\x01\x00\x00\x009", zero, four, one)),
        ("a storage of no type", tensor_pickle(b"ctorch\nSize\nX\x01\x00\x00\x000", zero, four, one)),
        ("larger than its storage", tensor_pickle(key, zero, b"K\x11\x85", one)),
        ("behind its storage", tensor_pickle(key, b"K\x01", sixteen, one)),
        ("negative offset", tensor_pickle(key, b"J\xff\xff\xff\xff", four, one)),
        ("negative size", tensor_pickle(key, zero, b"J\xff\xff\xff\xff\x85", one)),
        ("size that overflows", {
            tensor_pickle(
                key,
                zero,
                b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85",
                b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85",
            )
        }),
        ("one value a billion times", tensor_pickle(key, zero, b"J\x00\x00\x00\x40\x85", b"K\x00\x85")),
        ("fewer strides than axes", tensor_pickle(key, zero, b"K\x02K\x02\x86", one)),
        ("size of text", tensor_pickle(key, zero, b"X\x01\x00\x00\x004\x85", one)),
    ] {
        cases.add(format!("pickle: {name}"), Open::Weights, checkpoint(&pickle));
    }
}

/// Matrices whose parts do not fit one another.
fn pack_cases(cases: &mut Cases) {
    use common::Tensor;
    use common::torch::Value;
    use safetensors::Dtype;

    let tensor = |dtype: Dtype, shape: &[usize], size: usize| {
        let data = vec![0; shape.iter().product::<usize>() * size];
        Tensor { dtype, shape: shape.to_vec(), data }
    };
    let ints = |values: &[i32]| {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: Dtype::I32, shape: vec![values.len()], data }
    };
    let file = |parts: Vec<(&str, Value)>| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("checkpoint.pt");
        let dict = parts.into_iter().map(|(name, value)| (format!("layer.{name}"), value)).collect();
        common::torch::write(&path, dict);
        std::fs::read(path).unwrap()
    };

    // 8 rows of 256 inputs, 2 bits
    let gemlite = |changed: &str, value: Option<Tensor>| {
        let mut parts = BTreeMap::from([
            ("W_q", tensor(Dtype::U8, &[64, 8], 1)),
            ("scales", tensor(Dtype::F32, &[2, 8], 4)),
            ("zeros", tensor(Dtype::F32, &[2, 8], 4)),
            ("metadata", ints(&[0, 2, 128, 3, 4, 1, 1, 0, 1, 0, 4, 1])),
            ("orig_shape", ints(&[8, 256])),
        ]);
        match value {
            Some(value) => parts.insert(changed_name(changed), value),
            None => parts.remove(changed),
        };
        file(parts.into_iter().map(|(name, tensor)| (name, Value::Tensor(tensor))).collect())
    };
    for (name, changed, value) in [
        ("no metadata", "metadata", None),
        ("short metadata", "metadata", Some(ints(&[0, 2, 128]))),
        ("3 bits", "metadata", Some(ints(&[0, 3, 128, 7, 4, 1, 1, 0, 1, 0, 4, 1]))),
        ("-1 bits", "metadata", Some(ints(&[0, -1, 128, 7, 4, 1, 1, 0, 1, 0, 4, 1]))),
        ("other groups", "metadata", Some(ints(&[0, 2, 64, 3, 4, 1, 1, 0, 1, 0, 4, 1]))),
        ("group mode 9", "metadata", Some(ints(&[0, 2, 128, 3, 4, 1, 1, 0, 1, 0, 9, 1]))),
        ("channel scales", "metadata", Some(ints(&[0, 2, 128, 3, 4, 1, 1, 0, 1, 1, 4, 1]))),
        ("another shape", "orig_shape", Some(ints(&[8, 128]))),
        ("no scales", "scales", None),
        ("scales of no groups", "scales", Some(tensor(Dtype::F32, &[0, 8], 4))),
        ("scales that do not divide", "scales", Some(tensor(Dtype::F32, &[3, 8], 4))),
        ("no zeros", "zeros", None),
        ("zeros of another shape", "zeros", Some(tensor(Dtype::F32, &[2, 7], 4))),
        ("codes of another shape", "W_q", Some(tensor(Dtype::U8, &[32, 8], 1))),
        ("codes of floats", "W_q", Some(tensor(Dtype::F32, &[64, 8], 4))),
        ("something besides", "surprise", Some(tensor(Dtype::F32, &[1], 4))),
    ] {
        cases.add(format!("gemlite: {name}"), Open::Matrix(8, 256), gemlite(changed, value));
    }

    let hqq = |changed: &'static str, value: Option<Value>| {
        let mut parts = BTreeMap::from([
            ("W_q", Value::Tensor(tensor(Dtype::U8, &[16, 64], 1))),
            ("scale", Value::Tensor(tensor(Dtype::F16, &[32, 1], 2))),
            ("zero", Value::Tensor(tensor(Dtype::F16, &[32, 1], 2))),
            ("nbits", Value::Int(4)),
            ("group_size", Value::Int(64)),
            ("axis", Value::Int(1)),
            ("shape", Value::Ints(vec![8, 256])),
            ("packing", Value::Text("4bit_u8")),
        ]);
        match value {
            Some(value) => parts.insert(changed, value),
            None => parts.remove(changed),
        };
        file(parts.into_iter().collect())
    };
    for (name, changed, value) in [
        ("no bits", "nbits", None),
        ("3 bits", "nbits", Some(Value::Int(3))),
        ("no axis", "axis", None),
        ("axis 2", "axis", Some(Value::Int(2))),
        ("groups of 0", "group_size", Some(Value::Int(0))),
        ("groups of -64", "group_size", Some(Value::Int(-64))),
        ("groups that do not divide", "group_size", Some(Value::Int(60))),
        ("another shape", "shape", Some(Value::Ints(vec![256, 8]))),
        ("another packing", "packing", Some(Value::Text("4bit_32"))),
        ("scales of scales", "quant_scale", Some(Value::Bool(true))),
        ("no scale", "scale", None),
        ("no zero", "zero", None),
        ("few scales", "scale", Some(Value::Tensor(tensor(Dtype::F16, &[31, 1], 2)))),
        ("few codes", "W_q", Some(Value::Tensor(tensor(Dtype::U8, &[15, 64], 1)))),
    ] {
        cases.add(format!("HQQ: {name}"), Open::Matrix(8, 256), hqq(changed, value));
    }
}

/// Names that live as long as the table that they are put into.
fn changed_name(name: &str) -> &'static str {
    ["W_q", "scales", "zeros", "metadata", "orig_shape", "surprise"].into_iter().find(|n| *n == name).unwrap()
}

fn json_cases(cases: &mut Cases) {
    let map = |name: &str| format!(r#"{{"weight_map":{{"a":{name}}}}}"#);
    for name in [
        "\"../secret.safetensors\"",
        "\"../../../../etc/passwd\"",
        "\"/etc/passwd\"",
        "\"..\\\\secret\"",
        "\"C:\\\\secret\"",
        "\"a/b.safetensors\"",
        "\"..\"",
        "\"\"",
        "\"missing.safetensors\"",
        "7",
        "[\"a\"]",
    ] {
        cases.add(format!("shard index: {name}"), Open::Shards, map(name));
    }
    for (name, json) in [
        ("no map", "{}".to_owned()),
        ("a list", "[]".into()),
        ("cut", "{\"weight_map\": {\"a\"".into()),
        ("nothing", String::new()),
        ("deep", format!("{{\"weight_map\":{}}}", deep("[", "]", 100_000))),
        ("deep beside it", format!("{{\"metadata\":{},\"weight_map\":{{}}}}", deep("{\"a\":", "}", 100_000))),
        ("no shards", "{\"weight_map\":{}}".into()),
    ] {
        cases.add(format!("shard index: {name}"), Open::Shards, json);
    }
    for (name, json) in [
        ("a way out as a folder", r#"{"../transformer":["diffusers","X"]}"#.to_owned()),
        ("a way out as a class", r#"{"transformer":["diffusers","../../X"]}"#.into()),
        ("an absolute folder", r#"{"/etc":["diffusers","X"]}"#.into()),
        ("a way out the other way", r#"{"transformer":["..\\..\\X","X"]}"#.into()),
        ("a list", "[]".into()),
        ("cut", "{\"transformer\":".into()),
        ("deep", deep("{\"a\":", "}", 100_000)),
        ("not UTF-8 escapes", r#"{"a":"\ud800"}"#.into()),
        ("17 MB", format!("{{\"a\":\"{}\"}}", "x".repeat(17 << 20))),
    ] {
        cases.add(format!("model_index.json: {name}"), Open::Index, json);
    }
    for (name, json) in [
        ("taps of text", r#"{"text_encoder_out_layers":"9"}"#.to_owned()),
        ("negative taps", r#"{"text_encoder_out_layers":[-9]}"#.into()),
        ("one side", r#"{"default_size":[512]}"#.into()),
        ("steps beyond 64 bits", r#"{"steps":99999999999999999999999}"#.into()),
        ("deep", format!("{{\"steps\":{}}}", deep("[", "]", 100_000))),
    ] {
        cases.add(format!("bonsai.json: {name}"), Open::SideFile, json);
    }
    for (name, json) in [
        ("nothing", String::new()),
        ("a list", "[]".to_owned()),
        ("deep", deep("[", "]", 100_000)),
        ("no model", "{}".into()),
        ("another model", r#"{"model":{"type":"Unigram","vocab":{},"merges":[]},"added_tokens":[]}"#.into()),
        (
            "an id of 2^40",
            r#"{"model":{"type":"BPE","vocab":{"a":1099511627776},"merges":[]},"added_tokens":[]}"#.into(),
        ),
        (
            "a negative id",
            r#"{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]},"added_tokens":[]}"#.into(),
        ),
    ] {
        cases.add(format!("tokenizer.json: {name}"), Open::Tokenizer, json);
    }
}

#[test]
fn two_hundred_malformed_files_are_refused() {
    let mut cases = Cases::default();
    safetensors_cases(&mut cases);
    gguf_cases(&mut cases);
    gguf_tokenizer_cases(&mut cases);
    torch_cases(&mut cases);
    pack_cases(&mut cases);
    json_cases(&mut cases);
    let mut slowest = (Duration::ZERO, "");
    let mut faults = Vec::new();
    for case in &cases.0 {
        match check(case) {
            Ok(took) => slowest = slowest.max((took, &case.name)),
            Err(fault) => faults.push(format!("{}: {fault}", case.name)),
        }
    }
    println!("{} malformed files; slowest {:?}: {}", cases.0.len(), slowest.0, slowest.1);
    assert!(cases.0.len() >= 200, "{}", cases.0.len());
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.0.len(), faults.join("\n"));
}
