//! The control plane, asked from outside it: every request ends in an answer, and in the right one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::JoinHandle;

use futures_lite::future::{block_on, poll_once};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(extra: &str) -> Config {
    let base = "listen: [{address: '127.0.0.1:0', tls: false}]\nhostname: relay.example.com\n";
    Config::from_yaml(&format!("{base}{extra}"), "config.yaml").unwrap()
}

/// A plane without name servers of its own, so that no test depends on the machine's.
fn plane(accounts: fn(AccountsReady) -> Accounts, extra: &str) -> Control {
    Control::start_with(&config(&format!("dns: {{servers: ['127.0.0.1:9']}}\n{extra}")), accounts).unwrap()
}

fn look_up(control: &Control, user: &str, realm: &str) -> Answer {
    block_on(control.handle().look_up(user.to_owned(), realm.to_owned()))
}

fn assert_unavailable(answer: Answer) {
    assert!(matches!(answer, Answer::Unavailable(_)), "{answer:?}");
}

fn resolve(control: &Control, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    block_on(control.handle().resolve(host.to_owned()))
}

#[test]
fn users_of_the_config_are_found_and_others_are_unknown() {
    let config = config(
        "dns: {servers: ['127.0.0.1:9']}\nauth: {memory: {users: [{user: 'alice@example.com', password: secret}]}}\n",
    );
    let control = Control::start(&config).unwrap();
    let found = look_up(&control, "alice", "example.com");
    assert!(matches!(found, Answer::Found(Secret::Password(password)) if password == "secret"));
    assert!(matches!(look_up(&control, "bob", "example.com"), Answer::Unknown));
    control.stop(PATIENCE).unwrap();
}

#[test]
fn answers_wake_a_data_core() {
    let server = NameServer::start();
    let control = server.plane("");
    let handle = control.handle();
    let found = crate::engine::run_on_executor(None, async {
        let answer = handle.look_up("alice".to_owned(), "example.com".to_owned()).await;
        assert!(matches!(answer, Answer::Unknown));
        handle.resolve("both.example.com".to_owned()).await
    });
    assert_eq!(found.unwrap().map(|found| found.len()), Ok(2));
}

#[test]
fn a_silent_backend_reads_as_unavailable() {
    let control = plane(Accounts::silent, "limits: {lookup_timeout: 100ms}");
    assert_unavailable(look_up(&control, "alice", "example.com"));
}

#[test]
fn a_panicking_backend_reads_as_unavailable_and_the_plane_lives_on() {
    let control = plane(Accounts::panicking, "");
    for _ in 0..3 {
        assert_unavailable(look_up(&control, "alice", "example.com"));
    }
    assert_eq!(resolve(&control, "192.0.2.1"), Ok(vec![IpAddr::from([192, 0, 2, 1])]));
    control.stop(PATIENCE).unwrap();
}

#[test]
fn a_full_queue_reads_as_unavailable_at_once_and_so_do_those_left_in_it_at_the_end() {
    let control = plane(Accounts::silent, "limits: {lookups_waiting_max: 16, lookup_timeout: 60s}");
    let handle = control.handle();
    let ask = || Box::pin(handle.look_up("alice".to_owned(), "example.com".to_owned()));
    let deadline = Instant::now() + PATIENCE;
    let mut waiting = Vec::new();
    // The thread takes RUNNING_MAX out of the queue, at its own pace; then the queue fills.
    while waiting.len() < RUNNING_MAX + 16 {
        assert!(Instant::now() < deadline, "only {} were taken", waiting.len());
        let mut asking = ask();
        match block_on(poll_once(&mut asking)) {
            None => waiting.push(asking),
            Some(answer) => {
                assert_unavailable(answer);
                thread::yield_now();
            }
        }
    }
    assert!(matches!(block_on(poll_once(ask())), Some(Answer::Unavailable(_))));
    // Names have a queue of their own.
    assert_eq!(resolve(&control, "::1"), Ok(vec!["::1".parse().unwrap()]));

    control.stop(PATIENCE).unwrap();
    for asking in waiting {
        assert_unavailable(block_on(asking));
    }
    assert_unavailable(block_on(ask()));
    assert_eq!(block_on(handle.resolve("192.0.2.1".to_owned())), Err(ResolveError::Busy));
}

