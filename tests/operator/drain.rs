//! SIGTERM with `drain_timeout`: sessions run until they end, or have had their time.

use std::net::TcpStream;

use testkit_net::account::{DOMAIN, Login, password};
use testkit_net::endpoint::End;
use testkit_net::frame::Request;
use testkit_net::process::RelayProcess;
use testkit_net::relay::Setup;
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents, until};

/// Longer than any test: a test that waits for it hangs.
const LONG: &str = "drain_timeout: 1h";

fn start(more: &'static str) -> RelayProcess {
    RelayProcess::start(&Setup { more, ..Setup::default() })
}

/// Tells the relay to stop, and waits until it accepts no connection any more.
fn told_to_drain(relay: &RelayProcess) {
    relay.signal("TERM");
    for address in &relay.addresses {
        until("newcomers to be refused", || TcpStream::connect(address).is_err().then_some(()));
    }
}

#[test]
fn sessions_go_on_after_sigterm_and_the_relay_ends_with_the_last_of_them() {
    bounded(|| {
        let mut relay = start(LONG);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let (mut one, mut two) = (relay.client("user1"), relay.client("user2"));
        let file = contents(1, 8 << 20);
        let path = bob.path();
        std::thread::scope(|scope| {
            let received = scope.spawn(|| bob.receive_file());
            scope.spawn(|| alice.send_file(&Outgoing::giant(&path, &file)));
            told_to_drain(&relay);
            one.chat(&mut two, b"While a file is under way");
            assert_same(&received.join().unwrap().data, &file);
        });
        alice.chat(&mut bob, b"And after it");
        one.chat(&mut two, b"Good bye");
        assert!(!relay.log().contains("stopping"), "{}", relay.log());
        for client in [alice, bob, one, two] {
            client.close();
        }
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        relay.logs("Drained; stopping");
    });
}

#[test]
fn a_session_may_be_prolonged_during_a_drain_but_none_is_opened() {
    bounded(|| {
        let relay = start(LONG);
        let mut alice = relay.client("alice");
        let mut stranger = relay.stranger("bob");
        told_to_drain(&relay);
        let to = format!("msrps://{DOMAIN}:{};tcp", relay.addresses[0].port());
        let tid = stranger.send_bare(Request::new("AUTH", &to, &stranger.uri.clone()));
        assert_eq!(stranger.status(&tid), 408);
        assert_eq!(stranger.end(), End::Clean);
        let session = alice.relay.clone().unwrap();
        let password = password("alice");
        let login = Login::new("alice", &password, &session);
        assert_eq!(login.attempt(&mut alice).1.status(), Some(200));
    });
}

/// Alice has sent something that Bob has not answered; both are connected when the relay ends.
fn ends_with_what_is_owed(relay: &mut RelayProcess, end: impl FnOnce(&RelayProcess)) {
    let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
    let tid = alice.say(&bob.path(), b"Are you there?");
    assert_eq!(alice.status(&tid), 200);
    assert_eq!(bob.frame().body, b"Are you there?");
    end(relay);
    let report = alice.request("REPORT");
    assert_eq!(report.required("Status"), "000 408 Request Timeout");
    assert_eq!(alice.end(), End::Clean);
    assert_eq!(bob.end(), End::Clean);
    alice.close();
    bob.close();
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
}

#[test]
fn when_the_time_is_over_sessions_end_in_order_with_the_reports_they_are_owed() {
    bounded(|| {
        let mut relay = start("drain_timeout: 1s");
        ends_with_what_is_owed(&mut relay, |relay| relay.signal("TERM"));
        let told = "The time to drain is over; stopping with sessions left sessions=2";
        relay.logs(told);
    });
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    bounded(|| {
        let mut relay = start(LONG);
        ends_with_what_is_owed(&mut relay, |relay| {
            told_to_drain(relay);
            relay.signal("INT");
        });
        relay.logs("Told to stop again");
    });
}

#[test]
fn a_drain_time_that_is_reloaded_counts() {
    bounded(|| {
        let mut relay = start(LONG);
        relay.rewrite(&Setup { more: "drain_timeout: 0s", ..Setup::default() });
        relay.reload("The present config is in force");
        ends_with_what_is_owed(&mut relay, |relay| relay.signal("TERM"));
        assert!(!relay.log().contains("Draining"), "{}", relay.log());
    });
}

#[test]
fn a_signal_while_the_connections_are_being_closed_ends_the_process_at_once() {
    bounded(|| {
        let mut relay = start("");
        // It does not close its side, so the relay waits for it.
        let alice = relay.client("alice");
        relay.signal("TERM");
        until("the relay to say that it stops", || relay.log().contains("Stopping").then_some(()));
        until("the process to end", || {
            relay.signal_if_there("TERM");
            relay.ended()
        });
        assert_eq!(relay.wait().code(), Some(1), "{}", relay.log());
        relay.logs("ended at once");
        drop(alice);
    });
}

/// A relay that serves pages, too.
fn start_web(more: &'static str) -> RelayProcess {
    RelayProcess::start(&Setup { websocket: &[("127.0.0.1:0", true)], more, ..Setup::default() })
}

#[test]
fn pages_go_on_after_sigterm_and_the_relay_ends_with_the_last_of_them() {
    bounded(|| {
        let mut relay = start_web(LONG);
        let (mut page, mut phone) = (relay.web_client("alice"), relay.client("bob"));
        let (mut one, mut two) = (relay.web_client("user1"), relay.web_client("user2"));
        let file = contents(1, 4 << 20);
        let path = page.path();
        std::thread::scope(|scope| {
            let received = scope.spawn(|| page.receive_file());
            scope.spawn(|| phone.send_file(&Outgoing::giant(&path, &file)));
            told_to_drain(&relay);
            assert_same(&received.join().unwrap().data, &file);
        });
        page.chat(&mut phone, b"And after it");
        one.chat(&mut two, b"From page to page");
        assert!(!relay.log().contains("stopping"), "{}", relay.log());
        for client in [page, phone, one, two] {
            client.close();
        }
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    });
}

// RFC 6455, 7.4.1: 1001, going away.
#[test]
fn when_the_time_is_over_pages_are_told_that_the_relay_goes_away() {
    bounded(|| {
        let mut relay = start_web("drain_timeout: 1s");
        let (mut page, mut phone) = (relay.web_client("alice"), relay.web_client("bob"));
        let tid = page.say(&phone.path(), b"Are you there?");
        assert_eq!(page.status(&tid), 200);
        assert_eq!(phone.frame().body, b"Are you there?");
        relay.signal("TERM");
        let report = page.request("REPORT");
        assert_eq!(report.required("Status"), "000 408 Request Timeout");
        for mut one in [page, phone] {
            assert_eq!(one.end(), End::Clean);
            assert_eq!(one.incoming().close_code(), Some(1001));
            one.close();
        }
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    });
}
