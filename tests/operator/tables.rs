//! Counters, limits and other bounds are declared once each, and everything that speaks of them agrees: what counts them, the
//! page of metrics, the sample and the documents. One that is added to its table alone fails here, and the test says what
//! is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use msrp_relay_core::Limit;
use msrprelay::config::Config;
use msrprelay::ops::metrics::{Endpoint, Facts, Place};
use msrprelay::telemetry::{Observed, Snapshot};
use serde_yaml::{Mapping, Value};
use testkit_net::bounded;
use testkit_net::scrape::{Page, get};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The Rust files below a directory: their paths, and their text up to their unit tests, without blanks.
fn sources(directory: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![Path::new(ROOT).join(directory)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\n").next().unwrap();
            let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
            found.insert(name, code.split_whitespace().collect());
        }
    }
    found
}

/// The sources of a directory as one text, but for some files.
fn code(directory: &str, but_for: &[&str]) -> String {
    let all = sources(directory);
    assert!(all.len() > 20, "{directory}: {} files", all.len());
    all.into_iter()
        .filter(|(name, _)| !but_for.iter().any(|no| name.contains(no)))
        .map(|(_, text)| text)
        .collect()
}

// -- counters --------------------------------------------------------------------------------------

/// What only the log tells.
const IN_NO_METRIC: [&str; 0] = [];

/// Figures of the relay core that are not published as they are, and why.
const UNPUBLISHED: [(&str, &str); 3] = [
    ("auth_failed", "each is an event, and is counted by its status"),
    ("reports_sent", "each is an event, and is counted by its status"),
    (
        "strays_dropped",
        "for the tests of the relay core: a peer makes as many as it likes, and they change nothing",
    ),
];

/// An endpoint that shows one core, with these figures.
fn endpoint() -> (Arc<Mutex<Snapshot>>, Endpoint) {
    let figures = Arc::new(Mutex::new(Snapshot::default()));
    let seen = Arc::clone(&figures);
    let observe = move || Observed { cores: vec![*seen.lock().unwrap()], ..Observed::default() };
    let place = Place::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    (figures, place.serve(Facts::default(), observe, || 0).unwrap())
}

/// All counters, each as often as there are kinds of it.
fn counters() -> Vec<&'static str> {
    Snapshot::default().each_mut().map(|(name, _)| name).collect()
}

#[test]
fn every_counter_moves_a_metric() {
    bounded(|| {
        let (figures, endpoint) = endpoint();
        let page = || {
            let body = get(endpoint.address(), "/metrics").body;
            body.lines().filter(|line| line.starts_with("msrprelay_")).map(str::to_owned).collect::<Vec<_>>()
        };
        let nothing = page();
        assert!(nothing.len() > 100, "{nothing:?}");
        assert_eq!(nothing, page(), "the page changes by itself: this test proves nothing");
        for (at, name) in counters().into_iter().enumerate() {
            let mut snapshot = Snapshot::default();
            *snapshot.each_mut().nth(at).unwrap().1 = 1_000_000_000;
            *figures.lock().unwrap() = snapshot;
            assert_ne!(
                page() == nothing,
                !IN_NO_METRIC.contains(&name),
                "{name} (number {at}): show it in src/ops/metrics/exposition.rs, or say why not in IN_NO_METRIC"
            );
        }
    });
}

#[test]
fn every_counter_is_counted_somewhere() {
    let table = &sources("src/telemetry")["src/telemetry/counters.rs"];
    let elsewhere = code("src", &["src/telemetry/", "src/ops/metrics/"]);
    let names: BTreeSet<_> = counters().into_iter().collect();
    assert!(names.len() > 35, "{names:?}");
    for name in names {
        // One of two counters may be chosen first, by reference.
        let mut ways = ["add", "sub", "set"].map(|way| format!(".{name}.{way}(")).to_vec();
        ways.extend([format!("&counters.{name}"), format!("&core.counters.{name}")]);
        let by_itself = ways.iter().any(|way| elsewhere.contains(way));
        // Those that are counted together, or by kind, have a method of their own.
        let by_method = [format!("self.{name}["), format!("self.{name}.add(")].iter().any(|place| {
            let mut methods = table.match_indices(place).filter_map(|(at, _)| {
                let (_, behind) = table[..at].rsplit_once("pubfn")?;
                behind.split('(').next()
            });
            methods.any(|method| elsewhere.contains(&format!(".{method}(")))
        });
        assert!(by_itself || by_method, "nothing counts {name}");
    }
}

