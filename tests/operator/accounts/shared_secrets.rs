//! Credentials that expire by themselves: who makes them, who takes them, and what they count for.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use msrp_proto::digest::Algorithm;
use msrprelay::config::{SecretAlgorithm, SharedSecret};
use msrprelay::control::{Credential, SharedSecrets};
use serde_json::Value;

use super::plain_relay::{Account, PlainRelay, config};
use testkit_net::account::{DOMAIN, Login};
use testkit_net::endpoint::Endpoint;
use testkit_net::process::{Process, relay_binary};
use testkit_net::{bounded, until};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OLD_SECRET: &str = "fedcba9876543210fedcba9876543210";
/// A database that no packet reaches: a look-up waits, and the client is told to try again.
const NO_BACKEND: &str = "backend: mysql, mysql: {url: 'mysql://u:p@127.0.0.1:1/d'}";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn keys() -> String {
    format!("{NO_BACKEND}, shared_secrets: [{{secret: '{SECRET}'}}]")
}

/// What a back end makes with a secret, for a name that may say anything.
fn signed(secret: &str, algorithm: SecretAlgorithm, user: &str, ttl: u64) -> Credential {
    let ttl_max = Duration::from_secs(30 * 86_400);
    let secret = SharedSecret { secret: secret.to_owned(), algorithm, ttl_max, without_user: true };
    SharedSecrets::new(&[secret]).sign(user, Duration::from_secs(ttl), SystemTime::now()).unwrap()
}

fn of(user: &str) -> Credential {
    signed(SECRET, SecretAlgorithm::Sha1, user, 3600)
}

/// What a name is proven by, as OpenSSL has it.
fn by_openssl(hash: &str, secret: &str, name: &str) -> String {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "printf %s \"$1\" | openssl dgst -\"$2\" -hmac \"$3\" -binary | openssl base64",
        "sh",
    ]);
    let output = command.args([name, hash, secret]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A client of that name with a session.
#[track_caller]
fn client(address: SocketAddr, name: &str, credential: &Credential) -> Endpoint {
    let mut endpoint = Endpoint::plain(address, name);
    let account = Account::of(&credential.username, &credential.password);
    let answer = account.attempt(&mut endpoint, address.port());
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    endpoint.relay = Some(answer.required("Use-Path"));
    endpoint
}

#[track_caller]
fn status(relay: &PlainRelay, credential: &Credential) -> u16 {
    relay.status(&credential.username, &credential.password)
}

#[test]
fn credential_opens_a_session_while_no_account_can_be_looked_up() {
    bounded(|| {
        let relay = PlainRelay::start(&keys());
        let (alice, bob) = (of("alice"), of("bob"));
        let mut from = client(relay.address, "alice", &alice);
        let mut to = client(relay.address, "bob", &bob);
        from.chat(&mut to, b"Hello");
        // What is wrong with it is a verdict, not an outage: no backend was asked.
        assert_eq!(relay.status(&alice.username, "wrong"), 401);
        assert_eq!(relay.status(&alice.username, &bob.password), 401);
        assert_eq!(relay.status("alice", "wonderland"), 408);
    });
}

#[test]
fn credentials_are_those_that_openssl_makes() {
    bounded(|| {
        let relay = PlainRelay::start(&format!(
            "algorithms: [sha-256, md5], shared_secrets: [{{secret: '{SECRET}'}}, {{secret: '{OLD_SECRET}', algorithm: sha-256}}]"
        ));
        let name = format!("{}:alice", now() + 600);
        for (hash, secret, expected) in [
            ("sha1", SECRET, 200),
            ("sha256", OLD_SECRET, 200),
            ("sha256", SECRET, 401),
            ("sha1", OLD_SECRET, 401),
        ] {
            let password = by_openssl(hash, secret, &name);
            for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
                let login = Account { algorithm, ..Account::of(&name, &password) };
                assert_eq!(relay.attempt(&login).status(), Some(expected), "{hash} {secret}");
            }
        }
    });
}

#[test]
fn expired_and_far_too_long_lived_ones_are_refused_like_a_wrong_password() {
    bounded(|| {
        let relay = PlainRelay::start(&format!("shared_secrets: [{{secret: '{SECRET}', ttl_max: 1h}}]"));
        let refusal = |name: &str, password: &str| {
            let answer = relay.attempt(&Account::of(name, password));
            let names: Vec<_> = answer.head.headers(&answer.bytes).map(|(name, _)| name.to_vec()).collect();
            (answer.status(), names)
        };
        let good = of("alice");
        let wrong = refusal(&good.username, "wrong");
        assert_eq!(wrong.0, Some(401));
        let names = [
            format!("{}:alice", now() - 1),
            "1:alice".to_owned(),
            format!("{}:alice", now() + 2 * 3600),
            format!("{}:alice", u64::MAX),
            "99999999999999999999999:alice".to_owned(),
            // Not without the user, where the config does not say so.
            format!("{}:", now() + 600),
        ];
        for name in names {
            assert_eq!(refusal(&name, &by_openssl("sha1", SECRET, &name)), wrong, "{name}");
        }
        assert_eq!(status(&relay, &good), 200);
        // The operator is told them apart.
        let counted = [1, 2, 3, 1, 1];
        until("them to be counted", || {
            let of_core = &relay.server.counters()[0];
            of_core.credentials().map(|(_, times)| times).eq(counted).then_some(())
        });
        assert_eq!(relay.server.counters()[0].look_ups().ends, [0; 5]);
    });
}

