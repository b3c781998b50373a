//! The log: a bounded number of lines about strangers, what an operator needs about peers, the forms that the journal
//! and fail2ban understand; and docs/operate/logging.md has every line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use msrprelay::telemetry::Site;
use socket2::{Domain, Socket, Type};
use testkit_net::account::{Login, password};
use testkit_net::endpoint::Endpoint;
use testkit_net::process::{RelayProcess, relay_binary};
use testkit_net::relay::{HOST, Setup, trusting};
use testkit_net::{bounded, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

// -- every line is known ---------------------------------------------------------------------------

/// A line at info or above, as the source writes it.
#[derive(Debug, Default)]
struct Line {
    levels: BTreeSet<String>,
    fields: BTreeSet<String>,
    /// Every place that writes it asks `gate` first.
    bounded: bool,
}

/// Where a string literal ends that begins at `at`.
fn behind_literal(text: &str, at: usize) -> usize {
    let mut escaped = false;
    for (n, byte) in text.bytes().enumerate().skip(at + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return n + 1,
            _ => {}
        }
    }
    panic!("a literal does not end: {}", &text[at..]);
}

/// What stands between commas in the brackets that open at `at`.
fn arguments(text: &str, at: usize) -> Vec<&str> {
    let (mut depth, mut begin, mut n, mut found) = (0, at + 1, at, Vec::new());
    loop {
        match text.as_bytes()[n] {
            b'"' => {
                n = behind_literal(text, n);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 1 => {
                found.push(text[begin..n].trim());
                begin = n + 1;
            }
            _ => {}
        }
        if depth == 0 {
            found.push(text[begin..n].trim());
            found.retain(|argument| !argument.is_empty());
            return found;
        }
        n += 1;
    }
}

fn field_name(argument: &str) -> String {
    let name = argument.split('=').next().unwrap().trim();
    name.trim_start_matches(['%', '?']).to_owned()
}

/// The server's sources, without their tests.
fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let elsewhere = ["src/bin/msrp", "src/client", "src/fuzz", "src/client.rs"];
        if elsewhere.iter().any(|other| path == Path::new(ROOT).join(other)) {
            continue;
        } else if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("\n#[cfg(test)]\n").next().unwrap().to_owned();
            found.push((path, text));
        }
    }
}

/// All lines at info and above that the server can write, by their words.
fn lines_of_the_source() -> BTreeMap<String, Line> {
    let mut all = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut all);
    let mut lines = BTreeMap::<String, Line>::new();
    for (path, text) in &all {
        for level in ["error", "warn", "info"] {
            let call = format!("tracing::{level}!(");
            for (at, _) in text.match_indices(&call) {
                let mut parts = arguments(text, at + call.len() - 1);
                let message = parts.pop().unwrap();
                // One line for each limit and minute: the function that writes them asks first.
                let function = text[..at].rfind("\npub(crate) fn ").map_or("", |begin| &text[begin..at]);
                let bounded = function.starts_with("\npub(crate) fn limit_reached(")
                    && function.contains("let Some(suppressed) = pass_limit(limit) else {\n        return;");
                add(&mut lines, path, (message, level, bounded), parts.into_iter().map(field_name));
            }
        }
        for (at, call) in text.match_indices("gated!(") {
            let parts = arguments(text, at + call.len() - 1);
            let [level, _site, _source, fields, message] = parts[..] else { panic!("{parts:?}") };
            let fields = arguments(fields, 0).into_iter().map(field_name).chain(["suppressed".to_owned()]);
            add(&mut lines, path, (message, level, true), fields);
        }
    }
    lines
}

fn add(
    lines: &mut BTreeMap<String, Line>,
    path: &Path,
    (message, level, bounded): (&str, &str, bool),
    fields: impl Iterator<Item = String>,
) {
    let message = message.strip_prefix('"').and_then(|message| message.strip_suffix('"'));
    let message = message.unwrap_or_else(|| panic!("{}: the last argument is no message", path.display()));
    let new = !lines.contains_key(message);
    let line = lines.entry(message.to_owned()).or_default();
    line.bounded = bounded && (new || line.bounded);
    line.levels.insert(level.to_owned());
    line.fields.extend(fields);
}

/// Words in backticks, separated by commas.
fn ticked(cell: &str) -> BTreeSet<String> {
    cell.split(", ").map(|word| word.trim_matches('`').to_owned()).filter(|word| !word.is_empty()).collect()
}

