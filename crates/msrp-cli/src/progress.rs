//! Progress on stderr: a bar on a terminal, a line a second where `--progress` asks for it without one.
//!
//! Invariant: the text beside the bar leaves room for it in 60 columns.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use untrusted::say;
use untrusted::text;

use crate::units;

/// The rate covers so much time until now, so that it follows a connection that slows down or recovers.
const PACE_WINDOW: Duration = Duration::from_secs(5);
/// The time between two remembered amounts.
const PACE_STEP: Duration = Duration::from_millis(200);
/// A longer label is cut in its middle.
const LABEL_CHARS_MAX: usize = 14;
/// How often the text beside the bar changes: people read no faster.
const WORDS_EVERY: Duration = Duration::from_millis(250);

/// How far one file, or one benchmark, is.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    total: Option<u64>,
    unit: Unit,
    began: Instant,
    pace: Pace,
    display: Display,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Pieces,
}

#[derive(Debug)]
enum Display {
    Off,
    Bar { bar: ProgressBar, last: Cell<Option<Instant>> },
    Lines { last: Cell<Instant> },
}

impl Progress {
    /// Shows itself on a terminal, or anyway if `forced`.
    pub(crate) fn new(label: &str, total: Option<u64>, forced: bool) -> Self {
        Self::of(Unit::Bytes, label, total, forced)
    }

    /// As [`Self::new`], for a count of other things than bytes.
    pub(crate) fn counting(label: &str, total: Option<u64>, forced: bool) -> Self {
        Self::of(Unit::Pieces, label, total, forced)
    }

    fn of(unit: Unit, label: &str, total: Option<u64>, forced: bool) -> Self {
        let (label, began) = (shortened(&text::shown(label)), Instant::now());
        let display = match (std::io::stderr().is_terminal(), forced) {
            (true, _) => Display::Bar { bar: bar(&label, total), last: Cell::new(None) },
            (false, true) => Display::Lines { last: Cell::new(began) },
            (false, false) => Display::Off,
        };
        Self { label, total, unit, began, pace: Pace::new(began), display }
    }

    /// So much is done.
    pub(crate) fn update(&self, amount: u64) {
        let now = Instant::now();
        let is_due = |last: Instant, every| now.duration_since(last) >= every;
        match &self.display {
            Display::Off => {}
            Display::Bar { bar, last } => {
                self.pace.note(now, amount);
                bar.set_position(amount);
                if last.get().is_none_or(|last| is_due(last, WORDS_EVERY)) {
                    last.set(Some(now));
                    bar.set_message(self.words(amount, self.pace.rate()));
                }
            }
            Display::Lines { last } => {
                self.pace.note(now, amount);
                if is_due(last.get(), Duration::from_secs(1)) {
                    last.set(now);
                    say::err(&format!("{}: {}", self.label, self.words(amount, self.pace.rate())));
                }
            }
        }
    }

    /// Removes the bar after success or failure. The last line has the rate of the whole.
    pub(crate) fn finish(&self, amount: u64) {
        match &self.display {
            Display::Off => {}
            Display::Bar { bar, .. } => bar.finish_and_clear(),
            Display::Lines { .. } => {
                let rate = amount as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
                say::err(&format!("{}: {}", self.label, self.words(amount, rate)));
            }
        }
    }

    /// The text beside the bar, or of a line: percent, total, rate, and the remaining time.
    fn words(&self, amount: u64, rate: f64) -> String {
        let count = |amount: u64| match self.unit {
            Unit::Bytes => units::size(amount),
            Unit::Pieces => amount.to_string(),
        };
        let pace = match self.unit {
            // A rate beyond the largest integer is cut there.
            Unit::Bytes => format!("{}/s", units::size(rate as u64)),
            Unit::Pieces => format!("{rate:.0} a second"),
        };
        let Some(total) = self.total.filter(|total| *total > 0) else {
            return format!("{}  {pace}", count(amount));
        };
        let percent = (amount as f64 * 100.0 / total as f64).min(100.0);
        let left = match total.saturating_sub(amount) as f64 / rate {
            left if left < 360_000.0 => units::countdown(Duration::from_secs_f64(left)),
            _ => "-:--".to_owned(),
        };
        format!("{percent:.0} %  {}  {pace}  {left}", count(total))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar { bar, .. } = &self.display {
            bar.finish_and_clear();
        }
    }
}

/// The rate of the last seconds.
#[derive(Debug)]
struct Pace(RefCell<VecDeque<(Instant, u64)>>);

impl Pace {
    fn new(began: Instant) -> Self {
        Self(RefCell::new(VecDeque::from([(began, 0)])))
    }

    fn note(&self, now: Instant, amount: u64) {
        let mut samples = self.0.borrow_mut();
        // The last sample is always the newest; those before it are a step apart.
        if samples.len() > 1
            && samples.iter().rev().nth(1).is_some_and(|(at, _)| now.duration_since(*at) < PACE_STEP)
        {
            samples.pop_back();
        }
        samples.push_back((now, amount));
        while samples.len() > 2 && samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) > PACE_WINDOW)
        {
            samples.pop_front();
        }
    }

    fn rate(&self) -> f64 {
        let samples = self.0.borrow();
        let (Some((from, before)), Some((to, now))) = (samples.front(), samples.back()) else { return 0.0 };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds > 0.0 { now.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// The beginning and the end of a label: for a file, its name and its type.
fn shortened(label: &str) -> String {
    let characters: Vec<char> = label.chars().collect();
    if characters.len() <= LABEL_CHARS_MAX {
        return label.to_owned();
    }
    let (before, behind) = (LABEL_CHARS_MAX - 6, 5);
    let begin = characters.iter().take(before);
    let end = characters.iter().skip(characters.len() - behind);
    begin.chain(&['…']).chain(end).collect()
}

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{prefix} {wide_bar} {msg}"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(label.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_the_bar_there_is_room_for_it_in_60_columns() {
        let widest = Progress::new("a very long name of a film.mkv", Some(1023 << 40), false);
        assert_eq!(widest.label, "a very l…m.mkv");
        for (amount, rate) in [(1, 1.0), (1023 << 40, 1023.99 * 1024.0 * 1024.0), (5 << 40, 1e9), (0, 0.0)] {
            let words = widest.words(amount, rate);
            let taken = widest.label.chars().count() + 2 + words.chars().count();
            assert!(taken <= 56, "{words}");
        }
        let words = Progress::new("film.mkv", Some(2 << 30), false).words(1 << 30, f64::from(64 << 20));
        assert_eq!(words, "50 %  2.00 GiB  64.00 MiB/s  0:16");
        assert_eq!(Progress::new("pipe", None, false).words(1 << 20, 1024.0), "1.00 MiB  1.00 KiB/s");
    }

    #[test]
    fn rate_is_that_of_the_last_seconds() {
        let began = Instant::now();
        let pace = Pace::new(began);
        let at = |seconds: f64| began + Duration::from_secs_f64(seconds);
        // Ten seconds fast, then ten seconds slow, told a thousand times a second.
        for millis in 1..=20_000_u32 {
            let amount = 1000 * u64::from(millis.min(10_000)) + u64::from(millis.saturating_sub(10_000));
            pace.note(at(f64::from(millis) / 1000.0), amount);
            if millis == 10_000 {
                assert!((pace.rate() - 1e6).abs() < 1.0, "{}", pace.rate());
            }
        }
        assert!((pace.rate() - 1e3).abs() < 1.0, "{}", pace.rate());
        assert!(pace.0.borrow().len() < 40);
    }
}
