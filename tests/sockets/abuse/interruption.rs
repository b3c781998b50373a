//! A receiver on a slow line that sends messages itself: its answers do not queue behind its file (req F12).

use std::time::Duration;

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX};
use testkit_net::endpoint::{Endpoint, Pace};
use testkit_net::frame::Frame;
use testkit_net::transfer::Outgoing;
use testkit_net::{PATIENCE, assert_same, bounded, contents};

/// What a line of 100 KiB/s carries in the 5 s in which every answer must be there.
const BYTES_MAX: u64 = 500 << 10;
/// The receiver's line: bytes at a time, and the pause between. The test counts bytes and not seconds, so it may be
/// twice as fast.
const LINE: Pace = Pace { bytes: 10 << 10, rest: Duration::from_millis(50) };
/// Messages that the receiver sends while the file comes in.
const MESSAGES: usize = 4;
/// Longer than what comes in while those are answered, and than all buffers together.
const FILE: usize = 3 << 20;

/// Reads until the response with this transaction id comes; the chunks before it are answered and kept.
fn read_until_answered(receiver: &mut Endpoint, tid: &str, file: &mut Vec<Frame>) {
    loop {
        let frame = receiver.frame();
        if frame.status().is_some() {
            assert_eq!((frame.status(), frame.tid()), (Some(200), tid.to_owned()), "{frame:?}");
            return;
        }
        receiver.writer.write(&frame.response("200 OK"));
        file.push(frame);
    }
}

/// Bytes that the receiver read before each of its answers.
fn answers_during_a_file(places: (usize, usize), chunk: Option<usize>) {
    let attack = Attack::start(2 * TRANSFER_KIB_MAX + 4 * CONNECTION_KIB_MAX);
    let mut sender = attack.client_on(places.0, "user0");
    let mut receiver = attack.narrow_client_on(places.1, "user1");
    [&sender, &receiver].into_iter().for_each(|client| client.wait_for(PATIENCE));
    let data = contents(13, FILE);
    let (peer, back) = (receiver.path(), sender.path());
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let outgoing = Outgoing { chunk, ..Outgoing::giant(&peer, &data) };
            sender.exchange(Some(&outgoing), MESSAGES)
        });
        receiver.reader.pace = LINE;
        let mut file = Vec::new();
        let mut behind = Vec::new();
        // The buffers on the way are full when the first message is sent.
        while receiver.reader.bytes_read < 200 << 10 {
            receiver.reader.receive();
        }
        for n in 0..MESSAGES {
            let begin = receiver.reader.bytes_read;
            let tid = receiver.say(&back, &contents(n as u64, 1000));
            read_until_answered(&mut receiver, &tid, &mut file);
            behind.push(receiver.reader.bytes_read - begin);
        }
        let arrived: usize = file.iter().map(|frame| frame.body.len()).sum();
        println!("{behind:?} bytes before the answers, {arrived} of {FILE} of the file");
        assert!(arrived < FILE / 2, "the file was over before the messages were");
        assert!(behind.iter().all(|bytes| *bytes < BYTES_MAX), "{behind:?}");
        // The rest as fast as it comes.
        receiver.reader.pace = Pace::default();
        while file.iter().map(|frame| frame.body.len()).sum::<usize>() < FILE {
            file.push(receiver.request("SEND"));
        }
        assert_same(&file.iter().flat_map(|frame| frame.body.clone()).collect::<Vec<_>>(), &data);
        let words = sending.join().unwrap();
        for (n, message) in words.iter().enumerate() {
            assert_same(&message.data, &contents(n as u64, 1000));
        }
    });
    drop((sender, receiver));
    attack.end();
}

#[test]
fn a_slow_receiver_of_one_giant_chunk_has_its_answers_within_5_seconds_worth_of_bytes() {
    bounded(|| answers_during_a_file((0, 0), None));
}

#[test]
fn a_slow_receiver_of_a_file_in_chunks_has_its_answers_within_5_seconds_worth_of_bytes() {
    bounded(|| answers_during_a_file((0, 1), Some(10_000)));
}