#[test]
fn every_figure_of_the_relay_core_is_raised_there_and_published() {
    let text = fs::read_to_string(Path::new(ROOT).join("crates/msrp-relay-core/src/stats.rs")).unwrap();
    let (_, fields) = text.split_once("pub struct Stats {\n").unwrap();
    let fields = fields.lines().take_while(|line| *line != "}");
    let fields: Vec<_> =
        fields.filter_map(|line| Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0)).collect();
    assert!(fields.len() > 15, "{fields:?}");
    let (core, publish) =
        (code("crates/msrp-relay-core/src", &[]), &sources("src/runtime")["src/runtime/log.rs"]);
    for field in fields {
        let ways = ["stats.{}+=", "stats.{}.get_mut(", "&mutself.stats.{}", "self.{}.get_mut("];
        let is_raised = ways.iter().any(|way| core.contains(&way.replace("{}", field)));
        assert!(is_raised, "nothing raises {field} in the relay core");
        let is_published = publish.contains(&format!("now.{field}"));
        let is_excused = UNPUBLISHED.iter().any(|(unpublished, _)| *unpublished == field);
        assert_ne!(is_published, is_excused, "{field}: carry it over in publish(), src/runtime/log.rs");
    }
}

#[test]
fn every_value_of_a_label_is_explained() {
    // Numbers, keys of the config, paths and versions explain themselves.
    const PLAIN: [&str; 7] = ["core", "le", "limit", "certificate", "version", "code", "profile"];
    bounded(|| {
        let (_figures, endpoint) = endpoint();
        let documents = include_str!("../../docs/operate/metrics.md");
        let page = Page::of(endpoint.address());
        for (name, labels, _) in page.samples() {
            for (label, value) in labels.iter().filter(|(label, _)| !PLAIN.contains(&label.as_str())) {
                let is_explained = documents.contains(&format!("`{value}`"));
                assert!(is_explained, "{name}: {label}=\"{value}\" is not in docs/operate/metrics.md");
            }
        }
    });
}

// -- limits and other bounds -----------------------------------------------------------------------

#[test]
fn every_limit_is_enforced_somewhere() {
    // Not by the table itself, nor by the list of those that are told as warnings.
    let code = code("src", &["src/runtime/log.rs"]) + &code("crates/msrp-relay-core/src", &["src/limit.rs"]);
    let ends = |end: usize| !code[end..].starts_with(|c: char| c.is_alphanumeric());
    for limit in Limit::ALL {
        // `Self` where failures of a kind become one of them.
        let named = ["Limit::", "Self::"].map(|of| format!("{of}{limit:?}"));
        let is_named = named.iter().any(|name| code.match_indices(name).any(|(at, _)| ends(at + name.len())));
        assert!(is_named, "nothing counts {limit:?}");
    }
}

/// The sample with all that it offers in comments.
fn sample() -> Value {
    let text = include_str!("../../config.yaml.sample");
    let offered = |line: &str| {
        let rest = line.trim_start().strip_prefix('#')?;
        let is_it = rest.starts_with(|c: char| c.is_ascii_lowercase()) || rest.starts_with("  - {");
        is_it.then(|| line.replacen('#', "", 1))
    };
    let key = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
    let offers: BTreeSet<_> = text.lines().filter_map(offered).filter_map(|line| key(&line)).collect();
    let lines = text.lines().filter_map(|line| match offered(line) {
        Some(offered) => Some(offered),
        // The default of what is offered: one of them only.
        None if line.ends_with("[]") && key(line).is_some_and(|key| offers.contains(&key)) => None,
        None => Some(line.to_owned()),
    });
    serde_yaml::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap()
}

/// Every single value of a document, by the path of its key, is put in the place of another one.
fn replace(document: &mut Value, path: &str, with: &Value, found: &mut BTreeMap<String, String>) {
    match document {
        Value::Mapping(entries) if entries.is_empty() => {
            found.insert(path.to_owned(), "{}".to_owned());
            *document = Value::Mapping(Mapping::from_iter([("peer.example.net".into(), with.clone())]));
        }
        Value::Mapping(entries) => {
            for (key, value) in entries {
                let key = key.as_str().unwrap();
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                replace(value, &path, with, found);
            }
        }
        // The first entry speaks for all.
        Value::Sequence(entries) => {
            for entry in entries.iter_mut().filter(|entry| entry.is_mapping()).take(1) {
                replace(entry, path, with, found);
            }
        }
        value => {
            let text =
                value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()));
            found.insert(path.to_owned(), text.unwrap_or_default());
            *value = with.clone();
        }
    }
}