// The table in docs/operate/logging.md says who can cause each line, and this test requires a row for each. What a
// stranger can cause must be bounded; `telemetry::gate` tests the bounds of all sites.
#[test]
fn every_line_is_documented_with_its_cause_and_those_of_strangers_are_bounded() {
    let lines = lines_of_the_source();
    assert!(lines.len() > 60, "{lines:#?}");
    let mut problems = Vec::new();
    let mut documented = BTreeSet::new();
    let page = fs::read_to_string(Path::new(ROOT).join("docs/operate/logging.md")).unwrap();
    let (_, table) = page.split_once("\n| Message | Level | Caused by | Fields |\n").unwrap();
    for row in table.lines().skip(1).take_while(|row| row.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [message, levels, cause, ref fields @ ..] = cells[..] else { panic!("{row}") };
        let message = message.trim_matches('`');
        assert!(documented.insert(message.to_owned()), "{message:?} is there twice");
        let Some(line) = lines.get(message) else {
            problems.push(format!("the relay never says {message:?}"));
            continue;
        };
        if ticked(levels) != line.levels {
            problems.push(format!("{message:?} is written at {:?}", line.levels));
        }
        if ticked(fields.first().unwrap_or(&"")) != line.fields {
            problems.push(format!("{message:?} has {:?}", line.fields));
        }
        match cause {
            "stranger" if !line.bounded => problems.push(format!("nothing bounds {message:?}")),
            "stranger" | "client" | "operator" | "relay" => {}
            _ => problems.push(format!("{message:?} is caused by {cause:?}")),
        }
    }
    problems.extend(lines.keys().filter(|message| !documented.contains(*message)).map(|message| {
        format!("{message:?} is not in docs/operate/logging.md: say there who can cause it; a stranger's is `gated!`")
    }));
    // In JSON a field must not replace what stands before it; a key of a table tells an operator nothing.
    for (message, line) in &lines {
        let odd = ["timestamp", "level", "message", "library", "peer"].map(|name| line.fields.contains(name));
        if odd.contains(&true) {
            problems.push(format!("{message:?} has fields that it must not have: {:?}", line.fields));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_site_is_in_use() {
    let mut all = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut all);
    for site in Site::ALL {
        let name = format!("Site::{site:?}");
        assert!(all.iter().any(|(_, text)| text.contains(&name)), "{name}");
    }
}

// -- a relay and strangers -------------------------------------------------------------------------

/// A relay that logs refused AUTHs.
fn relay(format: &str) -> RelayProcess {
    let place = tempfile::tempdir().unwrap();
    let setup = Setup::default();
    let text = setup.write(place.path()).replace("\nauth:\n", "\nauth:\n  log_failures: true\n");
    let text = format!(
        "{text}log: {{format: {format}}}\n\
         limits: {{auth_failures_per_address_max: 0, auth_failures_per_user_max: 0}}\n"
    );
    let client = Arc::new(trusting(place.path()));
    RelayProcess::of(place, &text, client)
}

/// A connection from an address of this machine.
fn connect_from(address: &str, relay: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{address}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&relay.into()).unwrap();
    socket.into()
}

/// Gives a wrong password from an address, several times.
fn guess(relay: &RelayProcess, from: &str, user: &str, times: usize) {
    let to = format!("msrps://example.com:{};tcp", relay.addresses[0].port());
    let login = Login::new(user, "1234", &to);
    for _ in 0..times {
        let mut endpoint = Endpoint::over(connect_from(from, relay.addresses[0]), &relay.client, "guesser");
        assert_eq!(login.attempt(&mut endpoint).1.status(), Some(401));
    }
}

/// The lines of a log that hold all these words, once there are some.
fn lines_with(relay: &RelayProcess, words: &[&str]) -> Vec<String> {
    until(&format!("the log to say {words:?}"), || {
        let log = relay.log();
        let found = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        let found: Vec<_> = found.map(str::to_owned).collect();
        (!found.is_empty()).then_some(found)
    })
}

/// A stranger's user name, in an attempt to have another address banned.
const FORGER: &str = "x\\\" address=192.0.2.66:1 status=401 \\\"address\\\":\\\"192.0.2.66:1\\\"";

#[test]
fn a_flood_of_wrong_passwords_leaves_as_many_lines_as_fail2ban_needs_and_no_more() {
    bounded(|| {
        let relay = relay("text");
        let quota = Site::AuthRefused.quota().per_source as usize;
        // All within one window, also where each takes two seconds.
        let suppressed = 5;
        guess(&relay, "127.0.0.2", "alice", quota + suppressed);
        guess(&relay, "127.0.0.3", "alice", 3);
        let other = until("the other address to be told of", || {
            let lines = lines_with(&relay, &["AUTH refused address=127.0.0.3:"]);
            (lines.len() == 3).then_some(lines)
        });
        // The first one reports how many were left out.
        assert!(other[0].ends_with(&format!(" suppressed={suppressed}")), "{}", other[0]);
        assert!(!other[1].contains("suppressed"), "{}", other[1]);
        let flood = lines_with(&relay, &["AUTH refused address=127.0.0.2:"]);
        assert_eq!(flood.len(), quota);
        for line in flood {
            let (_, line) = line.split_once("Z WARN AUTH refused address=127.0.0.2:").unwrap();
            let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
            assert_eq!(rest, " status=401 reason=\"unknown user or wrong password\" user=\"alice\"");
        }
    });
}

#[test]
fn a_hundred_strangers_with_garbage_leave_a_few_lines_at_most() {
    bounded(|| {
        let relay = relay("text");
        let before = relay.log();
        for n in 0..100 {
            let mut stream = TcpStream::connect(relay.addresses[n % 2]).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        // A line that comes after all of theirs.
        relay.client("alice").close();
        lines_with(&relay, &["Session closed"]);
        let after = relay.log();
        let new: Vec<_> = after[before.len()..].lines().filter(|line| !line.contains(" Session ")).collect();
        // The bound is for each address, and this is one.
        assert!(new.len() <= 20, "{new:?}");
    });
}

#[test]
fn a_session_is_told_of_with_what_an_operator_needs() {
    bounded(|| {
        let relay = relay("json");
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let [address, _] = [&alice, &bob].map(|client| client.stream().local_addr().unwrap().to_string());
        let tid = alice.say(&bob.path(), b"Hello");
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"Hello");
        alice.close();
        let closed = lines_with(&relay, &["\"Session closed\"", "\"alice\""]).remove(0);
        let opened = lines_with(&relay, &["\"Session opened\"", "\"alice\""]).remove(0);
        let [opened, closed] =
            [opened, closed].map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
        for line in [&opened, &closed] {
            assert_eq!(line["address"], address.as_str(), "{line}");
            assert_eq!((&line["user"], &line["realm"]), (&"alice".into(), &"example.com".into()), "{line}");
            assert_eq!(line["session"], opened["session"]);
            assert!(line["session"].as_str().is_some_and(|session| session.len() >= 8), "{line}");
        }
        assert_eq!((&closed["bytes_from_client"], &closed["bytes_to_client"]), (&5.into(), &0.into()));
        assert_eq!(closed["reason"], "closed by the client");
        assert!(closed["duration_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{closed}");
    });
}

// -- realms ----------------------------------------------------------------------------------------

/// Tries to log in where AUTH is addressed to `host`.
fn attempt_at(relay: &RelayProcess, host: &str, user: &str, secret: &str) -> Option<u16> {
    let to = format!("msrps://{host}:{};tcp", relay.addresses[0].port());
    let login = Login::new(user, secret, &to);
    login.attempt(&mut relay.stranger("stranger")).1.status()
}

/// A relay whose accounts are of two domains.
fn relay_of_two_domains(backend: &str) -> RelayProcess {
    let place = tempfile::tempdir().unwrap();
    let text = Setup::default().write(place.path());
    let first = "    users:\n";
    let text =
        text.replace(first, &format!("{first}      - {{user: \"carol@example.org\", password: secret}}\n"));
    let file = place.path().join("accounts.db");
    let sqlite = format!("\nauth:\n  backend: {backend}\n  sqlite: {{path: {}}}\n", file.display());
    for user in ["alice@example.com", "carol@example.org"] {
        let mut command = Command::new(relay_binary());
        command.args(["user", "add", user, "--database"]).arg(&file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{}\n", password("alice")).as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
    let client = Arc::new(trusting(place.path()));
    RelayProcess::of(place, &text.replace("\nauth:\n", &sqlite), client)
}

#[test]
fn auth_for_a_realm_without_accounts_is_told_once_without_the_user() {
    bounded(|| {
        for backend in ["memory", "sqlite"] {
            let relay = relay_of_two_domains(backend);
            let right = password("alice");
            assert_eq!(attempt_at(&relay, "example.com", "alice", "wrong"), Some(401));
            assert_eq!(attempt_at(&relay, "example.com", "mallory", "wrong"), Some(401));
            assert!(!relay.log().contains(" AUTH "), "{}", relay.log());
            for user in ["alice", "alice", "mallory"] {
                assert_eq!(attempt_at(&relay, HOST, user, &right), Some(401));
            }
            assert_eq!(attempt_at(&relay, "example.com", "alice", &right), Some(200));
            lines_with(&relay, &["Session opened"]);
            let lines = lines_with(&relay, &["AUTH for a realm without accounts"]);
            let [line] = &lines[..] else { panic!("{lines:?}") };
            let fields = format!("realm=\"{HOST}\" accounts_for=\"example.com, example.org\"");
            assert!(line.contains(" WARN ") && line.ends_with(&fields), "{line}");
            assert!(!line.contains("alice") && !line.contains("mallory"), "{line}");
        }
    });
}

// -- the journal -----------------------------------------------------------------------------------

/// All that the server writes to a standard error that systemd names as the journal's; with `wrong`, it names another
/// one.
fn written_to_the_journal(config: &Path, wrong: bool) -> String {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let theirs = File::from(OwnedFd::from(theirs));
    let metadata = theirs.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino() + u64::from(wrong));
    let ready = config.with_file_name("ready");
    let mut command = Command::new(relay_binary());
    command.arg("--config").arg(config).arg("--ready-file").arg(&ready).env("JOURNAL_STREAM", stream);
    let mut child = command.stdin(Stdio::null()).stderr(theirs).spawn().unwrap();
    // It holds the other end.
    drop(command);
    let ended = until("the relay to be ready, or to end", || {
        child.try_wait().unwrap().map(|_| true).or_else(|| ready.exists().then_some(false))
    });
    if !ended {
        let killed = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(killed.success());
    }
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

/// A config that causes a warning.
fn place(format: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let text = Setup::default().write(place.path());
    let text = text.replace("\nauth:\n", "\nauth:\n  insecure_plain: true\n");
    fs::write(place.path().join("config.yaml"), format!("{text}log: {{format: {format}}}\n")).unwrap();
    place
}

#[test]
fn the_journal_is_told_the_priority_and_not_the_time() {
    bounded(|| {
        for format in ["text", "json"] {
            let place = place(format);
            let text = written_to_the_journal(&place.path().join("config.yaml"), false);
            let begins =
                |line: &str| line.starts_with("<6>") || line.starts_with("<4>") || line.starts_with("<3>");
            assert!(text.lines().count() > 3 && text.lines().all(begins), "{text}");
            let year = |line: &str| line.contains("Z INFO") || line.contains("timestamp");
            assert!(!text.lines().any(year), "{text}");
            let has = |start: &str, words: &str| {
                text.lines().any(|line| line.starts_with(start) && line.contains(words))
            };
            assert!(has("<4>", "The config deserves attention") && has("<6>", "Listening"), "{text}");
        }
    });
}

#[test]
fn a_start_that_fails_is_an_error_in_the_journal_too() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("config.yaml");
        fs::write(&config, "listen: nonsense\nnonsense: true\n").unwrap();
        let text = written_to_the_journal(&config, false);
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.starts_with("<3>")), "{text}");
    });
}

