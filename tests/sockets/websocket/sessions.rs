//! AUTH, chat and files, between pages and everything else.

use std::sync::atomic::{AtomicBool, Ordering};

use msrp_proto::parser::Flag;
use testkit_net::account::Login;
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents, until};

use super::{apart, relay, setup};

// T1, T2, T4: AUTH to `;ws` at port 443; the URI that others use is `;tcp` at the port for MSRP.
#[test]
fn page_gets_a_uri_that_leads_to_the_port_for_msrp() {
    bounded(|| {
        let relay = relay();
        let page = relay.web_client("alice");
        let uri = page.relay.clone().unwrap();
        assert!(uri.starts_with(&format!("msrps://relay.example.test:{}/", relay.tls.port())), "{uri}");
        assert!(uri.ends_with(";tcp"), "{uri}");
        assert_eq!(page.incoming().messages.len(), 2, "one frame a message");
    });
}

// RFC 7977, 8.2 and 8.3.
#[test]
fn pages_and_telephones_chat_in_every_pairing() {
    bounded(|| {
        let relay = relay();
        let (mut alice, mut bob) = (relay.web_client("alice"), relay.web_client("bob"));
        let (mut carol, mut dave) = (relay.web_client("user0"), relay.client("user1"));
        for _ in 0..3 {
            alice.chat(&mut bob, b"from page to page");
            bob.chat(&mut alice, b"and back");
            carol.chat(&mut dave, b"from page to telephone");
            dave.chat(&mut carol, b"and back");
        }
    });
}

// T3: what a telephone sends in one chunk reaches the page in messages of at most `websocket.max_message`, gapless.
#[test]
fn file_reaches_a_page_in_messages_of_bounded_length() {
    bounded(|| {
        let relay = relay();
        let (mut page, mut phone) = (relay.web_client("alice"), relay.client("bob"));
        let file = contents(1, 5_000_000);
        let request = Request::send(
            &phone.route(&page.path()),
            &phone.uri,
            &fresh_id(),
            &format!("1-{0}/{0}", file.len()),
        );
        let writing = std::thread::spawn({
            let file = file.clone();
            move || {
                let tid = phone.send(request, &file);
                assert_eq!(phone.status(&tid), 200);
                phone
            }
        });
        let mut received = Vec::new();
        loop {
            let frame = page.request("SEND");
            let range = frame.required("Byte-Range");
            let (first, rest) = range.split_once('-').unwrap();
            assert_eq!(first, (received.len() + 1).to_string(), "gapless");
            received.extend_from_slice(&frame.body);
            assert_eq!(rest, format!("{}/{}", received.len(), file.len()), "its end is known");
            if frame.flag == Flag::Last {
                break;
            }
        }
        assert_same(&received, &file);
        let longest = page.incoming().messages.iter().max().unwrap();
        assert!((32 << 10..=64 << 10).contains(longest), "{longest}");
        writing.join().unwrap();
    });
}

#[test]
fn file_of_a_page_reaches_a_telephone_and_another_page() {
    bounded(|| {
        let relay = relay();
        let file = contents(2, 3_000_000);
        for to_page in [false, true] {
            let mut alice = relay.web_client("alice");
            let mut bob = if to_page { relay.web_client("bob") } else { relay.client("bob") };
            let id = fresh_id();
            let (route, uri) = (alice.route(&bob.path()), alice.uri.clone());
            let sent = file.clone();
            let writing = std::thread::spawn(move || {
                for (n, piece) in sent.chunks(100_000).enumerate() {
                    let (first, last) = (n * 100_000 + 1, n * 100_000 + piece.len());
                    let range = format!("{first}-{last}/{}", sent.len());
                    let request = Request::send(&route, &uri, &id, &range);
                    let flag = if last == sent.len() { Flag::Last } else { Flag::More };
                    alice.writer.write(&request.with_body(piece, flag));
                    assert_eq!(alice.frame().status(), Some(200));
                }
                alice
            });
            let mut received = Vec::new();
            while received.len() < file.len() {
                received.extend_from_slice(&bob.request("SEND").body);
            }
            assert_same(&received, &file);
            writing.join().unwrap();
        }
    });
}

