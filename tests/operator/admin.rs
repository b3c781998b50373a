//! Looks inside a running relay: the commands as an operator gives them, and the socket below as any user may abuse it.
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use msrprelay::ops::admin::{CLIENTS_MAX, REQUEST_BYTES_MAX};
use serde_json::{Value, json};
use testkit_net::account::{Login, password};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::Request;
use testkit_net::process::{RelayProcess, relay_binary};
use testkit_net::relay::Setup;
use testkit_net::transfer::Outgoing;
use testkit_net::websocket::{PING, client_frame};
use testkit_net::{PATIENCE, assert_same, bounded, contents, until};

fn start(more: &'static str) -> RelayProcess {
    RelayProcess::start(&Setup { more, ..Setup::default() })
}

const ADMIN: &str = "admin: {socket: admin.sock}";

fn socket(relay: &RelayProcess) -> PathBuf {
    relay.certificate().with_file_name("admin.sock")
}

fn run(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(relay_binary())
        .args(arguments)
        .arg("--socket")
        .arg(socket)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a command prints that must succeed.
#[track_caller]
fn said(socket: &Path, arguments: &[&str]) -> String {
    let output = run(socket, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same as programs read it.
#[track_caller]
fn json(socket: &Path, arguments: &[&str]) -> Vec<Value> {
    let said = said(socket, &[arguments, &["--json"]].concat());
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The error line of a command that must fail.
#[track_caller]
fn refused(socket: &Path, arguments: &[&str]) -> String {
    let output = run(socket, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(words.lines().count(), 1, "{words}");
    words
}

/// The secret part of a client's session URI.
fn id(client: &Endpoint) -> String {
    let uri = client.relay.as_ref().unwrap();
    uri.rsplit('/').next().unwrap().trim_end_matches(";tcp").to_owned()
}

fn of<'a>(sessions: &'a [Value], user: &str) -> &'a Value {
    sessions.iter().find(|session| session["user"] == user).unwrap()
}

#[test]
fn sessions_are_listed_with_their_peers_and_bytes_and_without_their_secrets() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        assert_eq!(said(&socket, &["sessions"]), "no sessions\n");
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        assert_eq!(of(&json(&socket, &["sessions"]), "bob")["state"], "unbound");
        alice.chat(&mut bob, b"Hello");
        bob.chat(&mut alice, b"Hello yourself");
        let mut stranger = relay.stranger("carol");
        let mut dan = relay.client("user1");
        stranger.chat(&mut dan, b"From afar");

        let sessions = json(&socket, &["sessions"]);
        assert_eq!(sessions.len(), 3, "{sessions:?}");
        for (client, user, peer, from, to) in [
            (&alice, "alice", Some(&bob), 5, 14),
            (&bob, "bob", Some(&alice), 14, 5),
            (&dan, "user1", None, 0, 9),
        ] {
            let session = of(&sessions, user);
            assert_eq!((&session["realm"], &session["state"]), (&json!("example.com"), &json!("bound")));
            // Alice has said the first word, and is where bob is.
            assert_eq!(session["core"], if user == "alice" { bob.core() } else { client.core() });
            let address = client.stream().local_addr().unwrap().to_string();
            assert_eq!(session["client"], address);
            assert_eq!(
                (&session["bytes_from_client"], &session["bytes_to_client"]),
                (&json!(from), &json!(to))
            );
            assert!(id(client).starts_with(session["session"].as_str().unwrap()), "{session}");
            let peer = match peer {
                Some(peer) => format!("session {}", &id(peer)[..10]),
                None if stranger_is_on(client, session) => {
                    stranger.stream().local_addr().unwrap().to_string()
                }
                None => "carol.invalid:2855".to_owned(),
            };
            assert_eq!(session["peer"], peer, "{session}");
        }
        let bobs = json(&socket, &["sessions", "--user", "bob@example.com"]);
        assert!(bobs.len() == 1 && bobs[0]["user"] == "bob");
        assert!(json(&socket, &["sessions", "--user", "bob@example.org"]).is_empty());

        let table = said(&socket, &["sessions"]);
        assert!(table.starts_with("SESSION ") && table.contains("alice@example.com"), "{table}");
        assert_eq!(table.lines().count(), 4, "{table}");
        let everything = format!("{table}{sessions:?}");
        for client in [&alice, &bob, &dan] {
            assert!(!everything.contains(&id(client)), "{everything}");
        }
    });
}

