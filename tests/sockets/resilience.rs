//! A fault of one connection affects only its own session, and is reported once.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use msrp_proto::parser::Flag;

use testkit_net::endpoint::{Endpoint, Reader};
use testkit_net::frame::{Request, end_line, fresh_id};
use testkit_net::process::RelayProcess;
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents, until};

// -- a receiver dies -------------------------------------------------------------------------------

const CHUNK: usize = 10_000;

/// How the receiver ends.
#[derive(Clone, Copy, Debug)]
enum Death {
    Reset,
    Close,
}

/// What the sender of a message heard.
#[derive(Default)]
struct Told {
    accepted: Vec<RangeInclusive<u64>>,
    refused: Vec<(u16, RangeInclusive<u64>)>,
    reported: Vec<RangeInclusive<u64>>,
}

impl Told {
    /// Reads one frame; the status of a response is returned.
    fn hear(&mut self, reader: &mut Reader, sent: &Mutex<Vec<Sent>>) -> Option<u16> {
        let frame = match reader.next_frame() {
            Ok(frame) => frame,
            Err(end) => panic!("the sender's own connection ended: {end:?}"),
        };
        let Some(status) = frame.status() else {
            assert!(frame.is_request("REPORT"), "{frame:?}");
            let range = frame.head.byte_range().unwrap();
            let status = frame.required("Status");
            assert!(status.starts_with("000 4"), "{frame:?}");
            self.reported.push(range.start..=range.end.unwrap());
            return None;
        };
        let sent = sent.lock().unwrap();
        let (_, range) = sent.iter().find(|(tid, _)| *tid == frame.tid()).unwrap();
        match status {
            200 => self.accepted.push(range.clone()),
            _ => self.refused.push((status, range.clone())),
        }
        Some(status)
    }

    /// Bytes that the receiver cannot have got are reported, none of them twice.
    fn check(&self, received: u64) {
        let mut notices: Vec<_> = self.reported.clone();
        notices.extend(self.refused.iter().map(|(_, range)| range.clone()));
        notices.sort_by_key(|range| *range.start());
        for pair in notices.windows(2) {
            assert!(pair[0].end() < pair[1].start(), "told twice: {notices:?}");
        }
        let last_accepted = self.accepted.iter().map(|range| *range.end()).max().unwrap();
        assert!(last_accepted > received, "nothing was under way");
        // One REPORT covers what was queued for the receiver; chunks under way to another core at that moment are
        // reported one by one. Together they leave no gap.
        let mut reported = self.reported.clone();
        reported.sort_by_key(|range| *range.start());
        let mut told_to = received;
        for range in &reported {
            assert!(*range.start() <= told_to + 1, "a gap before {range:?}, {received} received");
            told_to = told_to.max(*range.end());
        }
        assert!(told_to >= last_accepted, "told up to {told_to}, answered up to {last_accepted}");
    }
}

/// A chunk that was sent: transaction id and bytes.
type Sent = (String, RangeInclusive<u64>);

/// The next chunk of an endless message.
fn next_chunk(n: usize, (to, from, id): (&str, &str, &str)) -> (Sent, Request) {
    let bytes = (n * CHUNK) as u64 + 1..=((n + 1) * CHUNK) as u64;
    let request = Request::send(to, from, id, &format!("{}-*/1000000000", bytes.start()));
    let request = request.header("Failure-Report", "yes");
    ((request.tid(), bytes), request)
}

/// Sends chunk after chunk until one is refused, then one more. `accepted` counts the 200s.
fn send_until_refused(alice: &mut Endpoint, peer: &str, accepted: &AtomicUsize) -> Told {
    let (to, from, id) = (alice.route(peer), alice.uri.clone(), fresh_id());
    let (sent, refused, finished) =
        (Mutex::new(Vec::<Sent>::new()), AtomicBool::new(false), AtomicBool::new(false));
    let body = contents(6, CHUNK);
    let mut told = Told::default();
    let (reader, writer) = (&mut alice.reader, &mut alice.writer);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                let last = refused.load(Ordering::SeqCst);
                let (chunk, request) = next_chunk(n, (&to, &from, &id));
                // Noted before it is written: the answer may be faster than this thread.
                sent.lock().unwrap().push(chunk);
                finished.store(last, Ordering::SeqCst);
                writer.write(&request.with_body(&body, Flag::More));
                if last {
                    return;
                }
            }
        });
        let mut answers = 0;
        let mut open = true;
        while open {
            let status = told.hear(reader, &sent);
            answers += usize::from(status.is_some());
            accepted.fetch_add(usize::from(status == Some(200)), Ordering::SeqCst);
            refused.fetch_or(status.is_some_and(|status| status != 200), Ordering::SeqCst);
            let all_answered = finished.load(Ordering::SeqCst) && answers == sent.lock().unwrap().len();
            // There are chunks under way to the receiver when it dies, so a REPORT is due.
            open = !all_answered || told.reported.is_empty();
        }
    });
    let (further, _) = told.refused.last().unwrap();
    assert_eq!(*further, 481);
    // No further notice comes: the next frame answers the next request.
    let tid = alice.say(peer, b"Anybody?");
    assert_eq!(alice.status(&tid), 481);
    told
}

