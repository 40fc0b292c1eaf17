//! `bonsai doctor`: the machine, the choice, the models.

#[allow(dead_code, reason = "these tests paint nothing")]
mod common;

use std::fs;
use std::process::Output;

use bonsai_core::Isa;
use bonsai_core::kernels::gemm::ActivationPrecision;
use common::{Site, stderr};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn doctor(site: &Site, args: &[&str], isa: Option<&str>) -> Output {
    let mut command = site.command();
    command.env_remove("BONSAI_MODELS").args(["doctor", "-q"]).args(args);
    command.envs(isa.map(|isa| ("BONSAI_ISA", isa))).output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

#[test]
fn the_machine_and_the_choice() {
    let site = Site::new();
    let output = doctor(&site, &["--json"], None);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = report(&output);
    let best = Isa::best().name();
    assert_eq!((&found["isa"], &found["isa_best"]), (&best.into(), &best.into()));
    assert_eq!(found["isa_why"], "the best of this CPU");
    assert_eq!(found["isa_variable"], Value::Null);
    let available: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    assert_eq!(found["isa_available"], json!(available));
    if cfg!(target_arch = "x86_64") {
        let has = |name: &str| found["features"].as_array().unwrap().contains(&name.into());
        let lacks = |name: &str| found["features_missing"].as_array().unwrap().contains(&name.into());
        assert!(["avx2", "avx512vnni", "avx512bf16"].iter().all(|name| has(name) != lacks(name)), "{found}");
        assert_eq!(has("avx2") && has("fma") && has("f16c"), available.contains(&"avx2"));
    }
    // every kind of weights at every precision
    let kernels = found["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 4 * ActivationPrecision::ALL.len());
    for precision in ActivationPrecision::ALL {
        let same = kernels.iter().filter(|kernel| kernel["activations"] == precision.name());
        let weights: Vec<_> = same.map(|kernel| kernel["weights"].as_str().unwrap()).collect();
        assert_eq!(weights, ["binary", "ternary", "int4", "bf16"]);
    }
    assert!(kernels.iter().all(|kernel| kernel["kernel"].as_str().unwrap().starts_with(best)));
    assert_eq!(found["models"], json!([]));
}

#[test]
fn a_lowered_choice_is_told() {
    let site = Site::new();
    let lowest = "portable";
    let found = report(&doctor(&site, &["--json"], Some(lowest)));
    assert_eq!((&found["isa"], &found["isa_variable"]), (&lowest.into(), &lowest.into()));
    if Isa::best().name() != lowest {
        let why = format!("lowered by BONSAI_ISA from {}, the best of this CPU", Isa::best().name());
        assert_eq!(found["isa_why"], why);
        let text = String::from_utf8(doctor(&site, &[], Some(lowest)).stdout).unwrap();
        assert!(text.contains(&format!("uses       {lowest}: {why}")), "{text}");
        let found = report(&doctor(&site, &["--json", "--isa", lowest], None));
        assert!(found["isa_why"].as_str().unwrap().starts_with("lowered by --isa from "), "{found}");
    }
    let output = doctor(&site, &[], Some("avx1024"));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("BONSAI_ISA=avx1024"), "{}", stderr(&output));
}

#[test]
fn models_are_found_and_tried() {
    let site = Site::new();
    fs::create_dir_all(site.work.join("models/no-model")).unwrap();
    let synth = site.bonsai(&["synth", "-q", "--preset", "tiny", "--out", "models/tiny"]);
    assert!(synth.status.success(), "{}", stderr(&synth));
    let model = site.model.to_str().unwrap();
    let output = doctor(&site, &["--json", "-m", model], None);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = report(&output);
    let [named, listed] = found["models"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!(
        (&named["path"], &named["found"], &named["usable"]),
        (&model.into(), &"named".into(), &true.into())
    );
    assert_eq!((&listed["found"], &listed["usable"]), (&"in models".into(), &true.into()));
    // nobody told digests of these
    let files = listed["files"].as_array().unwrap();
    assert!(!files.is_empty() && files.iter().all(|file| file["digest"] == "unknown"), "{listed}");
    // the same model is listed once
    let found = report(&doctor(&site, &["--json", "--quick", "-m", "models/tiny"], None));
    assert_eq!(found["models"].as_array().unwrap().len(), 1);
    assert_eq!(found["models"][0]["usable"], Value::Null);
    // a broken one is a problem
    fs::write(site.work.join("models/tiny/vae/config.json"), "{}").unwrap();
    let output = doctor(&site, &["--json"], None);
    assert_eq!(output.status.code(), Some(3));
    let found = report(&output);
    assert_eq!((&found["problems"], &found["models"][0]["usable"]), (&1.into(), &false.into()));
    let text = String::from_utf8(doctor(&site, &[], None).stdout).unwrap();
    assert!(text.contains("PROBLEM") && text.contains("config.json"), "{text}");
}

#[test]
fn digests_are_compared_with_the_note() {
    let site = Site::new();
    let dir = &site.model;
    let names = ["vae/config.json", "transformer/config.json", "text_encoder/config.json"];
    let files: Vec<_> = names
        .iter()
        .map(|name| {
            let bytes = fs::read(dir.join(name)).unwrap();
            let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            json!({ "path": name, "bytes": bytes.len(), "sha256": digest })
        })
        .collect();
    let note = json!({ "repository": "a/b", "revision": "c", "files": files }).to_string();
    fs::write(dir.join("bonsai-pull.json"), &note).unwrap();
    let model = dir.to_str().unwrap();
    let verdicts = |args: &[&str]| {
        let output = doctor(&site, &[&["--json", "-m", model], args].concat(), None);
        let found = report(&output);
        let files = found["models"][0]["files"].as_array().unwrap().clone();
        let digests =
            files.iter().map(|file| file["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        (output.status.code(), digests, found)
    };
    let (code, digests, found) = verdicts(&[]);
    assert_eq!((code, found["models"][0]["source"].as_str()), (Some(0), Some("a/b at c")));
    assert_eq!(digests, ["matches"; 3]);
    assert_eq!(verdicts(&["--quick"]).1, ["unread"; 3]);
    // one byte that JSON does not mind, and a file that is gone
    let path = dir.join(names[0]);
    let text = fs::read_to_string(&path).unwrap();
    let changed = text.replacen('\n', " ", 1);
    assert_ne!(text, changed);
    fs::write(&path, changed).unwrap();
    fs::remove_file(dir.join(names[1])).unwrap();
    let (code, digests, found) = verdicts(&[]);
    assert_eq!(code, Some(3));
    assert_eq!(digests, ["differs", "missing", "matches"]);
    let problems: Vec<_> =
        found["models"][0]["problems"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(problems[0].contains(names[0]) && problems[1].contains(names[1]), "{problems:?}");
    // a note that leads out of the directory is not followed
    fs::write(dir.join("bonsai-pull.json"), note.replace("vae/config.json", "../../config.json")).unwrap();
    let (code, _, found) = verdicts(&["--quick"]);
    assert_eq!(code, Some(3));
    assert!(found["models"][0]["problems"][0].as_str().unwrap().contains("bonsai-pull.json"), "{found}");
}