/// The far connection's address is known if it is on the session's own core.
fn stranger_is_on(client: &Endpoint, session: &Value) -> bool {
    session["core"] == client.core() && session["peer"].as_str().unwrap().starts_with("127.0.0.1:")
}

#[test]
fn a_session_that_is_closed_ends_and_the_others_live_on() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let (mut one, mut two) = (relay.client("user1"), relay.client("user2"));
        alice.chat(&mut bob, b"Hello");
        one.chat(&mut two, b"Hello");
        let prefix = id(&alice)[..10].to_owned();
        assert_eq!(said(&socket, &["close", &prefix]), format!("{prefix} of alice@example.com ends\n"));
        assert_eq!(alice.end(), End::Clean);
        alice.close();
        let sessions = until("alice to be gone", || {
            Some(json(&socket, &["sessions"])).filter(|sessions| sessions.len() == 3)
        });
        assert_eq!(of(&sessions, "bob")["state"], "lost");
        relay.logs("Session closed by an operator");
        one.chat(&mut two, b"Still there?");

        let words = refused(&socket, &["close", &prefix]);
        assert!(words.contains("no session begins with") && words.contains("msrprelay sessions"), "{words}");
        assert!(refused(&socket, &["close", &prefix[..5]]).contains("at least the first 8"));
        assert!(refused(&socket, &["close", "________________"]).contains("no session begins with"));
        // The whole of it is a prefix, too.
        let whole = json(&socket, &["close", &id(&bob)]);
        assert_eq!(whole[0]["closed"]["user"], "bob");
        assert!(!relay.log().contains(&id(&bob)) && !whole[0].to_string().contains(&id(&bob)));
        assert_eq!(bob.end(), End::Clean);
    });
}

#[test]
fn the_status_has_what_each_core_does() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        alice.chat(&mut bob, b"Hello");
        // Cores publish their figures a few times a second.
        let status = until("the figures", || {
            let status = json(&socket, &["status"]).remove(0);
            let bytes = status["cores"].as_array().unwrap().iter().map(|core| &core["body_bytes_out"]);
            let bytes: u64 = bytes.map(|bytes| bytes.as_u64().unwrap()).sum();
            (status["sessions"] == 2 && bytes == 5).then_some(status)
        });
        assert_eq!((&status["state"], &status["log_level"]), (&json!("running"), &json!("info")));
        assert_eq!((&status["pid"], &status["connections"]), (&json!(relay.pid()), &json!(2)));
        assert_eq!(status["accounts_ready"], true);
        let addresses: Vec<_> =
            status["listening"].as_array().unwrap().iter().map(|l| &l["address"]).collect();
        assert_eq!(addresses, [&json!(relay.addresses[0]), &json!(relay.addresses[1])]);
        let text = said(&socket, &["status"]);
        assert!(text.starts_with("msrprelay ") && text.contains("running for"), "{text}");
        assert!(text.contains(&format!("{} (TLS)", relay.addresses[0])), "{text}");

        said(&socket, &["log-level", "debug"]);
        assert_eq!(json(&socket, &["status"])[0]["log_level"], "debug");
        relay.stranger("stranger").close();
        until("a line of that level", || relay.log().contains("DEBUG").then_some(()));
    });
}

#[test]
fn the_relay_drains_on_command() {
    bounded(|| {
        let mut relay = start(ADMIN);
        let socket = socket(&relay);
        let alice = relay.client("alice");
        assert!(refused(&socket, &["drain", "--seconds", "18446744073709551615"]).contains("say 0 to 86400"));
        said(&socket, &["drain", "--seconds", "3600"]);
        until("the drain", || (json(&socket, &["status"])[0]["state"] == "draining").then_some(()));
        assert_eq!(json(&socket, &["sessions"]).len(), 1);
        assert!(refused(&socket, &["drain"]).contains("draining already: to end it now, send"));
        alice.close();
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        assert!(!socket.exists());
    });
}