// T4: each is told from the others by its own URI, has its own challenge and its own session.
#[test]
fn clients_that_share_a_websocket_have_sessions_of_their_own() {
    bounded(|| {
        let relay = relay();
        let mut page = relay.web_client("alice");
        let (first_uri, first_relay) = (page.uri.clone(), page.relay.clone().unwrap());
        page.uri = "msrps://another.invalid:2855/client;ws".to_owned();
        page = page.log_in("bob", 443);
        let (second_uri, second_relay) = (page.uri.clone(), page.relay.clone().unwrap());
        assert_ne!(first_relay, second_relay);
        let mut phones = [relay.client("user0"), relay.client("user1")];
        for (phone, path) in phones
            .iter_mut()
            .zip([format!("{first_relay} {first_uri}"), format!("{second_relay} {second_uri}")])
        {
            let tid = phone.say(&path, path.as_bytes());
            assert_eq!(phone.status(&tid), 200);
            let frame = page.request("SEND");
            assert_eq!(frame.body, path.as_bytes());
            assert!(path.ends_with(&frame.required("To-Path")));
        }
        // A wrong password ends neither the connection nor another client's session.
        page.uri = "msrps://third.invalid:2855/client;ws".to_owned();
        for _ in 0..4 {
            let login = Login::new("alice", "wrong", "msrps://example.com:443;ws");
            let tid = page.send_bare(Request::new("AUTH", login.to, &page.uri.clone()));
            if page.response(&tid).status() != Some(401) {
                break;
            }
            let _ = login.attempt(&mut page);
        }
        (page.uri, page.relay) = (first_uri, Some(first_relay));
        page.chat(&mut phones[0], b"still here");
        until("four sessions", || (relay.counted().sessions_open == 4).then_some(()));
    });
}

// A page's answers are its back-pressure: without them it is sent its window and no more, and the sender waits.
#[test]
fn page_that_answers_nothing_is_sent_no_more_than_its_window() {
    bounded(|| {
        const WINDOW: usize = 128 << 10;
        let relay = TestRelay::with(&setup("websocket: {window: 128KiB, max_message: 32KiB}"));
        let (mut page, mut phone) = (relay.web_client("alice"), relay.client("bob"));
        let file = contents(3, 2_000_000);
        let range = format!("1-{0}/{0}", file.len());
        let request = Request::send(&phone.route(&page.path()), &phone.uri, &fresh_id(), &range);
        let sent = file.clone();
        let writing = std::thread::spawn(move || {
            phone.send(request, &sent);
            phone
        });
        let (mut received, mut unanswered, mut waiting) = (Vec::new(), 0, Vec::new());
        while received.len() < file.len() {
            let frame = page.frame();
            assert!(frame.is_request("SEND"), "{frame:?}");
            unanswered += frame.body.len();
            assert!(unanswered <= WINDOW, "{unanswered} unanswered");
            received.extend_from_slice(&frame.body);
            waiting.push(frame);
            // All that may be under way is: nothing more comes before an answer.
            if unanswered + (32 << 10) > WINDOW || received.len() == file.len() {
                for frame in waiting.drain(..) {
                    unanswered -= frame.body.len();
                    page.writer.write(&frame.response("200 OK"));
                }
            }
        }
        assert_same(&received, &file);
        writing.join().unwrap();
    });
}

#[test]
fn close_of_a_page_is_answered_and_its_session_ends() {
    bounded(|| {
        let relay = relay();
        let (mut page, mut phone) = (relay.web_client("alice"), relay.client("bob"));
        phone.chat(&mut page, b"hello");
        let path = page.path();
        page.writer.write_below(&testkit_net::websocket::client_frame(0x88, &1001_u16.to_be_bytes()));
        assert_eq!(page.reader.until_end(), End::Clean);
        assert_eq!(page.incoming().close_code(), Some(1001));
        let tid = phone.say(&path, b"anybody?");
        assert_eq!(phone.status(&tid), 481);
    });
}

