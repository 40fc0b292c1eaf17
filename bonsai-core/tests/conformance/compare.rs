//! The table of comparisons and what each may differ by.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bonsai_core::Image;

use crate::manifest::Tensor;

/// Least bound on the relative rms for the text encoder and the VAE.
pub const ENCODER_FLOOR: f64 = 1e-5;
/// Least bound on the relative rms for the transformer and all that follows it.
pub const TRANSFORMER_FLOOR: f64 = 1e-4;
/// Bound on the relative rms of one f32 matrix product, and of what the reference sums in f64.
pub const PRODUCT_FLOOR: f64 = 1e-6;
/// The reference may move by a tenth of what an engine may.
const TIMES_REFERENCE_ERROR: f64 = 10.0;

/// Bound on the relative rms in a coarser precision than f32, where the reference was not run in bf16.
const COARSE: f64 = 0.02;

/// Part of the samples of a whole run's picture that may be one level off.
pub const END_TO_END_SHARE: f64 = 0.005;
/// The same where the decoded values are given, and between instruction sets.
pub const PICTURE_SHARE: f64 = 0.001;

struct Row {
    stage: String,
    file: String,
    what: String,
    max_abs: Option<f64>,
    relative: Option<f64>,
    bound: String,
    /// Found over allowed; above 1 is a miss, and so is NaN.
    ratio: f64,
    /// Printed behind the row.
    note: String,
}

impl Row {
    fn ok(&self) -> bool {
        self.ratio <= 1.0
    }
}

/// All comparisons of one run over the golden directory.
pub struct Report {
    title: String,
    /// Judges by how far the reference moves in bf16.
    coarse: bool,
    stage: String,
    file: String,
    rows: Vec<Row>,
    /// Digest of every float result, for comparison with another run.
    digests: BTreeMap<String, u64>,
    pictures: BTreeMap<String, Image>,
}

/// Largest difference, and rms of the difference over the rms of `want`.
pub fn difference(want: &[f32], got: &[f32]) -> (f64, f64) {
    let (mut max, mut squares, mut reference) = (0.0f64, 0.0, 0.0);
    for (&w, &g) in want.iter().zip(got) {
        let d = (f64::from(g) - f64::from(w)).abs();
        // `max` alone would drop a NaN
        max = if d.is_nan() { d } else { max.max(d) };
        squares += d * d;
        reference += f64::from(w) * f64::from(w);
    }
    let n = want.len().max(1) as f64;
    let scale = if reference > 0.0 { (reference / n).sqrt() } else { 1.0 };
    (max, (squares / n).sqrt() / scale)
}