// systemctl reload must fail when the relay does not take the config.
#[test]
fn reload_waits_for_the_outcome_and_says_what_is_wrong() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        assert_eq!(said(&socket, &["reload"]), "");
        relay.rewrite(&Setup { more: "admin: {socket: admin.sock}\nno_such_key: 1", ..Setup::default() });
        let words = refused(&socket, &["reload"]);
        assert!(words.contains("no_such_key"), "{words}");
        // Every problem on a line of its own.
        relay.rewrite(&Setup {
            more: "admin: {socket: admin.sock}\nno_such_key: 1\nnor_this: 1",
            ..Setup::default()
        });
        let output = run(&socket, &["reload"]);
        assert_eq!(output.status.code(), Some(1));
        let words = String::from_utf8(output.stderr).unwrap();
        for key in ["no_such_key", "nor_this"] {
            assert_eq!(words.lines().filter(|line| line.contains(key)).count(), 1, "{words}");
        }
        assert_eq!(words.trim_end().lines().count(), 2, "{words}");
        relay.rewrite(&Setup { more: "admin: {socket: other.sock}", ..Setup::default() });
        let output = run(&socket, &["reload"]);
        assert!(output.status.success());
        let warned = String::from_utf8(output.stderr).unwrap();
        assert!(
            warned.contains("admin.socket: the config says something else here, which takes a restart"),
            "{warned}"
        );
        // Without a socket, by a signal.
        let taken = "The present config is in force";
        let before = relay.log().matches(taken).count();
        let nowhere = socket.with_file_name("nowhere.sock");
        let output = run(&nowhere, &["reload", "--pid", &relay.pid().to_string()]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("SIGHUP was sent"));
        until("the reload by a signal", || (relay.log().matches(taken).count() > before).then_some(()));
        assert!(!run(&nowhere, &["reload"]).status.success());
    });
}

#[test]
fn who_cannot_ask_is_told_why_and_what_to_do() {
    bounded(|| {
        let mut relay = start(ADMIN);
        let socket = socket(&relay);
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        // Another user of the machine, without an account.
        let id = Command::new("id").arg("-u").output().unwrap();
        if id.stdout == b"0\n" {
            for directory in socket.ancestors().skip(1).take(1) {
                fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let copy = socket.with_file_name("msrprelay");
            fs::copy(relay_binary(), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
            let mut other = Command::new("setpriv");
            other.args(["--reuid=64998", "--regid=64998", "--clear-groups"]).arg(&copy);
            let output = other.arg("status").arg("--socket").arg(&socket).output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(words.contains("permission denied: be root, the relay's user"), "{words}");
        }
        let nowhere = socket.with_file_name("nowhere.sock");
        assert!(refused(&nowhere, &["status"]).contains("no such socket: start the relay"));

        // Another relay may not have it, nor may a file that is no socket.
        let more = format!("admin: {{socket: {}}}", socket.display()).leak();
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("config.yaml");
        fs::write(&config, Setup { more, ..Setup::default() }.write(place.path())).unwrap();
        let second = || Command::new(relay_binary()).arg("--config").arg(&config).output().unwrap();
        let output = second();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && words.contains("another relay listens there"), "{words}");

        // A killed relay leaves its socket behind; the next one replaces it.
        relay.signal("KILL");
        relay.wait();
        assert!(
            refused(&socket, &["status"]).contains("no process listens there: the relay has been killed")
        );
        let next = start(more);
        assert_eq!(json(&socket, &["status"])[0]["pid"], next.pid());
        drop(next);
        fs::remove_file(&socket).unwrap();
        fs::write(&socket, "a file").unwrap();
        let output = second();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("is there and no socket: remove it"), "{words}");
        assert_eq!(fs::read_to_string(&socket).unwrap(), "a file");
    });
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back for some bytes.
fn answered(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = connect(socket);
    // It may have been answered before all is written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn nonsense_and_crowds_at_the_socket_do_no_harm() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        for bytes in [
            &b""[..],
            b"\n",
            b"{\"command\":\"status\"",
            b"{\"command\":\"reboot\"}\n",
            b"{\"command\":\"status\",\"more\":1}\n",
            b"\xff\xfe\n",
            b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
            &[b'x'; 4 * REQUEST_BYTES_MAX],
        ] {
            let answer = answered(&socket, bytes);
            let is_refusal = answer.starts_with("{\"error\":\"that is no request");
            // Bytes that are no text get no answer, and for unread ones the kernel sends a reset.
            assert!(answer.is_empty() || is_refusal, "{bytes:?}: {answer}");
        }
        let crowd: Vec<_> = (0..CLIENTS_MAX).map(|_| connect(&socket)).collect();
        let words = until("the crowd to be served", || {
            let output = run(&socket, &["status"]);
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            words.contains("others are being served").then_some(words)
        });
        assert!(words.contains("try again"), "{words}");
        drop(crowd);
        until("there to be a place again", || run(&socket, &["status"]).status.success().then_some(()));
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        alice.chat(&mut bob, b"Hello");
    });
}

