//! Walks a YAML document key by key and remembers *every* problem, each under its key path.
//!
//! `serde`'s derived readers stop at the first error; an operator wants them all. So this file reads [`Value`]s itself:
//! a [`Section`] is one mapping, each known key is asked for once, and every other key is unknown. A problem never
//! carries a value that may be a secret: [`text`] does not quote.
//!
//! Invariants: a wrong key leaves its slot at the default, and the walk goes on; every problem says what is wrong and
//! what to write instead. Knows nothing of what the keys mean.

use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::problems::Problem;

/// All problems so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    /// The keys that misspelt ones were meant for: not missing, only wrong.
    meant: Vec<String>,
}

impl Problems {
    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        let (key, message) = (key.into(), message.into());
        self.list.push(Problem { key, message });
    }

    /// True if `key` or something below it is wrong already: then checks that depend on it must stay silent, or one
    /// mistake is reported twice.
    pub(super) fn under(&self, key: &str) -> bool {
        let wrong = self.list.iter().map(|problem| &problem.key);
        wrong.chain(&self.meant).any(|wrong| {
            wrong.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.list
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// How many keys of a section are named beside an unknown one.
const KEYS_SHOWN_MAX: usize = 12;
/// The shortest part of a key that shows which one is meant.
const PART_CHARS_MIN: usize = 4;

/// One mapping of the document. Dropping it is not enough: [`Section::finish`] reports unknown keys.
pub(super) struct Section<'p> {
    path: String,
    entries: Mapping,
    known: Vec<&'static str>,
    missing: Vec<(&'static str, &'static str)>,
    problems: &'p mut Problems,
}

impl<'p> Section<'p> {
    /// The whole document; an empty one is an empty mapping.
    pub(super) fn root(value: Value, problems: &'p mut Problems) -> Self {
        Self::open(String::new(), value, problems)
    }

    fn open(path: String, value: Value, problems: &'p mut Problems) -> Self {
        let entries = match value {
            Value::Mapping(entries) => entries,
            // `limits:` with every line below it commented out.
            Value::Null => Mapping::new(),
            other => {
                let remedy = "write it as `key: value` lines";
                problems.add(&path, format!("is {}, not a section: {remedy}", kind(&other)));
                Mapping::new()
            }
        };
        Self { path, entries, known: Vec::new(), missing: Vec::new(), problems }
    }

    /// The path of `key` in this section, as the operator reads it.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The path of the section itself.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        let path = self.path_of(key);
        self.problems.add(path, message);
    }

    /// True if `key` of this section, or something below it, was already found wrong.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.problems.under(&self.path_of(key))
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.entries.remove(key)
    }

    /// Reads `key` into `slot`; absent or wrong, the slot stays as it is.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        slot: &mut T,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) {
        let Some(value) = self.take(key) else { return };
        if value.is_null() {
            return self.problem(key, "has no value: give one or remove the line");
        }
        match read(&value) {
            Ok(read) => *slot = read,
            Err(message) => self.problem(key, message),
        }
    }

    /// Like [`Section::value`] for a key without a default.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        slot: &mut Option<T>,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) {
        self.value(key, slot, |value| read(value).map(Some));
    }

    /// Reads the list under `key`; true if there was one. Wrong items are reported one by one.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        slot: &mut Vec<T>,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> bool {
        let Some(items) = self.items(key) else {
            return false;
        };
        slot.clear();
        for (index, item) in items.iter().enumerate() {
            match read(item) {
                Ok(item) => slot.push(item),
                Err(message) => self.problem(&format!("{key}[{index}]"), message),
            }
        }
        true
    }

    /// Reads the mapping under `key`, whose keys are names that `name` reads. Wrong entries are reported one by one.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        slot: &mut Vec<(String, T)>,
        name: impl Fn(&str) -> Result<String, String>,
        read: impl Fn(&Value) -> Result<T, String>,
    ) {
        let entries = match self.take(key) {
            None => return,
            Some(Value::Mapping(entries)) => entries,
            Some(other) => {
                return self.problem(key, format!("is {}: write it as {{name: value, ...}}", kind(&other)));
            }
        };
        slot.clear();
        for (entry, value) in &entries {
            let Some(entry) = entry.as_str() else {
                self.problem(key, "has a name that is not text: put it in \"quotes\"");
                continue;
            };
            match (name(entry), read(value)) {
                (Ok(name), Ok(_)) if slot.iter().any(|(known, _)| *known == name) => {
                    self.problem(&join(key, entry), "is there twice: remove one");
                }
                (Ok(name), Ok(value)) => slot.push((name, value)),
                (name, value) => {
                    for message in [name.err(), value.err()].into_iter().flatten() {
                        self.problem(&join(key, entry), message);
                    }
                }
            }
        }
    }

    /// Reads the mapping under `key`; true if the key was there.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>)) -> bool {
        let Some(value) = self.take(key) else {
            return false;
        };
        let mut section = Section::open(self.path_of(key), value, self.problems);
        read(&mut section);
        section.finish();
        true
    }

    /// Reads the list of mappings under `key`; true if there was one.
    pub(super) fn sections(&mut self, key: &'static str, mut read: impl FnMut(&mut Section<'_>)) -> bool {
        let Some(items) = self.items(key) else {
            return false;
        };
        for (index, item) in items.into_iter().enumerate() {
            let path = self.path_of(&format!("{key}[{index}]"));
            if !item.is_mapping() {
                let found = kind(&item);
                self.problems.add(path, format!("is {found}: write it as {{key: value, ...}}"));
                continue;
            }
            let mut section = Section::open(path, item, self.problems);
            read(&mut section);
            section.finish();
        }
        true
    }

    fn items(&mut self, key: &'static str) -> Option<Vec<Value>> {
        match self.take(key)? {
            Value::Sequence(items) => Some(items),
            other => {
                let found = kind(&other);
                self.problem(key, format!("is {found}, not a list: write it in [brackets]"));
                None
            }
        }
    }

    /// Notes that `key` must be given but is not; reported at the end, unless it was only misspelt.
    pub(super) fn missing(&mut self, key: &'static str, message: &'static str) {
        self.missing.push((key, message));
    }

    /// Reports the unknown keys, and the missing ones.
    pub(super) fn finish(self) {
        for key in self.entries.keys() {
            let Some(key) = key.as_str() else {
                self.problems.add(&self.path, "has a key that is not text: remove it");
                continue;
            };
            let remedy = match nearest(key, &self.known) {
                Some(near) => {
                    self.problems.meant.push(join(&self.path, near));
                    format!("did you mean `{near}`?")
                }
                None if self.known.len() <= KEYS_SHOWN_MAX => {
                    format!("remove it, or write one of {}", self.known.join(", "))
                }
                None => "remove it, or see config.yaml.sample for the keys there are".to_owned(),
            };
            self.problems.add(join(&self.path, key), format!("unknown key: {remedy}"));
        }
        for (key, message) in self.missing {
            let key = join(&self.path, key);
            if !self.problems.under(&key) {
                self.problems.add(key, message);
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The kind of a value, in an operator's words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a section",
        Value::Tagged(_) => "a tagged value",
    }
}

// -- readers of single values -------------------------------------------------------------------

/// Text. A problem never repeats the value, because it may be a password.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.is_empty() => Err("is empty: give a value".to_owned()),
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => {
            Err(format!("is {}, not text: put it in \"quotes\"", kind(value)))
        }
        other => Err(format!("is {}, not text: give a single value", kind(other))),
    }
}

