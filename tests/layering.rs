//! Holds the boundary: `proto` and `relay` are pure, so neither may name a socket, clock, source of randomness,
//! log or executor.

use std::path::Path;
use std::{fs, io};

const FOREIGN: [&str; 10] = [
    "glommio",
    "tokio",
    "std::net",
    "Instant::now",
    "SystemTime",
    "OsRng",
    "thread_rng",
    "getrandom",
    "tracing",
    "async",
];

#[test]
fn pure_layers_name_nothing_impure() -> io::Result<()> {
    for layer in ["src/proto", "src/relay", "src/srv.rs"] {
        check(&Path::new(env!("CARGO_MANIFEST_DIR")).join(layer))?;
    }
    Ok(())
}

/// Foreign text is made fit for a terminal in one place only; nothing gets past it.
#[test]
fn programs_write_to_a_terminal_through_one_module() -> io::Result<()> {
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin")];
    let mut files = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                waiting.push(entry?.path());
            }
            continue;
        }
        files += 1;
        let code = without_comments(&fs::read_to_string(&path)?);
        // Only looked at: whether it is a terminal, and what a child has written.
        let code = code.replace("stderr().is_terminal()", "").replace("output.stdout", "");
        for way in ["println", "eprintln", "print", "eprint", "stdout", "stderr", "dbg"] {
            assert!(!names(&code, way) || is_lint(&code, way), "{}: {way}", path.display());
        }
    }
    assert!(files > 20, "the programs' sources were not found");
    Ok(())
}

/// What other users plant in a directory is dealt with in one place only.
#[test]
fn files_are_made_in_one_module() -> io::Result<()> {
    const WAYS: [&str; 12] = [
        "File::create",
        "File::create_new",
        "File::options",
        "OpenOptions",
        "fs::write",
        "fs::copy",
        "fs::rename",
        "fs::hard_link",
        "fs::set_permissions",
        "chown",
        "UnixListener::bind",
        "fs::chmod",
    ];
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                waiting.push(entry?.path());
            }
            continue;
        }
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        if is_test || !is_code || path.ends_with("src/files.rs") {
            continue;
        }
        files += 1;
        let source = fs::read_to_string(&path)?;
        let code = without_comments(source.split("\n#[cfg(test)]\n").next().unwrap_or_default());
        for way in WAYS {
            let names = code.lines().any(|line| names(line, way) && !line.contains('"'));
            assert!(!names, "{}: {way}: use the module `files`", path.display());
        }
    }
    assert!(files > 100, "the sources were not found");
    Ok(())
}

/// The name stands for nothing but a standard stream handed to a child.
fn is_lint(code: &str, way: &str) -> bool {
    let lines = code.lines().filter(|line| names(line, way));
    lines.map(str::trim_start).all(|line| line.starts_with("#!") || line.contains("Stdio::"))
}

fn check(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| check(&entry?.path()));
    }
    if path.exists() {
        let source = fs::read_to_string(path)?;
        // Unit tests, at the foot of a file, may well begin with the present moment.
        let code = without_comments(source.split("\n#[cfg(test)]\n").next().unwrap_or_default());
        for name in FOREIGN {
            assert!(!names(&code, name), "{}: {name}", path.display());
        }
    }
    Ok(())
}

/// Each line up to its `//`, the one of a URI in a string excepted.
fn without_comments(source: &str) -> String {
    let code = |line: &str| {
        let comment = line.match_indices("//").find(|&(at, _)| !line[..at].ends_with(':'));
        line[..comment.map_or(line.len(), |(at, _)| at)].to_owned() + "\n"
    };
    source.lines().map(code).collect()
}

fn names(code: &str, name: &str) -> bool {
    let part_of_a_word =
        |octet: Option<char>| octet.is_some_and(|octet| octet.is_alphanumeric() || octet == '_');
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        !part_of_a_word(before.chars().next_back()) && !part_of_a_word(after.chars().next())
    })
}

#[test]
fn only_whole_identifiers_outside_comments_count() {
    let code = without_comments("let a = async_channel(); // tokio\nuse core::net;\n");
    assert!(FOREIGN.iter().all(|name| !names(&code, name)));
    assert!(names("use std::net::TcpStream;", "std::net") && names("Instant::now()", "Instant::now"));
}
