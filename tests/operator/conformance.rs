//! Holds `docs/dev/conformance.md` true: every requirement has a row, every row says what is done about it, every test,
//! module and config key it names exists.
//!
//! The checks are plain functions over text, so that faulty tables can be tried here too. Whether a test proves its
//! row's claim is for a reader to judge; that it runs is not: an ignored test does not count.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests state what must hold")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The requirements, by letter, and how many of each.
const IDS: [(char, u32); 8] =
    [('C', 6), ('A', 16), ('F', 16), ('Q', 4), ('S', 16), ('G', 16), ('I', 16), ('T', 14)];

/// The codes of the second table.
const CODES: [&str; 16] = [
    "200", "400", "401", "403", "404", "408", "413", "415", "423", "424", "425", "428", "481", "501", "506",
    "other",
];

#[test]
fn every_requirement_has_a_row_that_holds() {
    let ids: Vec<String> =
        IDS.iter().flat_map(|(letter, n)| (1..=*n).map(move |n| format!("{letter}{n}"))).collect();
    assert_eq!(ids.len(), 104);
    let document = fs::read_to_string("docs/dev/conformance.md").unwrap();
    let mut problems = judge(&document, REQUIREMENTS, &ids, &Facts::of_this_project());
    let codes = CODES.map(str::to_owned);
    problems.extend(judge(&document, RESPONSE_CODES, &codes, &Facts::of_this_project()));
    assert!(problems.is_empty(), "docs/dev/conformance.md:\n{}", problems.join("\n"));
}

// -- tables ----------------------------------------------------------------------------------------

/// The headings of the two tables; the first one tells them apart.
const REQUIREMENTS: &[&str] = &["Id", "What is asked", "Level", "RFC", "What we chose", "Where", "Tests"];
const RESPONSE_CODES: &[&str] = &["Code", "When we send it", "What we do on receiving it", "Where", "Tests"];

/// Where the tests stand, apart from those beside what they test: a test's name begins below, as cargo prints it.
const TEST_BINARIES: [&str; 4] =
    ["crates/msrp-relay-core/tests/core", "tests/sockets", "tests/operator", "tests/cli"];

/// What exists.
struct Facts {
    /// Tests by `file::name`; true: ignored.
    tests: BTreeMap<String, bool>,
    /// Modules of the library.
    modules: BTreeSet<String>,
    /// Keys of the config, with dots.
    keys: BTreeSet<String>,
}

/// Everything that is wrong with one table of a document.
fn judge(document: &str, headings: &[&str], ids: &[String], facts: &Facts) -> Vec<String> {
    let mut problems = Vec::new();
    let mut met = BTreeSet::new();
    for row in rows(document, headings) {
        let id = row.first().cloned().unwrap_or_default();
        let mut complain = |what: &str| problems.push(format!("{id}: {what}"));
        if !ids.contains(&id) {
            complain("no such id");
        }
        if !met.insert(id.clone()) {
            complain("a second row");
        }
        if row.len() != headings.len() {
            complain(&format!("{} cells instead of {}", row.len(), headings.len()));
            continue;
        }
        for (heading, cell) in headings.iter().zip(&row).skip(1) {
            judge_cell(heading, cell, &row, facts, &mut complain);
        }
    }
    for id in ids.iter().filter(|id| !met.contains(*id)) {
        problems.push(format!("{id}: no row"));
    }
    problems
}

fn judge_cell(heading: &str, cell: &str, row: &[String], facts: &Facts, complain: &mut impl FnMut(&str)) {
    let level = row.get(2).map(String::as_str).unwrap_or_default();
    let is_ours_to_choose = level.split(", ").any(|level| ["P", "uncertain"].contains(&level));
    match heading {
        "Level" => {
            for level in
                cell.split(", ").filter(|level| !["M", "S", "Y", "d", "P", "uncertain"].contains(level))
            {
                complain(&format!("level {level:?}"));
            }
        }
        "What we chose" if is_ours_to_choose && !says_something(cell) => {
            complain("a choice was to be made, and none is stated");
        }
        "What we chose" => {}
        "RFC" if cell.is_empty() => complain("no section of an RFC"),
        "RFC" => {}
        "Where" => {
            for module in quoted(cell).filter(|name| !facts.modules.contains(*name)) {
                complain(&format!("there is no module {module}"));
            }
            if quoted(cell).next().is_none() && !row.last().is_some_and(|tests| is_excused(tests)) {
                complain("names no module");
            }
        }
        "Tests" => judge_tests(cell, facts, complain),
        _ if !says_something(cell) => complain(&format!("{heading:?} says nothing")),
        _ => {}
    }
    for key in quoted(cell).filter(|name| is_key(name) && !facts.keys.contains(*name)) {
        complain(&format!("there is no config key {key}"));
    }
}

