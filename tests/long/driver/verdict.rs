//! Judges the figures: flat memory, permitted log lines, and the final table.

/// Runs of so many seconds have a first minute to warm up in, and a second one to compare the last with.
pub(crate) const LONG: usize = 180;

/// Log lines of level WARN or ERROR that the mix causes on purpose: a part of the line, and why.
const CAUSED_ON_PURPOSE: [(&str, &str); 0] = [];

/// The least, the middle and the greatest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spread {
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) max: u64,
}

impl Spread {
    fn of(samples: &[u64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { min, median: sorted[sorted.len() / 2], max })
    }
}

/// Each minute's spread; a sample a second.
pub(crate) fn minutes(samples: &[u64]) -> Vec<Spread> {
    samples.chunks(60).filter(|minute| minute.len() >= 30).filter_map(Spread::of).collect()
}

/// Two windows of a run, in seconds, whose medians are compared.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Windows {
    pub(crate) early: (usize, usize),
    pub(crate) late: (usize, usize),
    /// Memory may differ so much between the two.
    pub(crate) drift_percent_max: f64,
}

impl Windows {
    /// The second minute against the last one; of a run too short for that the second quarter against the last.
    pub(crate) fn of(seconds: usize) -> Self {
        let (step, drift_percent_max) = if seconds >= LONG { (60, 5.0) } else { (seconds / 4, 25.0) };
        Self { early: (step, 2 * step), late: (seconds - step, seconds), drift_percent_max }
    }

    /// By how many percent memory changed from the one to the other.
    pub(crate) fn drift(self, samples: &[u64]) -> Option<f64> {
        let median = |(from, to): (usize, usize)| Some(Spread::of(samples.get(from..to)?)?.median as f64);
        let (early, late) = (median(self.early)?, median(self.late)?);
        (early > 0.0).then(|| (late / early - 1.0) * 100.0)
    }
}

/// Lines of level WARN or ERROR that the mix did not cause on purpose, and how many it did.
pub(crate) fn bad_lines(log: &str) -> (Vec<&str>, usize) {
    let loud = log.lines().filter(|line| {
        let level = line.split_whitespace().nth(1);
        // A line in another form comes from a panic, or worse.
        !matches!(level, Some("INFO" | "DEBUG" | "TRACE"))
    });
    let (expected, bad): (Vec<&str>, Vec<&str>) =
        loud.partition(|line| CAUSED_ON_PURPOSE.iter().any(|(part, _)| line.contains(part)));
    (bad, expected.len())
}

/// The sum of `key` over all cores, from their last log lines.
pub(crate) fn counted(log: &str, key: &str) -> u64 {
    let words = log.lines().filter(|line| line.contains("Core stopped")).flat_map(str::split_whitespace);
    words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

/// The table: the question, the finding, the verdict.
#[derive(Default)]
pub(crate) struct Verdict(Vec<(&'static str, String, Option<bool>)>);

impl Verdict {
    /// Something that must hold.
    pub(crate) fn judge(&mut self, what: &'static str, found: String, good: bool) {
        self.0.push((what, found, Some(good)));
    }

    /// Something worth knowing.
    pub(crate) fn note(&mut self, what: &'static str, found: String) {
        self.0.push((what, found, None));
    }

    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(|(_, _, good)| *good != Some(false))
    }

    pub(crate) fn print(&self) {
        let width = self.0.iter().map(|(what, ..)| what.len()).max().unwrap_or_default();
        for (what, found, good) in &self.0 {
            let mark = match good {
                Some(true) => "ok  ",
                Some(false) => "FAIL",
                None => "    ",
            };
            println!("{mark}  {what:<width$}  {found}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_is_not_flat() {
        let flat: Vec<u64> = (0..600).map(|second| 20_000 + second % 60 * 100).collect();
        let windows = Windows::of(600);
        assert_eq!(windows, Windows { early: (60, 120), late: (540, 600), drift_percent_max: 5.0 });
        assert!(windows.drift(&flat).unwrap().abs() < 0.1);
        let grown: Vec<u64> = flat.iter().zip(0..).map(|(kib, second)| kib + second * 4).collect();
        assert!(windows.drift(&grown).unwrap() > windows.drift_percent_max);
        assert_eq!(minutes(&grown).len(), 10);
        assert_eq!(Windows::of(60), Windows { early: (15, 30), late: (45, 60), drift_percent_max: 25.0 });
        assert!(Windows::of(600).drift(&flat[..500]).is_none());
    }

    #[test]
    fn loud_lines_and_foreign_lines_are_bad() {
        let log = "2026-01-01T00:00:00.0Z  INFO msrprelay: Listening\n\
                   2026-01-01T00:00:00.0Z  WARN msrprelay: Degraded\n\
                   2026-01-01T00:00:00.0Z ERROR msrprelay: Core died\n\
                   thread 'core-0' panicked at src/relay/mod.rs:1:1:\n";
        assert_eq!(bad_lines(log).0.len(), 3);
        assert_eq!(counted("x Core stopped core=0 bytes=3\ny Core stopped core=1 bytes=4\n", "bytes="), 7);
    }

    #[test]
    fn one_bad_row_spoils_the_verdict() {
        let mut verdict = Verdict::default();
        verdict.judge("bytes", String::new(), true);
        verdict.note("speed", String::new());
        assert!(verdict.is_good());
        verdict.judge("memory", String::new(), false);
        assert!(!verdict.is_good());
    }
}
