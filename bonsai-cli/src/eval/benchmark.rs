//! The benchmark's prompts and the table of how many were painted as asked.

use std::collections::BTreeMap;
use std::path::Path;

use bonsai_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The tasks in the order of the table; their mean is the overall score. After GenEval (Ghosh et al., 2023).
const TASKS: [&str; 6] = ["single object", "two objects", "counting", "colours", "position", "binding"];

/// `benchmark.json`.
#[derive(Debug, Deserialize)]
pub struct Benchmark {
    heads: Vec<Head>,
    pub prompts: Vec<Prompt>,
}

/// An attribute that the judge reads.
#[derive(Debug, Deserialize)]
struct Head {
    name: String,
    classes: Vec<String>,
}

/// One prompt and what its picture has to show.
#[derive(Debug, Deserialize)]
pub struct Prompt {
    pub prompt: String,
    pub seed: u64,
    /// Whether training never saw this combination of attributes.
    pub held_out: bool,
    /// Class of each head that the words fix.
    expect: BTreeMap<String, usize>,
    /// Heads that have to be right for each task.
    tasks: BTreeMap<String, Vec<String>>,
}

/// Which heads were right, of those that the words fix.
pub struct Verdict<'a>(BTreeMap<&'a str, bool>);

impl Benchmark {
    /// Reads the file.
    ///
    /// # Errors
    /// When it can't be read, or names a head, class or task that there is none of.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let format = |what: String| Error::new(ErrorKind::ModelFormat, format!("{}: {what}", path.display()));
        let benchmark: Self = serde_json::from_slice(&bytes).map_err(|e| format(e.to_string()))?;
        for (index, prompt) in benchmark.prompts.iter().enumerate() {
            let wrong = |what: String| format(format!("prompts[{index}]: {what}"));
            for (name, &class) in &prompt.expect {
                let head = benchmark.heads.iter().find(|h| h.name == *name);
                let head = head.ok_or_else(|| wrong(format!("expect: no head {name:?}")))?;
                if class >= head.classes.len() {
                    let what = format!("expect.{name}: class {class} of {}", head.classes.len());
                    return Err(wrong(what));
                }
            }
            for (task, heads) in &prompt.tasks {
                if !TASKS.contains(&task.as_str()) {
                    return Err(wrong(format!("tasks: expected one of {TASKS:?}, found {task:?}")));
                }
                if let Some(head) = heads.iter().find(|h| !prompt.expect.contains_key(*h)) {
                    return Err(wrong(format!("tasks.{task}: head {head:?} is not in expect")));
                }
            }
        }
        Ok(benchmark)
    }

    /// Classes of all heads together.
    pub fn classes(&self) -> usize {
        self.heads.iter().map(|h| h.classes.len()).sum()
    }

    /// Compares the judge's scores with what the prompt fixes: in each head the greatest score counts.
    pub fn verdict<'a>(&'a self, prompt: &Prompt, scores: &[f32]) -> Verdict<'a> {
        let mut right = BTreeMap::new();
        let mut rest = scores;
        for head in &self.heads {
            let (mine, others) = rest.split_at(head.classes.len());
            rest = others;
            let best =
                mine.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(class, _)| class);
            if let Some(&expected) = prompt.expect.get(&head.name) {
                right.insert(head.name.as_str(), best == Some(expected));
            }
        }
        Verdict(right)
    }
}

/// Passed and asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    asked: usize,
}

impl Tally {
    fn add(&mut self, passed: bool) {
        self.passed += usize::from(passed);
        self.asked += 1;
    }

    fn share(self) -> Option<f64> {
        (self.asked > 0).then(|| self.passed as f64 / self.asked as f64)
    }
}

/// Counts of one kind of prompt.
#[derive(Debug, Default)]
pub struct Score {
    tasks: [Tally; TASKS.len()],
    attributes: Tally,
    pictures: Tally,
}

/// Shares from 0 to 1; null where nothing was asked.
#[derive(Debug, Serialize)]
pub struct Shares {
    prompts: usize,
    tasks: Vec<(&'static str, Option<f64>)>,
    /// Mean of the tasks.
    overall: Option<f64>,
    /// Single attributes, of all that the words fix.
    attributes: Option<f64>,
    /// Pictures in which all of them are right.
    all_at_once: Option<f64>,
}

impl Score {
    /// Counts one picture.
    pub fn add(&mut self, prompt: &Prompt, verdict: &Verdict<'_>) {
        let right = |head: &str| verdict.0.get(head).copied().unwrap_or(false);
        for (name, tally) in TASKS.iter().zip(&mut self.tasks) {
            if let Some(heads) = prompt.tasks.get(*name) {
                tally.add(heads.iter().all(|h| right(h)));
            }
        }
        verdict.0.values().for_each(|&right| self.attributes.add(right));
        self.pictures.add(verdict.0.values().all(|&right| right));
    }