fn judge_tests(cell: &str, facts: &Facts, complain: &mut impl FnMut(&str)) {
    for name in quoted(cell).filter(|name| name.contains("::")) {
        match facts.tests.get(name) {
            None => complain(&format!("there is no test {name}")),
            Some(true) => complain(&format!("test {name} is ignored")),
            Some(false) => {}
        }
    }
    if !is_excused(cell) && !quoted(cell).any(|name| name.contains("::")) {
        complain("names no test and does not say why");
    }
}

/// Whether a cell gives a reason why there is no test, or none for a part.
fn is_excused(cell: &str) -> bool {
    ["later: ", "not applicable: "]
        .iter()
        .any(|word| cell.split_once(word).is_some_and(|(_, reason)| says_something(reason)))
}

fn says_something(cell: &str) -> bool {
    cell.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count() >= 3
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// A name like `limits.head_bytes_max`; a host name has other letters or an ending of its own.
fn is_key(name: &str) -> bool {
    let part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    name.contains('.')
        && name.split('.').all(part)
        && !["invalid", "example", "md", "rs"].iter().any(|end| name.ends_with(&format!(".{end}")))
}

/// The rows of the table with these headings, their cells trimmed.
fn rows(document: &str, headings: &[&str]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        let cells = cells(line);
        if cells.iter().map(String::as_str).eq(headings.iter().copied()) {
            inside = true;
        } else if cells.is_empty() {
            inside = false;
        } else if inside && !cells.iter().all(|cell| cell.trim_matches([':', '-']).is_empty()) {
            rows.push(cells);
        }
    }
    rows
}

/// The cells of a line; none if it is not of a table. A bar behind a backslash is text.
fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) else {
        return Vec::new();
    };
    let mut cells = vec![String::new()];
    let mut escaped = false;
    for letter in inner.chars() {
        match letter {
            '|' if !escaped => cells.push(String::new()),
            _ => cells.last_mut().unwrap().push(letter),
        }
        escaped = letter == '\\' && !escaped;
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

// -- facts -----------------------------------------------------------------------------------------

impl Facts {
    fn of_this_project() -> Self {
        let mut facts = Self { tests: BTreeMap::new(), modules: BTreeSet::new(), keys: BTreeSet::new() };
        let mut roots: Vec<_> = TEST_BINARIES.map(|root| (PathBuf::from(root), None)).into();
        roots.push((PathBuf::from("src"), Some(String::new())));
        for entry in fs::read_dir("crates").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let root = Path::new("crates").join(&name).join("src");
            roots.push((root, Some(name.replace('-', "_"))));
        }
        for (root, library) in roots {
            walk(&root, &mut |path, source| {
                let module = module_of(path.strip_prefix(&root).unwrap());
                let names = [library.as_deref().unwrap_or_default(), &module];
                let module = names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join("::");
                facts
                    .tests
                    .extend(tests_in(source).map(|(name, ignored)| (format!("{module}::{name}"), ignored)));
                if library.is_some() {
                    facts.modules.insert(module);
                }
            });
        }
        facts.keys = keys_of(&fs::read_to_string("config.yaml.sample").unwrap());
        facts
    }
}

fn walk(directory: &Path, found: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

/// `relay/outbound/flow.rs` is `relay::outbound::flow`; files that only lead to others, or hold a module's tests, add
/// nothing.
fn module_of(path: &Path) -> String {
    let parts = path.with_extension("");
    let parts = parts.iter().map(|part| part.to_str().unwrap());
    parts.filter(|part| !["mod", "main", "lib", "tests"].contains(part)).collect::<Vec<_>>().join("::")
}

/// The names of the test functions in a source, and whether they are ignored.
fn tests_in(source: &str) -> impl Iterator<Item = (String, bool)> {
    let (mut is_test, mut is_ignored) = (false, false);
    source.lines().map(str::trim).filter_map(move |line| {
        is_test |= line.starts_with("#[test]");
        is_ignored |= line.starts_with("#[ignore");
        let name = line.strip_prefix("fn ")?.split(['(', '<']).next()?.to_owned();
        let found = is_test.then_some((name, is_ignored));
        (is_test, is_ignored) = (false, false);
        found
    })
}

/// The keys of a YAML file, those in comments (`#key: value`) included.
fn keys_of(sample: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    for line in sample.lines() {
        let line = line.replacen('#', "", usize::from(line.trim_start().starts_with('#')));
        let indent = line.len() - line.trim_start().len();
        let Some((key, _)) = line.trim_start().split_once(':') else { continue };
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            continue;
        }
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, key.to_owned()));
        keys.insert(path.iter().map(|(_, key)| &**key).collect::<Vec<_>>().join("."));
    }
    keys
}