#[test]
fn long_list_comes_whole_while_others_chat_and_a_reader_that_stops_is_released() {
    const MANY: usize = 400;
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        let crowd: Vec<_> = (0..MANY).map(|n| relay.client(&format!("user{}", n % 256))).collect();
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        // They come together on one core now, and not while the list is made.
        alice.chat(&mut bob, b"Hello");
        std::thread::scope(|scope| {
            let listing = scope.spawn(|| {
                for _ in 0..5 {
                    let sessions = json(&socket, &["sessions"]);
                    assert_eq!(sessions.len(), MANY + 2);
                }
            });
            for _ in 0..50 {
                alice.chat(&mut bob, b"Hello");
            }
            listing.join().unwrap();
        });
        // Reads the first line and no more. None: the clients before it have not been released yet.
        let reads_one_line = || {
            let mut stream = connect(&socket);
            stream.write_all(b"{\"command\":\"sessions\",\"user\":null}\n").ok()?;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).ok()?;
            line.starts_with("{\"session\":").then_some(())
        };
        for _ in 0..2 * CLIENTS_MAX {
            until("there to be a place", reads_one_line);
        }
        until("there to be a place again", || run(&socket, &["status"]).status.success().then_some(()));
        drop(crowd);
    });
}

/// `msrprelay trace` while it runs.
struct Tracing {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tracing {
    fn start(socket: &Path, of: &str, more: &[&str]) -> Self {
        let mut command = Command::new(relay_binary());
        command.args(["trace", of, "--json", "--socket"]).arg(socket).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next head; `None`: it has ended.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).ok()
    }

