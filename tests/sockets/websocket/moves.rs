//! A page whom the kernel has put on another core than its peer comes to that with its first message: nothing of what its
//! WebSocket has gathered is lost, or looked at twice, wherever in a message it is.

use msrp_proto::parser::Flag;
use msrp_relay_core::Stay;
use msrprelay::runtime::ask::Closed;
use rustls::version::{TLS12, TLS13};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::transfer::Outgoing;
use testkit_net::websocket::{BINARY, CLOSE, PING, PONG, TEXT, client_frame};
use testkit_net::{assert_same, bounded, contents, until};

use super::{apart, setup};

/// A first fragment, and further ones.
const BINARY_FRAGMENT: u8 = 0x02;
const FRAGMENT: u8 = 0x00;
const LAST_FRAGMENT: u8 = 0x80;

fn relay(more: &'static str) -> TestRelay {
    TestRelay::with(&Setup { cores: "[0, 1]", ..setup(more) })
}

/// A page, and a client by TCP on another core.
fn pair(relay: &TestRelay) -> (Endpoint, Endpoint) {
    let page = relay.web_client("alice");
    let phone = apart(relay, page.core(), |relay| relay.client("bob"));
    (page, phone)
}

fn moved(relay: &TestRelay, times: u64) {
    until("the page to move", || (relay.counted().sessions_moved == times).then_some(()));
}

/// A request from one to the other.
fn frame(from: &Endpoint, to: &Endpoint, body: &[u8]) -> Vec<u8> {
    let range = format!("1-{0}/{0}", body.len());
    let request = Request::send(&from.route(&to.path()), &from.uri, &fresh_id(), &range);
    request.with_body(body, Flag::Last)
}

// With the relay's own record layer and with that of rustls, the page to whatever it speaks to.
#[test]
fn page_that_speaks_first_moves_to_a_telephone_or_a_page_and_files_go_both_ways() {
    bounded(|| {
        let relay = relay("");
        let [there, back] = [1, 2].map(|seed| contents(seed, 5_000_000));
        let mut pairs = Vec::new();
        for (n, (version, to_page)) in
            (1..).zip([(&TLS13, false), (&TLS13, true), (&TLS12, false), (&TLS12, true)])
        {
            let tls = relay.client_of(version);
            let mut page = Endpoint::wss(relay.websocket(), &tls, "page").log_in("alice", 443);
            let mut other = apart(&relay, page.core(), |relay| match to_page {
                true => relay.web_client("bob"),
                false => relay.client("bob"),
            });
            page.chat(&mut other, b"the first word");
            moved(&relay, n);
            let messages = relay.counted().messages_sent;
            let (to_page, to_other) = (page.path(), other.path());
            std::thread::scope(|scope| {
                let other = &mut other;
                let (there, back) = (&there, &back);
                let other = scope.spawn(move || {
                    let received = other.exchange(Some(&Outgoing::chunks(&to_page, back, 60_000)), 1);
                    assert_same(&received[0].data, there);
                });
                let received = page.exchange(Some(&Outgoing::giant(&to_other, there)), 1);
                assert_same(&received[0].data, back);
                other.join().unwrap();
            });
            other.chat(&mut page, b"and a word");
            assert!(relay.counted().messages_sent < messages + 100, "the file crossed between the cores");
            pairs.push((page, other));
        }
        let all = until("all to be published", || {
            Some(relay.counted()).filter(|all| all.links_local + all.links_split >= 4)
        });
        assert_eq!((all.links_local, all.links_split), (4, 0));
        let (pages, connections) = (all.websocket_open, all.connections_open);
        assert!(pages >= 6 && connections >= 8, "{pages} of {connections}");
        drop(pairs);
        until("all to be forgotten", || {
            let all = relay.counted();
            (all.connections_open + all.websocket_open + all.sessions_open == 0).then_some(())
        });
    });
}

