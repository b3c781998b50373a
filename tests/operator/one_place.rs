//! Things that only one place does, which neither the compiler nor clippy can enforce: writing to a terminal, making
//! files, reading addresses. The crates decide which may use which; clippy (`clippy.toml`) checks executors and the
//! purity of crates.

use std::path::Path;
use std::{fs, io};

/// What clippy.toml of the pure crates cannot forbid: a keyword.
#[test]
fn pure_crates_have_no_async() -> io::Result<()> {
    let mut looked_at = 0;
    for layer in ["crates/msrp-proto/src", "crates/msrp-relay-core/src"] {
        each(&Path::new(env!("CARGO_MANIFEST_DIR")).join(layer), &mut |path, code| {
            looked_at += 1;
            assert!(!names(code, "async"), "{}", path.display());
        })?;
    }
    assert!(looked_at > 20, "{looked_at} files");
    Ok(())
}

/// Only one place makes foreign text fit for a terminal; nothing bypasses it.
#[test]
fn programs_write_to_a_terminal_through_one_module() -> io::Result<()> {
    let mut waiting = ["src/bin", "crates/msrp-cli/src"]
        .map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .to_vec();
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

/// Only one place handles what other users plant in a directory.
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
    let mut waiting = ["src", "crates"].map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).to_vec();
    let mut files = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                waiting.push(entry?.path());
            }
            continue;
        }
        let is_of_tests = |part: &str| part == "tests" || part.starts_with("testkit-");
        let is_test = path.components().any(|part| part.as_os_str().to_str().is_some_and(is_of_tests))
            || path.ends_with("tests.rs");
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        if is_test || !is_code || path.ends_with("untrusted/src/files.rs") {
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

/// Addresses become canonical where they enter: code that reads one by itself, or asks a socket for one, would let two
/// spellings of one address be two (`proto::address`).
#[test]
fn addresses_are_read_in_one_place() -> io::Result<()> {
    const BY_ONESELF: [&str; 6] = [
        "parse::<IpAddr>",
        "parse::<SocketAddr>",
        "parse::<std::net::IpAddr>",
        "parse::<std::net::SocketAddr>",
        "to_canonical",
        "to_ipv4_mapped",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for layer in [
        "crates/engine/src",
        "crates/msrp-proto/src",
        "crates/msrp-relay-core/src",
        "crates/msrp-tls/src",
        "src",
    ] {
        each(&root.join(layer), &mut |path, code| {
            if path.ends_with("msrp-proto/src/address.rs") || path.ends_with("tests.rs") {
                return;
            }
            let found = BY_ONESELF.iter().find(|name| code.contains(**name));
            assert_eq!(found, None, "{}", path.display());
            // A `Socket` of ours answers in that form; others do not.
            let asks = code.replace("socket.peer_addr()", "").contains(".peer_addr()");
            assert!(!asks || path.ends_with("engine/src/sock.rs"), "{}: peer_addr", path.display());
        })?;
    }
    Ok(())
}

/// Shows the code of each file under a path.
fn each(path: &Path, look: &mut impl FnMut(&Path, &str)) -> io::Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| each(&entry?.path(), look));
    }
    if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
        let source = fs::read_to_string(path)?;
        // Unit tests, at the foot of a file, may read the present time.
        look(path, &without_comments(source.split("\n#[cfg(test)]\n").next().unwrap_or_default()));
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
    let part_of_a_word = |byte: Option<char>| byte.is_some_and(|byte| byte.is_alphanumeric() || byte == '_');
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        !part_of_a_word(before.chars().next_back()) && !part_of_a_word(after.chars().next())
    })
}

#[test]
fn only_whole_identifiers_outside_comments_count() {
    let code = without_comments("let a = async_channel(); // async\n");
    assert!(!names(&code, "async"));
    assert!(names("use std::net::TcpStream;", "std::net") && names("async fn", "async"));
}
