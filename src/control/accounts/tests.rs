//! Equal look-ups at the same time, and remembered accounts, with a backend that counts and answers when the test says
//! so.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::Cell;

use futures_lite::future::{block_on, poll_once};
use tokio::sync::Notify;

use super::*;
use msrp_proto::digest::{Algorithm, Challenge, Ha1, NonceUse};
use msrp_relay_core::AddressKey;

/// Finds all but `absent`; of `nowhere` it cannot tell, and while it is down of no one.
#[derive(Debug, Default)]
pub(super) struct Counting {
    asked: Cell<usize>,
    down: Cell<bool>,
    held: Cell<bool>,
    go: Notify,
}

impl Counting {
    pub(super) async fn look_up(&self, user: &str) -> Answer {
        self.asked.set(self.asked.get() + 1);
        while self.held.get() {
            self.go.notified().await;
        }
        match user {
            _ if self.down.get() => Answer::Unavailable(WhyUnavailable::Failed),
            "absent" => Answer::Unknown,
            "nowhere" => Answer::Unavailable(WhyUnavailable::Failed),
            _ => Answer::Found(Secret::Password(format!("secret of {user}"))),
        }
    }

    fn release(&self) {
        self.held.set(false);
        self.go.notify_waiters();
    }
}

fn accounts(cache: Option<(Duration, usize)>) -> (Rc<Counting>, Accounts) {
    let counting = Rc::new(Counting::default());
    let health = Rc::new(Health::new(AccountsReady::default()));
    let store = Store::Counting(Rc::clone(&counting));
    (counting, Accounts::over(store, health, cache))
}

const REALM: &str = "example.com";

fn here() -> Who {
    address("192.0.2.1")
}

fn address(text: &str) -> Who {
    Who::Address(AddressKey::new(text.parse().unwrap()))
}

/// A client's credentials with this password.
fn attempt_in(realm: &str, user: &str, password: &str) -> Attempt {
    let challenge = Challenge {
        realm: realm.into(),
        nonce: "1".into(),
        opaque: None,
        algorithm: Algorithm::Md5,
        stale: false,
    };
    let uri = b"msrps://example.com:2855;tcp";
    let ha1 = Ha1::new(Algorithm::Md5, user, realm, password);
    Attempt::new(&challenge.answer(user, &ha1, uri, NonceUse { nc: 1, cnonce: "2" }), uri)
}

fn wrong(user: &str) -> Attempt {
    attempt_in(REALM, user, "guess")
}

fn right(user: &str) -> Attempt {
    attempt_in(REALM, user, &format!("secret of {user}"))
}

/// As the control plane does it: a remembered account serves at once, all others are looked up.
async fn ask(accounts: &Accounts, attempt: &Attempt) -> Answer {
    match accounts.remembered(attempt) {
        Some(answer) => answer,
        None => accounts.look_up(here(), attempt).await,
    }
}

fn is_found(answer: &Answer, user: &str) -> bool {
    matches!(answer, Answer::Found(Secret::Password(password)) if *password == format!("secret of {user}"))
}

#[test]
fn identical_look_ups_of_one_address_in_flight_are_one() {
    let (counting, accounts) = accounts(None);
    counting.held.set(true);
    let (alice, bob, elsewhere) = (wrong("alice"), wrong("bob"), attempt_in("example.org", "alice", "x"));
    let mut asking: Vec<_> = (0..50).map(|_| Box::pin(accounts.look_up(here(), &alice))).collect();
    asking.push(Box::pin(accounts.look_up(here(), &bob)));
    for one in &mut asking {
        assert!(block_on(poll_once(one)).is_none());
    }
    // The same name in another realm is another user.
    let mut elsewhere = Box::pin(accounts.look_up(here(), &elsewhere));
    assert!(block_on(poll_once(&mut elsewhere)).is_none());
    assert_eq!(counting.asked.get(), 3);
    counting.release();
    let bob = block_on(asking.pop().unwrap());
    assert!(is_found(&bob, "bob"));
    for one in asking {
        assert!(is_found(&block_on(one), "alice"));
    }
    assert!(is_found(&block_on(elsewhere), "alice"));
    assert!(accounts.under_way.is_idle());
    // A finished look-up is made again.
    assert!(is_found(&block_on(accounts.look_up(here(), &alice)), "alice"));
    assert_eq!(counting.asked.get(), 4);
}