#[test]
fn session_outlives_its_credential_and_is_renewed_by_a_fresh_one_of_the_same_user_alone() {
    bounded(|| {
        let relay = PlainRelay::start(&keys());
        let short = signed(SECRET, SecretAlgorithm::Sha1, "alice", 3);
        let bob = of("bob");
        let mut alice = client(relay.address, "alice", &short);
        let mut bob_there = client(relay.address, "bob", &bob);
        until("the credential to expire", || (now() >= short.expires).then_some(()));
        alice.chat(&mut bob_there, b"still here");
        let uri = alice.relay.clone().unwrap();
        let own = uri.split_whitespace().last().unwrap().to_owned();
        let mut renew = |credential: &Credential| {
            Login::new(&credential.username, &credential.password, &own).attempt(&mut alice).1.status()
        };
        assert_eq!(renew(&short), Some(401));
        assert_eq!(renew(&of("carol")), Some(403));
        assert_eq!(renew(&of("alice")), Some(200));
        alice.chat(&mut bob_there, b"and on");
    });
}

#[test]
fn failures_and_sessions_are_counted_for_the_part_behind_the_colon() {
    bounded(|| {
        let relay = PlainRelay::with(&keys(), "limits: {auth_failures_per_user_max: 2}");
        let bob = of("bob");
        for n in 0..2 {
            assert_eq!(relay.status(&format!("{}:alice", now() + 600 + n), "guess"), 401);
        }
        // Whatever alice's next credential is called, it is hers.
        assert_eq!(status(&relay, &of("alice")), 403);
        assert_eq!(status(&relay, &bob), 200);

        let relay = PlainRelay::with(&keys(), "limits: {sessions_per_user_max: 1}");
        let [first, second] = [600, 1200].map(|ttl| signed(SECRET, SecretAlgorithm::Sha1, "alice", ttl));
        assert_ne!(first.username, second.username);
        let _there = client(relay.address, "alice", &first);
        assert_eq!(status(&relay, &second), 403);
        assert_eq!(status(&relay, &bob), 200);
    });
}

#[test]
fn name_of_digits_is_a_user_unless_the_config_says_that_it_is_an_expiry() {
    bounded(|| {
        let number = (now() + 600).to_string();
        let user = format!("memory: {{users: [{{user: '{number}@{DOMAIN}', password: 'a telephone'}}]}}");
        let made = by_openssl("sha1", SECRET, &number);
        let of_phones = PlainRelay::start(&format!("{user}, shared_secrets: [{{secret: '{SECRET}'}}]"));
        assert_eq!(of_phones.status(&number, "a telephone"), 200);
        assert_eq!(of_phones.status(&number, &made), 401);
        let bare = PlainRelay::with(
            &format!("{user}, shared_secrets: [{{secret: '{SECRET}', without_user: true}}]"),
            "limits: {sessions_per_user_max: 1}",
        );
        assert_eq!(bare.status(&number, "a telephone"), 401);
        let _there = bare.client(&number, &made);
        // The whole name is who it is.
        assert_eq!(bare.status(&number, &made), 403);
        let other = format!("{}:", now() + 600);
        assert_eq!(bare.status(&other, &by_openssl("sha1", SECRET, &other)), 200);
    });
}

#[test]
fn user_of_a_credential_may_be_called_anything_that_a_digest_can_say() {
    bounded(|| {
        let relay = PlainRelay::with(&keys(), "limits: {sessions_per_user_max: 1}");
        for user in [
            "al\"i\\ce",
            "a:b",
            "1764400000:alice",
            ":",
            "j\u{fc}rgen",
            "\u{661}",
            "a b",
            "50%25",
            "+4915112345678",
            "' OR 1=1 -- ",
            "alice@example.com",
            "ALICE",
            "alice",
        ] {
            let [first, second] = [600, 1200].map(|ttl| signed(SECRET, SecretAlgorithm::Sha1, user, ttl));
            let _there = client(relay.address, "client", &first);
            // Each of them is one user, and none of the others.
            assert_eq!(status(&relay, &second), 403, "{user}");
        }
    });
}