// -- the judge is judged ---------------------------------------------------------------------------

fn facts() -> Facts {
    Facts {
        tests: [("pair::it_holds".to_owned(), false), ("pair::it_will".to_owned(), true)].into(),
        modules: ["relay::auth".to_owned()].into(),
        keys: ["limits.headers_max".to_owned()].into(),
    }
}

const GOOD: &str =
    "| C1 | a b \\| c | M, P | 6.1 | we do so (`limits.headers_max`) | `relay::auth` | `pair::it_holds` |";

fn problems_of(row: &str) -> Vec<String> {
    let headings = format!("| {} |\n|---|---|---|---|---|---|---|", REQUIREMENTS.join(" | "));
    judge(&format!("text\n\n{headings}\n{row}\n\n| Code | x |\n"), REQUIREMENTS, &["C1".to_owned()], &facts())
}

#[test]
fn good_rows_pass() {
    for row in [
        GOOD.to_owned(),
        GOOD.replace("`pair::it_holds`", "later: it comes with relays"),
        GOOD.replace("`relay::auth` | `pair::it_holds`", "- | not applicable: no such thing here"),
        GOOD.replace("`pair::it_holds`", "`pair::it_holds`; later: the other half of it"),
        GOOD.replace("M, P", "M").replace("we do so (`limits.headers_max`)", "-"),
    ] {
        assert_eq!(problems_of(&row), Vec::<String>::new(), "{row}");
    }
}

#[test]
fn wrong_rows_are_told_apart() {
    for (row, problem) in [
        (String::new(), "C1: no row"),
        (format!("{GOOD}\n{GOOD}"), "C1: a second row"),
        (GOOD.replace("C1", "C7"), "C7: no such id"),
        (GOOD.replace("a b \\| c", "a b | c"), "C1: 8 cells instead of 7"),
        (GOOD.replace("a b \\| c", "-"), "C1: \"What is asked\" says nothing"),
        (GOOD.replace("M, P", "M, X"), "C1: level \"X\""),
        (GOOD.replace("M, P", ""), "C1: level \"\""),
        (GOOD.replace("6.1", ""), "C1: no section of an RFC"),
        (
            GOOD.replace("we do so (`limits.headers_max`)", "-"),
            "C1: a choice was to be made, and none is stated",
        ),
        (
            GOOD.replace("M, P", "uncertain").replace("we do so (`limits.headers_max`)", ""),
            "C1: a choice was to be made, and none is stated",
        ),
        (GOOD.replace("headers_max", "header_max"), "C1: there is no config key limits.header_max"),
        (GOOD.replace("relay::auth", "relay::oath"), "C1: there is no module relay::oath"),
        (GOOD.replace("`relay::auth`", "somewhere"), "C1: names no module"),
        (GOOD.replace("it_holds", "it_held"), "C1: there is no test pair::it_held"),
        (GOOD.replace("it_holds", "it_will"), "C1: test pair::it_will is ignored"),
        (GOOD.replace("`pair::it_holds`", "-"), "C1: names no test and does not say why"),
        (GOOD.replace("`pair::it_holds`", "later: perhaps"), "C1: names no test and does not say why"),
    ] {
        let problems = problems_of(&row);
        assert!(problems.iter().any(|found| found == problem), "{row}\n{problem:?} is not in {problems:?}");
    }
}

#[test]
fn tests_are_found_where_they_are() {
    let source = "#[test]\nfn one() {}\nfn helper(x: u8) {}\n    #[test]\n    #[ignore = \"slow\"]\n    fn two(body in any()) {}\n// #[test]\nfn three() {}\n";
    let found: Vec<_> = tests_in(source).collect();
    assert_eq!(found, [("one".to_owned(), false), ("two".to_owned(), true)]);
    for (path, module) in [
        ("binding.rs", "binding"),
        ("rfc/mod.rs", "rfc"),
        ("rfc/auth.rs", "rfc::auth"),
        ("relay/mod.rs", "relay"),
        ("runtime/tls/tests.rs", "runtime::tls"),
    ] {
        assert_eq!(module_of(Path::new(path)), module);
    }
}

#[test]
fn keys_are_found_in_sections_and_comments() {
    let sample = "# Words: no key\n#realm: x\nauth:\n  # About it\n  memory:\n    #users:\n  backend: x  # y: z\nlog: {}\n";
    let keys = keys_of(sample);
    for key in ["realm", "auth", "auth.memory", "auth.memory.users", "auth.backend", "log"] {
        assert!(keys.contains(key), "{key}: {keys:?}");
    }
    assert!(!keys.contains("auth.memory.backend") && is_key("auth.backend") && !is_key("df7jal.invalid"));
}