/// Every key with a floor and a ceiling: its default as the sample writes it, floor and ceiling as the refusal of a value
/// far above writes them.
fn bounds() -> BTreeMap<String, [String; 3]> {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("config.yaml");
    let mut found = BTreeMap::new();
    for far_above in [Value::from("99999d"), Value::from("9999999GiB"), Value::from(99_999_999_999_999_u64)] {
        let (mut document, mut defaults) = (sample(), BTreeMap::new());
        replace(&mut document, "", &far_above, &mut defaults);
        fs::write(&file, serde_yaml::to_string(&document).unwrap()).unwrap();
        let errors = Config::load(&file).map(|_| ()).expect_err("nothing is refused").to_string();
        for line in errors.lines() {
            let line = line.strip_prefix(&format!("{}: ", file.display())).unwrap();
            let Some((key, refusal)) = line.split_once(": ") else { continue };
            let Some((_, range)) = refusal.split_once(": write ") else { continue };
            let Some((floor, ceiling)) = range.split_once(" to ").filter(|_| refusal.contains(" is above "))
            else {
                continue;
            };
            let key = key.replace("[0]", "").replace(".peer.example.net", "");
            let default = defaults.get(&key).unwrap_or_else(|| panic!("{key}: {defaults:?}"));
            found.insert(key.clone(), [default, floor, ceiling].map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_bound_is_documented() {
    let bounds = bounds();
    let limits = bounds.keys().filter(|key| key.starts_with("limits.")).count();
    assert!(limits > 35 && bounds.len() > limits + 10, "{limits} limits of {bounds:?}");
    let pages = fs::read_dir(Path::new(ROOT).join("docs/operate")).unwrap();
    let pages = pages.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    // `64 KiB` is as good as `64KiB`.
    let pages: String = pages.collect::<String>().replace(' ', "");
    let mut missing = Vec::new();
    // Those of the section `limits` are compared with their table where that is: src/config/limits.rs.
    for (key, [default, floor, ceiling]) in bounds.iter().filter(|(key, _)| !key.starts_with("limits.")) {
        let cells = format!("|{default}|{floor}|{ceiling}|").replace(' ', "");
        let mut rows = pages.lines().filter(|line| line.starts_with(&format!("|`{key}`|")));
        if !rows.any(|row| row.contains(&cells)) {
            missing.push(format!("| `{key}` | ... | {default} | {floor} | {ceiling} | ... |"));
        }
    }
    assert!(missing.is_empty(), "to write in docs/operate/configuration.md:\n{}", missing.join("\n"));
}

#[test]
fn every_key_that_is_read_is_in_the_sample() {
    const READERS: [&str; 6] =
        [".value(\"", ".optional(\"", ".list(\"", ".map(\"", ".section(\"", ".sections(\""];
    let lines = include_str!("../../config.yaml.sample").lines();
    let sample: String = lines.map(|line| line.replace(['{', '#', '-', ' '], "\n") + "\n").collect();
    let code: String = sources("src/config").into_values().collect();
    let mut keys = BTreeSet::new();
    for reader in READERS {
        for (at, _) in code.match_indices(reader) {
            keys.extend(code[at + reader.len()..].split('"').next());
        }
    }
    assert!(keys.len() > 55, "{keys:?}");
    for key in keys {
        // A key may be explained in a comment alone.
        let is_there = sample.contains(&format!("\n{key}:")) || sample.contains(&format!("`{key}`"));
        assert!(is_there, "{key} is not in config.yaml.sample");
    }
}

#[test]
fn sample_names_the_range_of_every_bound() {
    let sample = include_str!("../../config.yaml.sample").replace('#', " ");
    let sample = sample.split_whitespace().collect::<Vec<_>>().join(" ");
    for (key, [_, floor, ceiling]) in bounds() {
        assert!(sample.contains(&format!("{floor} to {ceiling}")), "{key}: {floor} to {ceiling}");
    }
}
