//! Man pages and completions describe all that the programs can do, and nothing else.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const PROGRAMS: [(&str, &str, &str); 2] =
    [("msrprelay", env!("CARGO_BIN_EXE_msrprelay"), "8"), ("msrp", env!("CARGO_BIN_EXE_msrp"), "1")];

fn help(binary: &str, commands: &[String]) -> String {
    let output = Command::new(binary).args(commands).arg("--help").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The options that a help text explains: `--name` where a line begins with it.
fn options(help: &str) -> BTreeSet<String> {
    let begins = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words =
        begins.flat_map(|line| line.split([' ', ',', '[', '='])).filter(|word| word.starts_with("--"));
    words
        .map(|word| word.trim_end_matches([':', '.', ';', ']', ')']).to_owned())
        .filter(|word| word.len() > 2)
        .collect()
}

/// A program's commands, each with the words that lead to it, and its help.
fn everything(binary: &str) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let help = help(binary, &path);
        waiting.extend(commands(&help).into_iter().map(|name| [path.clone(), vec![name]].concat()));
        found.push((path, help));
    }
    found
}

fn written(binary: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(binary).arg("documents").arg(place.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place
}

#[test]
fn every_command_has_a_page_with_all_its_options() {
    for (name, binary, section) in PROGRAMS {
        let place = written(binary);
        let everything = everything(binary);
        assert!(everything.len() >= 4, "{name}: the commands were not found in its help");
        for (path, help) in everything {
            let page = [vec![name.to_owned()], path.clone()].concat().join("-");
            let page = place.path().join(format!("man/man{section}/{page}.{section}"));
            let page =
                fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            let options = options(&help);
            assert!(options.contains("--help"), "{name} {path:?}");
            for option in options {
                assert!(
                    page.contains(&option.replace('-', "\\-")),
                    "{name} {path:?}: {option} is not in its page"
                );
            }
        }
    }
}

#[test]
fn completions_of_every_shell_know_every_command_and_option() {
    for (name, binary, _) in PROGRAMS {
        let place = written(binary);
        let files = [
            format!("bash-completion/completions/{name}"),
            format!("zsh/vendor-completions/_{name}"),
            format!("fish/vendor_completions.d/{name}.fish"),
        ];
        for file in files {
            let text = fs::read_to_string(place.path().join(&file)).unwrap();
            for (path, help) in everything(binary) {
                let words = path.last().into_iter().cloned().chain(options(&help));
                for word in words {
                    // fish writes long options without their dashes.
                    let word =
                        if file.ends_with(".fish") { word.trim_start_matches('-').to_owned() } else { word };
                    assert!(text.contains(&word), "{file}: {word} of {path:?}");
                }
            }
            assert!(!text.contains("documents"), "{file} has the hidden command");
        }
    }
}

/// All pages that a program writes: by name, as they are written.
fn pages(binary: &str) -> Vec<(String, String)> {
    let place = written(binary);
    let mut found = Vec::new();
    for section in fs::read_dir(place.path().join("man")).unwrap() {
        for page in fs::read_dir(section.unwrap().path()).unwrap() {
            let page = page.unwrap().path();
            let name = page.file_name().unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(page).unwrap()));
        }
    }
    found
}