/// Several megabytes for others, undisturbed.
fn move_files(from: &mut Endpoint, to: &mut Endpoint, seed: u64) {
    let data = contents(seed, 6 << 20);
    let path = to.path();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| to.receive_file());
        from.send_file(&Outgoing::chunks(&path, &data, 50_000));
        assert_same(&receiving.join().unwrap().data, &data);
    });
}

fn receiver_dies(death: Death) {
    let relay = TestRelay::start();
    let (mut carol, mut dave) = (relay.client("user0"), relay.client("user1"));
    // The kernel chooses the cores: one, or two.
    for round in 0..5 {
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let accepted = AtomicUsize::new(0);
        let bob_path = bob.path();
        std::thread::scope(|scope| {
            let told = scope.spawn(|| send_until_refused(&mut alice, &bob_path, &accepted));
            let others = scope.spawn(|| move_files(&mut carol, &mut dave, round));
            let mut received = 0;
            let mut chunks = 0;
            while chunks < 30 {
                let frame = bob.request("SEND");
                assert_eq!(frame.start(), received + 1);
                received += frame.body.len() as u64;
                chunks += 1;
            }
            // So many more were answered by the relay, and will never be read.
            let more = (received as usize).div_ceil(CHUNK) + 3;
            until("chunks under way", || (accepted.load(Ordering::SeqCst) >= more).then_some(()));
            match death {
                Death::Reset => bob.reset(),
                Death::Close => bob.close(),
            }
            told.join().unwrap().check(received);
            others.join().unwrap();
        });
    }
}

#[test]
fn sender_is_told_once_of_what_a_receiver_reset_in_mid_file_did_not_get() {
    bounded(|| receiver_dies(Death::Reset));
}

#[test]
fn sender_is_told_once_of_what_a_receiver_closed_in_mid_file_did_not_get() {
    bounded(|| receiver_dies(Death::Close));
}

// -- receivers stop reading ------------------------------------------------------------------------

/// How long they stop: longer than any buffer takes to fill.
const REST: Duration = Duration::from_secs(20);
/// Longer than the rest, and than what follows it.
const LONG: Duration = Duration::from_secs(300);

const FILE: usize = 64 << 20;
/// Pairs of clients that send short messages.
const PAIRS: usize = 100;
const MESSAGES: usize = 1500;
const MESSAGE: usize = 200;
/// The bound in docs/operate/configuration.md: the high-water mark, one read across it, and one flush.
const SESSION_KIB_MAX: u64 = 256 + 64 + 128;

/// A client that may be made to wait for long.
fn narrow(relay: &RelayProcess, user: usize) -> Endpoint {
    let client = relay.narrow_client(&format!("user{user}"));
    client.wait_for(LONG);
    client
}

/// One giant SEND; `sent` follows what the connection has taken.
fn send_giant(alice: &mut Endpoint, peer: &str, data: &[u8], sent: &AtomicUsize) {
    let request = Request::send(&alice.route(peer), &alice.uri, &fresh_id(), &format!("1-*/{}", data.len()));
    let tid = request.tid();
    alice.writer.write(&request.head());
    for part in data.chunks(32 << 10) {
        alice.writer.write(part);
        sent.fetch_add(part.len(), Ordering::SeqCst);
    }
    alice.writer.write(&end_line(&tid, Flag::Last));
    assert_eq!(alice.status(&tid), 200);
}

fn message(pair: usize, n: usize) -> Vec<u8> {
    contents((pair * MESSAGES + n) as u64 + 1, MESSAGE)
}

fn send_messages(pair: usize, from: &mut Endpoint, peer: &str, sent: &AtomicUsize) {
    let range = format!("1-{MESSAGE}/{MESSAGE}");
    for n in 0..MESSAGES {
        let request = Request::send(&from.route(peer), &from.uri.clone(), &fresh_id(), &range);
        from.send(request.header("Failure-Report", "no"), &message(pair, n));
        sent.fetch_add(1, Ordering::SeqCst);
    }
}

