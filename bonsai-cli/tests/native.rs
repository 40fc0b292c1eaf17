//! Native packs on the command line: what they hold, and whether they are still what was written.

#[allow(dead_code, reason = "these tests use part of it")]
mod common;

use std::fs;
use std::path::PathBuf;

use common::{Site, stderr};
use serde_json::Value;

fn pack(site: &Site) -> PathBuf {
    let path = site.work.join("pack.safetensors");
    let output = site.command().args(["convert", "-q"]).arg(&site.model).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    path
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

#[test]
fn info_tells_what_a_pack_holds() {
    let site = Site::new();
    pack(&site);
    let output = site.bonsai(&["info", "pack.safetensors"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let words =
        ["a usable model", "native pack of version 1", "binary 30", "sha256", "(native)", "tokens 926"];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    let report = json(&site.bonsai(&["info", "--json", "pack.safetensors"]));
    let original = json(&site.command().arg("info").arg("--json").arg(&site.model).output().unwrap());
    assert_eq!(report["defaults"], original["defaults"]);
    let components = |report: &Value| {
        let all = report["components"].as_array().unwrap().iter();
        all.map(|c| (c["role"].clone(), c["matrices"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(components(&report), components(&original));
    assert_eq!(report["pack"]["sha256"].as_object().unwrap().len(), 4);
    assert_eq!(original["pack"], Value::Null);
    // another safetensors file is no pack
    let single = site.model.join("transformer/diffusion_pytorch_model.safetensors");
    let output = site.command().arg("info").arg(&single).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn doctor_compares_the_digests_of_a_pack() {
    let site = Site::new();
    let path = pack(&site);
    let doctor = |args: &[&str]| {
        let mut command = site.command();
        command.env_remove("BONSAI_MODELS").args(["doctor", "-q", "--json"]).args(args).output().unwrap()
    };
    let output = doctor(&["-m", "pack.safetensors"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sound = json(&output);
    let model = &sound["models"][0];
    assert_eq!((&model["usable"], &model["is_pack"]), (&true.into(), &true.into()));
    let verdicts = |model: &Value| {
        let files = model["files"].as_array().unwrap().iter();
        files.map(|f| format!("{} {}", f["path"], f["digest"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(
        verdicts(model),
        ["text_encoder matches", "tokenizer matches", "transformer matches", "vae matches"]
    );
    let quick = json(&doctor(&["--quick", "-m", "pack.safetensors"]));
    assert!(verdicts(&quick["models"][0]).iter().all(|verdict| verdict.ends_with("unread")));

    // one bit of the last tensor but for the padding
    fs::create_dir(site.work.join("models")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(site.work.join("models/damaged.safetensors"), bytes).unwrap();
    let output = doctor(&["-m", "pack.safetensors"]);
    assert_eq!(output.status.code(), Some(3));
    let report = json(&output);
    let [_, damaged] = report["models"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!(damaged["found"], "in models");
    assert_eq!(verdicts(damaged).iter().filter(|verdict| verdict.ends_with("differs")).count(), 1);
    assert!(damaged["problems"][0].as_str().unwrap().contains("not those that were written"), "{damaged}");
}