/// `true` or `false`; YAML's older `yes` and `on` are text to this parser.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{} is neither: write true or false", shown(value)))
}

/// A whole number, not negative.
pub(super) fn count(value: &Value) -> Result<usize, String> {
    value
        .as_u64()
        .and_then(|count| usize::try_from(count).ok())
        .ok_or_else(|| format!("{} is not a count: write a whole number such as 64", shown(value)))
}

/// A length of time with its unit: ms, s, m, h or d.
pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    const REMEDY: &str = "write a whole number and its unit, such as 250ms, 30s, 5m or 1h";
    let refused = || format!("{} is not a length of time: {REMEDY}", shown(value));
    let (number, unit) = split_unit(value).ok_or_else(refused)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        "" => {
            return Err(format!("{number} has no unit: write it as {number}s, or with ms, m, h or d"));
        }
        _ => return Err(refused()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(refused)
}

/// A number of bytes: B, KiB, MiB or GiB; a bare number counts bytes.
pub(super) fn size(value: &Value) -> Result<usize, String> {
    const REMEDY: &str = "write a whole number of bytes, or with KiB, MiB or GiB behind it";
    let refused = || format!("{} is not a size: {REMEDY}", shown(value));
    let (number, unit) = split_unit(value).ok_or_else(refused)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(refused()),
    };
    number.checked_mul(1 << shift).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(refused)
}