// RFC 4976, 9.4: AUTH again to the relay's own URI gets another URI for the same session, by WebSocket as well; RFC 7977
// changes nothing of that. Whom it was bound to it stays bound to.
#[test]
fn page_renews_its_uri_and_both_lead_to_it() {
    bounded(|| {
        let relay = relay();
        let (mut page, mut phone) = (relay.web_client("alice"), relay.client("bob"));
        phone.chat(&mut page, b"before");
        let old = page.path();
        page = page.log_in("alice", 443);
        assert_ne!(page.path(), old);
        for path in [page.path(), old] {
            let tid = phone.say(&path, b"after");
            assert_eq!(phone.status(&tid), 200);
            assert_eq!(page.request("SEND").body, b"after");
        }
        page.chat(&mut phone, b"and back");
        until("two sessions", || (relay.counted().sessions_open == 2).then_some(()));
        // To its own session it prolongs that, and gets the same URI.
        let session = page.relay.clone().unwrap();
        let password = testkit_net::account::password("alice");
        let (_, last) = Login::new("alice", &password, &session).attempt(&mut page);
        assert_eq!((last.status(), last.header("Use-Path")), (Some(200), Some(session)));
    });
}

// T4: the same own URI again is a renewal, another one another session.
#[test]
fn client_that_shares_a_websocket_renews_its_own_session_alone() {
    bounded(|| {
        let relay = relay();
        let mut page = relay.web_client("alice");
        let (first_uri, first_relay) = (page.uri.clone(), page.relay.clone().unwrap());
        page.uri = "msrps://another.invalid:2855/client;ws".to_owned();
        page = page.log_in("bob", 443);
        let second_relay = page.relay.clone().unwrap();
        page = page.log_in("bob", 443);
        assert_ne!(page.relay.clone().unwrap(), second_relay);
        until("two sessions", || (relay.counted().sessions_open == 2).then_some(()));
        let (mut one, mut two) = (relay.client("user0"), relay.client("user1"));
        for relay in [page.relay.clone().unwrap(), second_relay] {
            let tid = two.say(&format!("{relay} {}", page.uri), b"to bob");
            assert_eq!(two.status(&tid), 200);
            assert_eq!(page.request("SEND").body, b"to bob");
        }
        (page.uri, page.relay) = (first_uri, Some(first_relay));
        one.chat(&mut page, b"to alice");
        page.chat(&mut one, b"and back");
    });
}

// T4; RFC 7977, 5.2.1: a page may write the URI that it was given with `ws`, at any port of ours. For a client by TCP
// that is another URI (RFC 4975, 6.1). The page's own URI may be `tcp`, for peers that refuse `ws` in any URI of a path.
#[test]
fn session_of_a_page_is_reached_by_both_forms_of_its_uri_and_one_of_a_telephone_by_one() {
    bounded(|| {
        let relay = relay();
        let (port, web) = (relay.tls.port(), relay.websocket().port());
        let forms = |uri: &str| {
            let ws = uri.replace(";tcp", ";ws");
            let at = |port: u16| ws.replace(&format!(":{}/", relay.tls.port()), &format!(":{port}/"));
            [uri.to_owned(), at(port), at(web)]
        };
        for own in ["ws", "tcp"] {
            let mut page = Endpoint::wss(relay.websocket(), &relay.client, "page");
            page.uri = page.uri.replace(";ws", &format!(";{own}"));
            let mut page = page.log_in("alice", 443);
            let mut phone = relay.client("bob");
            let (uri, given) = (page.uri.clone(), page.relay.clone().unwrap());
            for form in forms(&given) {
                let tid = phone.say(&format!("{form} {uri}"), form.as_bytes());
                assert_eq!(phone.status(&tid), 200, "{form}");
                let frame = page.request("SEND");
                assert_eq!(
                    (frame.body.as_slice(), frame.required("To-Path")),
                    (form.as_bytes(), uri.clone())
                );
                // And the page names its own session so.
                page.relay = Some(form.clone());
                let tid = page.say(&phone.path(), b"and back");
                assert_eq!(page.status(&tid), 200, "{own} {form}");
                assert_eq!(phone.request("SEND").body, b"and back");
            }
        }
        let (phone, mut other) = (relay.client("user0"), relay.stranger("far"));
        let given = phone.relay.clone().unwrap();
        for form in &forms(&given)[1..] {
            let tid = other.say(&format!("{form} {}", phone.uri), b"?");
            assert_eq!(other.status(&tid), 481, "{form}");
        }
    });
}

