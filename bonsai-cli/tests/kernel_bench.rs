//! `bonsai bench --kernels`: the table and its fields.

#[allow(dead_code, reason = "these tests need no model")]
mod common;

use bonsai_core::Isa;
use common::{Site, stderr};
use serde_json::Value;

/// The smallest of the model's shapes, at few rows.
const SMALL: [&str; 8] =
    ["bench", "--kernels", "--only", "int4/f32/512x2560x4096", "--longest", "0", "--runs", "2"];

#[test]
fn kernels_have_exactly_these_fields() {
    let site = Site::new();
    for isa in Isa::available() {
        let output = site.bonsai(&[&SMALL[..], &["--json", "-t", "2", "--isa", isa.name()]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let [row] = report["kernels"].as_array().unwrap().as_slice() else { panic!("{report}") };
        let keys: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let mut want = [
            "name",
            "isa",
            "weights",
            "activations",
            "m",
            "k",
            "n",
            "threads",
            "gmacs",
            "ceiling",
            "ceiling_gmacs",
            "ratio",
        ];
        want.sort_unstable();
        assert_eq!(keys, want);
        assert_eq!((&row["weights"], &row["activations"]), (&"int4".into(), &"f32".into()));
        // no time for more rows
        assert_eq!((&row["m"], &row["k"], &row["n"]), (&48.into(), &2560.into(), &4096.into()));
        assert_eq!((&row["isa"], &row["threads"]), (&isa.name().into(), &2.into()));
        let (rate, most) = (row["gmacs"].as_f64().unwrap(), row["ceiling_gmacs"].as_f64().unwrap());
        assert!(rate > 0.0 && most > 0.0, "{row}");
        assert!((row["ratio"].as_f64().unwrap() - rate / most).abs() < 1e-6, "{row}");
        let ceilings = report["ceilings"].as_array().unwrap();
        let named: Vec<_> = ceilings.iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert!(named.contains(&"f32-fma") && named.contains(&"int8-dot"), "{named:?}");
        assert!(ceilings.iter().all(|c| c["gmacs"].as_f64().unwrap() > 0.0), "{report}");
    }
}

#[test]
fn the_table_is_read_by_people() {
    let site = Site::new();
    let output =
        site.command().env("BONSAI_ISA", "portable").args(SMALL).args(["-q", "-t", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lowered =
        if Isa::best().name() == "portable" { "the best of this CPU" } else { "lowered by BONSAI_ISA" };
    for words in ["1 thread, portable", lowered, "best of  2 runs", "48x2560x4096", "f32-fma"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn wrong_requests_are_refused() {
    let site = Site::new();
    for (args, words) in [
        (&["--kernels", "--only", "int5"][..], "int5"),
        (&["--kernels", "--longest", "-1"], "--longest"),
        (&["--kernels", "--longest", "nan"], "seconds"),
        (&["--kernels", "--runs", "0"], "--runs"),
        (&["--kernels", "--steps", "2"], "--steps"),
        (&["--kernels", "--isa", "mmx"], "mmx"),
        (&["--only", "int4"], "--kernels"),
    ] {
        let output = site.bonsai(&[&["bench"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
    }
}