/// `16KiB` as (16, "KiB"); a space between them is fine.
fn split_unit(value: &Value) -> Option<(u64, &str)> {
    match value {
        Value::Number(number) => number.as_u64().map(|number| (number, "")),
        Value::String(text) => {
            let text = text.trim();
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = text.split_at(digits);
            Some((number.parse().ok()?, unit.trim_start()))
        }
        _ => None,
    }
}

/// One of a fixed set of words.
pub(super) fn word<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            format!("{} is not known here: write {}", shown(value), words.join(" or "))
        })
    }
}

/// Bounds the values of `read` by a floor and a ceiling, both allowed; `spell` writes them as the config does.
pub(super) fn bounded<T: PartialOrd + Copy>(
    read: impl Fn(&Value) -> Result<T, String>,
    (floor, ceiling): (T, T),
    spell: impl Fn(T) -> String,
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let read = read(value)?;
        let breach = if read < floor {
            format!("below {}", spell(floor))
        } else if read > ceiling {
            format!("above {}", spell(ceiling))
        } else {
            return Ok(read);
        };
        let remedy = format!("write {} to {}", spell(floor), spell(ceiling));
        Err(format!("{} is {breach}: {remedy}", spell(read)))
    }
}

/// A value as it stands in the file, shortened. Not for keys that hold secrets.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > 60 => {
            format!("\"{}...\"", text.chars().take(60).collect::<String>())
        }
        Value::String(text) => format!("\"{text}\""),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        other => kind(other).to_owned(),
    }
}

// -- near misses ---------------------------------------------------------------------------------

/// The known key that `key` probably means: one with a similar spelling, or one that contains it or is part of it.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase().replace(['-', ' '], "_");
    let key = key.as_str();
    let is_part = |near: &&&'static str| {
        let (short, long) = if key.len() < near.len() { (key, **near) } else { (**near, key) };
        short.len() >= PART_CHARS_MIN && long.contains(short)
    };
    let part = known.iter().filter(is_part).min_by_key(|near| near.len()).copied();
    nearly(key, known).or(part)
}

fn nearly(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let close_enough = (key.len() / 3).clamp(1, 3);
    known
        .iter()
        .map(|near| (edits(key, near), *near))
        .filter(|(edits, _)| *edits <= close_enough)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, near)| near)
}

/// How many single-letter edits lead from `from` to `to`.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&to) {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = *cell;
            *cell = substituted.min(diagonal + 1).min(left + 1);
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A length of time as the config spells it: in the largest unit that leaves nothing over.
pub(super) fn spell_duration(time: Duration) -> String {
    let millis = time.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis >= length && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

/// A size as the config spells it.
pub(super) fn spell_size(bytes: usize) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5 m", 300_000), ("1h", 3_600_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(&yaml(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(duration(&yaml("30")).unwrap_err().contains("write it as 30s"));
        for text in ["1.5s", "-1s", "s", "10w", "[]", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(&yaml(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in
            [("64KiB", 64 << 10), ("1 MiB", 1 << 20), ("2GiB", 2 << 30), ("77B", 77), ("77", 77)]
        {
            assert_eq!(size(&yaml(text)), Ok(bytes), "{text}");
        }
        for text in ["64KB", "64k", "-1", "1.5MiB", "18446744073709551615KiB", "true"] {
            assert!(size(&yaml(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn spelling_and_reading_are_inverse() {
        for millis in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let time = Duration::from_millis(millis);
            assert_eq!(duration(&yaml(&spell_duration(time))), Ok(time));
        }
        for bytes in [0, 1, 1023, 1024, 1025, 64 << 10, 1 << 20, 3 << 30] {
            assert_eq!(size(&yaml(&spell_size(bytes))), Ok(bytes));
        }
    }

    #[test]
    fn a_near_miss_is_recognised_and_a_far_one_is_not() {
        let known = ["certificate", "certificates", "key", "client_ca"];
        assert_eq!(nearest("certficate", &known), Some("certificate"));
        assert_eq!(nearest("kye", &known), None);
        assert_eq!(nearest("keys", &known), Some("key"));
        assert_eq!(nearest("private_key_path", &known), None);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn a_key_counts_as_wrong_with_what_is_below_it_only() {
        let mut problems = Problems::default();
        problems.add("tls.key", "x");
        problems.add("listen[1].address", "x");
        assert!(problems.under("tls") && problems.under("tls.key") && problems.under("listen"));
        assert!(!problems.under("tls.keys") && !problems.under("tls.certificate") && !problems.under("lis"));
    }
}
