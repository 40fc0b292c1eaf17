//! Pillow's Lanczos, byte for byte.

use bonsai_core::Image;
use serde::Deserialize;

use crate::compare::Report;
use crate::{Failure, Rig};

#[derive(Deserialize)]
pub struct Case {
    source: String,
    target_area: usize,
    filter: String,
}

pub fn run(rig: &Rig<'_>, file: &str, case: &Case, report: &mut Report) -> Result<(), Failure> {
    if case.filter != "pil_lanczos" {
        return Err(format!("an unknown filter {}", case.filter).into());
    }
    let want = Image::load(rig.golden.path(file))?;
    let got = Image::load(rig.golden.path(&case.source))?.resize_to_area(case.target_area)?;
    report.exact("size", &[(want.width(), want.height())], &[(got.width(), got.height())]);
    report.exact("samples", want.rgb(), got.rgb());
    Ok(())
}