    /// The heads up to the one whose start line and way are these.
    fn until(&mut self, direction: &str, start: &str) -> Vec<Value> {
        let mut heads = Vec::new();
        for _ in 0..1000 {
            let head = self.next().unwrap_or_else(|| panic!("{start}: it has ended after {heads:?}"));
            let is_it = head["direction"] == direction && head["head"].as_str().unwrap().starts_with(start);
            heads.push(head);
            if is_it {
                return heads;
            }
        }
        panic!("{start} never comes");
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Chats until a trace has begun, which no message announces.
fn until_traced(relay: &RelayProcess, count: usize) {
    until("the trace to begin", || {
        (relay.log().matches("An operator traces").count() >= count).then_some(())
    });
}

#[test]
fn a_trace_shows_the_heads_of_one_user_both_ways_and_no_secrets_and_no_bodies() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let (mut one, mut two) = (relay.client("user1"), relay.client("user2"));
        let mut trace = Tracing::start(&socket, "alice@example.com", &[]);
        until_traced(&relay, 1);
        let mut heads = Vec::new();
        // Cores begin one after the other: until hers has, her messages are not shown.
        std::thread::scope(|scope| {
            let first = scope.spawn(|| trace.next().unwrap());
            let mut further = 0..5;
            while !first.is_finished() || further.next().is_some() {
                one.chat(&mut two, b"Not to be seen");
                alice.chat(&mut bob, b"The words of a body");
                bob.chat(&mut alice, b"The words of a body");
            }
            heads.push(first.join().unwrap());
        });
        let tid = alice.say(&bob.path(), b"The last words of a body");
        assert_eq!(alice.status(&tid), 200);
        bob.request("SEND");
        heads.extend(trace.until("out", &format!("MSRP {tid} 200")));
        assert!(heads.iter().any(|head| head["direction"] == "in"), "{heads:?}");
        let ours = format!("/{}…;tcp", &id(&alice)[..10]);
        for head in &heads {
            assert_eq!(head["user"], "alice");
            // Where she logged in, or where bob is, to whom she has gone.
            assert!([alice.core(), bob.core()].iter().any(|core| head["core"] == *core), "{head}");
            assert!(head["head"].as_str().unwrap().contains(&ours), "{head}");
        }
        let shown = format!("{heads:?}");
        let sends = heads.iter().filter(|head| head["head"].as_str().unwrap().contains(" SEND\n"));
        let ways: Vec<_> = sends.map(|head| head["direction"].as_str().unwrap()).collect();
        assert!(ways.contains(&"in") && ways.contains(&"out"), "{ways:?}");
        assert!(!shown.contains("words of a body") && !shown.contains("user1"), "{shown}");
        for client in [&alice, &bob] {
            assert!(!shown.contains(&id(client)), "{shown}");
        }

        // Another session of hers is shown, and an AUTH without its content.
        let mut second = relay.client("alice");
        let mut dan = relay.client("user3");
        let tid = second.say(&dan.path(), b"A word");
        assert_eq!(second.status(&tid), 200);
        dan.request("SEND");
        trace.until("out", &format!("MSRP {tid} 200"));
        let to = format!("msrps://example.com:{};tcp", relay.addresses[0].port());
        let password = password("alice");
        let login = Login::new("alice", &password, &to);
        let (_, last) = login.attempt(&mut second);
        assert_eq!(last.status(), Some(200));
        let heads = trace.until("out", &format!("MSRP {} 200", last.tid()));
        let shown = format!("{heads:?}");
        for name in ["Authorization", "WWW-Authenticate", "Authentication-Info"] {
            assert!(shown.contains(&format!("{name}: (redacted)")), "{name}: {shown}");
        }
        for secret in ["nonce", "response=", "Digest", "username"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    });
}

/// What is shown are MSRP's heads, whatever they travel in: no header of WebSocket, no mask, no control frame.
#[test]
fn a_trace_of_a_page_shows_frames_of_msrp_and_nothing_of_websocket() {
    bounded(|| {
        let more = "admin: {socket: admin.sock}\nwebsocket: {ping_interval: 1s}";
        let relay =
            RelayProcess::start(&Setup { websocket: &[("127.0.0.1:0", true)], more, ..Setup::default() });
        let socket = socket(&relay);
        let (mut page, mut phone) = (relay.web_client("alice"), relay.client("bob"));
        let mut trace = Tracing::start(&socket, "alice@example.com", &[]);
        until_traced(&relay, 1);
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| trace.next().unwrap());
            while !first.is_finished() {
                page.chat(&mut phone, b"The words of a body");
                phone.chat(&mut page, b"The words of a body");
            }
            first.join().unwrap()
        });
        // In fragments, with a ping between them.
        let range = "1-4/4";
        let request = Request::send(&page.route(&phone.path()), &page.uri, "last1234", range);
        let tid = request.tid();
        let frame = request.with_body(b"last", msrp_proto::parser::Flag::Last);
        let (front, back) = frame.split_at(frame.len() / 2);
        page.writer.write_below(&client_frame(0x02, front));
        page.writer.write_below(&client_frame(PING, b"?"));
        page.writer.write_below(&client_frame(0x80, back));
        assert_eq!(page.status(&tid), 200);
        phone.request("SEND");
        let mut heads = vec![first];
        heads.extend(trace.until("out", &format!("MSRP {tid} 200")));
        let sends = heads.iter().filter(|head| head["head"].as_str().unwrap().contains(" SEND\n"));
        let ways: Vec<_> = sends.map(|head| head["direction"].as_str().unwrap()).collect();
        assert!(ways.contains(&"in") && ways.contains(&"out"), "{ways:?}");
        for head in &heads {
            let head = head["head"].as_str().unwrap();
            assert!(head.starts_with("MSRP ") && !head.contains("words of a body"), "{head:?}");
            assert!(
                head.chars().all(|c| c == '\n' || c == '…' || c.is_ascii_graphic() || c == ' '),
                "{head:?}"
            );
        }
    });
}

