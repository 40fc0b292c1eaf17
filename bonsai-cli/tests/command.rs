//! The command as people use it, mostly on the small golden model.

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use bonsai_core::Isa;
use bonsai_core::image::{Image, read_png_text};
use common::{Site, stderr};
use serde_json::Value;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}: {}", output.status, stderr(&output));
    output
}

fn pixels(path: impl AsRef<Path>) -> Vec<u8> {
    Image::load(path).unwrap().into_rgb()
}

/// Keys of a JSON object in the order in which they are written; `serde_json` sorts them.
fn keys_in_order(text: &str, keys: &[&str]) {
    let object: Value = serde_json::from_str(text).unwrap();
    assert_eq!(object.as_object().unwrap().len(), keys.len(), "{text}");
    let at: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).expect(key)).collect();
    assert!(at.is_sorted(), "{text}");
}

#[test]
fn help_teaches() {
    let site = Site::new();
    for (args, words) in [
        (&["--help"][..], ["bonsai generate", "Exit codes"]),
        (&["generate", "--help"], ["Examples:", "{seed}"]),
        (&["--version"], ["bonsai", env!("CARGO_PKG_VERSION")]),
    ] {
        let text = stdout(&succeeds(site.bonsai(args)));
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn prompts_from_everywhere_paint_the_same() {
    let site = Site::new();
    succeeds(site.generate(&["-s", "1", "-o", "a.png", "a tree"]));
    succeeds(site.generate(&["-s", "1", "-o", "b.png", "-p", "a tree"]));
    fs::write(site.work.join("prompt.txt"), "a tree\r\n").unwrap();
    succeeds(site.generate(&["-s", "1", "-o", "c.png", "--prompt-file", "prompt.txt"]));
    let mut command = site.command();
    command.args(["generate", "-s", "1", "-o", "d.png", "-", "-m"]).arg(&site.model);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a tree\n").unwrap();
    assert!(child.wait().unwrap().success());
    let want = fs::read(site.work.join("a.png")).unwrap();
    for name in ["b.png", "c.png", "d.png"] {
        assert_eq!(fs::read(site.work.join(name)).unwrap(), want, "{name}");
    }
}

#[test]
fn an_empty_prompt_is_fine() {
    let site = Site::new();
    succeeds(site.generate(&["-o", "a.png", ""]));
    succeeds(site.generate(&["-o", "b.png", "-p", ""]));
    assert_eq!(site.files(), ["a.png", "b.png"]);
}

#[test]
fn a_long_prompt_is_cut_with_a_warning() {
    let site = Site::new();
    let prompt = "tree ".repeat(100);
    let output = succeeds(site.generate(&["--json", "-q", "-o", "a.png", &prompt]));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let cut = report["tokens_cut"].as_u64().unwrap();
    assert!(cut > 60 && report["tokens_used"] == 40, "{report}");
    assert!(stderr(&output).contains(&format!("warning: the prompt is too long: {cut} tokens were cut")));
    assert_eq!(site.files(), ["a.png"]);
}

#[test]
fn threads_change_nothing() {
    let site = Site::new();
    for (threads, name) in [("1", "a.png"), ("2", "b.png"), ("3", "c.png")] {
        succeeds(site.generate(&["-s", "3", "--size", "112x80", "-t", threads, "-o", name, "a tree"]));
    }
    let want = fs::read(site.work.join("a.png")).unwrap();
    assert_eq!(fs::read(site.work.join("b.png")).unwrap(), want);
    assert_eq!(fs::read(site.work.join("c.png")).unwrap(), want);
}

#[test]
fn lower_instruction_sets_paint_almost_the_same() {
    // integer activations round to the other side where a difference of sums meets the middle between two codes
    for (precision, one_in) in [("f32", 1000), ("int16", 30)] {
        paint_on_all_instruction_sets(precision, one_in);
    }
}

/// Within one level on one of `one_in` samples.
fn paint_on_all_instruction_sets(precision: &str, one_in: usize) {
    let site = Site::new();
    succeeds(site.generate(&["--precision", precision, "-s", "3", "-o", "best.png", "a tree"]));
    let best = pixels(site.work.join("best.png"));
    for isa in Isa::available() {
        let name = format!("{}.png", isa.name());
        let mut command = site.command();
        command.env("BONSAI_ISA", isa.name()).args([
            "generate",
            "--precision",
            precision,
            "-s",
            "3",
            "-o",
            &name,
            "a tree",
            "-m",
        ]);
        succeeds(command.arg(&site.model).output().unwrap());
        let lower = pixels(site.work.join(&name));
        let differ: Vec<_> =
            best.iter().zip(&lower).map(|(a, b)| a.abs_diff(*b)).filter(|&d| d > 0).collect();
        assert!(differ.iter().all(|&d| d == 1), "{name}: {differ:?}");
        assert!(differ.len() * one_in <= best.len(), "{name}: {} of {}", differ.len(), best.len());
        // the option does the same, and the recipe remembers
        succeeds(site.generate(&[
            "--precision",
            precision,
            "-s",
            "3",
            "--isa",
            isa.name(),
            "-o",
            "option.png",
            "a tree",
        ]));
        assert_eq!(
            fs::read(site.work.join("option.png")).unwrap(),
            fs::read(site.work.join(&name)).unwrap(),
            "{name}"
        );
        let output = site.command().args(["verify", &name, "-m"]).arg(&site.model).output().unwrap();
        assert!(stdout(&succeeds(output)).contains("identical"), "{name}");
    }
}

#[test]
fn previews_change_nothing() {
    let site = Site::new();
    succeeds(site.generate(&["-s", "3", "--size", "96x64", "-o", "plain.png", "a tree"]));
    let args = ["-s", "3", "--size", "96x64", "-o", "watched.png", "--preview", "latent", "a tree"];
    succeeds(site.generate(
        &[&args[..], &["--preview-path", "p-{seed}-{step}.png", "--preview-interval", "3"]].concat(),
    ));
    assert_eq!(site.files(), ["p-3-3.png", "p-3-4.png", "plain.png", "watched.png"]);
    let read = |name: &str| fs::read(site.work.join(name)).unwrap();
    assert_eq!(read("plain.png"), read("watched.png"));
    let preview = Image::load(site.work.join("p-3-3.png")).unwrap();
    assert_eq!((preview.width(), preview.height()), (12, 8));
    assert_ne!(preview, Image::load(site.work.join("p-3-4.png")).unwrap());
    // a preview that can't be written is a pity and no more
    let output = succeeds(site.generate(&[&args[..], &["--preview-path", "no/such/folder.png"]].concat()));
    assert!(stderr(&output).contains("warning: preview: "), "{}", stderr(&output));
    assert!(!site.generate(&["--preview", "oracle", "a tree"]).status.success());
    assert!(!site.generate(&["--preview-interval", "0", "a tree"]).status.success());
}

#[test]
fn previews_by_the_tiny_decoder_are_as_large_as_the_picture() {
    let site = Site::new();
    let taef2 = concat!(env!("CARGO_MANIFEST_DIR"), "/../bonsai-core/tests/fixtures/taef2_decoder.pth");
    succeeds(site.generate(&["-s", "3", "--size", "96x64", "-o", "plain.png", "a tree"]));
    let args = ["-s", "3", "--size", "96x64", "-o", "watched.png", "--preview", "tiny", "a tree"];
    succeeds(site.generate(&[&args[..], &["--preview-decoder", taef2]].concat()));
    let read = |name: &str| fs::read(site.work.join(name)).unwrap();
    assert_eq!(read("plain.png"), read("watched.png"));
    let preview = Image::load(site.work.join("preview.png")).unwrap();
    assert_eq!((preview.width(), preview.height()), (96, 64));
    // without a name it is the one in the model directory, where there is none yet
    let output = site.generate(&args);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("preview decoder: "), "{}", stderr(&output));
    fs::copy(taef2, site.model.join("vae/taef2_decoder.pth")).unwrap();
    succeeds(site.generate(&args));
    // two that contradict each other
    let output = site.generate(&["--preview", "latent", "--preview-decoder", taef2, "a tree"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn batches_count_seeds_and_names() {
    let site = Site::new();
    succeeds(site.generate(&["-s", "5", "-b", "2", "-o", "a.png", "x"]));
    succeeds(site.generate(&["-s", "6,9", "-o", "{seed}-%02d.png", "x"]));
    assert_eq!(site.files(), ["6-01.png", "9-02.png", "a-001.png", "a-002.png"]);
    // a picture does not depend on its batch
    assert_eq!(pixels(site.work.join("6-01.png")), pixels(site.work.join("a-002.png")));
    assert_ne!(pixels(site.work.join("6-01.png")), pixels(site.work.join("a-001.png")));
}

#[test]
fn default_names_are_new_and_printed() {
    let site = Site::new();
    let mut printed = HashSet::new();
    for _ in 0..3 {
        let output = succeeds(site.generate(&["-s", "42", "a tree"]));
        let text = stdout(&output);
        let (name, rest) = text.split_once(": seed 42, 96x64, 4 steps").unwrap();
        assert!(name.starts_with("bonsai-20") && name.ends_with(".png") && name.contains("-42"), "{text}");
        assert!(rest.ends_with(" s\n"), "{text}");
        printed.insert(name.to_owned());
    }
    assert_eq!(printed.len(), 3);
    assert_eq!(site.files().into_iter().collect::<HashSet<_>>(), printed);
}

#[test]
fn random_seeds_are_printed_and_repeatable() {
    let site = Site::new();
    let text = stdout(&succeeds(site.generate(&["-q", "-s", "-1", "-o", "a.png", "a tree"])));
    let seed = text.trim().strip_prefix("a.png: seed ").unwrap();
    assert!(seed.parse::<u64>().unwrap() < 1 << 31, "{text}");
    succeeds(site.generate(&["-s", seed, "-o", "b.png", "a tree"]));
    assert_eq!(fs::read(site.work.join("a.png")).unwrap(), fs::read(site.work.join("b.png")).unwrap());
}

#[test]
fn json_tells_all() {
    let site = Site::new();
    let output =
        succeeds(site.generate(&["--json", "-s", "7", "-b", "2", "-t", "1", "-o", "a.png", "a tree"]));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["images"][1]["path"], "a-002.png");
    assert_eq!(report["images"][1]["seed"], 8);
    assert_eq!(report["images"][0]["step_s"].as_array().unwrap().len(), 4);
    for (key, value) in [("width", 96), ("height", 64), ("steps", 4), ("threads", 1), ("tokens_cut", 0)] {
        assert_eq!(report[key], value, "{key}");
    }
    assert!(report["tokens_used"].as_u64().unwrap() > 0);
    for key in ["model", "isa", "precision", "rng", "load_s", "total_s"] {
        assert!(!report[key].is_null(), "{key}");
    }
    // plain lines for each stage stay on standard error
    assert!(stderr(&output).contains("step 4/4: "), "{}", stderr(&output));
    let quiet = succeeds(site.generate(&["--json", "-q", "-o", "b.png", "x"]));
    assert_eq!(stderr(&quiet), "");
}

#[test]
fn options_reach_the_engine() {
    let site = Site::new();
    succeeds(site.generate(&["-s", "3", "-o", "plain.png", "--no-metadata", "a tree"]));
    assert_eq!(read_png_text(&site.work.join("plain.png")).unwrap(), []);
    let plain = pixels(site.work.join("plain.png"));
    for args in [["--rng", "mlx"], ["--steps", "2"], ["-W", "64"], ["-s", "4"]] {
        let mut all = vec!["-o", "other.png", "a tree"];
        all.extend(args);
        succeeds(site.generate(&all));
        assert_ne!(pixels(site.work.join("other.png")), plain, "{args:?}");
    }
    let tiled = ["-s", "3", "--size", "96x64", "--vae-tiling", "-o", "tiled.png", "a tree"];
    succeeds(site.generate(&tiled));
    let output = succeeds(site.generate(&["--guidance", "3", "-s", "3", "-o", "guided.png", "a tree"]));
    assert!(stderr(&output).contains("guidance"), "{}", stderr(&output));
    assert_eq!(pixels(site.work.join("guided.png")), plain);
}

#[cfg(feature = "mini")]
#[test]
fn the_model_inside_paints_where_none_is_named() {
    let site = Site::new();
    let json =
        stdout(&succeeds(site.bonsai(&["generate", "--json", "-q", "-s", "1", "-o", "a.png", "a pine"])));
    assert!(json.contains(r#""model":"bonsai-mini""#), "{json}");
    assert!(stdout(&succeeds(site.bonsai(&["verify", "a.png"]))).contains("identical"));
    // a prompt that it can't know
    succeeds(site.bonsai(&["generate", "-o", "b.png", "a cat"]));
    // a model of the environment comes first
    let mut command = site.command();
    command.env("BONSAI_MODEL", &site.model).args(["generate", "--json", "a tree", "-o", "c.png"]);
    let json = stdout(&succeeds(command.output().unwrap()));
    assert!(json.contains(r#""model":"model""#), "{json}");
}

#[test]
fn eval_judges_what_was_painted() {
    let site = Site::new();
    let project = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let eval = |args: &[&str]| {
        let mut command = site.command();
        command.current_dir(project).args(["eval", "--count", "4", "-q", "-m"]).arg(&site.model);
        command.args(args).output().unwrap()
    };
    let save = site.work.to_str().unwrap();
    let table = stdout(&succeeds(eval(&["--save", save])));
    let words = ["model, 96x64", "held-in", "single object", "binding", "overall", "all at once"];
    let at: Vec<_> = words.iter().map(|word| table.find(word).expect(word)).collect();
    assert!(at.is_sorted(), "{table}");
    assert_eq!(site.files(), ["0000.png", "0001.png", "0002.png", "0003.png"]);
    let json = stdout(&succeeds(eval(&["--json"])));
    assert!(json.contains(r#""held_in":{"prompts":2"#), "{json}");
    let broken = site.work.join("broken.safetensors");
    fs::write(&broken, b"nothing").unwrap();
    let output = eval(&["--judge", broken.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("broken.safetensors"), "{}", stderr(&output));
    // from elsewhere the files have to be named
    let output = site.bonsai(&["eval"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("--benchmark"), "{}", stderr(&output));
}

#[test]
fn pictures_verify() {
    let site = Site::new();
    succeeds(site.generate(&[
        "-s",
        "3",
        "-o",
        "a.png",
        "--rng",
        "mlx",
        "--steps",
        "3",
        "-H",
        "80",
        "tr\u{e9}e \u{1f333}",
    ]));
    let output =
        site.command().args(["verify", "-q", "-t", "1", "a.png", "-m"]).arg(&site.model).output().unwrap();
    assert_eq!(stdout(&succeeds(output)), "a.png: identical\n");

    let text = stdout(&succeeds(site.bonsai(&["info", "a.png"])));
    assert!(["96x80", "mlx", "seed       3", "model      model"].iter().all(|w| text.contains(w)), "{text}");
    let json: Value =
        serde_json::from_str(&stdout(&succeeds(site.bonsai(&["info", "--json", "a.png"])))).unwrap();
    assert_eq!(json["recipe"]["prompt"], "tr\u{e9}e \u{1f333}");
}

#[test]
fn synthetic_models_work() {
    let site = Site::new();
    let text = stdout(&succeeds(site.bonsai(&["synth", "--preset", "tiny", "--out", "tiny", "--seed", "1"])));
    assert!(text.starts_with("tiny: "), "{text}");
    succeeds(site.bonsai(&["generate", "-m", "tiny", "-o", "a.png", "a tree"]));
    let text = stdout(&succeeds(site.bonsai(&["info", "tiny"])));
    let words = ["a usable model", "binary 28", "int4 22", "safetensors", "taps [1, 2, 3]", "128x128"];
    assert!(words.iter().all(|w| text.contains(w)), "{text}");
    let json: Value =
        serde_json::from_str(&stdout(&succeeds(site.bonsai(&["info", "--json", "tiny"])))).unwrap();
    assert_eq!(json["components"][0]["matrices"]["binary"], 28);
    assert_eq!(json["defaults"]["width"], 128);
}

#[test]
fn info_tells_of_each_broken_part() {
    let site = Site::new();
    fs::write(site.model.join("vae/config.json"), "{}").unwrap();
    fs::remove_file(site.model.join("text_encoder/model.safetensors")).unwrap();
    let output = site.command().arg("info").arg(&site.model).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = stdout(&output);
    assert!(text.contains("binary 30, f16 9"), "{text}");
    assert_eq!(text.matches("PROBLEM").count(), 2, "{text}");
    assert!(stderr(&output).contains("unusable: text_encoder, vae"), "{}", stderr(&output));
}

#[test]
fn bench_has_these_keys() {
    let site = Site::new();
    let mut command = site.command();
    command.args(["bench", "--json", "-q", "--steps", "2", "--size", "64x64", "-t", "1", "-m"]);
    let text = stdout(&succeeds(command.arg(&site.model).output().unwrap()));
    let keys = [
        "model",
        "size",
        "steps",
        "threads",
        "isa",
        "isa_why",
        "precision",
        "kernels",
        "load_s",
        "load_tokenizer_s",
        "text_encode_s",
        "step_s",
        "vae_decode_s",
        "total_s",
        "linear_gmacs",
        "roofline",
        "peak_rss_bytes",
    ];
    keys_in_order(&text, &keys);
    let figures: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&figures["size"], &figures["steps"]), (&"64x64".into(), &2.into()));
    assert_eq!(figures["step_s"].as_array().unwrap().len(), 2);
    assert!(figures["linear_gmacs"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        assert!(figures["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    }
    let table = stdout(&succeeds(site.command().args(["bench", "-m"]).arg(&site.model).output().unwrap()));
    assert!(table.contains("GMAC/s") && table.contains("peak memory"), "{table}");
    let has_ceilings = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    assert_eq!(table.contains("% of the roofline"), has_ceilings, "{table}");
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    let site = Site::new();
    let mut command = site.command();
    let mut child =
        command.arg("info").arg(&site.model).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    assert!(output.status.success());
}

#[cfg(unix)]
#[test]
fn interrupts_end_the_work_within_a_second() {
    let site = Site::new();
    // the line of standard error after which the work is interrupted: in the first steps, then in the decoder
    for (size, steps, line) in [("1024x1024", "1000", "text encoder"), ("1024x1024", "1", "step 1/1")] {
        let mut command = site.command();
        command.args(["generate", "--size", size, "--steps", steps, "-o", "a.png", "a tree", "-m"]);
        let mut child = command.arg(&site.model).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|found| found.unwrap().starts_with(line)), "{line}");
        std::thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let status = child.wait().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{size}: {:?}", began.elapsed());
        assert_eq!(status.code(), Some(130), "{size}");
        assert!(lines.any(|found| found.unwrap() == "cancelled"), "{size}");
        assert_eq!(site.files(), [""; 0], "{size}");
    }
}
