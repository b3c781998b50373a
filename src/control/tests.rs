//! The control plane, asked from outside it: every request ends in an answer, and in the right one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Mutex;
use std::thread::JoinHandle;

use futures_lite::future::{block_on, poll_once};

use super::reply::Asked;
use super::*;
use msrp_proto::digest::{Algorithm, Challenge, Ha1, NonceUse};
use msrp_relay_core::{AddressKey, UserKey};

/// Only against hanging: no result depends on it.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(extra: &str) -> Config {
    let base = "listen: [{address: '127.0.0.1:0', tls: false}]\nhostname: relay.example.com\n";
    Config::from_yaml(&format!("{base}{extra}"), "config.yaml").unwrap()
}

/// A plane without name servers of its own, so that no test depends on the machine's.
fn plane(accounts: impl FnOnce(AccountsReady) -> Accounts + Send + 'static, extra: &str) -> Control {
    Control::start_with(&config(&format!("dns: {{servers: ['127.0.0.1:9']}}\n{extra}")), accounts).unwrap()
}

fn who(name: &str) -> Who {
    Who::User(UserKey::new(name, "example.com"))
}

fn address(text: &str) -> Who {
    Who::Address(AddressKey::new(text.parse().unwrap()))
}

fn attempt(user: &str, realm: &str) -> Attempt {
    let challenge = Challenge {
        realm: realm.into(),
        nonce: "1".into(),
        opaque: None,
        algorithm: Algorithm::Md5,
        stale: false,
    };
    let ha1 = Ha1::new(Algorithm::Md5, user, realm, "secret");
    Attempt::new(&challenge.answer(user, &ha1, b"", NonceUse { nc: 1, cnonce: "2" }), b"")
}

fn look_up(control: &Control, user: &str, realm: &str) -> Answer {
    block_on(control.handle().look_up(address("192.0.2.1"), attempt(user, realm)))
}

fn assert_unavailable(answer: Answer) {
    assert!(matches!(answer, Answer::Unavailable(_)), "{answer:?}");
}

