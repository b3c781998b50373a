//! Look-ups that meet, and what is remembered: asked of a backend that answers when it is told to.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::Cell;

use futures_lite::future::{block_on, poll_once};
use tokio::sync::Notify;

use super::*;

/// Counts who asks, and finds everybody whose name does not begin with `no`.
#[derive(Debug, Default)]
pub(super) struct Counting {
    asked: Cell<usize>,
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
            "nobody" => Answer::Unknown,
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

fn is_found(answer: &Answer, user: &str) -> bool {
    matches!(answer, Answer::Found(Secret::Password(password)) if *password == format!("secret of {user}"))
}

#[test]
fn identical_look_ups_in_flight_are_one() {
    let (counting, accounts) = accounts(None);
    counting.held.set(true);
    let ask = |user| Box::pin(accounts.look_up(user, "example.com"));
    let mut asking: Vec<_> = (0..50).map(|_| ask("alice")).collect();
    asking.push(ask("bob"));
    for one in &mut asking {
        assert!(block_on(poll_once(one)).is_none());
    }
    // The same name in another realm is somebody else.
    let mut elsewhere = Box::pin(accounts.look_up("alice", "example.org"));
    assert!(block_on(poll_once(&mut elsewhere)).is_none());
    assert_eq!(counting.asked.get(), 3);
    counting.release();
    let bob = block_on(asking.pop().unwrap());
    assert!(is_found(&bob, "bob"));
    for one in asking {
        assert!(is_found(&block_on(one), "alice"));
    }
    assert!(is_found(&block_on(elsewhere), "alice"));
    assert!(accounts.under_way.borrow().is_empty());
    // What is over is asked again.
    assert!(is_found(&block_on(accounts.look_up("alice", "example.com")), "alice"));
    assert_eq!(counting.asked.get(), 4);
}

#[test]
fn one_who_gives_up_does_not_take_those_who_wait_along() {
    let (counting, accounts) = accounts(None);
    counting.held.set(true);
    let ask = || Box::pin(accounts.look_up("alice", "example.com"));
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
    assert!(accounts.under_way.borrow().is_empty());
}

#[test]
fn only_what_was_found_is_remembered_and_only_where_the_operator_says_so() {
    for (cache, asked) in [(None, [2, 2, 2]), (Some((Duration::from_secs(3600), 16)), [1, 2, 2])] {
        for (user, asked) in ["alice", "nobody", "nowhere"].into_iter().zip(asked) {
            let (counting, accounts) = accounts(cache);
            let answers = [(); 2].map(|()| block_on(accounts.look_up(user, "example.com")));
            assert_eq!(counting.asked.get(), asked, "{user}");
            let found = user == "alice";
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Found(_)) == found));
        }
    }
}
