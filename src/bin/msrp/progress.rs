//! Progress on stderr: a bar on a terminal, a line a second where `--progress` asks for it without one.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::units;

/// How far one file is.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    total: Option<u64>,
    began: Instant,
    display: Display,
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
        let display = match (std::io::stderr().is_terminal(), forced) {
            (true, _) => Display::Bar(bar(label, total)),
            (false, true) => Display::Lines { last: Cell::new(Instant::now()) },
            (false, false) => Display::Off,
        };
        Self { label: label.to_owned(), total, began: Instant::now(), display }
    }

    /// So many octets are done.
    pub(crate) fn update(&self, octets: u64) {
        match &self.display {
            Display::Off => {}
            Display::Bar(bar) => bar.set_position(octets),
            Display::Lines { last } if last.get().elapsed() >= Duration::from_secs(1) => {
                last.set(Instant::now());
                self.print_line(octets);
            }
            Display::Lines { .. } => {}
        }
    }

    /// Takes the bar away, whatever came of the file.
    pub(crate) fn finish(&self, octets: u64) {
        match &self.display {
            Display::Off => {}
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Lines { .. } => self.print_line(octets),
        }
    }

    fn print_line(&self, octets: u64) {
        let rate = units::megabytes_per_second(octets, self.began.elapsed());
        match self.total {
            Some(total) if total > 0 => {
                let percent = octets as f64 * 100.0 / total as f64;
                let (done, all) = (units::size(octets), units::size(total));
                eprintln!("{}: {percent:3.0} %  {done} of {all}  {rate:.1} MB/s", self.label);
            }
            _ => eprintln!("{}: {}  {rate:.1} MB/s", self.label, units::size(octets)),
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

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {decimal_bytes_per_sec}  ETA {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {binary_bytes}  {decimal_bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(label.to_owned());
    bar
}
