//! Man pages and completions say what the programs can do: all of it, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

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

#[test]
fn pages_are_sound_to_the_formatter() {
    if !Path::new("/usr/bin/groff").exists() {
        return println!("skipped: no groff here");
    }
    for (_, binary, section) in PROGRAMS {
        let place = written(binary);
        for page in fs::read_dir(place.path().join(format!("man/man{section}"))).unwrap() {
            let output = Command::new("/usr/bin/groff")
                .args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"])
                .arg(page.unwrap().path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{said}");
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
fn every_message_that_the_readme_has_a_cure_for_is_one_of_the_programs() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("\n## When something is wrong\n").unwrap();
    let chapter = rest.split("\n## ").next().unwrap();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let messages: Vec<_> = rows.map(|(message, _)| message).collect();
    assert!(messages.len() > 30, "{messages:?}");
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
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
    let copyright = include_str!("../deploy/debian/copyright");
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