// A page that takes nothing stops its own sender alone, within bounded memory, and misses nothing.
#[test]
fn page_that_reads_nothing_costs_no_other_session_anything() {
    bounded(|| {
        let relay = TestRelay::with(&Setup { cores: "[0]", ..setup("") });
        let (mut slow, mut sender) = (relay.web_client("alice"), relay.client("bob"));
        let file = contents(4, 24 << 20);
        let path = slow.path();
        let is_sent = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send_file(&Outgoing::giant(&path, &file));
                is_sent.store(true, Ordering::SeqCst);
            });
            // It has begun, and waits.
            until("the sender to be stopped", || (relay.counted().queue_bytes > 0).then_some(()));
            let small = contents(5, 1 << 20);
            for n in 0..2 {
                let mut page = relay.web_client(&format!("user{n}"));
                let mut phone = relay.client(&format!("user{}", n + 2));
                for _ in 0..20 {
                    page.chat(&mut phone, b"not delayed");
                    phone.chat(&mut page, b"nor are we");
                }
                let (to_page, to_phone) = (page.path(), phone.path());
                std::thread::scope(|scope| {
                    scope.spawn(|| phone.exchange(Some(&Outgoing::giant(&to_page, &small)), 1));
                    let received = page.exchange(Some(&Outgoing::chunks(&to_phone, &small, 50_000)), 1);
                    assert_same(&received[0].data, &small);
                });
            }
            assert!(!is_sent.load(Ordering::SeqCst), "its window holds it");
            let queued = relay.counted().queue_bytes;
            assert!(queued < 2 << 20, "{queued} bytes wait");
            assert_same(&slow.receive_file().data, &file);
        });
        assert!(is_sent.into_inner());
        slow.chat(&mut sender, b"all there");
    });
}

// Pairs meet on one core: a telephone goes to the page that it speaks to, though several sessions share that WebSocket.
#[test]
fn telephone_moves_to_the_core_of_its_page() {
    bounded(|| {
        let relay = TestRelay::with(&Setup { cores: "[0, 1]", ..setup("") });
        let mut page = relay.web_client("alice");
        let (first_uri, first_relay) = (page.uri.clone(), page.relay.clone().unwrap());
        page.uri = "msrps://another.invalid:2855/client;ws".to_owned();
        page = page.log_in("bob", 443);
        let second = (page.uri.clone(), page.relay.clone().unwrap());
        let file = contents(6, 2_000_000);
        for (moved, (uri, own)) in (1..).zip([(first_uri, first_relay), second]) {
            (page.uri, page.relay) = (uri, Some(own));
            let mut phone = apart(&relay, page.core(), |relay| relay.client("user0"));
            phone.chat(&mut page, b"the first word");
            until("the telephone to move", || (relay.counted().sessions_moved == moved).then_some(()));
            page.chat(&mut phone, b"and back");
            let (to_page, to_phone) = (page.path(), phone.path());
            std::thread::scope(|scope| {
                scope.spawn(|| phone.exchange(Some(&Outgoing::giant(&to_page, &file)), 1));
                let received = page.exchange(Some(&Outgoing::chunks(&to_phone, &file, 60_000)), 1);
                assert_same(&received[0].data, &file);
            });
        }
    });
}
