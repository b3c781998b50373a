//! Responses from peers that were not asked, and from peers that answer too often or too early.

use msrp_proto::parser::Flag;

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX};
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Request, end_line, fresh_id};
use testkit_net::{assert_same, bounded, contents};

const PLACES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Codes that would each do something: accept, refuse, stop the message, end the session.
const CODES: [&str; 6] = ["200 OK", "400 Bad", "413 Stop", "481 Gone", "506 In use", "999 What"];

/// A made-up response.
fn made_up(tid: &str, code: &str, to: &str, from: &str) -> Vec<u8> {
    format!("MSRP {tid} {code}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{tid}$\r\n").into_bytes()
}

/// The next frame that comes to the sender is the answer to its next request.
#[track_caller]
fn hears_nothing(endpoint: &mut Endpoint, attack: &Attack) {
    let tid = endpoint.say(&attack.absent_session(), b"Anything new?");
    assert_eq!(endpoint.status(&tid), 481);
}

#[test]
fn response_from_a_connection_that_was_not_asked_is_dropped() {
    bounded(|| {
        let attack = Attack::start(16 * CONNECTION_KIB_MAX);
        for (here, there) in PLACES {
            let (mut sender, mut receiver) =
                (attack.client_on(here, "user0"), attack.client_on(there, "user1"));
            let tid = sender.say(&receiver.path(), b"To be answered");
            assert_eq!(sender.status(&tid), 200);
            let message = receiver.frame();
            let mut strangers = [
                attack.relay.stranger("mallory"),
                attack.client_on(0, "user2"),
                attack.client_on(1, "user2"),
            ];
            for culprit in &mut strangers {
                let session = receiver.relay.clone().unwrap();
                for code in CODES {
                    // With the receiver's transaction id, and with the sender's.
                    for tid in [&message.tid(), &tid] {
                        culprit.writer.write(&made_up(tid, code, &session, &receiver.uri));
                        culprit.writer.write(&made_up(tid, code, &session, &culprit.uri));
                    }
                }
                hears_nothing(culprit, &attack);
            }
            hears_nothing(&mut receiver, &attack);
            hears_nothing(&mut sender, &attack);
            // The asked peer's answer is still awaited.
            receiver.writer.write(&message.response("415 Not that"));
            let report = sender.request("REPORT");
            assert!(report.required("Status").starts_with("000 415"), "{report:?}");
        }
        attack.end();
    });
}

#[test]
fn first_response_counts_and_the_others_are_dropped() {
    bounded(|| {
        let attack = Attack::start(16 * CONNECTION_KIB_MAX);
        for (here, there) in PLACES {
            let (mut sender, mut receiver) =
                (attack.client_on(here, "user0"), attack.client_on(there, "user1"));
            for first in ["200 OK", "415 Not that"] {
                let tid = sender.say(&receiver.path(), b"To be answered");
                assert_eq!(sender.status(&tid), 200);
                let message = receiver.frame();
                let answers: Vec<u8> =
                    [first].into_iter().chain(CODES).flat_map(|code| message.response(code)).collect();
                receiver.writer.write(&answers.repeat(10));
                if first != "200 OK" {
                    let report = sender.request("REPORT");
                    assert!(report.required("Status").starts_with("000 415"), "{report:?}");
                    // A REPORT is not answered; a response to it is ignored.
                    CODES.iter().for_each(|code| sender.writer.write(&report.response(code)));
                }
                hears_nothing(&mut receiver, &attack);
                hears_nothing(&mut sender, &attack);
            }
        }
        attack.end();
    });
}

/// Far more than a table of transactions holds.
const STRAYS: usize = 20_000;

#[test]
fn flood_of_unawaited_responses_is_dropped() {
    bounded(|| {
        let attack = Attack::start(4 * CONNECTION_KIB_MAX);
        let mut culprit = attack.relay.client("user0");
        let session = culprit.relay.clone().unwrap();
        for part in 0..STRAYS / 1000 {
            let strays: Vec<u8> = (0..1000)
                .flat_map(|n| made_up(&fresh_id(), CODES[n % CODES.len()], &session, &culprit.uri))
                .collect();
            culprit.writer.write(&strays);
            if part % 5 == 0 {
                attack.goes_on();
            }
        }
        hears_nothing(&mut culprit, &attack);
        drop(culprit);
        attack.end();
    });
}

// -- before the end --------------------------------------------------------------------------------

const LONG: usize = 200_000;

/// A chunk that the receiver answers after a part of it. Returns that part, the sender's transaction id, and that of
/// the answered chunk.
fn answered_early(
    sender: &mut Endpoint,
    receiver: &mut Endpoint,
    data: &[u8],
    code: &str,
) -> (String, String) {
    let to = sender.route(&receiver.path());
    let request = Request::send(&to, &sender.uri, &fresh_id(), &format!("1-*/{LONG}"));
    let tid = request.tid();
    sender.writer.write(&request.head());
    sender.writer.write(&data[..LONG / 2]);
    let head = receiver.reader.part_of_chunk(LONG / 4);
    let hop = head.split(' ').nth(1).unwrap().to_owned();
    receiver.writer.write(&made_up(&hop, code, receiver.relay.as_deref().unwrap(), &receiver.uri));
    (tid, hop)
}

/// An answer before the end of its chunk counts: one after the end is the second.
#[test]
fn a_receiver_that_accepts_a_chunk_before_its_end_cannot_refuse_it_afterwards() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 8 * CONNECTION_KIB_MAX);
        let data = contents(11, LONG);
        for (here, there) in PLACES {
            let (mut sender, mut receiver) =
                (attack.client_on(here, "user0"), attack.client_on(there, "user1"));
            let (tid, _) = answered_early(&mut sender, &mut receiver, &data, "200 OK");
            // The answer to this comes when the one before has been read, and cuts the chunk.
            let next = receiver.say(&attack.absent_session(), b"Heard?");
            let first = receiver.frame();
            assert_eq!((receiver.status(&next), first.flag), (481, Flag::More));
            sender.writer.write(&data[LONG / 2..]);
            sender.writer.write(&end_line(&tid, Flag::Last));
            assert_eq!(sender.status(&tid), 200);
            let second = receiver.request("SEND");
            assert_same(&[first.body.clone(), second.body].concat(), &data);
            receiver.writer.write(&first.response("413 Stop"));
            hears_nothing(&mut receiver, &attack);
            hears_nothing(&mut sender, &attack);
        }
        attack.end();
    });
}

/// A refusal before the end stops the sender, once.
#[test]
fn a_receiver_that_refuses_a_chunk_before_its_end_is_heard_once() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 8 * CONNECTION_KIB_MAX);
        let data = contents(12, LONG);
        for (here, there) in PLACES {
            let (mut sender, mut receiver) =
                (attack.client_on(here, "user0"), attack.client_on(there, "user1"));
            let (tid, hop) = answered_early(&mut sender, &mut receiver, &data, "413 Stop");
            assert_eq!(sender.status(&tid), 413);
            // The sender does not stop.
            sender.writer.write(&data[LONG / 2..]);
            sender.writer.write(&end_line(&tid, Flag::Last));
            let chunk = receiver.frame();
            assert_eq!((chunk.tid(), chunk.flag), (hop, Flag::Aborted));
            assert_same(&chunk.body, &data[..chunk.body.len()]);
            CODES.iter().for_each(|code| receiver.writer.write(&chunk.response(code)));
            hears_nothing(&mut receiver, &attack);
            hears_nothing(&mut sender, &attack);
        }
        attack.end();
    });
}