// A message in fragments with a ping between them, frames of MSRP that begin and end anywhere in it, another message behind it:
// cut at every place, the rest of it comes when the page is on the other core.
#[test]
fn what_a_websocket_has_gathered_of_a_message_goes_along() {
    bounded(|| {
        let relay = relay("");
        let (mut times, mut from, step) = (0, 0, 41);
        loop {
            let (mut page, mut phone) = pair(&relay);
            let bodies = [&[b'a'; 300][..], b"", &[b'c'; 200], b"the last"];
            let first = [b"\r\n", &frame(&page, &phone, bodies[0])[..]].concat();
            let body_at = first.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let (head, rest) = first.split_at(body_at);
            let third = frame(&page, &phone, bodies[2]);
            let (front, back) = third.split_at(third.len() / 3);
            let begun = [client_frame(BINARY, b""), client_frame(BINARY_FRAGMENT, head)].concat();
            let behind = [
                client_frame(FRAGMENT, &[rest, &frame(&page, &phone, bodies[1])[..], front].concat()),
                client_frame(PING, b"a ping between fragments"),
                client_frame(FRAGMENT, b""),
                client_frame(LAST_FRAGMENT, back),
                client_frame(TEXT, &frame(&page, &phone, bodies[3])),
            ]
            .concat();
            if from > behind.len() {
                break;
            }
            let (now, later) = behind.split_at(from);
            page.writer.write_below(&[&begun, now].concat());
            times += 1;
            moved(&relay, times);
            page.writer.write_below(later);
            for body in bodies {
                assert_same(&phone.request("SEND").body, body);
                assert_eq!(page.frame().status(), Some(200), "cut at {from} of {}", behind.len());
            }
            page.chat(&mut phone, b"and so on");
            phone.chat(&mut page, b"and back");
            let controls = &page.incoming().controls;
            assert_eq!(*controls, [(PONG, b"a ping between fragments".to_vec())], "cut at {from}");
            from += step;
        }
        assert!(times > 20, "{times} cuts");
        assert_eq!(relay.counted().links_split, 0);
    });
}

/// What was read with the first request is looked at on the other core, and nothing of it here.
#[track_caller]
fn ends_with(relay: &TestRelay, behind: impl Fn(&Endpoint, &Endpoint) -> Vec<u8>, code: u16) -> Endpoint {
    let before = relay.counted().sessions_moved;
    let (mut page, mut phone) = pair(relay);
    let first = client_frame(BINARY, &frame(&page, &phone, b"the first"));
    let all = [first, behind(&page, &phone)].concat();
    page.writer.write_below(&all);
    assert_eq!(phone.request("SEND").body, b"the first");
    assert_eq!(page.frame().status(), Some(200));
    assert_eq!(page.reader.until_end(), End::Clean);
    assert_eq!(page.incoming().close_code(), Some(code));
    moved(relay, before + 1);
    phone
}

#[test]
fn what_ends_a_websocket_right_behind_its_first_request_ends_it_where_that_went() {
    bounded(|| {
        let relay = relay("");
        let mut phone = ends_with(&relay, |_, _| client_frame(CLOSE, &1001_u16.to_be_bytes()), 1001);
        phone.writer.write(b"\r\n");
        ends_with(&relay, |_, _| client_frame(0x83, b"no such opcode"), 1002);
        ends_with(&relay, |_, _| client_frame(BINARY, b"no MSRP at all\r\n"), 1002);
        // T2: never half a frame, whether its message ends in what came with it or later.
        let half = |page: &Endpoint, phone: &Endpoint| {
            let request = Request::send(&page.route(&phone.path()), &page.uri, &fresh_id(), "1-*/*");
            [&request.head()[..], &[b'x'; 3000]].concat()
        };
        let mut phone = ends_with(&relay, |page, phone| client_frame(BINARY, &half(page, phone)), 1002);
        assert_eq!(phone.frame().flag, Flag::Aborted);
        let before = relay.counted().sessions_moved;
        let (mut page, mut phone) = pair(&relay);
        page.writer.write_below(&client_frame(BINARY_FRAGMENT, &half(&page, &phone)));
        phone.reader.part_of_chunk(2000);
        moved(&relay, before + 1);
        page.writer.write_below(&client_frame(LAST_FRAGMENT, b""));
        assert_eq!(phone.frame().flag, Flag::Aborted);
        assert_eq!(page.reader.until_end(), End::Clean);
        assert_eq!(page.incoming().close_code(), Some(1002));
    });
}

// A page that cannot go, for its peer has another one, goes on where it is: with the rest of the message, and the next one.
#[test]
fn page_that_stays_goes_on_within_its_message() {
    bounded(|| {
        let relay = relay("");
        let (mut page, mut phone) = pair(&relay);
        let mut third = relay.client("user0");
        third.chat(&mut phone, b"before");
        let taken = || relay.counted().sessions_stayed().find(|(why, _)| *why == Stay::Taken).unwrap().1;
        let before = taken();
        let [one, two, three] = [b"one", b"two", b"six"].map(|body| frame(&page, &phone, body));
        let all = [
            client_frame(BINARY, b""),
            client_frame(BINARY, b"\r\n"),
            client_frame(TEXT, &[&one[..], &two[..]].concat()),
            client_frame(BINARY_FRAGMENT, &three[..three.len() / 2]),
        ];
        page.writer.write_below(&all.concat());
        // Its own session takes each, and reports what the other one says to it.
        let refused = |page: &mut Endpoint, times: usize| {
            let frames: Vec<_> = (0..2 * times).map(|_| page.frame()).collect();
            let reports = frames.iter().filter(|frame| frame.is_request("REPORT"));
            assert!(reports.clone().all(|report| report.required("Status").contains("506")), "{frames:?}");
            let accepted = frames.iter().filter(|frame| frame.status() == Some(200));
            assert_eq!((reports.count(), accepted.count()), (times, times), "{frames:?}");
        };
        refused(&mut page, 2);
        page.writer.write_below(&client_frame(LAST_FRAGMENT, &three[three.len() / 2..]));
        refused(&mut page, 1);
        until("it to be counted", || (taken() > before).then_some(()));
    });
}

