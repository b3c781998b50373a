//! The words: those of `docs/dev/lexicon.md` are in use, and those that the project does not write occur nowhere.

use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Words in two halves, so that this file does not hold them.
const UNWANTED: [(&str, &str); 8] = [
    ("oct", "et"),
    ("oct", "ets"),
    ("who", "ever"),
    ("no", "body"),
    ("no", "bodys"),
    ("some", "body"),
    ("here", "with"),
    ("there", "of"),
];

/// Parts of lines that must hold one: names of others, and the rule itself.
const NAMES_OF_OTHERS: [&str; 11] = [
    "octet-stream",
    ".octets()",
    "OCTET_STRING",
    "[\"octets\"]",
    "stands in quotations of an RFC's rule",
    "USER: &str = \"nobody\"",
    "system's user `nobody`",
    "chown nobody:",
    "--reuid nobody",
    "runuser -u nobody",
    "RFC 4975: \"",
];

/// Calls `look` with the path and text of each file below `directory` with one of these endings.
fn each(directory: &Path, endings: &[&str], look: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each(&path, endings, look);
        } else if !path.ends_with("tests/operator/words.rs")
            && path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
        {
            look(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

/// The unwanted words of a text, each with its line.
fn unwanted(text: &str) -> Vec<(String, &str)> {
    let words = UNWANTED.map(|(one, other)| format!("{one}{other}"));
    let lines = text.lines().filter(|line| !NAMES_OF_OTHERS.iter().any(|name| line.contains(name)));
    lines
        .flat_map(|line| {
            line.split(|c: char| !c.is_alphanumeric()).map(move |word| (word.to_lowercase(), line))
        })
        .filter(|(word, _)| words.contains(word))
        .collect()
}

/// A text in lower case, so that `next relay`, `next_relay` and `NextRelay` are one.
fn joined(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-' | '_')).collect::<String>().to_lowercase()
}

/// The words of the lexicon's rows: `(word, the types named in its meaning)`.
fn rows(lexicon: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for line in lexicon.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Word")) {
        let cells: Vec<&str> = line.trim_matches('|').splitn(2, '|').collect();
        let types =
            cells[1].split('`').skip(1).step_by(2).filter(|name| name.starts_with(char::is_uppercase));
        let types: Vec<String> = types.map(str::to_owned).collect();
        for word in cells[0].split(',') {
            let word = word.split('(').next().unwrap_or_default().trim();
            if !word.is_empty() && !word.starts_with('`') {
                found.push((word.to_owned(), types.clone()));
            }
        }
    }
    found
}

#[test]
fn sources_and_documents_use_plain_words() {
    let (mut looked_at, mut found) = (0, Vec::new());
    for directory in ["src", "crates", "tests", "scripts", "docs", "benches", "deploy"] {
        each(&Path::new(ROOT).join(directory), &["rs", "sh", "md", "patch", "toml"], &mut |path, text| {
            looked_at += 1;
            found.extend(
                unwanted(text).into_iter().map(|(word, line)| format!("{}: {word}: {line}", path.display())),
            );
        });
    }
    assert!(looked_at > 400, "{looked_at} files");
    assert!(found.is_empty(), "name the subject instead (CONTRIBUTING.md):\n{}", found.join("\n"));
}

#[test]
fn every_word_of_the_lexicon_is_in_use() {
    let mut code = String::new();
    for directory in ["src", "crates"] {
        each(&Path::new(ROOT).join(directory), &["rs"], &mut |_, text| code.push_str(text));
    }
    let words = joined(&code);
    let lexicon = fs::read_to_string(Path::new(ROOT).join("docs/dev/lexicon.md")).unwrap();
    let rows = rows(&lexicon);
    assert!(rows.len() > 60, "{} words", rows.len());
    for (word, types) in rows {
        assert!(words.contains(&joined(&word)), "{word:?} of docs/dev/lexicon.md is not in the sources");
        for name in types {
            let name = name.rsplit("::").next().unwrap_or_default();
            assert!(code.contains(name), "{name} of {word:?} in docs/dev/lexicon.md is not in the sources");
        }
    }
}

#[test]
fn unwanted_words_and_unused_rows_are_found() {
    let (who, ever) = UNWANTED[2];
    let text = format!(
        "fn {who}{ever}_calls() {{}}\n// {}{ever} asks\napplication/octet-stream\n",
        who.to_uppercase()
    );
    assert_eq!(unwanted(&text).len(), 2);
    let lexicon = "| Word | Meaning |\n|---|---|\n| step, envelope | What is next (`SessionStep`) |\n";
    let rows = rows(lexicon);
    assert_eq!(rows.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>(), ["step", "envelope"]);
    assert_eq!(rows[0].1, ["SessionStep"]);
    assert!(joined("NextRelay").contains(&joined("next relay")));
}