// An earlier answer would show that another client logs in with that name at the same time.
#[test]
fn look_up_of_another_address_is_one_of_its_own() {
    let (counting, accounts) = accounts(None);
    counting.held.set(true);
    let (alice, guess) = (right("alice"), wrong("alice"));
    let mut first = Box::pin(accounts.look_up(here(), &alice));
    let mut second = Box::pin(accounts.look_up(address("192.0.2.2"), &guess));
    assert!(block_on(poll_once(&mut first)).is_none() && block_on(poll_once(&mut second)).is_none());
    assert_eq!(counting.asked.get(), 2);
}

#[test]
fn one_who_gives_up_does_not_take_those_who_wait_along() {
    let (counting, accounts) = accounts(None);
    counting.held.set(true);
    let alice = right("alice");
    let ask = || Box::pin(accounts.look_up(here(), &alice));
    let (mut first, mut second, mut third) = (ask(), ask(), ask());
    for one in [&mut first, &mut second, &mut third] {
        assert!(block_on(poll_once(one)).is_none());
    }
    drop(first);
    for one in [&mut second, &mut third] {
        assert!(block_on(poll_once(one)).is_none());
    }
    assert_eq!(counting.asked.get(), 2);
    counting.release();
    assert!(is_found(&block_on(second), "alice") && is_found(&block_on(third), "alice"));
    assert_eq!(counting.asked.get(), 2);
    assert!(accounts.under_way.is_idle());
}

const CACHE: Option<(Duration, usize)> = Some((Duration::from_secs(3600), 16));

#[test]
fn only_proven_accounts_are_remembered_and_only_where_the_operator_says_so() {
    for (cache, asked) in [(None, [2, 2, 2]), (CACHE, [1, 2, 2])] {
        for (user, asked) in ["alice", "absent", "nowhere"].into_iter().zip(asked) {
            let (counting, accounts) = accounts(cache);
            let answers = [(); 2].map(|()| block_on(ask(&accounts, &right(user))));
            assert_eq!(counting.asked.get(), asked, "{user}");
            let found = user == "alice";
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Found(_)) == found));
        }
    }
}

// Req S9: the time of a refusal must not show who exists, so every refusal takes the same work.
#[test]
fn refusals_cost_the_same_look_up_for_every_user() {
    for cache in [None, CACHE] {
        let (counting, accounts) = accounts(cache);
        assert!(is_found(&block_on(ask(&accounts, &right("alice"))), "alice"));
        for user in ["alice", "bob", "absent"] {
            // The second time is like the first: guesses leave nothing behind.
            for _ in 0..2 {
                let before = counting.asked.get();
                assert!(accounts.remembered(&wrong(user)).is_none());
                let _ = block_on(ask(&accounts, &wrong(user)));
                assert_eq!(counting.asked.get(), before + 1, "{user}, {cache:?}");
            }
        }
    }
}

// A wrong password was refused and an unknown user told to try again.
#[test]
fn outage_tells_no_more_of_remembered_accounts_than_of_others() {
    let (counting, accounts) = accounts(CACHE);
    assert!(is_found(&block_on(ask(&accounts, &right("alice"))), "alice"));
    counting.down.set(true);
    for user in ["alice", "bob", "absent"] {
        assert!(matches!(block_on(ask(&accounts, &wrong(user))), Answer::Unavailable(_)), "{user}");
    }
    assert!(is_found(&block_on(ask(&accounts, &right("alice"))), "alice"));
}

#[test]
fn secrets_of_any_kind_and_none_answer_for_their_own_algorithm_alone() {
    let md5 = Ha1::from_hex(&"07".repeat(16));
    let hashed = Secret::Hashed { md5, sha256: None };
    let password = Secret::Password("x".to_owned());
    let of = |secret, algorithm| {
        Secret::ha1(secret, "alice", REALM, algorithm).map(|ha1| ha1.to_hex().as_str().to_owned())
    };
    assert_eq!(of(Some(&hashed), Algorithm::Md5), Some("07".repeat(16)));
    assert_eq!(of(Some(&hashed), Algorithm::Sha256), None);
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let made = Ha1::new(algorithm, "alice", REALM, "x").to_hex();
        assert_eq!(of(Some(&password), algorithm).as_deref(), Some(made.as_str()));
        assert_eq!(of(None, algorithm), None);
    }
}
