//! Names of the pictures, found and checked before the work begins.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::{Code, Failure};

/// Formats that somebody may expect by the ending and would not get.
const OTHER_FORMATS: [&str; 9] = ["jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "jxl"];

/// Where pictures go.
#[derive(Debug)]
pub enum Output {
    /// To these files, one for each picture.
    Named(Vec<PathBuf>),
    /// To new files in the current folder, named by time and seed.
    Dated,
}

impl Output {
    /// The files for pictures of these seeds. `%d` and `%03d` in the name count from 1, `{seed}` is the seed.
    pub fn plan(given: Option<&Path>, seeds: &[u64]) -> Result<Self, Failure> {
        let Some(given) = given else {
            check_folder(Path::new("."))?;
            return Ok(Self::Dated);
        };
        let ending = given.extension().and_then(OsStr::to_str).unwrap_or("").to_ascii_lowercase();
        if OTHER_FORMATS.contains(&ending.as_str()) {
            let message = format!("output {}: only PNG is written; end the name in .png", given.display());
            return Err(Failure::usage(message));
        }
        let ends_in_slash = given.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = given.file_name().filter(|_| !ends_in_slash && !given.is_dir()) else {
            let message = format!("output {}: is a folder; expected the name of a file", given.display());
            return Err(Failure::new(Code::Failed, message));
        };
        let pattern = pattern(name, seeds.len());
        let paths: Vec<PathBuf> = seeds
            .iter()
            .enumerate()
            .map(|(i, &seed)| match &pattern {
                Some(pattern) => given.with_file_name(expand(pattern, i + 1, seed)),
                None => given.to_owned(),
            })
            .collect();
        let mut seen = HashSet::new();
        if let Some(twice) = paths.iter().find(|path| !seen.insert(*path)) {
            return Err(Failure::usage(format!(
                "output {}: two pictures would get this name",
                twice.display()
            ))
            .hint("%03d in the name counts the pictures"));
        }
        // a picture takes the place of what has its name: of a file, but of no folder, pipe or device
        if let Some(other) = paths.iter().find(|path| path.exists() && !path.is_file()) {
            let message = format!("output {}: is there and is no file", other.display());
            return Err(Failure::new(Code::Failed, message));
        }
        check_folder(parent(given))?;
        Ok(Self::Named(paths))
    }

    /// Where the picture of this number, from 0, goes.
    pub fn path(&self, index: usize, seed: u64) -> PathBuf {
        match self {
            Self::Named(paths) => paths[index].clone(),
            Self::Dated => unused(&format!("bonsai-{}-{seed}", timestamp(SystemTime::now()))),
        }
    }
}

/// The name with its placeholders; several pictures need one. A name that is no text has none.
fn pattern(name: &OsStr, pictures: usize) -> Option<String> {
    let name = name.to_str()?;
    if pictures <= 1 || expand(name, 1, 1) != expand(name, 2, 2) {
        return Some(name.to_owned());
    }
    Some(match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => format!("{stem}-%03d.{ending}"),
        _ => format!("{name}-%03d"),
    })
}

fn expand(pattern: &str, number: usize, seed: u64) -> String {
    /// More digits are a typing error.
    const WIDEST: usize = 20;
    let pattern = pattern.replace("{seed}", &seed.to_string());
    let mut expanded = String::new();
    let mut rest = pattern.as_str();
    while let Some((before, after)) = rest.split_once('%') {
        expanded.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match after[..digits].parse().or(if digits == 0 { Ok(0) } else { Err(()) }) {
            Ok(width) if width <= WIDEST && after[digits..].starts_with('d') => {
                expanded.push_str(&format!("{number:0width$}"));
                rest = &after[digits + 1..];
            }
            _ => {
                expanded.push('%');
                rest = after;
            }
        }
    }
    expanded + rest
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Tries whether files can be made in a folder: the surest way to know.
fn check_folder(folder: &Path) -> Result<(), Failure> {
    let probe = folder.join(format!(".bonsai-{}.probe", std::process::id()));
    let failed = |e: &std::io::Error| format!("output folder {}: {e}", folder.display());
    match File::create_new(&probe) {
        Ok(_) => {
            fs::remove_file(&probe).map_err(|e| Failure::new(Code::Failed, failed(&e)))?;
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(Failure::new(Code::Failed, failed(&e))),
    }
}

/// `stem.png`, or `stem-1.png`, `stem-2.png`, .. where that is taken.
fn unused(stem: &str) -> PathBuf {
    let mut path = PathBuf::from(format!("{stem}.png"));
    let mut count = 0;
    while path.symlink_metadata().is_ok() {
        count += 1;
        path = PathBuf::from(format!("{stem}-{count}.png"));
    }
    path
}

/// UTC as `20261122-143501`.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil_date(seconds / 86_400);
    let second = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day after 1970-01-01, in the Gregorian calendar. Years are counted from March, so
/// that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const FROM_0000_03_01: u64 = 719_468;
    let days = days + FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    #[test]
    fn dates() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101-000000");
        assert_eq!(at(951_782_400), "20000229-000000");
        assert_eq!(at(1_795_358_101), "20261122-143501");
        assert_eq!(at(4_107_542_399), "21000228-235959");
        assert_eq!(at(4_107_542_400), "21000301-000000");
    }

    #[test]
    fn placeholders() {
        assert_eq!(expand("a-%03d-{seed}.png", 7, 42), "a-007-42.png");
        assert_eq!(expand("%d%%5d%x%99999999999999999999d", 7, 42), "7%00007%x%99999999999999999999d");
        assert_eq!(pattern(OsStr::new("a.b.png"), 2).unwrap(), "a.b-%03d.png");
        assert_eq!(pattern(OsStr::new(".png"), 2).unwrap(), ".png-%03d");
        assert_eq!(pattern(OsStr::new("{seed}"), 2).unwrap(), "{seed}");
    }
}
