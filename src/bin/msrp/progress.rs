//! Progress on stderr: a bar on a terminal, a line a second where `--progress` asks for it without one.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use msrprelay::ops::say;
use msrprelay::text;

use crate::units;

/// How far one file, or one benchmark, is.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    total: Option<u64>,
    unit: Unit,
    began: Instant,
    display: Display,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Octets,
    Pieces,
}

#[derive(Debug)]
enum Display {
    Off,
    Bar(ProgressBar),
    Lines { last: Cell<Instant> },
}

impl Progress {
    /// Shows itself on a terminal, or anyway if `forced`.
    pub(crate) fn new(label: &str, total: Option<u64>, forced: bool) -> Self {
        Self::of(Unit::Octets, label, total, forced)
    }

    /// As [`Self::new`], for what is not octets.
    pub(crate) fn counting(label: &str, total: Option<u64>, forced: bool) -> Self {
        Self::of(Unit::Pieces, label, total, forced)
    }

    fn of(unit: Unit, label: &str, total: Option<u64>, forced: bool) -> Self {
        let label = text::shown(label).into_owned();
        let display = match (std::io::stderr().is_terminal(), forced) {
            (true, _) => Display::Bar(bar(unit, &label, total)),
            (false, true) => Display::Lines { last: Cell::new(Instant::now()) },
            (false, false) => Display::Off,
        };
        Self { label, total, unit, began: Instant::now(), display }
    }

    /// So much is done.
    pub(crate) fn update(&self, amount: u64) {
        match &self.display {
            Display::Off => {}
            Display::Bar(bar) => bar.set_position(amount),
            Display::Lines { last } if last.get().elapsed() >= Duration::from_secs(1) => {
                last.set(Instant::now());
                self.print_line(amount);
            }
            Display::Lines { .. } => {}
        }
    }

    /// Takes the bar away, whatever came of it.
    pub(crate) fn finish(&self, amount: u64) {
        match &self.display {
            Display::Off => {}
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Lines { .. } => self.print_line(amount),
        }
    }

    fn print_line(&self, amount: u64) {
        let (done, all, rate) = match self.unit {
            Unit::Octets => {
                let rate = units::megabytes_per_second(amount, self.began.elapsed());
                (units::size(amount), self.total.map(units::size), format!("{rate:.1} MB/s"))
            }
            Unit::Pieces => {
                let rate = amount as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
                (amount.to_string(), self.total.map(|total| total.to_string()), format!("{rate:.0} a second"))
            }
        };
        match self.total.zip(all) {
            Some((total, all)) if total > 0 => {
                let percent = amount as f64 * 100.0 / total as f64;
                say::err(&format!("{}: {percent:3.0} %  {done} of {all}  {rate}", self.label));
            }
            _ => say::err(&format!("{}: {done}  {rate}", self.label)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn bar(unit: Unit, label: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match (total, unit) {
        (Some(total), Unit::Octets) => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {decimal_bytes_per_sec}  ETA {eta}",
        ),
        (Some(total), Unit::Pieces) => {
            (ProgressBar::new(total), "{msg} {wide_bar} {percent:>3} %  {pos} of {len}  {per_sec}  ETA {eta}")
        }
        (None, Unit::Octets) => {
            (ProgressBar::new_spinner(), "{msg} {spinner} {binary_bytes}  {decimal_bytes_per_sec}")
        }
        (None, Unit::Pieces) => (ProgressBar::new_spinner(), "{msg} {spinner} {pos}  {per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(label.to_owned());
    bar
}