#[test]
fn expiry_is_taken_as_it_is_written_and_signed() {
    bounded(|| {
        let relay = PlainRelay::start(&keys());
        let soon = now() + 600;
        for (name, expected) in [
            (format!("{soon}:alice"), 200),
            (format!("00000000000000000000000000{soon}:alice"), 200),
            (format!("99999999999999999999{soon}:alice"), 401),
            (format!("{}:alice", u64::MAX), 401),
            (format!("{}:alice", u128::from(u64::MAX) + 1 + u128::from(soon)), 401),
            ("0:alice".to_owned(), 401),
        ] {
            assert_eq!(relay.status(&name, &by_openssl("sha1", SECRET, &name)), expected, "{name}");
        }
        // Names of another shape are the backend's, which is silent here, whatever signature they have.
        for name in [
            format!("-{soon}:alice"),
            format!("+{soon}:alice"),
            format!(" {soon}:alice"),
            format!("{soon} :alice"),
            format!("{soon}.0:alice"),
            format!("0x{soon:x}:alice"),
            format!("alice:{soon}"),
            format!("\u{ff11}{soon}:alice"),
            format!("{soon}"),
            format!("{soon}\u{ff1a}alice"),
        ] {
            assert_eq!(relay.status(&name, &by_openssl("sha1", SECRET, &name)), 408, "{name}");
        }
    });
}

#[test]
fn log_says_what_was_wrong_with_a_credential_and_whose_it_was() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let keys = format!("log_failures: true, shared_secrets: [{{secret: '{SECRET}', ttl_max: 1h}}]");
        fs::write(place.path().join("config.yaml"), config(&keys, "")).unwrap();
        let relay = Process::start(relay_binary(), place.path());
        let attempt = |name: &str, password: &str| {
            let mut endpoint = Endpoint::plain(relay.addresses[0], "client");
            let answer = Account::of(name, password).attempt(&mut endpoint, relay.addresses[0].port());
            assert_eq!(answer.status(), Some(401), "{name}");
        };
        let signed = |name: &str| attempt(name, &by_openssl("sha1", SECRET, name));
        signed(&format!("{}:alice", now() - 1));
        signed(&format!("{}:bob", now() + 7200));
        signed(&format!("{}:", now() + 600));
        attempt(&format!("{}:carol", now() - 1), "guess");
        for (reason, user) in [
            ("the credential has expired", "alice"),
            ("the credential is good for longer than ttl_max", "bob"),
            ("unknown user or wrong password", "carol"),
        ] {
            until(reason, || {
                let log = relay.log();
                let line = log.lines().find(|line| line.contains(&format!("reason=\"{reason}\"")))?;
                assert!(
                    line.contains("AUTH refused") && line.contains(&format!("user=\"{user}\"")),
                    "{line}"
                );
                Some(())
            });
        }
        until("the third", || relay.log().contains("reason=\"the credential names no user\"").then_some(()));
        assert!(!relay.log().contains(SECRET));
    });
}

/// Runs `msrprelay credential` with a config that has these keys under `auth`.
fn credential(auth: &str, arguments: &[&str]) -> Output {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.yaml");
    fs::write(&path, config(auth, "")).unwrap();
    Command::new(relay_binary())
        .arg("credential")
        .args(arguments)
        .arg("--config")
        .arg(&path)
        .output()
        .unwrap()
}