/// A client on another core than that of `other`.
fn client_apart(relay: &RelayProcess, user: &str, other: &Endpoint) -> Endpoint {
    until("a client on another core", || {
        let client = relay.client(user);
        (client.core() != other.core()).then_some(client)
    })
}

// The trace is known on every core: where the session goes, its heads are shown from the one on with which it goes.
#[test]
fn a_trace_goes_on_where_its_session_moves_to() {
    bounded(|| {
        let relay = RelayProcess::start(&Setup { more: ADMIN, cores: "[0, 1]", ..Setup::default() });
        let socket = socket(&relay);
        let to = format!("msrps://example.com:{};tcp", relay.addresses[0].port());
        let password = password("alice");
        for (count, by_user) in [(1, true), (2, false)] {
            let mut bob = relay.client("bob");
            let mut alice = client_apart(&relay, "alice", &bob);
            let of = if by_user { "alice@example.com".to_owned() } else { id(&alice)[..10].to_owned() };
            let mut trace = Tracing::start(&socket, &of, &[]);
            until_traced(&relay, count);
            // Until her core has begun, what she sends is not shown.
            let login = Login::new("alice", &password, &to);
            let first = std::thread::scope(|scope| {
                let first = scope.spawn(|| trace.next().unwrap());
                while !first.is_finished() {
                    login.challenged(&mut alice);
                }
                first.join().unwrap()
            });
            assert_eq!(first["core"], alice.core());
            // Each core answers this behind what it was asked before: both have begun.
            assert!(run(&socket, &["sessions"]).status.success());

            let tid = alice.say(&bob.path(), b"The first word");
            assert_eq!(alice.status(&tid), 200);
            bob.request("SEND");
            let heads = trace.until("out", &format!("MSRP {tid} 200"));
            let of_request =
                |head: &&Value| head["head"].as_str().unwrap().starts_with(&format!("MSRP {tid} SEND"));
            let sends: Vec<_> = heads.iter().filter(of_request).collect();
            assert_eq!(sends.len(), 1, "once, and not by the core that waited with it: {heads:?}");
            assert_eq!((&sends[0]["direction"], &sends[0]["core"]), (&json!("in"), &json!(bob.core())));
            assert_eq!(heads.last().unwrap()["core"], bob.core());

            // Both ways, and what she asks of the relay.
            let tid = bob.say(&alice.path(), b"The second word");
            let request = alice.request("SEND");
            assert_eq!(bob.status(&tid), 200);
            let heads = trace.until("out", &format!("MSRP {} SEND", request.tid()));
            assert_eq!(heads.last().unwrap()["core"], bob.core());
            let (_, last) = login.attempt(&mut alice);
            assert_eq!(last.status(), Some(200));
            let heads = trace.until("out", &format!("MSRP {} 200", last.tid()));
            assert_eq!(heads.last().unwrap()["core"], bob.core());
            assert!(heads.iter().all(|head| head["user"] == "alice"), "{heads:?}");
        }
    });
}

#[test]
fn trace_of_one_session_ends_by_itself_and_holds_up_no_file() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        alice.chat(&mut bob, b"Hello");
        let prefix = id(&bob)[..10].to_owned();
        let mut trace = Tracing::start(&socket, &prefix, &["--seconds", "2"]);
        until_traced(&relay, 1);
        // A client that reads nothing.
        let mut deaf = connect(&socket);
        deaf.write_all(b"{\"command\":\"trace\",\"of\":\"alice\",\"seconds\":60}\n").unwrap();
        until_traced(&relay, 2);
        let file = contents(1, 8 << 20);
        let path = bob.path();
        let received = std::thread::scope(|scope| {
            let received = scope.spawn(|| bob.receive_file());
            // Chunks so small that there are more heads than room for them.
            alice.send_file(&Outgoing::chunks(&path, &file, 2048));
            received.join().unwrap()
        });
        assert_same(&received.data, &file);
        let heads: Vec<_> = std::iter::from_fn(|| trace.next()).collect();
        assert!(heads.iter().all(|head| head["session"] == prefix), "{:?}", heads.first());
        assert!(until("the trace to end", || trace.child.try_wait().unwrap()).success());
        assert!(refused(&socket, &["trace", "alice", "--seconds", "0"]).contains("say 1 to 3600"));
        alice.chat(&mut bob, b"Still there?");
        drop(deaf);
    });
}

