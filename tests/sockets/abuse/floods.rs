//! More than any client needs to send: heads, lines and TLS records without end.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use msrp_proto::parser::Flag;

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, end_line, fresh_id};
use testkit_net::{PATIENCE, assert_same, bounded, contents};

/// Writes `part` again and again until `bytes` are written or the relay takes no more; returns how many it
/// took.
fn flood(culprit: &mut Endpoint, part: &[u8], bytes: usize) -> usize {
    let begin = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        assert!(begin.elapsed() < PATIENCE, "the relay goes on reading what it has no use for");
        match culprit.writer.try_write(part) {
            Ok(()) => sent += part.len(),
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                    "{error}"
                );
                break;
            }
        }
    }
    sent
}

// -- heads and lines -------------------------------------------------------------------------------

/// Far more than a head may be long.
const MEGABYTES: usize = 16 << 20;

/// Bytes that begin like a frame and go on and on: the relay closes once they are too long, before AUTH or after it. It
/// sends no answer, because there is no frame to answer.
fn endless(begin: &[u8], part: &[u8]) {
    let attack = Attack::start(4 * CONNECTION_KIB_MAX);
    for mut culprit in [attack.relay.stranger("mallory"), attack.relay.client("user0")] {
        culprit.writer.write(begin);
        flood(&mut culprit, part, MEGABYTES);
        assert_eq!(culprit.reader.until_end(), End::Clean);
        attack.goes_on();
    }
    attack.end();
}

#[test]
fn a_head_without_end_closes_its_connection() {
    bounded(|| {
        let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
        endless(b"MSRP endlesshead SEND\r\n", line.repeat(16).as_bytes());
    });
}

#[test]
fn a_header_without_end_closes_its_connection() {
    bounded(|| endless(b"MSRP endlesshead SEND\r\nTo-Path: msrps://", &[b'x'; 16 << 10]));
}

#[test]
fn a_first_line_without_end_closes_its_connection() {
    bounded(|| endless(b"MSRP ", &[b'x'; 16 << 10]));
}

#[test]
fn bytes_that_are_not_msrp_close_their_connection_at_once() {
    bounded(|| {
        let attack = Attack::start(2 * CONNECTION_KIB_MAX);
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], b"\r\n\r\nGET", b"MSRPx", &[0; 5], b"msrp 12345678 SEND\r\n"]
        {
            let mut culprit = attack.relay.stranger("mallory");
            culprit.writer.write(bytes);
            assert_eq!(culprit.end(), End::Clean, "{bytes:?}");
        }
        attack.end();
    });
}

/// What the relay reads on to close in order, 16 MiB, and what the kernel may hold on both sides.
const CUT_OFF_AFTER: usize = 64 << 20;

/// Closing in order means to read on for a while, but not for ever.
#[test]
fn a_flood_that_does_not_end_when_its_connection_is_closed_is_cut_off() {
    bounded(|| {
        let attack = Attack::start(2 * CONNECTION_KIB_MAX);
        let mut culprit = attack.relay.stranger("mallory");
        let sent = flood(&mut culprit, &[b'x'; 16 << 10], usize::MAX);
        println!("cut off after {} MiB", sent >> 20);
        assert!(sent < CUT_OFF_AFTER, "{sent} bytes were read for nothing");
        attack.end();
    });
}

// -- tiny records ----------------------------------------------------------------------------------

/// Of one byte each.
const RECORDS: usize = 1_000_000;

/// Its message is delivered like any other.
#[test]
fn a_message_in_a_million_records_of_one_byte_arrives_and_costs_others_nothing() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX);
        let (mut culprit, mut receiver) = (attack.relay.client("user0"), attack.relay.client("user1"));
        let (data, receiver_path) = (contents(1, RECORDS), receiver.path());
        std::thread::scope(|scope| {
            scope.spawn(|| assert_same(&receiver.receive_file().data, &data));
            let range = format!("1-*/{RECORDS}");
            let to = culprit.route(&receiver_path);
            let request = Request::send(&to, &culprit.uri, &fresh_id(), &range);
            let tid = request.tid();
            culprit.writer.try_write_in_records(&request.head(), 1).unwrap();
            for tenth in data.chunks(RECORDS / 10) {
                for part in tenth.chunks(1000) {
                    culprit.writer.try_write_in_records(part, 1).unwrap();
                }
                attack.goes_on();
            }
            culprit.writer.try_write_in_records(&end_line(&tid, Flag::Last), 1).unwrap();
            assert_eq!(culprit.status(&tid), 200);
        });
        drop((culprit, receiver));
        attack.end();
    });
}

/// Requests for new keys, more than any session needs.
const RENEWALS: usize = 10_000;

/// Each demands an answer of TLS, and none is read.
#[test]
fn requests_for_new_keys_without_end_are_answered_within_bounds() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX);
        let mut culprit = attack.relay.narrow_client("user0");
        let tid = culprit.say(&attack.absent_session(), b"Is anybody there?");
        assert_eq!(culprit.status(&tid), 481);
        let request = Request::send(&attack.absent_session(), &culprit.uri, &fresh_id(), "1-*/*");
        culprit.writer.write(&request.head());
        let mut renewals = 0;
        while renewals < RENEWALS
            && culprit.writer.try_renew_keys().is_ok()
            && culprit.writer.try_write(b"x").is_ok()
        {
            renewals += 1;
            if renewals % (RENEWALS / 10) == 0 {
                attack.goes_on();
            }
        }
        println!("{renewals} renewals were taken");
        drop(culprit);
        attack.end();
    });
}

/// Sessions whose receivers do not read, and whose senders write byte by byte.
const TRICKLES: usize = 8;
/// Bytes that each sends one by one, so that the relay reads them one by one. Together 48,000 records.
const TRICKLE: usize = 6_000;
/// What each sends before that, to fill what the kernel holds on the way to the receiver.
const FILL: usize = 350 << 10;

/// Queued bytes must be counted by the memory they take, not by their length.
#[test]
fn bytes_sent_one_by_one_to_receivers_that_do_not_read_take_no_more_memory_than_others() {
    bounded(|| {
        let pairs = TRICKLES as u64;
        let attack = Attack::start(pairs * (TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX));
        let user = |n: usize| format!("user{n}");
        let mut pairs: Vec<(Endpoint, Endpoint)> = (0..TRICKLES)
            .map(|n| (attack.relay.client(&user(2 * n)), attack.relay.narrow_client(&user(2 * n + 1))))
            .collect();
        for (culprit, accomplice) in &mut pairs {
            let request =
                Request::send(&culprit.route(&accomplice.path()), &culprit.uri, &fresh_id(), "1-*/*");
            culprit.writer.write(&request.head());
            culprit.writer.write(&contents(1, FILL));
        }
        for n in 0..TRICKLE {
            for (culprit, _) in &mut pairs {
                culprit.writer.try_write_in_records(b"x", 1).unwrap();
            }
            // So slowly that each is read by itself.
            std::thread::sleep(Duration::from_micros(200));
            if n % (TRICKLE / 10) == 0 {
                attack.goes_on();
            }
        }
        drop(pairs);
        attack.end();
    });
}