impl Report {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            coarse: false,
            stage: String::new(),
            file: String::new(),
            rows: Vec::new(),
            digests: BTreeMap::new(),
            pictures: BTreeMap::new(),
        }
    }

    /// The same, judged by how far the reference moves when it runs in bf16; pictures are kept, not compared.
    pub fn coarse(self) -> Self {
        Self { coarse: true, ..self }
    }

    /// What follows belongs to this stage and file.
    pub fn begin(&mut self, stage: &str, file: &str) {
        (self.stage, self.file) = (stage.to_owned(), file.to_owned());
    }

    fn push(&mut self, what: &str, measured: Option<(f64, f64)>, bound: String, ratio: f64, note: String) {
        let (stage, file, what) = (self.stage.clone(), self.file.clone(), what.to_owned());
        let (max_abs, relative) = measured.unzip();
        self.rows.push(Row { stage, file, what, max_abs, relative, bound, ratio, note });
    }

    /// Something went wrong, or is not as it should be.
    pub fn fail(&mut self, what: &str, message: impl Into<String>) {
        self.push(what, None, "-".into(), f64::INFINITY, message.into());
    }

    /// Passes without a check, and says why.
    pub fn note(&mut self, what: &str, message: impl Into<String>) {
        self.push(what, None, "-".into(), 0.0, message.into());
    }

    /// Holds or does not.
    pub fn check(&mut self, what: &str, ok: bool, message: impl Into<String>) {
        if ok { self.note(what, "") } else { self.fail(what, message) }
    }

    /// Relative rms within the larger of `floor` and ten times the reference's own error.
    pub fn close(&mut self, want: &Tensor, got: &[f32], floor: f64) {
        let mut bound = want.reference_error.map_or(floor, |e| floor.max(TIMES_REFERENCE_ERROR * e));
        if self.coarse {
            bound = bound.max(want.bf16_error.unwrap_or(COARSE));
        }
        self.measure(want, got, |(_, relative)| (relative / bound, format!("{bound:.1e}")));
    }

    /// Every value within `bound`.
    pub fn within(&mut self, want: &Tensor, got: &[f32], bound: f64) {
        self.measure(want, got, |(max, _)| (max / bound, format!("{bound:.0e} abs")));
    }

    fn measure(&mut self, want: &Tensor, got: &[f32], judge: impl Fn((f64, f64)) -> (f64, String)) {
        let values = match want.floats() {
            Ok(values) => values,
            Err(error) => return self.fail(&want.name, error.to_string()),
        };
        if values.len() != got.len() {
            return self.fail(&want.name, format!("{} values expected, {} found", values.len(), got.len()));
        }
        self.digests.insert(format!("{} {}", self.file, want.name), digest(got));
        let measured = difference(&values, got);
        let (ratio, bound) = judge(measured);
        self.push(&want.name, Some(measured), bound, ratio, String::new());
    }

    /// Every bit as recorded, except that 0 and -0 are equal.
    pub fn exact_floats(&mut self, want: &Tensor, got: &[f32]) {
        match want.floats() {
            Ok(values) => {
                self.digests.insert(format!("{} {}", self.file, want.name), digest(got));
                let measured = (values.len() == got.len()).then(|| difference(&values, got));
                let (equal, note) = differing(&values, got);
                self.push(
                    &want.name,
                    measured,
                    "exact".into(),
                    if equal { 0.0 } else { f64::INFINITY },
                    note,
                );
            }
            Err(error) => self.fail(&want.name, error.to_string()),
        }
    }

    /// Element by element the same.
    pub fn exact<T: PartialEq + Debug>(&mut self, what: &str, want: &[T], got: &[T]) {
        let (equal, note) = differing(want, got);
        self.push(what, None, "exact".into(), if equal { 0.0 } else { f64::INFINITY }, note);
    }

    /// No NaN, no infinity.
    pub fn finite(&mut self, what: &str, values: &[f32]) {
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        self.check(what, bad == 0, format!("{bad} values are not finite"));
    }

    /// Our distance to `yardstick` is that of the reference, to a tenth.
    pub fn as_far_as(&mut self, yardstick: &Tensor, want: &Tensor, got: &[f32]) {
        const SLACK: f64 = 0.1;
        let both = yardstick.floats().and_then(|y| Ok((y, want.floats()?)));
        let (yardstick_values, want) = match both {
            Ok(values) => values,
            Err(error) => return self.fail(&yardstick.name, error.to_string()),
        };
        if want.len() != got.len() || want.len() != yardstick_values.len() {
            return self.fail(&yardstick.name, "shapes differ");
        }
        let expected = difference(&yardstick_values, &want).1;
        let measured = difference(&yardstick_values, got);
        let ratio = (measured.1 / expected - 1.0).abs() / SLACK;
        self.push(
            &yardstick.name,
            Some(measured),
            format!("{expected:.1e} +-10%"),
            ratio,
            "a yardstick".into(),
        );
    }

    /// Pictures at most one level apart, on at most this part of the samples.
    pub fn picture(&mut self, what: &str, want: &Image, got: &Image, share: f64) {
        if (want.width(), want.height()) != (got.width(), got.height()) {
            let (w, g) = ((want.width(), want.height()), (got.width(), got.height()));
            return self.fail(what, format!("size {w:?} expected, {g:?} found"));
        }
        let pairs = || want.rgb().iter().zip(got.rgb());
        let levels = pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        let off = pairs().filter(|(a, b)| a != b).count();
        let found = off as f64 / want.rgb().len() as f64;
        let ratio = if levels > 1 { f64::INFINITY } else { found / share };
        let note = format!("{off} of {} samples differ", want.rgb().len());
        if self.coarse {
            return self.note(what, note);
        }
        self.push(
            what,
            Some((levels.into(), found)),
            format!("1 level, {:.1} %", 100.0 * share),
            ratio,
            note,
        );
    }

    /// Keeps a picture for [`Report::same_pictures`].
    pub fn keep_picture(&mut self, picture: Image) {
        self.pictures.insert(self.file.clone(), picture);
    }

    /// Every float result of `other`, bit for bit.
    pub fn same_bits(&mut self, what: &str, one: &Self, other: &Self) {
        let unlike: Vec<_> =
            one.digests.iter().filter(|(key, bits)| other.digests.get(*key) != Some(bits)).collect();
        let note = match unlike.first() {
            Some((key, _)) => {
                format!("{} of {} results differ, {key} first", unlike.len(), one.digests.len())
            }
            None => format!("{} results, {} pictures", one.digests.len(), one.pictures.len()),
        };
        let same = unlike.is_empty()
            && one.digests.len() == other.digests.len()
            && one.pictures == other.pictures
            && !one.digests.is_empty();
        self.push(what, None, "same bits".into(), if same { 0.0 } else { f64::INFINITY }, note);
    }

    /// The pictures of both runs, within [`PICTURE_SHARE`]; one sample may always differ, as a small picture has
    /// fewer than a thousand.
    pub fn same_pictures(&mut self, what: &str, one: &Self, other: &Self) {
        if one.pictures.is_empty() {
            self.fail(what, "no picture was painted");
        }
        for (name, picture) in &one.pictures {
            match other.pictures.get(name) {
                Some(twin) => {
                    let share = PICTURE_SHARE.max(1.0 / picture.rgb().len() as f64);
                    self.picture(&format!("{what}: {name}"), picture, twin, share);
                }
                None => self.fail(&format!("{what}: {name}"), "not painted"),
            }
        }
    }

    pub fn misses(&self) -> usize {
        self.rows.iter().filter(|row| !row.ok()).count()
    }

    /// Every row, grouped by stage and file.
    pub fn print_rows(&self) {
        println!("\n== {}", self.title);
        let mut place = None;
        for row in &self.rows {
            if place != Some((&row.stage, &row.file)) {
                place = Some((&row.stage, &row.file));
                println!(
                    "\n{:<64} {:>9} {:>9}  {:<15}",
                    format!("{} {}", row.stage, row.file),
                    "max abs",
                    "rel rms",
                    "bound"
                );
            }
            let number = |n: Option<f64>| n.map_or_else(String::new, |n| format!("{n:.1e}"));
            let verdict = if row.ok() { "ok" } else { "MISS" };
            let (max, relative) = (number(row.max_abs), number(row.relative));
            println!("  {:<62} {max:>9} {relative:>9}  {:<15} {verdict:<5}{}", row.what, row.bound, row.note);
        }
    }

    /// For each stage the row that came nearest to its bound.
    pub fn print_summary(&self) {
        println!("\n-- {}: worst part of the bound reached", self.title);
        let mut stages: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !stages.contains(&row.stage.as_str()) {
                stages.push(&row.stage);
            }
        }
        for stage in stages {
            let rows: Vec<_> = self.rows.iter().filter(|row| row.stage == stage).collect();
            let severity = |row: &Row| if row.ratio.is_nan() { f64::INFINITY } else { row.ratio };
            let Some(worst) = rows.iter().max_by(|a, b| severity(a).total_cmp(&severity(b))) else {
                continue;
            };
            let misses = rows.iter().filter(|row| !row.ok()).count();
            let place =
                if worst.ratio == 0.0 { String::new() } else { format!("{} {}", worst.file, worst.what) };
            println!(
                "  {stage:<24} {:>4} rows {misses:>3} misses  {:>7.3}  {place}",
                rows.len(),
                worst.ratio
            );
        }
    }
}

fn differing<T: PartialEq + Debug>(want: &[T], got: &[T]) -> (bool, String) {
    if want.len() != got.len() {
        return (false, format!("{} values expected, {} found", want.len(), got.len()));
    }
    let mut unlike = want.iter().zip(got).enumerate().filter(|(_, (w, g))| w != g);
    match unlike.next() {
        Some((index, (w, g))) => {
            let note = format!(
                "{} of {} differ, first [{index}]: {w:?} expected, {g:?} found",
                1 + unlike.count(),
                want.len()
            );
            (false, note)
        }
        None => (true, String::new()),
    }
}

/// FNV-1a of the bits.
fn digest(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