    /// The shares so far.
    pub fn shares(&self) -> Shares {
        let tasks: Vec<_> = TASKS.iter().zip(self.tasks).map(|(&name, t)| (name, t.share())).collect();
        let known: Vec<f64> = tasks.iter().filter_map(|(_, share)| *share).collect();
        Shares {
            prompts: self.pictures.asked,
            overall: (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64),
            tasks,
            attributes: self.attributes.share(),
            all_at_once: self.pictures.share(),
        }
    }
}

/// One column for each kind of prompt.
pub fn table(columns: &[(&str, Shares)]) -> String {
    let line = |name: &str, cell: &dyn Fn(&Shares) -> Option<f64>| {
        let cells = columns.iter().map(|(_, shares)| {
            cell(shares).map_or(format!("{:>12}", "-"), |v| format!("{:>10.1} %", 100.0 * v))
        });
        format!("{name:<14}{}", cells.collect::<String>())
    };
    let head: String = columns.iter().map(|(name, _)| format!("{name:>12}")).collect();
    let prompts: String = columns.iter().map(|(_, shares)| format!("{:>12}", shares.prompts)).collect();
    let mut lines = vec![format!("{:<14}{head}", ""), format!("{:<14}{prompts}", "prompts")];
    lines.extend(TASKS.iter().enumerate().map(|(i, name)| line(name, &|s| s.tasks[i].1)));
    lines.push(line("overall", &|s| s.overall));
    lines.push(line("attributes", &|s| s.attributes));
    lines.push(line("all at once", &|s| s.all_at_once));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"heads": [{"name": "count", "classes": ["1", "2"]}, {"name": "side", "classes": ["none", "left", "right"]}],
        "prompts": [
            {"prompt": "two", "seed": 1, "held_out": false, "expect": {"count": 1}, "tasks": {"counting": ["count"]}},
            {"prompt": "left", "seed": 2, "held_out": true, "expect": {"count": 0, "side": 1},
             "tasks": {"counting": ["count"], "position": ["side"]}}]}"#;

    fn open(text: &str) -> Result<Benchmark> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("benchmark.json");
        std::fs::write(&path, text).unwrap();
        Benchmark::open(&path)
    }

    #[test]
    fn scores_count_what_the_words_fix() {
        let benchmark = open(FILE).unwrap();
        assert_eq!(benchmark.classes(), 5);
        let mut score = Score::default();
        // the first prompt says nothing of a side
        for (prompt, scores) in
            benchmark.prompts.iter().zip([[0.0, 1.0, 9.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0, 1.0]])
        {
            score.add(prompt, &benchmark.verdict(prompt, &scores));
        }
        let shares = score.shares();
        let of = |name: &str| shares.tasks.iter().find(|(task, _)| *task == name).unwrap().1;
        assert_eq!((of("counting"), of("position"), of("binding")), (Some(1.0), Some(0.0), None));
        assert_eq!((shares.overall, shares.all_at_once), (Some(0.5), Some(0.5)));
        assert_eq!((shares.attributes, shares.prompts), (Some(2.0 / 3.0), 2));
        let text = table(&[("held-in", shares)]);
        assert!(
            text.contains("counting           100.0 %") && text.contains("binding                  -"),
            "{text}"
        );
    }

    #[test]
    fn unsound_files_are_refused_by_name() {
        for (from, to, said) in [
            (
                r#""expect": {"count": 1}"#,
                r#""expect": {"count": 2}"#,
                "prompts[0]: expect.count: class 2 of 2",
            ),
            (r#""expect": {"count": 1}"#, r#""expect": {"cat": 1}"#, r#"expect: no head "cat""#),
            (r#""position""#, r#""taste""#, r#"found "taste""#),
            (r#"["side"]"#, r#"["sky"]"#, r#"head "sky" is not in expect"#),
            (r#""seed": 1"#, r#""seed": -1"#, "line 3"),
        ] {
            assert!(FILE.contains(from));
            let error = open(&FILE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("benchmark.json"), "{error}");
        }
    }
}
