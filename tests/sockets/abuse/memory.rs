//! What peers make the relay keep beside queued bytes. All of it counts against `limits.queue_bytes_total`: each attack
//! here would otherwise take several times the budget.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use msrp_proto::parser::Flag;

use super::attack::{Attack, CONNECTION_KIB_MAX, two_cores};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, fresh_id};
use testkit_net::{PATIENCE, bounded, until};

/// `limits.queue_bytes_total`.
const BUDGET_KIB: u64 = 16 << 10;
/// A small budget. Peers that read nothing are not given up during the test.
const SMALL: &str = "limits: {queue_bytes_total: 16MiB, write_timeout: 5m}";

/// The bound of an attack over so many connections: the budget, and what each connection may hold whatever the
/// pressure.
fn bound(connections: usize) -> u64 {
    BUDGET_KIB + SLACK_KIB + connections as u64 * CONNECTION_KIB_MAX
}

/// Memory that is freed and taken again at another place, and what a core reads before its next check. Uncounted, each
/// of these attacks takes more than twice as much.
const SLACK_KIB: u64 = 8 << 10;

/// Reads and throws away what the relay sends, until the connection ends.
fn drain(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

/// Sends up to so many small messages that want a failure REPORT, as many as the relay takes in a while.
fn send_small(from: &mut Endpoint, to: &str, messages: usize) -> usize {
    from.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let to = from.route(to);
    // As long as a Message-ID may be.
    let id = "m".repeat(96);
    let mut sent = 0;
    while sent < messages {
        let part: Vec<u8> = (0..32)
            .flat_map(|_| {
                let id = format!("{id}{}", fresh_id());
                Request::send(&to, &from.uri, &id, "1-1/1").with_body(b"x", Flag::Last)
            })
            .collect();
        if from.writer.try_write(&part).is_err() {
            break;
        }
        sent += 32;
    }
    sent
}

/// Messages to one receiver: as many transactions may be open with it.
const MESSAGES: usize = 4096;
/// Senders, each with a receiver of its own.
const PAIRS: usize = 48;

#[test]
fn open_transactions_stay_within_the_memory_budget() {
    bounded(|| {
        let attack = Attack::with(&two_cores(SMALL), bound(2 * PAIRS));
        let user = |n: usize| format!("user{n}");
        let mut pairs: Vec<(Endpoint, Endpoint)> = (0..PAIRS)
            .map(|n| (attack.relay.client(&user(2 * n)), attack.relay.client(&user(2 * n + 1))))
            .collect();
        std::thread::scope(|scope| {
            let mut streams = Vec::new();
            let mut senders = Vec::new();
            for (sender, receiver) in &mut pairs {
                for end in [&*sender, &*receiver] {
                    streams.push(end.stream().try_clone().unwrap());
                    let stream = end.stream().try_clone().unwrap();
                    // Each reads all it is sent, and the receiver answers nothing.
                    scope.spawn(move || drain(stream));
                }
                let to = receiver.path();
                senders.push(scope.spawn(move || send_small(sender, &to, MESSAGES)));
            }
            let sent: usize = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
            println!("{sent} messages were taken");
            attack.goes_on();
            streams.iter().for_each(|stream| stream.shutdown(std::net::Shutdown::Both).unwrap());
        });
        drop(pairs);
        attack.is_alone();
        attack.end();
    });
}

/// Senders that do not read their REPORTs, one after another.
const ROUNDS: usize = 14;

#[test]
fn reports_that_are_not_read_stay_within_the_memory_budget() {
    bounded(|| {
        // While a full table becomes REPORTs, both exist, and their buffers; the allocator keeps that.
        let at_once = 2 * MESSAGES as u64;
        let attack = Attack::with(&two_cores(SMALL), bound(2 * ROUNDS) + at_once);
        let user = |n: usize| format!("user{n}");
        let mut pairs: Vec<(Endpoint, Endpoint)> = (0..ROUNDS)
            .map(|n| (attack.relay.narrow_client(&user(2 * n)), attack.relay.client(&user(2 * n + 1))))
            .collect();
        let mut senders = Vec::new();
        for (mut sender, receiver) in pairs.drain(..) {
            let to = receiver.path();
            let stream = receiver.stream().try_clone().unwrap();
            let taken = std::thread::spawn(move || drain(stream));
            let unread = sender.stream().try_clone().unwrap();
            unread.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            std::thread::scope(|scope| {
                let sending = scope.spawn(|| send_small(&mut sender, &to, MESSAGES));
                // The answers are read, as long as there are requests.
                let mut buffer = vec![0; 64 << 10];
                while !sending.is_finished() {
                    let _ = (&unread).read(&mut buffer);
                }
                let _ = sending.join();
            });
            // Each message that the receiver has not answered leads to a REPORT.
            receiver.truncate();
            taken.join().unwrap();
            senders.push(sender);
        }
        attack.goes_on();
        drop(senders);
        attack.is_alone();
        attack.end();
    });
}

/// Sessions with a TLS record, and a head, whose rest never comes. Far more than the budget has room for.
const UNFINISHED: usize = 1000;
/// Connections that come before the budget is used up.
const TAKEN_IN: usize = 600;

#[test]
fn records_and_heads_that_never_end_stay_within_the_memory_budget() {
    bounded(|| {
        let setup = two_cores(
            "limits: {queue_bytes_total: 16MiB, head_timeout: 1m, connections_per_address_max: 4000}",
        );
        let attack = Attack::with(&setup, BUDGET_KIB + TAKEN_IN as u64 * CONNECTION_KIB_MAX / 2);
        let mut culprits = Vec::new();
        for n in 0..UNFINISHED {
            // Newcomers are turned away once the budget is used up.
            let client = || attack.relay.client(&format!("user{}", n % 256));
            let Ok(mut culprit) = catch_unwind(AssertUnwindSafe(client)) else { break };
            let head = format!("MSRP 1234abcd SEND\r\nTo-Path: {}\r\n", culprit.uri);
            let filler = format!("X-Filler: {}\r\n", "x".repeat(7 << 10)).repeat(2);
            culprit.writer.write(head.as_bytes());
            culprit.writer.write(filler.as_bytes());
            culprit.writer.write_raw(&unfinished_record());
            culprits.push(culprit);
        }
        println!("{} connections with an unfinished record", culprits.len());
        attack.goes_on();
        drop(culprits);
        attack.is_alone();
        attack.end();
    });
}

/// The beginning of a TLS record of full length: nearly all of it.
fn unfinished_record() -> Vec<u8> {
    let mut record = vec![23, 3, 3, 0x40, 0x11];
    record.resize(16 << 10, 7);
    record
}

#[test]
fn a_record_that_does_not_end_in_time_closes_a_connection_with_a_session() {
    bounded(|| {
        let attack = Attack::with(&two_cores("limits: {record_timeout: 2s}"), 4 * CONNECTION_KIB_MAX);
        let mut culprit = attack.relay.client("user0");
        let patient = attack.relay.client("user1");
        // The whole head of a request, and some of its body: as slow as it likes, as long as records end.
        let request = Request::send(&culprit.route(&patient.path()), &culprit.uri, &fresh_id(), "1-*/*");
        culprit.writer.write(&request.head());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            culprit.writer.write(b"x");
            std::thread::sleep(Duration::from_millis(500));
        }
        // Byte by byte it never ends.
        culprit.writer.write_raw(&[23, 3, 3, 0x40, 0x11]);
        let mut drip = culprit.stream().try_clone().unwrap();
        let end = std::thread::spawn(move || {
            let begin = Instant::now();
            while begin.elapsed() < PATIENCE && drip.write_all(&[7]).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
            begin.elapsed() < PATIENCE
        });
        culprit.wait_for(PATIENCE);
        assert_ne!(culprit.reader.until_end(), End::Clean);
        drop(culprit);
        assert!(end.join().unwrap(), "the relay waits for ever");
        until("the reason in the log", || attack.relay.log().contains("limits.record_timeout").then_some(()));
        drop(patient);
        attack.end();
    });
}