fn receive_messages(pair: usize, to: &mut Endpoint) {
    for n in 0..MESSAGES {
        let frame = to.frame();
        assert!(frame.is_request("SEND"), "{frame:?}");
        assert_eq!(frame.body, message(pair, n), "pair {pair}, message {n}");
    }
}

/// The relay that carries a file holds no more than its queues while the receiver rests.
#[test]
fn a_receiver_that_rests_for_20_seconds_costs_less_than_2_mib_and_then_gets_every_byte() {
    bounded(|| {
        // On a busy machine the receiver may rest for longer than it may take nothing by default.
        let relay = RelayProcess::start(&Setup { more: "limits: {write_timeout: 10m}", ..Setup::default() });
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        [&alice, &bob].into_iter().for_each(|client| client.wait_for(LONG));
        // The memory that any transfer needs does not count for a stopped one.
        move_files(&mut alice, &mut bob, 7);
        let before = relay.rss_kib();
        let data = contents(8, FILE);
        let bob_path = bob.path();
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| send_giant(&mut alice, &bob_path, &data, &sent));
            let (peak, _) = rest(&relay, &relay);
            assert!(sent.load(Ordering::SeqCst) < FILE, "the sender was never held up");
            let grown = peak.saturating_sub(before);
            println!("grown by {grown} KiB");
            assert!(grown < 2048, "{grown} KiB for one transfer that waits");
            assert_same(&bob.receive_file().data, &data);
        });
    });
}

/// Two relays rest together: one with a file, one with many sessions.
#[test]
fn memory_is_bounded_while_receivers_do_not_read_and_everything_arrives_when_they_do() {
    bounded(|| {
        // On a busy machine the senders need longer to be held up than a receiver may take nothing by default.
        let setup = Setup { more: "limits: {write_timeout: 10m}", ..Setup::default() };
        let (one, many) = (RelayProcess::start(&setup), RelayProcess::start(&setup));
        let (mut alice, mut bob) = (one.client("alice"), one.client("bob"));
        [&alice, &bob].into_iter().for_each(|client| client.wait_for(LONG));
        // The memory that any transfer needs does not count for a stopped one.
        move_files(&mut alice, &mut bob, 7);
        let mut pairs: Vec<(Endpoint, Endpoint)> =
            (0..PAIRS).map(|n| (narrow(&many, 2 * n), narrow(&many, 2 * n + 1))).collect();
        let before = (one.rss_kib(), many.rss_kib());
        let data = contents(8, FILE);
        let bob_path = bob.path();
        let file_sent = AtomicUsize::new(0);
        let sent: Vec<AtomicUsize> = (0..PAIRS).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| send_giant(&mut alice, &bob_path, &data, &file_sent));
            let mut receivers = Vec::new();
            for (n, (from, to)) in pairs.iter_mut().enumerate() {
                let (peer, sent) = (to.path(), &sent[n]);
                scope.spawn(move || send_messages(n, from, &peer, sent));
                receivers.push(to);
            }
            let peak = rest(&one, &many);
            assert!(file_sent.load(Ordering::SeqCst) < FILE, "the file's sender was never held up");
            let held_up = sent.iter().filter(|sent| sent.load(Ordering::SeqCst) < MESSAGES).count();
            // What a sender has may also fit into the kernel's buffers, which grow as they like.
            assert!(held_up >= PAIRS / 2, "only {held_up} of {PAIRS} senders were held up");
            let grown = (peak.0.saturating_sub(before.0), peak.1.saturating_sub(before.1));
            println!("grown by {} KiB for the file, {} KiB for {} sessions", grown.0, grown.1, 2 * PAIRS);
            let waiting: usize = sent.iter().map(|sent| sent.load(Ordering::SeqCst)).sum();
            println!(
                "{} MiB of the file, {waiting} messages were sent",
                file_sent.load(Ordering::SeqCst) >> 20
            );
            assert!(grown.0 < 2048, "{} KiB for one transfer that waits", grown.0);
            assert!(grown.1 <= 2 * PAIRS as u64 * SESSION_KIB_MAX, "{} KiB for {PAIRS} pairs", grown.1);
            for (n, to) in receivers.into_iter().enumerate() {
                scope.spawn(move || receive_messages(n, to));
            }
            assert_same(&bob.receive_file().data, &data);
        });
    });
}

/// The most memory that each of two relays uses while no receiver reads.
fn rest(one: &RelayProcess, many: &RelayProcess) -> (u64, u64) {
    let end = Instant::now() + REST;
    let mut peak = (0, 0);
    while Instant::now() < end {
        peak = (peak.0.max(one.rss_kib()), peak.1.max(many.rss_kib()));
        std::thread::sleep(Duration::from_millis(50));
    }
    peak
}
