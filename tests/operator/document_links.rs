//! Checks what the documents say about each other and about the sources: links, anchors, paths, functions, figures, and
//! every command of the operators' pages.
//!
//! The checks are plain functions over text. Faulty documents are tried here too, at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Directories that hold none of our documents or sources.
const FOREIGN: [&str; 3] = ["target", ".git", "node_modules"];

fn files(directory: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && !path.is_symlink() {
            if !FOREIGN.contains(&name.as_str()) {
                files(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|one| extensions.iter().any(|wanted| one == *wanted)) {
            found.push(path);
        }
    }
}

/// Every document of the repository: its path from the root, and its text.
fn documents() -> BTreeMap<String, String> {
    let mut found = Vec::new();
    files(Path::new(ROOT), &["md"], &mut found);
    let found = found.into_iter().map(|path| {
        let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    found.collect()
}

/// All Rust sources below some directories, as one text.
fn sources(directories: &[&str]) -> String {
    let mut found = Vec::new();
    for directory in directories {
        files(&Path::new(ROOT).join(directory), &["rs"], &mut found);
    }
    found.into_iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// A document without its fenced blocks: links and headings in those are none.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The anchors of a document, as GitHub makes them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Where the links of a document lead: without code, in which brackets mean something else.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let without_code: String = prose.split('`').step_by(2).collect();
    let links = without_code.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.map(|link| link.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

/// A path from the root, from a document's link; `None` if it leads out of the tree.
fn resolved(document: &str, link: &str) -> Option<String> {
    let mut parts: Vec<_> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What is wrong with the links of a set of documents; `exists` knows the other files.
fn broken_links(documents: &BTreeMap<String, String>, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, text) in documents {
        for link in
            links(text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { Some(name.clone()) } else { resolved(name, file) };
            let Some(target) = target.filter(|target| documents.contains_key(target) || exists(target))
            else {
                problems.push(format!("{name}: {link} leads nowhere"));
                continue;
            };
            let known = documents.get(&target).is_none_or(|text| anchors(text).contains(anchor));
            if !anchor.is_empty() && !known {
                problems.push(format!("{name}: {link}: no such heading"));
            }
        }
    }
    problems
}

#[test]
fn every_relative_link_and_anchor_leads_somewhere() {
    let documents = documents();
    let count: usize = documents.values().map(|text| links(text).len()).sum();
    assert!(documents.len() > 25 && count > 150, "{} documents, {count} links", documents.len());
    let problems = broken_links(&documents, |path| Path::new(ROOT).join(path).exists());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_page_is_in_the_index() {
    let documents = documents();
    let index: BTreeSet<_> = links(&documents["docs/README.md"])
        .iter()
        .filter_map(|link| resolved("docs/README.md", link))
        .collect();
    for page in documents.keys().filter(|name| name.starts_with("docs/") && *name != "docs/README.md") {
        assert!(index.contains(page), "{page} is not in docs/README.md");
    }
}

#[test]
fn front_page_is_short_and_names_every_reader() {
    let documents = documents();
    let page = &documents["README.md"];
    assert!(page.lines().count() <= 120, "{} lines", page.lines().count());
    let targets: Vec<_> = links(page);
    for reader in [
        "docs/README.md#you-run-a-relay",
        "docs/README.md#you-write-a-client",
        "docs/README.md#you-change-the-relay",
    ] {
        assert!(targets.iter().any(|link| link == reader), "{reader}");
    }
}

/// The fenced blocks of a kind, such as `sh`: their lines, joined where one ends in a backslash. Indented ones too.
fn blocks(text: &str, kind: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open: Option<(bool, Vec<String>)> = None;
    for line in text.lines().map(str::trim) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(begins)) => open = Some((begins == kind, Vec::new())),
            (Some(_), Some(_)) => {
                found.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, lines)| lines))
            }
            (Some((_, lines)), None) => match lines.last_mut().filter(|last| last.ends_with('\\')) {
                Some(last) => *last = last.trim_end_matches('\\').to_owned() + line,
                None => lines.push(line.to_owned()),
            },
            (None, None) => {}
        }
    }
    found
}