/// Receivers that take nothing of what is written to them.
const DEAF: usize = 240;
/// What is in hand for each of them would come to more than the rest.
const LARGE_FLUSHES: &str = "limits: {queue_bytes_total: 16MiB, write_timeout: 5m, flush_bytes_max: 512KiB, \
                             queue_bytes_high: 1MiB, queue_bytes_low: 512KiB}";

#[test]
fn what_is_being_written_to_receivers_that_do_not_read_stays_within_the_memory_budget() {
    bounded(|| {
        // Whatever the pressure, each sender is read from once, and each receiver has its least flush; and both are
        // connections, without an incoming head. Without the budget the queues alone come to 240 MiB.
        let pair = 64 + 26 + 16 + 2 * CONNECTION_KIB_MAX / 2;
        let bound = BUDGET_KIB + SLACK_KIB + DEAF as u64 * pair;
        let attack = Attack::with(&two_cores(LARGE_FLUSHES), bound);
        let user = |n: usize| format!("user{}", n % 256);
        let mut senders: Vec<Endpoint> = (0..DEAF).map(|n| attack.relay.narrow_client(&user(n))).collect();
        let deaf: Vec<Endpoint> = (0..DEAF).map(|n| attack.relay.narrow_client(&user(DEAF + n))).collect();
        std::thread::scope(|scope| {
            for (sender, receiver) in senders.iter_mut().zip(&deaf) {
                sender.stream().set_write_timeout(Some(Duration::from_secs(3))).unwrap();
                let to = sender.route(&receiver.path());
                scope.spawn(move || {
                    let request = Request::send(&to, &sender.uri, &fresh_id(), "1-*/*");
                    sender.writer.write(&request.head());
                    // More than the kernel holds on the way, and a flush.
                    while sender.writer.try_write(&[b'x'; 16 << 10]).is_ok() {}
                });
            }
        });
        attack.goes_on();
        drop((senders, deaf));
        attack.is_alone();
        attack.end();
    });
}