/// Foreign text, as a relay might pass it on: C0, C1, DEL, directions, no width, and line breaks.
const EVIL: &str = "\u{1b}[2J\u{9b}31mevil\u{7f}\u{202e}\u{2066}\u{200b}\u{2028}\nend";

/// A relay that answers every question with these lines.
fn scripted(socket: &Path, answers: Vec<Value>) {
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut question = String::new();
            BufReader::new(&client).read_line(&mut question).unwrap();
            for answer in &answers {
                let _ = (&client).write_all(format!("{answer}\n").as_bytes());
            }
        }
    });
}

#[test]
fn a_terminal_is_given_nothing_to_obey_by_any_command() {
    let core = json!({
        "core": 0, "connections": 0, "sessions": 0, "chunks_in": 0, "chunks_out": 0, "body_bytes_in": 0,
        "body_bytes_out": 0, "restarts": 0
    });
    let answers = [
        json!({"status": {
            "version": EVIL, "pid": 1, "state": EVIL, "uptime_seconds": 1, "accounts_ready": true, "log_level": EVIL,
            "listening": [{"address": EVIL, "tls": true}], "sessions": 0, "connections": 0, "cores": [core]
        }}),
        json!({"session": {
            "session": EVIL, "user": EVIL, "realm": EVIL, "state": EVIL, "core": 0, "age_seconds": 1,
            "expires_in_seconds": null, "client": EVIL, "peer": EVIL, "bytes_from_client": 0, "bytes_to_client": 0
        }}),
        json!({"head": {
            "at_seconds": 0.5, "core": 0, "session": EVIL, "user": EVIL, "direction": EVIL,
            "head": format!("MSRP x SEND\nX: {EVIL}"), "dropped": 0
        }}),
        json!({"closed": {"session": EVIL, "user": EVIL, "realm": EVIL}}),
        json!({"error": EVIL}),
    ];
    for answer in answers {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("s");
        let kind = answer.as_object().unwrap().keys().next().unwrap().clone();
        let answers = if kind == "error" { vec![answer] } else { vec![answer, json!("done")] };
        scripted(&socket, answers);
        let commands: [&[&str]; 5] =
            [&["status"], &["sessions"], &["close", "x"], &["trace", "x", "--seconds", "1"], &["drain"]];
        for command in commands {
            for json in [&[][..], &["--json"]] {
                let output = run(&socket, &[command, json].concat());
                let said = String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap();
                assert!(said.contains("evil"), "{command:?} {kind}: {said:?}");
                let plain = |c| c == '\n' || untrusted::text::is_plain(c);
                assert!(said.chars().all(plain), "{command:?} {json:?} {kind}: {said:?}");
                if !json.is_empty() && kind != "error" {
                    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
                    assert!(value.to_string().contains("\\u001b[2J"), "{value}");
                }
            }
        }
    }
}

#[test]
fn a_trace_of_who_is_not_there_says_so_and_waits() {
    bounded(|| {
        let relay = start(ADMIN);
        let socket = socket(&relay);
        let alice = relay.client("alice");
        for (of, told) in [("carol@example.com", true), ("alice", false), (&id(&alice)[..10], false)] {
            let output = run(&socket, &["trace", of, "--seconds", "1"]);
            assert!(output.status.success());
            let said = String::from_utf8(output.stderr).unwrap();
            let note = format!("msrprelay: no session of a user {of} is open");
            assert_eq!(said.contains(&note), told, "{of}: {said}");
            assert_eq!(said.is_empty(), !told, "{of}: {said}");
        }
    });
}