fn resolve(control: &Control, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    block_on(control.handle().resolve(who("alice"), host.to_owned()))
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
    let found = engine::run_on_executor(None, async {
        let answer = handle.look_up(address("192.0.2.1"), attempt("alice", "example.com")).await;
        assert!(matches!(answer, Answer::Unknown));
        handle.resolve(who("alice"), "both.example.com".to_owned()).await
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
    for literal in ["192.0.2.1", "::ffff:192.0.2.1"] {
        assert_eq!(resolve(&control, literal), Ok(vec![IpAddr::from([192, 0, 2, 1])]), "{literal}");
    }
    control.stop(PATIENCE).unwrap();
}

/// Waits for what the control thread does.
fn until(what: impl Fn() -> String, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain waited: {}", what());
        thread::yield_now();
    }
}

/// Waits until so many account look-ups, name look-ups and connects wait for their turn.
fn until_waiting(control: &Control, all: [usize; 3]) {
    let waiting = || control.handle().waiting();
    until(|| format!("{:?} wait", waiting()), || waiting() == all);
}

/// Polls all once, in order; none may be answered yet.
fn begin<F: Future>(asking: &mut [Pin<Box<F>>]) {
    asking.iter_mut().for_each(|one| assert!(block_on(poll_once(one)).is_none()));
}

#[test]
fn full_queue_refuses_the_asker_with_most_in_it_and_the_end_all() {
    let limits = "limits: {lookups_waiting_max: 16, lookups_per_address_max: 1, lookup_timeout: 60s}";
    let control = plane(Accounts::silent, limits);
    let handle = control.handle();
    let ask = |from: &str| Box::pin(handle.look_up(address(from), attempt("alice", "example.com")));
    // One under way, the others wait.
    let mut crowd: Vec<_> = (0..17).map(|_| ask("192.0.2.1")).collect();
    begin(&mut crowd);
    until_waiting(&control, [16, 0, 0]);
    // One more of theirs is one too many; one of another address pushes out the last of theirs.
    assert!(matches!(block_on(ask("192.0.2.1")), Answer::Unavailable(WhyUnavailable::Busy)));
    let mut newcomers: Vec<_> = (0..2).map(|_| ask("192.0.2.2")).collect();
    begin(&mut newcomers);
    // The first one's turn comes at once, which makes room for the second.
    let pushed_out = crowd.pop().unwrap();
    assert!(matches!(block_on(pushed_out), Answer::Unavailable(WhyUnavailable::Busy)));
    until_waiting(&control, [16, 0, 0]);
    begin(&mut crowd);
    // Names have a queue of their own.
    assert_eq!(resolve(&control, "::1"), Ok(vec!["::1".parse().unwrap()]));

    control.stop(PATIENCE).unwrap();
    for asking in crowd.into_iter().chain(newcomers) {
        assert_unavailable(block_on(asking));
    }
    assert_unavailable(block_on(ask("192.0.2.1")));
    assert_eq!(block_on(handle.resolve(who("alice"), "192.0.2.1".to_owned())), Err(ResolveError::Busy));
    assert_eq!(block_on(handle.turn_to_dial(who("alice"))).unwrap_err(), NoTurn::Gone);
}

/// Asks for an account as if `time` ago, as if the request had been in the queue for as long.
fn asked_before(control: &Control, time: Duration, user: usize) -> Pin<Box<Asked<Result<Answer, NoTurn>>>> {
    let (reply, answer) = reply();
    let (who, question) = (address("192.0.2.1"), attempt(&format!("user{user}"), "example.com"));
    let ask = Ask { who, asked: Instant::now().checked_sub(time).unwrap(), question, reply };
    control.handle.look_up.arrivals.try_send(Box::new(ask)).unwrap();
    Box::pin(answer)
}

// The time in the queue is given, not waited for: the machine's speed decides nothing.
#[test]
fn time_in_the_queue_is_part_of_the_time_out_and_what_is_late_has_no_turn_any_more() {
    const TIME_OUT: Duration = Duration::from_secs(60);
    let limits = "limits: {lookups_waiting_max: 2048, lookups_per_address_max: 256, lookup_timeout: 60s}";
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let control = plane(move |ready| Accounts::silent_and_counting(ready, count), limits);
    let asked = || asked.load(Ordering::Relaxed);
    let until_asked = |times| until(|| format!("{} had a turn", asked()), || asked() == times);
    // Turns are free, but there is no time left for one.
    let late = block_on(asked_before(&control, TIME_OUT, 0));
    assert!(matches!(late, Some(Err(NoTurn::Late))), "{late:?}");
    assert_eq!(asked(), 0);
    let mut running: Vec<_> =
        (1..RUNNING_MAX).map(|user| asked_before(&control, Duration::ZERO, user)).collect();
    until_asked(RUNNING_MAX - 1);
    // One has a turn for what is left of its time, and ends long before those that began before it.
    let late = block_on(asked_before(&control, TIME_OUT - Duration::from_millis(50), 0));
    assert!(
        matches!(late, Some(Err(NoTurn::Late) | Ok(Answer::Unavailable(WhyUnavailable::Late)))),
        "{late:?}"
    );
    begin(&mut running);
    // All turns are taken: a late request does not wait for one.
    let had_turns = asked() + 1;
    running.push(asked_before(&control, Duration::ZERO, RUNNING_MAX));
    until_asked(had_turns);
    let crowd: Vec<_> =
        (0..5 * RUNNING_MAX).map(|user| asked_before(&control, TIME_OUT, 1000 + user)).collect();
    for late in crowd.into_iter().map(block_on) {
        assert!(matches!(late, Some(Err(NoTurn::Share))), "{late:?}");
    }
    assert_eq!(asked(), had_turns);
    begin(&mut running);
    control.stop(PATIENCE).unwrap();
}

// The test above sets the time itself: a request carries the time of asking, not of receipt.
#[test]
fn request_carries_the_time_at_which_it_was_asked() {
    let (asking, queue) = queue::<(), ()>(1);
    let before = Instant::now();
    let mut request = Box::pin(asking.ask(who("alice"), ()));
    begin(std::slice::from_mut(&mut request));
    let after = Instant::now();
    let asked = queue.arrivals.0.try_recv().unwrap().asked;
    assert!(before <= asked && asked <= after);
}

#[test]
fn look_ups_that_had_no_turn_in_time_for_their_own_share_say_so() {
    let control = plane(Accounts::silent, "limits: {lookups_per_address_max: 1, lookup_timeout: 200ms}");
    let handle = control.handle();
    let ask = || Box::pin(handle.look_up(address("192.0.2.1"), attempt("alice", "example.com")));
    let mut both = [ask(), ask()];
    begin(&mut both);
    let answers = both.map(block_on);
    assert!(matches!(answers[0], Answer::Unavailable(WhyUnavailable::Late)), "{answers:?}");
    // Both end at nearly the same time: what it waited for may have ended just before.
    assert!(
        matches!(answers[1], Answer::Unavailable(WhyUnavailable::Share | WhyUnavailable::Late)),
        "{answers:?}"
    );
}

#[test]
fn look_ups_of_one_address_leave_room_for_those_of_others() {
    let control = plane(Accounts::for_alice_silent, "limits: {lookup_timeout: 60s}");
    let handle = control.handle();
    let ask = || Box::pin(handle.look_up(address("192.0.2.1"), attempt("alice", "example.com")));
    let mut crowd: Vec<_> = (0..500).map(|_| ask()).collect();
    begin(&mut crowd);
    let bob = handle.look_up(address("192.0.2.2"), attempt("bob", "example.com"));
    assert!(matches!(block_on(bob), Answer::Unknown));
    until_waiting(&control, [500 - 64, 0, 0]);
    control.stop(PATIENCE).unwrap();
}

// A client that asks and is gone, again and again, must not have more under way than one that waits.
#[test]
fn requests_whose_asker_is_gone_count_until_they_end_and_begin_no_more() {
    let control = plane(Accounts::silent, "limits: {lookups_per_address_max: 2, lookup_timeout: 60s}");
    let handle = control.handle();
    let ask = |from: &str| Box::pin(handle.look_up(address(from), attempt("alice", "example.com")));
    let mut gone: Vec<_> = (0..2).map(|_| ask("192.0.2.1")).collect();
    begin(&mut gone);
    let mut waiting: Vec<_> = (0..3).map(|_| ask("192.0.2.1")).collect();
    begin(&mut waiting);
    until_waiting(&control, [3, 0, 0]);
    // By the time that another request has been answered twice, those that have their turn have begun.
    for _ in 0..2 {
        assert!(resolve(&control, "192.0.2.1").is_ok());
    }
    drop(gone);
    let mut other = ask("192.0.2.2");
    begin(std::slice::from_mut(&mut other));
    until_waiting(&control, [3, 0, 0]);
    control.stop(PATIENCE).unwrap();
}

#[test]
fn connects_of_one_user_are_bounded_and_end_when_their_turn_is_given_back() {
    let control = plane(
        Accounts::silent,
        "limits: {dials_per_user_max: 2}
outbound: {connect_timeout: 60s}",
    );
    let handle = control.handle();
    let turn = |user: &str| Box::pin(handle.turn_to_dial(who(user)));
    let first = block_on(turn("alice")).unwrap();
    let _second = block_on(turn("alice")).unwrap();
    let mut third = [turn("alice")];
    begin(&mut third);
    until_waiting(&control, [0, 0, 1]);
    // Others have their own turns; the waiting one does not hold up their first.
    let _of_bob = block_on(turn("bob")).unwrap();
    begin(&mut third);
    drop(first);
    let [third] = third;
    assert!(block_on(third).is_ok());
    control.stop(PATIENCE).unwrap();
}

#[test]
fn turn_that_its_asker_does_not_take_is_given_back() {
    let control = plane(
        Accounts::silent,
        "limits: {dials_per_user_max: 1}
outbound: {connect_timeout: 60s}",
    );
    let handle = control.handle();
    for _ in 0..100 {
        let mut asking = Box::pin(handle.turn_to_dial(who("alice")));
        let _ = block_on(poll_once(&mut asking));
        drop(asking);
    }
    assert!(block_on(handle.turn_to_dial(who("alice"))).is_ok());
}

#[test]
fn reload_while_queues_are_full_takes_accounts_and_shares_for_those_that_wait() {
    let limits = "lookups_waiting_max: 16, lookup_timeout: 60s";
    let control = plane(Accounts::silent, &format!("limits: {{{limits}, lookups_per_address_max: 1}}"));
    let handle = control.handle();
    let ask = |from: &str| Box::pin(handle.look_up(address(from), attempt("alice", "example.com")));
    let mut crowd: Vec<_> = (0..17).map(|_| ask("192.0.2.1")).collect();
    begin(&mut crowd);
    until_waiting(&control, [16, 0, 0]);
    let users = "auth: {memory: {users: [{user: 'alice@example.com', password: secret}]}}";
    let new = format!("{users}\nlimits: {{{limits}, lookups_per_address_max: 2}}");
    control.reload(&config(&new), PATIENCE).unwrap();
    assert!(matches!(block_on(ask("192.0.2.2")), Answer::Found(_)));
    // What is under way ends as it began.
    begin(&mut crowd[..1]);
    control.stop(PATIENCE).unwrap();
}

#[test]
fn dropped_plane_ends_every_request_without_an_answer() {
    let control = plane(Accounts::silent, "limits: {lookup_timeout: 60s}");
    let handle = control.handle();
    drop(control);
    assert_unavailable(block_on(handle.look_up(address("192.0.2.1"), attempt("alice", "example.com"))));
}

#[test]
fn a_reload_exchanges_the_accounts_for_those_who_ask_from_then_on() {
    let users = |user: &str| {
        config(&format!("auth: {{memory: {{users: [{{user: '{user}@example.com', password: secret}}]}}}}\n"))
    };
    let control = Control::start_with(&users("absent"), Accounts::silent).unwrap();
    assert!(!control.accounts_ready().is_ready());
    for (user, found) in [("alice", true), ("bob", false)] {
        control.reload(&users(user), PATIENCE).unwrap();
        assert_eq!(matches!(look_up(&control, "alice", "example.com"), Answer::Found(_)), found);
        assert!(control.accounts_ready().is_ready());
    }
    control.stop(PATIENCE).unwrap();
}

#[test]
fn secrets_are_never_printed() {
    assert!(!format!("{:?}", Secret::Password("hush".to_owned())).contains("hush"));
}

// -- names -----------------------------------------------------------------------------------------

/// A question, and its sender.
type Query = (Vec<u8>, SocketAddr);

/// A name server that answers by the first letters of the asked name.
struct NameServer {
    address: SocketAddr,
    /// Questions for `late`, and their senders; answered when the test says so.
    late: Arc<Mutex<Vec<Query>>>,
    socket: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let late = Arc::<Mutex<Vec<_>>>::default();
        let (held, answering) = (Arc::clone(&late), socket.try_clone().unwrap());
        let thread = thread::spawn(move || {
            let mut query = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut query).unwrap();
                // `drop` sends nothing.
                if length == 0 {
                    return;
                }
                if query[13..].starts_with(b"late") {
                    held.lock().unwrap().push((query[..length].to_vec(), from));
                } else if let Some(answer) = Self::answer(&query[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address, late, socket: answering, thread: Some(thread) }
    }

    /// Waits for the questions for `late`, one for each family. Each may be repeated meanwhile.
    fn until_asked(&self) {
        let kind = |(query, _): &Query| {
            let name_length = query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
            query[12 + name_length..][..2].to_vec()
        };
        let kinds = || self.late.lock().unwrap().iter().map(kind).collect::<BTreeSet<_>>();
        until(|| format!("{:?} were asked for", kinds()), || kinds().len() == 2);
    }

    fn answer_now(&self) {
        for (query, from) in &*self.late.lock().unwrap() {
            self.socket.send_to(&Self::answer(query).unwrap(), from).unwrap();
        }
    }

    fn answer(query: &[u8]) -> Option<Vec<u8>> {
        // The question begins after 12 bytes of header: labels up to an empty one, type, class.
        let name_length = query[12..].iter().position(|byte| *byte == 0)? + 1;
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
    let mut silent = Box::pin(handle.resolve(who("alice"), "silent.example.com".to_owned()));
    assert!(block_on(poll_once(&mut silent)).is_none());
    assert!(resolve(&control, "both.example.com").is_ok());
    assert!(matches!(look_up(&control, "alice", "example.com"), Answer::Unknown));
    control.stop(PATIENCE).unwrap();
    assert_eq!(block_on(silent), Err(ResolveError::Busy));
}

#[test]
fn silent_names_of_one_user_leave_room_for_those_of_others() {
    let server = NameServer::start();
    let limits = "limits: {resolve_timeout: 60s, lookups_per_user_max: 4, lookups_waiting_max: 64}";
    let control = server.plane(limits);
    let handle = control.handle();
    let ask = |n| Box::pin(handle.resolve(who("crowd"), format!("silent.host{n}.example.com")));
    let mut crowd: Vec<_> = (0..4 + 64).map(ask).collect();
    begin(&mut crowd);
    until_waiting(&control, [0, 64, 0]);
    for _ in 0..3 {
        assert!(resolve(&control, "both.example.com").is_ok());
    }
    // One of theirs made room each time the queue was full.
    assert!(control.handle().waiting()[1] >= 63);
    control.stop(PATIENCE).unwrap();
}

// Each in its own turn, but only one of them asks.
#[test]
fn one_name_that_several_users_ask_for_is_asked_for_once_and_each_waits_in_its_own_time() {
    let server = NameServer::start();
    let control = server.plane("limits: {resolve_timeout: 60s, lookups_per_user_max: 1}");
    let handle = control.handle();
    let ask = |user: &str| Box::pin(handle.resolve(who(user), "late.example.com".to_owned()));
    let mut asking: Vec<_> = ["alice", "bob", "carol"].into_iter().map(ask).collect();
    begin(&mut asking);
    // By the time that a later request is answered, the others wait for that question.
    assert!(block_on(handle.resolve(who("dave"), "192.0.2.1".to_owned())).is_ok());
    // The first asker goes, and the question goes on.
    server.until_asked();
    drop(asking.remove(0));
    // Later questions get no answer: the one so far serves all of them. How often it was repeated meanwhile depends on
    // the machine.
    server.answer_now();
    for one in asking {
        assert_eq!(block_on(one).map(|found| found.len()), Ok(2));
    }
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