/// The commands of a document, without comments.
fn commands(text: &str) -> Vec<String> {
    let lines = blocks(text, "sh").into_iter().flatten();
    let lines = lines.map(|line| line.split(" #").next().unwrap().trim().to_owned());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// How it is known that a command of the front page or of an operators' page works.
enum Proof {
    /// The gate, or `scripts/package.sh`, runs it: that script has these words.
    Script(&'static str, &'static str),
    /// A test runs it, or what it stands for, by these words.
    Test(&'static str),
    /// Nothing runs it here, for this reason.
    Unproven(&'static str),
}
use Proof::{Script, Test, Unproven};

/// The front page's steps are played one by one, as they stand: see `play` in the script.
const PLAYED: Proof = Script("scripts/package.sh", "play README.md 'Ten minutes to a running relay'");
const SOURCE_WAY: Proof = Script("scripts/package.sh", "play docs/operate/install.md 'From source'");
const CONTAINER_WAY: Proof = Script("scripts/container.sh", "mapfile -t commands < <(commands_of_the_page)");
const LOW_PORT: Proof =
    Script("scripts/vm.sh", "mapfile -t commands < <(commands_of docs/operate/install.md '## Hardening')");

/// Commands by how they begin. The first that fits counts.
const PROOFS: &[(&str, Proof)] = &[
    ("scripts/demo.sh --size 1G", Script("scripts/test.sh", "scripts/demo.sh --size 1M")),
    ("scripts/test.sh", Script(".ci/run", "scripts/test.sh")),
    ("scripts/package.sh", Unproven("needs namespaces and minutes; it plays the front page itself")),
    (
        "apt-get install ./target/debian/msrprelay_*.deb",
        Script("scripts/package.sh", "apt-get -q -y install /root/msrprelay.deb"),
    ),
    ("/usr/share/msrprelay/gen-cert.sh relay.example.com --san example.com", PLAYED),
    ("install -d -m 750 -g msrprelay /etc/msrprelay /etc/msrprelay/tls", SOURCE_WAY),
    ("install -d -m 750 -g msrprelay /etc/msrprelay/tls", PLAYED),
    ("install -m 644 relay.example.com.crt", PLAYED),
    ("install -m 640 -g msrprelay relay.example.com.key", PLAYED),
    ("sed -i 's/^#domains", PLAYED),
    ("msrprelay check-config config.yaml", Test("[\"check-config\", \"config.yaml\"")),
    ("msrprelay check-config", PLAYED),
    ("msrprelay user add alice@example.com", PLAYED),
    ("systemctl enable --now msrprelay", PLAYED),
    ("msrprelay status", PLAYED),
    ("msrp probe --relay relay.example.com", PLAYED),
    ("systemctl reload msrprelay", PLAYED),
    (
        "cargo build --release --locked",
        Script("scripts/package.sh", "cargo build --profile \"$profile\" --locked"),
    ),
    ("install -m 755 target/release/msrprelay", SOURCE_WAY),
    ("msrprelay documents /usr/local/share", SOURCE_WAY),
    ("useradd --system", SOURCE_WAY),
    ("install -d -m 700 -o msrprelay", SOURCE_WAY),
    ("install -m 640 -g msrprelay deploy/config.yaml", SOURCE_WAY),
    ("install -m 644 deploy/msrprelay.service", SOURCE_WAY),
    ("install -m 644 deploy/logrotate.conf", SOURCE_WAY),
    ("scripts/gen-cert.sh relay.example.com --san example.com", SOURCE_WAY),
    ("scripts/container.sh", Unproven("needs namespaces and a minute; it plays the page itself")),
    ("podman run -d --network host", Script("scripts/container.sh", "command_of_the_front_page")),
    ("install -d -m 755 /etc/msrprelay /etc/msrprelay/tls", CONTAINER_WAY),
    ("install -m 644 deploy/container/seccomp.json", CONTAINER_WAY),
    ("install -m 644 deploy/config.yaml", CONTAINER_WAY),
    ("install -m 640 -g 2855 relay.example.com.key", CONTAINER_WAY),
    ("podman run --rm -it", CONTAINER_WAY),
    ("install -D -m 644 deploy/container/msrprelay.container", CONTAINER_WAY),
    ("systemctl daemon-reload", CONTAINER_WAY),
    ("systemctl start msrprelay", CONTAINER_WAY),
    ("podman exec msrprelay msrprelay status", CONTAINER_WAY),
    ("podman-compose --file", Script("scripts/container.sh", "in_compose up --detach")),
    ("docker ", Unproven("needs a Docker daemon; the same options are tried with Podman")),
    ("podman save localhost/msrprelay | docker load", Unproven("needs a Docker daemon")),
    (
        "mkdir -p target/context && cp",
        Script("scripts/container.sh", "cp \"$deb\" \"$work/context/msrprelay.deb\""),
    ),
    (
        "install -D -m 644 deploy/container/seccomp.kubernetes.json",
        Script("scripts/container.sh", "seccomp=\"$PWD/$for_kubernetes\""),
    ),
    (
        "journalctl -u msrprelay",
        Script("scripts/vm.sh", "\"$(command_of docs/operate/monitoring.md 'journalctl')\""),
    ),
    ("scripts/demo-web.sh", Script("scripts/test.sh", "scripts/demo-web.sh --test --size 5M")),
    ("msrprelay user passwd alice@example.com", Test("&[\"passwd\", \"alice@example.com\"]")),
    ("msrprelay user remove alice@example.com", Test("&[\"remove\", \"alice@example.com\"]")),
    ("msrprelay user list", Script("scripts/package.sh", "msrprelay user list")),
    ("msrprelay credential", Test("&[\"alice@example.com\", \"--ttl\", \"15m\", \"--json\"]")),
    ("msrprelay import-config", Test("&[\"import-config\", \"config.ini\", \"--out\", \"config.yaml\"]")),
    (
        "systemctl kill --signal=USR2",
        Script("scripts/vm.sh", "types \"$(command_of docs/operate/running.md 'systemctl kill')\""),
    ),
    (
        "systemctl stop msrprelay",
        Script("scripts/vm.sh", "types \"$(command_of docs/operate/running.md 'systemctl stop')\""),
    ),
    ("dpkg -i", Script("scripts/vm.sh", "$(command_of docs/operate/install.md 'dpkg -i')\"")),
    (
        "apt-get remove msrprelay",
        Script("scripts/vm.sh", "types \"$(command_of docs/operate/install.md 'apt-get remove')\""),
    ),
    (
        "apt-get purge msrprelay",
        Script("scripts/vm.sh", "types \"$(command_of docs/operate/install.md 'apt-get purge')\""),
    ),
    ("install -d /etc/systemd/system/msrprelay.service.d", LOW_PORT),
    ("printf '[Service]", LOW_PORT),
    ("systemctl restart msrprelay", LOW_PORT),
    ("msrprelay sessions", Test("&[\"sessions\"]")),
    ("msrprelay close", Test("&[\"close\", ")),
    ("msrprelay trace", Test("[\"trace\", of, ")),
    ("msrprelay reload", Test("&[\"reload\"]")),
    ("msrprelay log-level debug", Test("&[\"log-level\", \"debug\"]")),
    ("msrprelay drain", Test("&[\"drain\", \"--seconds\", ")),
    ("curl -s http://127.0.0.1:9285/metrics", Script("scripts/package.sh", "ask /metrics")),
    ("curl -s http://127.0.0.1:9285/readyz", Script("scripts/package.sh", "ask /readyz")),
];

/// A script, with its parts: those in the directory by its name.
fn whole(script: &str) -> String {
    let mut text = fs::read_to_string(Path::new(ROOT).join(script)).unwrap();
    let mut parts = Vec::new();
    if let Some(directory) = script.strip_suffix(".sh").map(|name| Path::new(ROOT).join(name))
        && directory.is_dir()
    {
        files(&directory, &["sh"], &mut parts);
    }
    parts.into_iter().for_each(|part| text += &fs::read_to_string(part).unwrap());
    text
}

/// Sources of tests, except this file.
fn tests() -> String {
    let all = sources(&["tests", "crates", "src"]);
    let own = fs::read_to_string(Path::new(ROOT).join(file!())).unwrap();
    all.replacen(&own, "", 1)
}

#[test]
fn every_command_for_operators_is_run_somewhere_or_says_why_not() {
    let documents = documents();
    let pages =
        documents.iter().filter(|(name, _)| *name == "README.md" || name.starts_with("docs/operate/"));
    let commands: BTreeSet<String> = pages.flat_map(|(_, text)| commands(text)).collect();
    assert!(commands.len() > 35, "{commands:#?}");
    let tests = tests();
    let mut used = BTreeSet::new();
    for command in &commands {
        let (begin, proof) = PROOFS
            .iter()
            .find(|(begin, _)| command.starts_with(begin))
            .unwrap_or_else(|| panic!("{command:?}: say in PROOFS what runs it, or why nothing does"));
        used.insert(*begin);
        match proof {
            Script(script, words) => {
                assert!(whole(script).contains(words), "{command:?}: {script} does not say {words:?}");
            }
            Test(words) => assert!(tests.contains(words), "{command:?}: no test says {words:?}"),
            Unproven(why) => assert!(why.len() > 10, "{command:?}"),
        }
    }
    for (begin, _) in PROOFS {
        assert!(used.contains(begin), "{begin:?} is in no document: remove it from PROOFS");
    }
}

/// What a script plays of the pages, `command_of PAGE 'BEGINNING'` and `commands_of PAGE 'HEADING'`, and no page has; with
/// the number of what it plays.
fn played_and_not_written(script: &str, documents: &BTreeMap<String, String>) -> (usize, Vec<String>) {
    let calls = |function: &str| {
        let begin = format!("({function} ");
        let calls = script.split(begin.as_str()).skip(1).filter_map(|call| call.split_once(" '"));
        let calls = calls.filter(|(page, _)| page.ends_with(".md"));
        let calls = calls.filter_map(|(page, rest)| Some((page, rest.split_once('\'')?.0)));
        calls.map(|(page, words)| (page.to_owned(), words.to_owned())).collect::<Vec<_>>()
    };
    let (single, chapters) = (calls("command_of"), calls("commands_of"));
    let count = single.len() + chapters.len();
    let text = |page: &str| documents.get(page).map_or("", String::as_str);
    let single = single
        .into_iter()
        .filter(|(page, words)| !commands(text(page)).iter().any(|line| line.starts_with(words.as_str())));
    let chapters = chapters
        .into_iter()
        .filter(|(page, heading)| !text(page).lines().any(|line| line == heading.as_str()));
    let missing = single.chain(chapters).map(|(page, words)| format!("{page} has no {words:?}"));
    (count, missing.collect())
}

#[test]
fn what_the_virtual_machine_plays_stands_in_the_pages() {
    let (count, missing) = played_and_not_written(&whole("scripts/vm.sh"), &documents());
    assert!(count > 15, "{count}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

fn help(program: &str, subcommands: &[&str]) -> Option<String> {
    let binary = match program {
        "msrprelay" => env!("CARGO_BIN_EXE_msrprelay"),
        _ => env!("CARGO_BIN_EXE_msrp"),
    };
    let output = Command::new(binary).args(subcommands).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// What is wrong with a command line of one of the programs.
fn wrong_with(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| word.contains('=') && !word.starts_with('-'));
    let program = words.next()?.rsplit('/').next()?;
    if !["msrprelay", "msrp"].contains(&program) {
        return None;
    }
    let words: Vec<_> = words.take_while(|word| !["|", "&&", ";", "2>"].contains(word)).collect();
    let is_name = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let mut below = Vec::new();
    let mut text = help(program, &below)?;
    for word in words.iter().take_while(|word| !word.starts_with('-')).filter(is_name) {
        // For packagers, and so in no help.
        let is_hidden = below.is_empty() && *word == "documents";
        // An argument, such as a level, is no command.
        if is_hidden || text.contains(&format!("\n  {word} ")) {
            below.push(*word);
            text = help(program, &below)?;
        } else if below.is_empty() {
            return Some(format!("{program} has no command {word}"));
        }
    }
    let options = words.iter().filter(|word| word.starts_with("--"));
    let mut options = options.map(|word| word.split('=').next().unwrap_or_default());
    options.find(|option| !text.contains(option)).map(|option| format!("{program} {below:?} has no {option}"))
}

#[test]
fn every_command_line_of_the_programs_has_commands_and_options_that_exist() {
    let documents = documents();
    let mut count = 0;
    let mut problems = Vec::new();
    for (name, text) in &documents {
        // Commands in the running text, too, where they are whole.
        let prose = prose(text);
        let spans = prose.split('`').skip(1).step_by(2).map(str::to_owned);
        let spans = spans.filter(|span| span.starts_with("msrp ") || span.starts_with("msrprelay "));
        for line in commands(text).into_iter().chain(spans) {
            count += usize::from(line.contains("msrp"));
            problems.extend(wrong_with(&line).map(|wrong| format!("{name}: {line}: {wrong}")));
        }
    }
    assert!(count > 50, "{count}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Where paths begin.
const TOP: [&str; 9] = [
    "src/",
    "crates/",
    "tests/",
    "docs/",
    "scripts/",
    "deploy/",
    "benches/",
    "fuzz/fuzz_targets/",
    "prototypes/",
];

/// What a document names of the sources in backticks, and is not there.
fn missing_from_sources(text: &str, exists: impl Fn(&str) -> bool, sources: &str) -> Vec<String> {
    let prose = prose(text);
    let mut missing = Vec::new();
    for span in prose.split('`').skip(1).step_by(2) {
        let is_path = TOP.iter().any(|top| span.starts_with(top)) && !span.contains(' ');
        if let Some(name) = span.strip_suffix("()") {
            // `session.close()` is the web client's.
            let declared = match name.rsplit_once('.') {
                Some((_, method)) => [format!("\n    {method}("), format!("\n    {method}<")],
                None => [format!("fn {name}("), format!("fn {name}<")],
            };
            if !declared.iter().any(|declared| sources.contains(declared)) {
                missing.push(format!("there is no function {name}"));
            }
        } else if is_path && !span.contains(['*', '<', ':', '=']) && !span.contains("...") && !exists(span) {
            missing.push(format!("there is no {span}"));
        }
    }
    missing
}

#[test]
fn every_file_and_function_that_is_named_exists() {
    let documents = documents();
    let sources = sources(&["src", "crates"]) + include_str!("../../web/msrp.d.ts");
    let mut problems = Vec::new();
    for (name, text) in &documents {
        let missing = missing_from_sources(text, |path| Path::new(ROOT).join(path).exists(), &sources);
        problems.extend(missing.into_iter().map(|what| format!("{name}: {what}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The figure at the beginning of a table's cell: `0.781 (0.713-0.908) s/GB`.
fn figure(cell: &str) -> f64 {
    let cell = cell.trim().trim_start_matches("haproxy ");
    cell.split([' ', ','])
        .next()
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("{cell:?} begins with no figure"))
}

#[test]
fn figures_of_the_front_page_are_those_of_the_performance_page() {
    let documents = documents();
    let cells =
        |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> =
        documents["README.md"].lines().filter(|line| line.contains(" (`") && line.starts_with('|')).collect();
    assert_eq!(rows.len(), 3);
    for row in rows {
        let ours = cells(row);
        let case = ours[0].split('`').nth(1).unwrap();
        let there = documents["docs/dev/performance.md"].lines();
        let there = cells(there.clone().find(|line| line.starts_with(&format!("| `{case}`"))).unwrap());
        let close = |a: f64, b: f64| (a - b).abs() < 0.001;
        assert!(close(figure(&ours[1]), figure(&there[2])), "{case}: {} and {}", ours[1], there[2]);
        assert!(close(figure(&ours[2]), figure(&there[4])), "{case}: {} and {}", ours[2], there[4]);
        assert!(close(figure(&ours[3]), figure(&there[5])), "{case}: {} and {}", ours[3], there[5]);
    }
}

#[test]
fn config_on_the_front_page_is_the_packages() {
    let documents = documents();
    let on_the_page = blocks(&documents["README.md"], "yaml").remove(0);
    assert!(on_the_page.len() <= 15);
    let edited = include_str!("../../deploy/config.yaml").replace("#domains: ", "domains: ");
    let lines: Vec<_> = edited.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(on_the_page, lines.iter().map(|line| line.trim()).collect::<Vec<_>>());
    let page: serde_yaml::Value = serde_yaml::from_str(&edited).unwrap();
    let text = documents["README.md"].split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(serde_yaml::from_str::<serde_yaml::Value>(text).unwrap(), page);
}

/// What is wrong with the blocks of a page for operators: only those of the kind `sh` are looked at for commands.
fn unclear_blocks(text: &str) -> Vec<String> {
    const KINDS: [&str; 6] = ["sh", "text", "yaml", "json", "sql", "python"];
    const COMMANDS: [&str; 12] = [
        "$ ",
        "# ",
        "msrp ",
        "msrprelay ",
        "scripts/",
        "systemctl ",
        "apt-get ",
        "cargo ",
        "curl ",
        "podman ",
        "docker ",
        "sudo ",
    ];
    let mut problems = Vec::new();
    let mut kind: Option<&str> = None;
    for line in text.lines().map(str::trim) {
        match (kind, line.strip_prefix("```")) {
            (Some(_), Some(_)) => kind = None,
            (None, Some(begins)) => {
                kind = Some(begins);
                if !KINDS.contains(&begins) {
                    problems.push(format!("```{begins}: write one of {}", KINDS.join(", ")));
                }
            }
            (Some("text"), None) if COMMANDS.iter().any(|command| line.starts_with(command)) => {
                problems.push(format!("{line}: a command: write ```sh"));
            }
            _ => {}
        }
    }
    problems
}

#[test]
fn blocks_of_the_operators_pages_say_whether_they_hold_commands() {
    let documents = documents();
    for (name, text) in
        documents.iter().filter(|(name, _)| *name == "README.md" || name.starts_with("docs/operate/"))
    {
        assert_eq!(unclear_blocks(text), Vec::<String>::new(), "{name}");
    }
}

// -- the checks themselves -------------------------------------------------------------------------

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# A page\n[a](b.md) [b](b.md#the-end) [c](#a-page) [d](../x) `[e](f)`\n```\n[g](h)\n```\n";
    let documents = BTreeMap::from([
        ("docs/a.md".to_owned(), text.to_owned()),
        ("docs/b.md".to_owned(), "## The end.\n".to_owned()),
    ]);
    assert_eq!(broken_links(&documents, |_| false), ["docs/a.md: ../x leads nowhere"]);
    assert!(broken_links(&documents, |path| path == "x").is_empty());
    let fewer = BTreeMap::from([("docs/a.md".to_owned(), "[a](b.md) [c](#b-page)".to_owned())]);
    assert_eq!(broken_links(&fewer, |_| false).len(), 2);
}

#[test]
fn a_block_that_hides_commands_is_found() {
    let text = "```sh\nls\n```\n```\nls\n```\n  ```console\n$ ls\n  ```\n```text\n$ ls\nls\n```\nmsrp send\n";
    assert_eq!(unclear_blocks(text).len(), 3, "{:?}", unclear_blocks(text));
}

#[test]
fn a_command_or_option_that_does_not_exist_is_found() {
    assert_eq!(wrong_with("msrprelay user add alice@example.com"), None);
    assert_eq!(wrong_with("MSRP_PASSWORD=x target/release/msrp send f --to \"$(cat p)\""), None);
    assert!(wrong_with("msrprelay statsu").is_some());
    assert!(wrong_with("msrp send f --too x").is_some());
}

#[test]
fn a_played_command_that_no_page_has_is_found() {
    let page = "## Stop\n```sh\nstop it   # now\n```\n".to_owned();
    let documents = BTreeMap::from([("a.md".to_owned(), page)]);
    let script = "$(command_of a.md 'stop') $(command_of a.md 'start') $(command_of b.md 'stop')\n\
                  <(commands_of a.md '## Stop') <(commands_of a.md '## Start')";
    let (count, missing) = played_and_not_written(script, &documents);
    assert_eq!(count, 5);
    assert_eq!(missing, ["a.md has no \"start\"", "b.md has no \"stop\"", "a.md has no \"## Start\""]);
}

#[test]
fn a_file_or_function_that_does_not_exist_is_found() {
    let text = "`src/a.rs` `src/b.rs` `f()` `g()` `a: b/c`";
    let missing = missing_from_sources(text, |path| path == "src/a.rs", "fn f(x)");
    assert_eq!(missing, ["there is no src/b.rs", "there is no function g"]);
    let missing =
        missing_from_sources("`it.stop()` `it.go()`", |_| false, "interface It {\n    stop(): void;\n}");
    assert_eq!(missing, ["there is no function it.go"]);
}