// More of them than can be under way: those behind have waited long enough when their turn comes.
#[test]
fn waiting_in_the_queue_counts_as_time_that_a_look_up_takes() {
    let control = plane(Accounts::silent, "limits: {lookups_waiting_max: 2048, lookup_timeout: 1s}");
    let handle = control.handle();
    let ask = |n| Box::pin(handle.look_up(format!("user{n}"), "example.com".to_owned()));
    let mut waiting: Vec<_> = (0..6 * RUNNING_MAX).map(ask).collect();
    waiting.iter_mut().for_each(|asking| assert!(block_on(poll_once(asking)).is_none()));
    let last = waiting.pop().unwrap();
    assert_unavailable(block_on(last));
    // All that were asked before are answered: none was given a second of its own behind the others'.
    for mut asking in waiting {
        assert_unavailable(block_on(poll_once(&mut asking)).unwrap());
    }
}

#[test]
fn a_dropped_plane_answers_nobody_but_leaves_nobody_waiting() {
    let control = plane(Accounts::silent, "limits: {lookup_timeout: 60s}");
    let handle = control.handle();
    drop(control);
    assert_unavailable(block_on(handle.look_up("alice".to_owned(), "example.com".to_owned())));
}

#[test]
fn a_reload_exchanges_the_accounts_for_those_who_ask_from_then_on() {
    let users = |user: &str| {
        config(&format!("auth: {{memory: {{users: [{{user: '{user}@example.com', password: secret}}]}}}}\n"))
    };
    let control = Control::start_with(&users("nobody"), Accounts::silent).unwrap();
    assert!(!control.accounts_ready().is_ready());
    for (user, found) in [("alice", true), ("bob", false)] {
        control.reload(&users(user), PATIENCE).unwrap();
        assert_eq!(matches!(look_up(&control, "alice", "example.com"), Answer::Found(_)), found);
        assert!(control.accounts_ready().is_ready());
    }
    control.stop(PATIENCE).unwrap();
}

#[test]
fn stored_hashes_answer_for_their_own_algorithm_alone() {
    use crate::proto::digest::{Algorithm, Ha1};

    let secret = Secret::Hashed { md5: Ha1::from_hex(&"07".repeat(16)), sha256: None };
    let algorithm = |algorithm| secret.ha1("alice", "example.com", algorithm).map(|ha1| ha1.algorithm());
    assert_eq!(algorithm(Algorithm::Md5), Some(Algorithm::Md5));
    assert_eq!(algorithm(Algorithm::Sha256), None);
    assert!(!format!("{:?}", Secret::Password("hush".to_owned())).contains("hush"));
}

// -- names -----------------------------------------------------------------------------------------