fn parsed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn command_makes_a_credential_with_the_first_secret_that_the_relay_takes() {
    bounded(|| {
        let secrets =
            format!("{NO_BACKEND}, shared_secrets: [{{secret: '{SECRET}'}}, {{secret: '{OLD_SECRET}'}}]");
        let relay = PlainRelay::start(&secrets);
        let made = parsed(&credential(&secrets, &["alice@example.com", "--ttl", "15m", "--json"]));
        let (name, password) = (made["username"].as_str().unwrap(), made["password"].as_str().unwrap());
        assert_eq!(made["realm"], DOMAIN);
        assert_eq!(made["ttl"], 900);
        assert_eq!(name, format!("{}:alice", made["expires"]));
        assert!(made["expires"].as_u64().unwrap().abs_diff(now() + 900) < 60);
        assert_eq!(password, by_openssl("sha1", SECRET, name));
        assert_eq!(relay.status(name, password), 200);
        let shown = credential(&secrets, &["alice@example.com"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let line =
            |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        assert_eq!(line("ttl"), "3600");
        assert_eq!(relay.status(&line("username"), &line("password")), 200);
        for (auth, arguments, why) in [
            (NO_BACKEND, &["alice@example.com"][..], "add one to auth.shared_secrets"),
            (&secrets, &["alice@example.com", "--ttl", "2d"], "longer than auth.shared_secrets[0].ttl_max"),
            (&secrets, &["1:alice@example.com"], "is not a user: write it as alice@example.com"),
            (&secrets, &["alice@example.com", "--ttl", "1x"], "write a whole number and its unit"),
        ] {
            let refused = credential(auth, arguments);
            assert!(!refused.status.success());
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(said.contains(why) && !said.contains(SECRET), "{said}");
        }
    });
}

#[test]
fn secret_is_exchanged_by_a_reload_without_an_end_to_what_the_old_one_signed() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let write = |secrets: &[&str]| {
            let secrets: Vec<_> = secrets.iter().map(|secret| format!("{{secret: '{secret}'}}")).collect();
            let keys = format!("shared_secrets: [{}]", secrets.join(", "));
            fs::write(place.path().join("config.yaml"), config(&keys, "")).unwrap();
        };
        write(&[OLD_SECRET]);
        let relay = Process::start(relay_binary(), place.path());
        let address = relay.addresses[0];
        let status = |credential: &Credential| {
            let mut client = Endpoint::plain(address, "client");
            let account = Account::of(&credential.username, &credential.password);
            account.attempt(&mut client, address.port()).status().unwrap()
        };
        let (old, new) = (signed(OLD_SECRET, SecretAlgorithm::Sha1, "alice", 600), of("alice"));
        assert_eq!((status(&old), status(&new)), (200, 401));
        write(&[SECRET, OLD_SECRET]);
        relay.reload("The present config is in force");
        assert_eq!((status(&old), status(&new)), (200, 200));
        write(&[SECRET]);
        relay.reload("The present config is in force");
        assert_eq!((status(&old), status(&new)), (401, 200));
        assert!(!relay.log().contains(SECRET) && !relay.log().contains(&new.password));
    });
}

#[test]
fn accounting_and_log_name_the_user_behind_the_colon() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let more = "accounting: {format: json, file: sessions.json}";
        fs::write(place.path().join("config.yaml"), config(&keys(), more)).unwrap();
        let relay = Process::start(relay_binary(), place.path());
        let made = of("alice");
        drop(client(relay.addresses[0], "alice", &made));
        let record = until("the record", || {
            let text = fs::read_to_string(place.path().join("sessions.json")).unwrap_or_default();
            text.ends_with('\n').then(|| serde_json::from_str::<Value>(&text).unwrap())
        });
        assert_eq!((&record["user"], &record["realm"]), (&Value::from("alice"), &Value::from(DOMAIN)));
        assert!(!relay.log().contains(&made.username), "{}", relay.log());
    });
}

// -- the examples of docs/operate/accounts.md ------------------------------------------------------

/// The block of the page behind a heading, in that language.
fn example(heading: &str, language: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate/accounts.md")).unwrap();
    let section = page.split_once(&format!("### {heading}\n")).unwrap().1;
    let section = section.split_once("\n### ").map_or(section, |(section, _)| section);
    let block = section.split_once(&format!("```{language}\n")).unwrap().1;
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn web_back_end_of_the_page_makes_credentials_that_the_relay_takes() {
    bounded(|| {
        let program = example("A web back end", "python");
        assert!(program.lines().count() <= 12, "it is to be short");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new("python3");
        command.args(["-c", &program]).env("MSRP_SECRET", SECRET).env("PORT", port.to_string());
        let mut back_end = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let asked = |headers: &str| {
            let mut stream = until("the back end", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
            write!(stream, "POST / HTTP/1.0\r\n{headers}Content-Length: 0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let (answer, of_no_user) = (asked("X-Remote-User: alice\r\n"), asked(""));
        back_end.kill().unwrap();
        back_end.wait().unwrap();
        // Who has not logged in gets none.
        assert!(of_no_user.contains(" 403 ") && !of_no_user.contains("password"), "{of_no_user}");
        let made: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let relay = PlainRelay::start(&keys());
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        assert!(text("username").ends_with(":alice"));
        assert_eq!(relay.status(&text("username"), &text("password")), 200);
    });
}

#[test]
fn script_that_opensips_runs_makes_credentials_that_the_relay_takes() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let secret = place.path().join("secret");
        fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let script =
            example("OpenSIPS", "python").replace("/etc/opensips/msrp-secret", secret.to_str().unwrap());
        assert!(script.contains(secret.to_str().unwrap()));
        let name = format!("{}:alice", now() + 3600);
        // As its exec module writes it.
        for written in [name.clone(), format!("{name}\n")] {
            let mut command = Command::new("python3");
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(written.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let password = String::from_utf8(output.stdout).unwrap();
            let relay = PlainRelay::start(&keys());
            assert_eq!(relay.status(&name, password.trim()), 200);
        }
    });
}
