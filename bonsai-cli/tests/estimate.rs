//! `bonsai estimate`: what is foretold is what a process of its own then takes.

#[allow(dead_code, reason = "these tests use part of it")]
mod common;

use common::{Site, stderr};
use serde_json::Value;

fn json(site: &Site, args: &[&str]) -> Value {
    let output = site.bonsai(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn medium(site: &Site) {
    let synth = site.bonsai(&["synth", "-q", "--preset", "medium", "--out", "medium"]);
    assert!(synth.status.success(), "{}", stderr(&synth));
}

/// Foretold and measured peak of a picture, and the plan's strips.
fn peaks(site: &Site, model: &str, args: &[&str]) -> (f64, Option<f64>, u64) {
    let common = ["-m", model, "--json", "--steps", "1", "-t", "2"];
    let estimate = json(site, &[&["estimate"], &common[..], args].concat());
    let bench = json(site, &[&["bench"], &common[..], args].concat());
    let (foretold, strips) = (estimate["peak_bytes"].as_f64().unwrap(), estimate["strips"].as_u64().unwrap());
    assert_eq!(estimate["measured_bytes"], Value::Null);
    // systems that do not tell the peak tell nothing
    (foretold, bench["peak_rss_bytes"].as_f64(), strips)
}

#[test]
fn the_peak_of_a_process_is_foretold_within_a_tenth() {
    let site = Site::new();
    medium(&site);
    let convert = site.bonsai(&["convert", "-q", "medium", "native.safetensors"]);
    assert!(convert.status.success(), "{}", stderr(&convert));
    let whole =
        json(&site, &["estimate", "-m", "medium", "--json", "--size", "384x384", "--steps", "1", "-t", "2"]);
    let leaner = format!("{}", whole["peak_bytes"].as_u64().unwrap() - 1);
    let golden = site.model.display().to_string();
    let cases: [(&str, &[&str]); 5] = [
        (&golden, &["--size", "128x128"]),
        ("medium", &["--size", "384x384"]),
        ("medium", &["--size", "256x512", "--precision", "f32"]),
        ("medium", &["--size", "384x384", "--max-memory", &leaner]),
        ("native.safetensors", &["--size", "256x512"]),
    ];
    let mut lines = Vec::new();
    let mut off = 0.0f64;
    for (model, args) in cases {
        let (foretold, measured, strips) = peaks(&site, model, args);
        let Some(measured) = measured else { return };
        let ratio = foretold / measured;
        lines.push(format!("{model} {args:?}: {foretold} foretold, {measured} measured, {strips} strips"));
        off = off.max((ratio - 1.0).abs());
    }
    assert!(off <= 0.1, "off by {off:.3}:\n{}", lines.join("\n"));
}

#[test]
fn options_reach_the_estimate_and_the_plan_is_told() {
    let site = Site::new();
    medium(&site);
    let estimate = |args: &[&str]| json(&site, &[&["estimate", "-m", "medium", "--json"], args].concat());
    let exact = estimate(&["--precision", "f32"]);
    assert_eq!(exact["precision"], "f32");
    let coarse = estimate(&["--precision", "int8", "--isa", "portable"]);
    assert_eq!((&coarse["precision"], &coarse["isa"]), (&"int8".into(), &"portable".into()));
    let activations = |report: &Value| report["stages"][0]["activation_bytes"].as_u64().unwrap();
    assert!(activations(&coarse) < activations(&exact), "{coarse} {exact}");
    let text = |args: &[&str]| {
        let output = site.bonsai(&[&["estimate", "-m", "medium"], args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = text(&[]);
    assert!(
        told.contains("used where they lie in the files") && told.contains("time         not known"),
        "{told}"
    );

    // half-precision weights that are binary underneath are prepared
    let convert = site.bonsai(&["convert", "-q", "--to", "unpacked", "medium", "unpacked"]);
    assert!(convert.status.success(), "{}", stderr(&convert));
    let output = site.bonsai(&["estimate", "-m", "unpacked"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("prepared once on opening and kept"), "{told}");
    let report = json(&site, &["estimate", "-m", "unpacked", "--json"]);
    let (prepared, base) =
        (report["prepared_bytes"].as_u64().unwrap(), report["base_bytes"].as_u64().unwrap());
    assert!(prepared > 1 << 20 && prepared < base, "{report}");

    if cfg!(target_os = "linux") {
        let output = site.bonsai(&[
            "estimate",
            "-m",
            "medium",
            "--size",
            "64x64",
            "--steps",
            "1",
            "--measure",
            "--json",
        ]);
        // where the system does not let the peak be counted anew, that is said
        if output.status.success() {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(report["measured_s"].as_f64().unwrap() > 0.0);
            let stages = report["stages"].as_array().unwrap();
            assert!(
                stages.iter().all(|stage| stage["measured_s"].is_f64() && stage["measured_bytes"].is_u64())
            );
        } else {
            assert!(stderr(&output).contains("--measure"), "{}", stderr(&output));
        }
    }
}