/// A name server that answers by the first letters of the name asked for.
struct NameServer {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut query = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut query).unwrap();
                // Nothing is what `drop` sends.
                if length == 0 {
                    return;
                }
                if let Some(answer) = Self::answer(&query[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address, thread: Some(thread) }
    }

    fn answer(query: &[u8]) -> Option<Vec<u8>> {
        // The question begins after 12 octets of header: labels up to an empty one, type, class.
        let name_length = query[12..].iter().position(|octet| *octet == 0)? + 1;
        let question = &query[12..12 + name_length + 4];
        let first_label = &question[1..=usize::from(question[0])].to_ascii_lowercase();
        let is_a = question[name_length..name_length + 2] == [0, 1];
        let (code, answers): (u8, usize) = match (first_label.as_slice(), is_a) {
            (b"silent", _) => return None,
            (b"missing", _) => (3, 0),
            (b"broken", _) => (2, 0),
            (b"empty", _) | (b"four", false) | (b"six", true) => (0, 0),
            (b"many", _) => (0, 40),
            _ => (0, 1),
        };
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(answers).unwrap(), 0, 0, 0, 0]);
        answer.extend(question);
        for n in 0..answers {
            let n = u8::try_from(n).unwrap() + 1;
            // The name is the question's; class IN, 60 s.
            answer.extend([0xc0, 12, 0, if is_a { 1 } else { 28 }, 0, 1, 0, 0, 0, 60]);
            match is_a {
                true => answer.extend([0, 4, 198, 51, 100, n]),
                false => answer.extend([0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]),
            }
        }
        Some(answer)
    }

    fn plane(&self, extra: &str) -> Control {
        let config = config(&format!("dns: {{servers: ['{}']}}\n{extra}", self.address));
        Control::start(&config).unwrap()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let stopper = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stopper.send_to(&[], self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn both_families_are_asked_for_and_ipv4_comes_first() {
    let server = NameServer::start();
    let control = server.plane("");
    let (four, six): (IpAddr, IpAddr) = ("198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    assert_eq!(resolve(&control, "both.example.com"), Ok(vec![four, six]));
    assert_eq!(resolve(&control, "BOTH.example.com."), Ok(vec![four, six]));
    assert_eq!(resolve(&control, "four.example.com"), Ok(vec![four]));
    assert_eq!(resolve(&control, "six.example.com"), Ok(vec![six]));
}

#[test]
fn answers_are_cut_just_above_the_limit_so_that_it_shows() {
    let server = NameServer::start();
    let control = server.plane("limits: {addresses_per_name_max: 5}");
    assert_eq!(resolve(&control, "many.example.com").unwrap().len(), 6);
}

#[test]
fn names_without_address_are_told_from_servers_that_fail() {
    let server = NameServer::start();
    let control = server.plane("");
    assert_eq!(resolve(&control, "missing.example.com"), Err(ResolveError::NoAddress));
    assert_eq!(resolve(&control, "empty.example.com"), Err(ResolveError::NoAddress));
    assert!(matches!(resolve(&control, "broken.example.com"), Err(ResolveError::Failed(_))));
}

#[test]
fn a_silent_name_server_times_out() {
    let server = NameServer::start();
    let control = server.plane("limits: {resolve_timeout: 100ms}");
    let found = resolve(&control, "silent.example.com");
    assert_eq!(found, Err(ResolveError::TimedOut));
}

#[test]
fn a_silent_name_server_does_not_hold_up_others() {
    let server = NameServer::start();
    let control = server.plane("limits: {resolve_timeout: 60s}");
    let handle = control.handle();
    let mut silent = Box::pin(handle.resolve("silent.example.com".to_owned()));
    assert!(block_on(poll_once(&mut silent)).is_none());
    assert!(resolve(&control, "both.example.com").is_ok());
    assert!(matches!(look_up(&control, "alice", "example.com"), Answer::Unknown));
    control.stop(PATIENCE).unwrap();
    assert_eq!(block_on(silent), Err(ResolveError::Busy));
}

#[test]
fn localhost_and_literals_need_no_server() {
    let control = plane(Accounts::silent, "");
    let local = resolve(&control, "localhost").unwrap();
    assert!(!local.is_empty() && local.iter().all(IpAddr::is_loopback), "{local:?}");
    assert_eq!(resolve(&control, "192.0.2.7"), Ok(vec!["192.0.2.7".parse().unwrap()]));
}

#[test]
fn what_cannot_be_a_name_has_no_address() {
    let control = plane(Accounts::silent, "");
    for host in ["", ".", "a..b", &"x".repeat(64), &"long.".repeat(60)] {
        assert_eq!(resolve(&control, host), Err(ResolveError::NoAddress), "{host}");
    }
}
