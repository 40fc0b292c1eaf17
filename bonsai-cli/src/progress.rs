//! What is seen while one waits: a bar on a terminal, a line for every finished stage elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use bonsai_core::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::print;

/// Ticks of a full bar.
const FULL: u64 = 1000;
/// Shares of the bar that text encoder and decoder get; the steps get the rest.
const TEXT_SHARE: f64 = 0.1;
const DECODE_SHARE: f64 = 0.2;

pub struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    quiet: bool,
    /// Number of the picture and how many there are.
    picture: (usize, usize),
    stage_began: Instant,
    step_times: Vec<Duration>,
    /// How long the last picture's decoding took.
    decode_time: Duration,
    warned: bool,
}

impl Progress {
    /// A bar where standard error is a terminal and `plain` is not asked for; nothing at all when `quiet`.
    pub fn new(quiet: bool, plain: bool) -> Self {
        let draws = !quiet && !plain && std::io::stderr().is_terminal();
        let bar = draws.then(|| {
            let bar = ProgressBar::with_draw_target(Some(FULL), ProgressDrawTarget::stderr_with_hz(10));
            // no colours: NO_COLOR has nothing to turn off
            let style = ProgressStyle::with_template("{bar:24} {msg} [{elapsed}]");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self {
            lines: !quiet && !draws,
            quiet,
            bar,
            picture: (0, 1),
            stage_began: Instant::now(),
            step_times: Vec::new(),
            decode_time: Duration::ZERO,
            warned: false,
        }
    }

    /// A remark, kept out of the bar's way; nothing when quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// A remark that is also due when quiet.
    pub fn warn(&self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::stderr(text)),
            None => print::stderr(text),
        }
    }

    /// Work of unknown length begins.
    pub fn stage(&mut self, name: &str) {
        self.stage_began = Instant::now();
        self.show(0.0, name.to_owned());
    }

    /// So much of the whole is done.
    pub fn fraction(&self, fraction: f64, what: &str) {
        self.show(fraction, what.to_owned());
    }

    /// The stage so far is done.
    pub fn done(&mut self, name: &str) {
        let took = self.stage_began.elapsed();
        if self.lines {
            let picture = self.picture_prefix();
            print::stderr(&format!("{picture}{name}: {:.2} s", took.as_secs_f64()));
        }
        self.stage_began = Instant::now();
    }

    /// A picture is begun.
    pub fn picture(&mut self, index: usize, of: usize) {
        self.picture = (index, of);
        self.step_times.clear();
        self.stage_began = Instant::now();
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
        }
        self.show(0.0, format!("{}text encoder", self.picture_prefix()));
    }

    fn picture_prefix(&self) -> String {
        match self.picture {
            (_, 1) => String::new(),
            (index, of) => format!("picture {}/{of}, ", index + 1),
        }
    }

    /// What the engine tells.
    pub fn event(&mut self, event: Event) {
        let prefix = self.picture_prefix();
        match event {
            Event::PromptCut { kept, cut } if !self.warned => {
                self.warned = true;
                self.warn(&format!("the prompt is too long: {cut} tokens were cut, {kept} fit"));
            }
            Event::TextEncode { layer, layers } => {
                let part = ratio(layer, layers);
                self.show(part * TEXT_SHARE, format!("{prefix}text encoder, layer {layer}/{layers}"));
                if layer == layers {
                    self.done("text encoder");
                }
            }
            Event::Step { step, steps, block, blocks } => {
                let part = ratio(block, blocks);
                let done = (step as f64 + part) / steps.max(1) as f64;
                let left = self.left((steps.saturating_sub(step) as f64 - part).max(0.0));
                let text = format!("{prefix}step {}/{steps}, block {block}/{blocks}{left}", step + 1);
                self.show(TEXT_SHARE + (1.0 - TEXT_SHARE - DECODE_SHARE) * done, text);
                if block == blocks {
                    self.step_times.push(self.stage_began.elapsed());
                    self.done(&format!("step {}/{steps}", step + 1));
                }
            }
            Event::Decode { part, parts } => {
                let done = ratio(part, parts);
                self.show(1.0 - DECODE_SHARE * (1.0 - done), format!("{prefix}decode, part {part}/{parts}"));
                if part == parts {
                    self.decode_time = self.stage_began.elapsed();
                    self.done("decode");
                }
            }
            _ => {}
        }
    }

    /// Time left by the mean of the steps so far and the last picture's decoding; unknown during the first step.
    fn left(&self, steps: f64) -> String {
        let Ok(known @ 1..) = u32::try_from(self.step_times.len()) else { return String::new() };
        let mean = self.step_times.iter().sum::<Duration>() / known;
        format!(", about {} left", short(mean.mul_f64(steps) + self.decode_time))
    }

    fn show(&self, fraction: f64, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_position((fraction.clamp(0.0, 1.0) * FULL as f64) as u64);
            bar.set_message(message);
        }
    }

    /// Takes the bar away, so that results can be printed. The next event draws it again.
    pub fn hide<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn ratio(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let shown = [0, 99, 100, 3599, 9000].map(|s| short(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "99 s", "2 min", "60 min", "2.5 h"]);
    }
}