// RFC 6455, 7.1.
#[test]
fn page_that_has_moved_is_closed_in_order_from_either_side() {
    bounded(|| {
        let relay = relay("");
        let (mut page, mut phone) = pair(&relay);
        page.chat(&mut phone, b"hello");
        moved(&relay, 1);
        page.writer.write_below(&client_frame(CLOSE, &1001_u16.to_be_bytes()));
        assert_eq!(page.reader.until_end(), End::Clean);
        assert_eq!(page.incoming().close_code(), Some(1001));
        let (mut page, mut phone) = pair(&relay);
        page.chat(&mut phone, b"hello");
        moved(&relay, 2);
        let id = page.relay.clone().unwrap().rsplit('/').next().unwrap()[..10].to_owned();
        let closed = relay.server.inspector().close(&id).unwrap();
        assert!(matches!(closed, Closed::Done { .. }), "{closed:?}");
        assert_eq!(page.reader.until_end(), End::Clean);
        assert_eq!(page.incoming().close_code(), Some(1000));
    });
}

// T7: who answers lives on, and who does not is given up, on the core where it is now.
#[test]
fn page_that_has_moved_is_pinged_there() {
    bounded(|| {
        let relay = relay("websocket: {ping_interval: 1s}");
        let (mut dead, mut one) = pair(&relay);
        let (mut lively, mut other) = pair(&relay);
        dead.chat(&mut one, b"hello");
        lively.chat(&mut other, b"hello");
        moved(&relay, 2);
        let waiting = std::thread::spawn(move || {
            assert_ne!(dead.reader.until_end(), End::Broken);
        });
        let mut answered = 0;
        // Some more than the one that tells which of the two is dead.
        while relay.counted().websocket_pings_unanswered == 0 || answered < 3 {
            lively.reader.receive();
            assert_eq!(lively.reader.end, None);
            let pings = lively.incoming().controls.iter().filter(|(first, _)| *first == PING).count();
            while answered < pings {
                lively.writer.write_below(&client_frame(PONG, b""));
                answered += 1;
            }
        }
        waiting.join().unwrap();
        other.chat(&mut lively, b"still here");
        assert_eq!(relay.counted().websocket_pings_unanswered, 1);
    });
}

// T4: a WebSocket with several sessions stays, and whom its clients speak with comes to it, or their messages cross.
#[test]
fn websocket_with_two_sessions_stays() {
    bounded(|| {
        let relay = relay("");
        let mut page = relay.web_client("alice");
        let first = (page.uri.clone(), page.relay.clone());
        page.uri = "msrps://another.invalid:2855/client;ws".to_owned();
        page = page.log_in("bob", 443);
        let second = (page.uri.clone(), page.relay.clone());
        for (n, own) in [first, second].into_iter().enumerate() {
            (page.uri, page.relay) = own;
            let mut other = apart(&relay, page.core(), |relay| {
                if n == 0 { relay.web_client("user0") } else { relay.client("user0") }
            });
            for _ in 0..3 {
                page.chat(&mut other, b"across");
                other.chat(&mut page, b"and back");
            }
        }
        until("both to be split", || (relay.counted().links_split == 2).then_some(()));
        assert_eq!(relay.counted().sessions_moved, 0);
    });
}

// T4: who comes later by the same WebSocket is served where that is, and from then on it stays there.
#[test]
fn second_client_may_come_by_a_websocket_that_has_moved() {
    bounded(|| {
        let relay = relay("");
        let (mut page, mut phone) = pair(&relay);
        let home = page.core();
        page.chat(&mut phone, b"hello");
        moved(&relay, 1);
        let first = (page.uri.clone(), page.relay.clone());
        page.uri = "msrps://another.invalid:2855/client;ws".to_owned();
        page = page.log_in("user0", 443);
        assert_eq!(page.core(), 1 - home, "its session is at home where the connection is");
        let mut other = apart(&relay, page.core(), |relay| relay.client("user1"));
        page.chat(&mut other, b"from the second");
        other.chat(&mut page, b"to the second");
        (page.uri, page.relay) = first;
        page.chat(&mut phone, b"from the first");
        phone.chat(&mut page, b"to the first");
        // And renews its URI.
        page = page.log_in("alice", 443);
        phone.chat(&mut page, b"by its new URI");
        until("the second to be split", || (relay.counted().links_split == 1).then_some(()));
        assert_eq!(relay.counted().sessions_moved, 1);
    });
}
