//! The embedded model against diffusers on its unpacked twin, and what else must hold for every prompt.

use bonsai_core::{ActivationPrecision, Image, PipelineOptions, Request};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Prompt, seed and size of each picture that diffusers painted in f32.
const PICTURES: [(&str, &str, u64, (usize, usize)); 3] = [
    ("night.png", "a red maple bonsai in a blue pot at night, a moon on the left", 42, (256, 256)),
    ("two.png", "a pink blossom bonsai in a white pot and a pine in a black pot at noon", 7, (256, 256)),
    ("wide.png", "three ginkgo bonsai trees on sand at sunset", 3, (320, 224)),
];

#[test]
fn the_picture_is_that_of_diffusers() {
    let options = PipelineOptions { precision: ActivationPrecision::F32, ..PipelineOptions::default() };
    let pipeline = bonsai_mini::open(&options).unwrap();
    for (file, prompt, seed, (width, height)) in PICTURES {
        let request = Request::new(prompt).size(width, height).seed(seed);
        let ours = pipeline.generate(&request).unwrap().image;
        let theirs = Image::load(format!("{FIXTURES}/{file}")).unwrap();
        assert_eq!((ours.width(), ours.height()), (theirs.width(), theirs.height()));
        let off = ours.rgb().iter().zip(theirs.rgb()).map(|(a, b)| a.abs_diff(*b));
        let largest = off.clone().max().unwrap();
        let share = off.filter(|&d| d > 0).count() as f64 / ours.rgb().len() as f64;
        assert!(largest <= 2 && share <= 0.01, "{file}: {largest} levels, {:.3} % of samples", 100.0 * share);
    }
}

#[test]
fn unknown_words_paint_some_scene() {
    let pipeline = bonsai_mini::open(&PipelineOptions::default()).unwrap();
    for prompt in ["a cat", "", "🦊 \u{0} ünïcode", &"word ".repeat(500)] {
        let picture = pipeline.generate(&Request::new(prompt).seed(5)).unwrap().image;
        let (low, high) = picture.rgb().iter().fold((255, 0), |(low, high), &v| (low.min(v), high.max(v)));
        assert!(high - low > 64, "{prompt:?}: a flat picture");
    }
}

#[test]
fn sides_are_whole_tokens() {
    let pipeline = bonsai_mini::open(&PipelineOptions::default()).unwrap();
    let error = pipeline.generate(&Request::new("a pine").size(40, 64)).unwrap_err().to_string();
    assert!(
        error.contains("width 40") && error.contains("multiple of 16; the nearest are 32 and 48"),
        "{error}"
    );
}

#[test]
fn the_files_are_small_and_one_bit() {
    let bytes: usize = bonsai_mini::files().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= 9_500_000, "{bytes} bytes");
    let (_, weights) =
        bonsai_mini::files().iter().find(|(name, _)| name.starts_with("transformer/diff")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(weights).unwrap();
    let block = |name: &str| {
        name.contains("transformer_blocks.") && name.ends_with(".weight") && !name.contains("norm")
    };
    let mut matrices = 0;
    for name in tensors.names().into_iter().filter(|name| block(name)) {
        let base = name.strip_suffix(".weight").unwrap();
        let words = tensors.tensor(name).unwrap().shape().to_vec();
        let scales = tensors.tensor(&format!("{base}.scales")).unwrap().shape().to_vec();
        // 4 words of 32 bits hold the 128 weights of one scale
        assert_eq!(words, [scales[0], 4 * scales[1]], "{name}");
        matrices += 1;
    }
    assert_eq!(matrices, 2 * 12 + 4 * 2);
}

#[test]
fn reads_outside_a_file_are_refused() {
    use bonsai_core::ModelSource as _;
    let source = bonsai_mini::BonsaiMini::new();
    let size = source.len("bonsai.json").unwrap();
    assert!(source.read_at("bonsai.json", size - 1, &mut [0]).is_ok());
    for (name, offset) in [("bonsai.json", size), ("bonsai.json", u64::MAX), ("nothing", 0)] {
        assert!(source.read_at(name, offset, &mut [0]).is_err());
    }
}