#[test]
fn who_is_not_the_journal_gets_the_time() {
    bounded(|| {
        let place = place("text");
        let text = written_to_the_journal(&place.path().join("config.yaml"), true);
        assert!(text.lines().count() > 3 && text.lines().all(|line| line.starts_with("20")), "{text}");
    });
}

// -- fail2ban --------------------------------------------------------------------------------------

/// A program in the path.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.exists())
}

/// The addresses that fail2ban would count in a log, once for each time.
fn banned(fail2ban: &Path, log: &str) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    // Its files lie beside it, or where it is installed.
    let beside = fail2ban.parent().unwrap().join("../etc/fail2ban/filter.d/common.conf");
    let common = if beside.exists() { beside } else { "/etc/fail2ban/filter.d/common.conf".into() };
    fs::copy(common, place.path().join("common.conf")).unwrap();
    let filter = place.path().join("msrprelay.conf");
    fs::copy(Path::new(ROOT).join("deploy/fail2ban/msrprelay.conf"), &filter).unwrap();
    let file = place.path().join("log");
    fs::write(&file, log).unwrap();
    let output = Command::new(fail2ban).args(["-o", "ip"]).arg(&file).arg(&filter).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.stderr.is_empty(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn fail2ban_finds_the_addresses_of_guessers_and_none_can_be_forged() {
    bounded(|| {
        let Some(fail2ban) = find_program("fail2ban-regex") else {
            return println!("skipped: no fail2ban-regex here");
        };
        for format in ["text", "json"] {
            let relay = relay(format);
            relay.client("alice").close();
            guess(&relay, "127.0.0.2", "alice", 2);
            guess(&relay, "127.0.0.3", FORGER, 1);
            lines_with(&relay, &["AUTH refused", "127.0.0.3:"]);
            let log = relay.log();
            assert!(log.contains("192.0.2.66"), "{log}");
            let mut found = banned(&fail2ban, &log);
            found.sort();
            assert_eq!(found, ["127.0.0.2", "127.0.0.2", "127.0.0.3"], "{log}");
            // The journal stores it without the time, and with the name of the service.
            let journal: String = log
                .lines()
                .map(|line| {
                    let text = line.split_once("Z ").map_or(line, |(_, text)| text);
                    let text = match text.split_once("\",\"level\"") {
                        Some((_, rest)) => format!("{{\"level\"{rest}"),
                        None => text.to_owned(),
                    };
                    format!("Nov 28 21:37:22 relay msrprelay[4711]: {text}\n")
                })
                .collect();
            assert_eq!(banned(&fail2ban, &journal).len(), 3, "{journal}");
        }
    });
}
