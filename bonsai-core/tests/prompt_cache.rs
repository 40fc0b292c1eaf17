//! A prompt that was read is kept for the next picture of the same words; what is kept changes no byte.

use std::ops::ControlFlow;

use bonsai_core::{Event, Image, Pipeline, PipelineOptions, Request};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/model");

fn open(cached_prompts: Option<usize>, max_memory: Option<u64>) -> Pipeline {
    let options =
        PipelineOptions { threads: Some(2), cached_prompts, max_memory, ..PipelineOptions::default() };
    Pipeline::open_with(MODEL, &options).unwrap()
}

fn request(prompt: &str) -> Request {
    Request::new(prompt).size(64, 64).steps(1).seed(3)
}

/// The picture, and how many layers of the text encoder were told of.
fn paint(pipeline: &Pipeline, request: &Request) -> (Image, usize) {
    let mut layers = 0;
    let mut watch = |event| {
        layers += usize::from(matches!(event, Event::TextEncode { .. }));
        ControlFlow::Continue(())
    };
    let image = pipeline.generate_with(request, &mut watch).unwrap().image;
    (image, layers)
}

#[test]
fn a_second_picture_of_the_same_words_skips_the_text_encoder() {
    let pipeline = open(None, None);
    let (first, layers) = paint(&pipeline, &request("a bonsai"));
    assert!(layers > 0);
    assert_eq!(paint(&pipeline, &request("a bonsai")), (first.clone(), 0));
    // clones share what is kept, and the seed is no part of the prompt
    let other = request("a bonsai").seed(4);
    let (second, none) = paint(&pipeline.clone(), &other);
    assert!(none == 0 && second != first);
    assert_eq!(second, paint(&open(Some(0), None), &other).0);
    // other words, lengths and taps are other prompts
    assert_eq!(paint(&pipeline, &request("a pine")).1, layers);
    let defaults = pipeline.defaults().clone();
    let shorter =
        Request { max_sequence_length: Some(defaults.max_sequence_length - 1), ..request("a bonsai") };
    assert_eq!(paint(&pipeline, &shorter).1, layers);
    let taps: Vec<usize> = defaults.text_encoder_out_layers.iter().map(|tap| tap - 1).collect();
    let shallower = Request { text_encoder_out_layers: Some(taps), ..request("a bonsai") };
    let (image, fewer) = paint(&pipeline, &shallower);
    assert!(fewer == layers - 1 && image != first);
    assert_eq!(paint(&pipeline, &request("a bonsai")), (first, 0));
}

#[test]
fn a_prompt_that_is_too_long_is_told_each_time() {
    let pipeline = open(None, None);
    let long = request(&"many words ".repeat(200));
    let mut cuts = Vec::new();
    for _ in 0..2 {
        let mut watch = |event| {
            if let Event::PromptCut { kept, cut } = event {
                cuts.push((kept, cut));
            }
            ControlFlow::Continue(())
        };
        let generated = pipeline.generate_with(&long, &mut watch).unwrap();
        cuts.push((generated.recipe.tokens_used, generated.cut));
    }
    assert!(cuts.len() == 4 && cuts.iter().all(|&cut| cut == cuts[0] && cut.1 > 0), "{cuts:?}");
}

#[test]
fn prompts_are_kept_by_request_and_as_memory_allows() {
    let (want, layers) = paint(&open(None, None), &request("a bonsai"));
    let never = open(Some(0), None);
    let without = open(None, None).without_prompt_cache();
    let one = open(Some(1), None);
    for pipeline in [&never, &without] {
        assert_eq!(pipeline.estimate(&request("a bonsai")).unwrap().plan.prompts, 0);
        for _ in 0..2 {
            assert_eq!(paint(pipeline, &request("a bonsai")), (want.clone(), layers));
        }
    }
    for (prompt, read) in [("a bonsai", layers), ("a bonsai", 0), ("a pine", layers), ("a bonsai", layers)] {
        assert_eq!(paint(&one, &request(prompt)).1, read, "{prompt}");
    }

    // a budget is kept first
    let full = open(None, None).estimate(&request("a bonsai")).unwrap();
    assert!(full.plan.prompts > 1);
    let poor = open(None, Some(full.peak_bytes() - 1));
    let plan = poor.estimate(&request("a bonsai")).unwrap().plan;
    assert_eq!((plan.prompts, plan.strips), (0, full.plan.strips));
    for _ in 0..2 {
        assert_eq!(paint(&poor, &request("a bonsai")), (want.clone(), layers));
    }
}

#[test]
fn kept_prompts_are_counted() {
    let pipeline = open(None, None);
    let base = |prompt: &str| pipeline.estimate(&request(prompt)).unwrap().base_bytes;
    let none = base("a bonsai");
    let one = pipeline.defaults().max_sequence_length * pipeline.transformer().config().hidden_size() * 4;
    let most = pipeline.estimate(&request("")).unwrap().plan.prompts;
    for n in 1..=most + 1 {
        paint(&pipeline, &request(&format!("prompt {n}")));
        // one place is that of the prompt itself
        assert_eq!(base("a bonsai"), none + (n.min(most - 1) * one) as u64, "{n} prompts");
    }
    assert_eq!(base(&format!("prompt {}", most + 1)), none + ((most - 1) * one) as u64);
}