/// A page as a reader sees it, so many columns wide; `None` without a formatter.
fn formatted(page: &str, columns: usize) -> Option<String> {
    let groff = Path::new("/usr/bin/groff");
    if !groff.exists() {
        println!("skipped: no groff here");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("page");
    fs::write(&file, page).unwrap();
    let mut command = Command::new(groff);
    // No escapes for bold: they would stand within words.
    command.args(["-Kutf8", "-man", "-Tutf8", "-ww", "-P-c", "-P-b", "-P-u"]).arg(format!("-rLL={columns}n"));
    let output = command.arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // A line of an example may be longer than the page: it stays one line.
    let wrong =
        said.lines().find(|line| !line.contains("cannot adjust line") && !line.contains("can't break line"));
    assert!(output.status.success() && wrong.is_none(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn pages_are_sound_to_the_formatter_and_hyphenate_nothing() {
    for (_, binary, _) in PROGRAMS {
        for (name, page) in pages(binary) {
            for columns in [60, 78] {
                let Some(text) = formatted(&page, columns) else { return };
                // A formatter's dash, apostrophe or backtick cannot be typed into a shell.
                let foreign = |c: &char| "\u{ad}\u{2010}\u{2212}\u{2018}\u{2019}\u{2c6}\u{2dc}".contains(*c);
                let line = text.lines().find(|line| line.chars().any(|c| foreign(&c)));
                assert_eq!(line, None, "{name}, {columns} columns");
            }
        }
    }
}

/// The examples in a help text, without spaces, because it is broken for a terminal.
fn examples(help: &str) -> String {
    let rest = help.split_once("\nExamples:\n").map_or("", |(_, rest)| rest);
    let lines = rest.lines().take_while(|line| line.starts_with("  "));
    lines.flat_map(str::split_whitespace).collect()
}

#[test]
fn examples_can_be_copied_from_the_pages() {
    let mut count = 0;
    for (name, binary, section) in PROGRAMS {
        let pages = pages(binary);
        for (path, help) in everything(binary) {
            let page = [vec![name.to_owned()], path].concat().join("-");
            let (_, page_text) = pages.iter().find(|(name, _)| *name == format!("{page}.{section}")).unwrap();
            let (_, rest) = page_text.split_once(".SH \"EXAMPLES\"\n.PP\n.EX\n").unwrap_or_default();
            let lines: Vec<_> = rest.lines().take_while(|line| *line != ".EE").collect();
            let lines: Vec<_> = lines
                .into_iter()
                .map(|line| {
                    let escapes = [
                        ("\\-", "-"),
                        ("\\(aq", "'"),
                        ("\\(ga", "`"),
                        ("\\(ti", "~"),
                        ("\\(ha", "^"),
                        ("\\e", "\\"),
                    ];
                    escapes.iter().fold(line.to_owned(), |line, (escape, sign)| line.replace(escape, sign))
                })
                .collect();
            let all: String = lines.iter().flat_map(|line| line.split_whitespace()).collect();
            assert_eq!(all, examples(&help), "{page}");
            count += lines.len();
            let Some(text) = formatted(page_text, 60) else { return };
            for line in lines {
                assert!(text.lines().any(|other| other.trim() == line.trim()), "{page}: {line}\n{text}");
            }
        }
    }
    assert!(count > 15, "{count}");
}

#[test]
fn pages_name_files_where_the_package_has_them() {
    let shipped = shipped();
    for (_, binary, _) in PROGRAMS {
        for (name, page) in pages(binary) {
            let page = page.replace("\\-", "-");
            let words = page.split(|c: char| c.is_whitespace() || "(),;`'\"".contains(c));
            for word in words.map(|word| word.trim_end_matches(['.', ':'])) {
                let of_the_sources = ["scripts/", "docs/", "deploy/", "config.yaml.sample"];
                assert!(!of_the_sources.iter().any(|place| word.starts_with(place)), "{name}: {word}");
                if let Some(place) = word.strip_prefix("/usr/share/") {
                    let place = format!("usr/share/{place}");
                    let is_there =
                        shipped.iter().any(|(to, _)| *to == place || to.starts_with(&format!("{place}/")));
                    assert!(is_there || place == "usr/share", "{name}: {word} is not in the package");
                }
            }
        }
    }
}

#[test]
fn the_page_of_the_config_says_what_the_sample_says() {
    let pages = pages(env!("CARGO_BIN_EXE_msrprelay"));
    let (_, page) = pages.iter().find(|(name, _)| name == "msrprelay.yaml.5").unwrap();
    let sample = include_str!("../../config.yaml.sample");
    let keys = sample.lines().filter_map(|line| line.trim_start_matches('#').split_once(':'));
    let keys: Vec<_> = keys
        .map(|(key, _)| key)
        .filter(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect();
    assert!(keys.len() > 10, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("\n.SS {key}\n")), "{key} has no heading");
    }
    let Some(text) = formatted(page, 400) else { return };
    let words = |text: &str| {
        let words = text.split_whitespace().map(|word| word.trim_start_matches('#').to_owned());
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>()
    };
    let text =
        words(&text.replace("/usr/share/doc/msrprelay/", "").replace("/usr/share/msrprelay/", "scripts/"));
    let mut rest = text.iter();
    // The title is not among them.
    for word in words(sample.split_once('\n').unwrap().1) {
        assert!(rest.any(|other| *other == word), "{word:?} is missing, or not in its place");
    }
}

// -- the package -----------------------------------------------------------------------------------

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The files of the sources that the package has: where it has them, and where they are here. Those that the programs write
/// stand under `target/package`.
fn shipped() -> Vec<(String, String)> {
    let manifest = include_str!("../../Cargo.toml");
    let (_, assets) = manifest.split_once("\nassets = [\n").unwrap();
    let mut found = Vec::new();
    for line in assets.lines().take_while(|line| *line != "]") {
        let Some(entry) = line.trim().strip_prefix('[') else { continue };
        let parts: Vec<_> = entry.split('"').skip(1).step_by(2).collect();
        let [from, to, _] = parts[..] else { panic!("{line}") };
        let (directory, pattern) = from.rsplit_once('/').unwrap_or((".", from));
        let names = match pattern.split_once('*') {
            Some(_) if from.starts_with("target/package") => vec!["*".to_owned()],
            Some((begin, end)) => {
                let names = fs::read_dir(Path::new(ROOT).join(directory)).unwrap();
                let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names.filter(|name| name.starts_with(begin) && name.ends_with(end)).collect()
            }
            None => vec![pattern.to_owned()],
        };
        for name in names {
            let to = if to.ends_with('/') { format!("{to}{name}") } else { to.to_owned() };
            found.push((to, format!("{directory}/{name}")));
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// Where a link of a document leads, from its directory; `None` out of the tree.
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

#[test]
fn every_document_that_is_linked_is_in_the_package_at_its_place() {
    const HOME: &str = "usr/share/doc/msrprelay/";
    let shipped = shipped();
    let mut count = 0;
    for (to, from) in shipped.iter().filter(|(to, _)| to.starts_with(HOME) && to.ends_with(".md")) {
        let text = fs::read_to_string(Path::new(ROOT).join(from)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            // Sources are not shipped: their readers have them all.
            if file.is_empty() || file.contains("://") || file.ends_with(".rs") {
                continue;
            }
            let target = resolved(to, file).unwrap();
            let is_there = |(place, _): &(String, String)| {
                *place == target || (place.starts_with(&format!("{target}/")))
            };
            // The licence is in Debian's own place.
            assert!(
                file == "LICENSE" || shipped.iter().any(is_there),
                "{from}: {link} is not in the package"
            );
            count += 1;
        }
    }
    assert!(count > 30, "only {count} links were found");
}

#[test]
fn the_packages_config_is_short_and_passes_the_check_with_a_generated_certificate() {
    let (_, from) = shipped().into_iter().find(|(to, _)| to == "etc/msrprelay/config.yaml").unwrap();
    let text = fs::read_to_string(Path::new(ROOT).join(from)).unwrap();
    assert!(text.lines().count() < 40, "an upgrade that changes it asks every operator");
    assert!(include_str!("../../Cargo.toml").contains("conf-files = [\"/etc/msrprelay/config.yaml\", "));
    let place = tempfile::tempdir().unwrap();
    let made = Command::new(Path::new(ROOT).join("scripts/gen-cert.sh"))
        .args(["relay.example.com", "--san", "example.com", "--out"])
        .arg(place.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let here = |name: &str| place.path().join(name).display().to_string();
    let text = text
        .replace("/etc/msrprelay/tls/relay.crt", &here("relay.example.com.crt"))
        .replace("/etc/msrprelay/tls/relay.key", &here("relay.example.com.key"));
    // As the README's step has it.
    let edited = text.replace("#domains: [example.com]", "domains: [example.com]");
    assert_ne!(text, edited);
    for text in [text, edited] {
        let config = place.path().join("config.yaml");
        fs::write(&config, &text).unwrap();
        let config =
            msrprelay::config::Config::load(&config).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert_eq!(config.hostname, "relay.example.com");
        assert_eq!(config.realm.is_some(), text.contains("\ndomains: "));
        let unit = include_str!("../../deploy/msrprelay.service");
        assert!(
            unit.contains("\nRuntimeDirectory=msrprelay\n")
                && unit.contains("\nExecReload=/usr/bin/msrprelay reload ")
        );
        assert_eq!(config.admin.as_deref(), Some(Path::new(msrprelay::ops::admin::SOCKET_PATH)));
    }
}

#[test]
fn purging_the_package_removes_what_names_users_and_addresses() {
    let script = include_str!("../../deploy/debian/postrm");
    let unit = include_str!("../../deploy/msrprelay.service");
    let (_, purge) = script.split_once("if [ \"$1\" = purge ]; then\n").unwrap();
    let removed: Vec<_> = purge.lines().next().unwrap().split_whitespace().skip(2).collect();
    for (key, below) in [("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")] {
        let name = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
        assert!(removed.contains(&format!("{below}/{name}").as_str()), "{removed:?}");
    }
}

#[test]
fn logrotate_understands_its_file() {
    let text = include_str!("../../deploy/logrotate.conf");
    for words in ["/var/log/msrprelay/*.json", "systemctl reload msrprelay", "nocreate"] {
        assert!(text.contains(words), "{words}");
    }
    if !Path::new("/usr/sbin/logrotate").exists() {
        return println!("skipped: no logrotate here");
    }
    // The user of the package does not exist here.
    let user = |option: &str| {
        let output = Command::new("id").arg(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("logrotate.conf");
    let text = text.replace("su msrprelay msrprelay", &format!("su {} {}", user("-un"), user("-gn")));
    fs::write(&file, text.replace("/var/log/msrprelay", place.path().to_str().unwrap())).unwrap();
    fs::write(place.path().join("sessions.json"), "{}\n").unwrap();
    let output =
        Command::new("/usr/sbin/logrotate").arg("--debug").arg("--force").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("error:"), "{said}");
    assert!(said.contains("sessions.json") && said.contains("running postrotate script"), "{said}");
}

#[test]
fn steps_of_the_readme_are_commands_of_the_programs() {
    let (_, chapter) =
        include_str!("../../README.md").split_once("\n## Ten minutes to a running relay\n").unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let blocks = chapter.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let lines: Vec<_> = blocks.flat_map(str::lines).filter(|line| !line.starts_with('#')).collect();
    let at = |begins: &str| {
        lines.iter().position(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("{begins}"))
    };
    // scripts/package.sh plays them; here is what can be held without a package.
    let order = [
        "apt-get install ",
        "/usr/share/msrprelay/gen-cert.sh ",
        "install -m 644 ",
        "sed ",
        "msrprelay check-config",
        "msrprelay user add ",
        "systemctl enable --now msrprelay",
        "msrprelay status",
        "msrp probe ",
        "systemctl reload ",
    ];
    assert!(order.map(at).is_sorted(), "{lines:#?}");
    let made = lines[at("/usr/share/msrprelay/gen-cert.sh ")].split(' ').nth(1).unwrap();
    for user_of_it in ["install -m 644 ", "install -m 640 ", "msrp probe "] {
        assert!(
            lines[at(user_of_it)].contains(&format!(" {made}.")),
            "{user_of_it}: gen-cert.sh makes {made}.crt"
        );
    }
    for (name, binary, _) in PROGRAMS {
        for line in lines.iter().filter_map(|line| line.strip_prefix(&format!("{name} "))) {
            let words =
                line.split(' ').take_while(|word| !word.contains(['-', '@']) || *word == "check-config");
            let help = help(binary, &words.map(str::to_owned).collect::<Vec<_>>());
            for option in line.split(' ').filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{line}: {option}");
            }
        }
    }
}

/// All Rust sources below a directory, as one text.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all += &fs::read_to_string(&path).unwrap();
        }
    }
    all
}

#[test]
fn every_message_with_a_cure_in_troubleshooting_is_one_of_the_programs() {
    let page = include_str!("../../docs/operate/troubleshooting.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let messages: Vec<_> = rows.map(|(message, _)| message).collect();
    assert!(messages.len() > 30, "{messages:?}");
    let sources = ["src", "crates"]
        .map(|directory| sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)))
        .concat();
    for message in messages {
        assert!(sources.contains(message), "the programs never say {message:?}");
    }
}

#[test]
fn licences_are_chosen_from_those_that_are_allowed() {
    let choose = |expression: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/third-party.sh");
        let output = Command::new(script).args(["--choose", expression]).output().unwrap();
        let chosen = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        if output.status.success() { Ok(chosen) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    };
    for (expression, chosen) in [
        ("MIT", "MIT"),
        ("MIT OR Apache-2.0", "Apache-2.0"),
        ("MIT/Apache-2.0", "Apache-2.0"),
        ("Unlicense OR MIT", "MIT"),
        ("GPL-3.0-only OR (MIT OR Apache-2.0)", "Apache-2.0"),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 and Unicode-3.0"),
        ("ISC AND (Apache-2.0 OR ISC)", "ISC and Apache-2.0"),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", "Apache-2.0"),
        ("GPL-2.0 AND MIT OR Zlib", "Zlib"),
        ("MPL-2.0+", "MPL-2.0"),
    ] {
        assert_eq!(choose(expression).as_deref(), Ok(chosen), "{expression}");
    }
    for refused in
        ["GPL-3.0-only", "MIT AND GPL-3.0-only", "LicenseRef-Own", "Apache-2.0 WITH Classpath-exception-2.0"]
    {
        let error = choose(refused).unwrap_err();
        assert!(error.contains("none of the licences that are allowed"), "{refused}: {error}");
    }
}

#[test]
fn copyright_names_every_crate_of_the_lock_file_that_it_should() {
    let copyright = include_str!("../../deploy/debian/copyright");
    let parts: BTreeSet<_> =
        copyright.lines().filter_map(|line| line.strip_prefix("Files: ")?.strip_suffix("/*")).collect();
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let entries: Vec<_> = manifest.split("[[package]]").skip(1).collect();
    let id = |entry: &&str| {
        let value =
            |key: &str| entry.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim_matches('"');
        format!("{}-{}", value("name = "), value("version = "))
    };
    let locked: BTreeSet<_> = entries.iter().map(id).collect();
    for part in parts.iter().filter(|part| !["rust-standard-library", "sqlite"].contains(part)) {
        assert!(locked.contains(*part), "{part} is not locked any more: run scripts/third-party.sh");
    }
    for linked in ["rustls", "tokio", "glommio-ng", "aws-lc-sys", "libsqlite3-sys", "clap", "bytes"] {
        assert!(parts.iter().any(|part| part.starts_with(&format!("{linked}-"))), "{linked}");
    }
    // Every licence that is named has its text.
    let named = copyright.lines().filter_map(|line| line.strip_prefix("License: "));
    for licence in named.filter(|name| !name.contains(" and ") && *name != "public-domain") {
        assert!(copyright.contains(&format!("\n\nLicense: {licence}\n ")), "{licence}");
    }
}
