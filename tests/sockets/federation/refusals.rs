//! What a user hears when a relay beyond the first refuses, or does not exist.

use std::net::TcpListener;
use std::process::Output;

use super::relays::address_of;
use super::users::{Federation, host};
use testkit_net::bounded;

#[track_caller]
fn assert_told(output: &Output, words: &str, federation: &Federation) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}\n{}", federation.logs());
    assert!(said.contains(words), "{words:?} is not in {said}\n{}", federation.logs());
}

#[test]
fn a_wrong_password_at_the_second_relay_is_the_second_relays() {
    bounded(|| {
        let federation = Federation::start("ab");
        let mut options = federation.behind("alice", "ab");
        options.push("--password-file=wrong".to_owned());
        let output = federation.msrp(&["probe"], &options).output().unwrap();
        let words = format!(
            "msrp: {}:{} refused AUTH: 401 Unauthorized (wrong user or password; its realm is example.com)",
            host('b'),
            federation.port('b')
        );
        assert_told(&output, &words, &federation);
    });
}

#[test]
fn a_second_relay_that_is_not_there_is_told_by_the_first() {
    bounded(|| {
        let federation = Federation::start("a");
        // A port that was free a moment ago, and a name that does not exist.
        let free = TcpListener::bind((address_of(host('a')), 0)).unwrap().local_addr().unwrap().port();
        for next in [format!("{}:{free}", host('a')), format!("nowhere.osier.example:{free}")] {
            let mut options = federation.behind("alice", "a");
            options.push(format!("--relay={next}"));
            let output = federation.msrp(&["probe"], &options).output().unwrap();
            let words = format!("{}:{} refused AUTH to {next}: 408 ", host('a'), federation.port('a'));
            assert_told(&output, &words, &federation);
        }
    });
}

#[test]
fn a_second_relay_that_takes_the_first_for_none_is_named() {
    bounded(|| {
        let federation = Federation::start("ae");
        let output = federation.probe("alice", "ae");
        let words = format!("msrp: {}:{} refused AUTH: 403 ", host('e'), federation.port('e'));
        assert_told(&output, &words, &federation);
        let hint = format!("(perhaps it does not accept {}:{} as a relay)", host('a'), federation.port('a'));
        assert_told(&output, &hint, &federation);
    });
}
