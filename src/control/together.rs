//! One question for all askers of the same at the same time.
//!
//! Invariant: if the first asker gives up, meets a bug, or gets an answer for itself alone, another asker puts the
//! question again, in its own time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use tokio::sync::oneshot;

/// Questions under way, and the askers that wait for their answers.
#[derive(Debug)]
pub(super) struct Together<Q, A> {
    under_way: RefCell<HashMap<Q, Vec<oneshot::Sender<A>>>>,
    holds_for_all: fn(&A) -> bool,
}

impl<Q: Clone + Eq + Hash, A: Clone> Together<Q, A> {
    /// `holds_for_all`: whether an answer also holds for the other askers.
    pub(super) fn new(holds_for_all: fn(&A) -> bool) -> Self {
        Self { under_way: RefCell::default(), holds_for_all }
    }

    /// Puts a question with `ask`, unless it is under way.
    pub(super) async fn ask(&self, question: Q, ask: impl AsyncFn() -> A) -> A {
        loop {
            let waiting = match self.under_way.borrow_mut().entry(question.clone()) {
                Entry::Occupied(mut others) => {
                    let (told, waiting) = oneshot::channel();
                    others.get_mut().push(told);
                    Some(waiting)
                }
                Entry::Vacant(first) => {
                    first.insert(Vec::new());
                    None
                }
            };
            match waiting {
                None => {
                    let under_way = UnderWay { all: self, question };
                    let answer = ask().await;
                    if (self.holds_for_all)(&answer) {
                        for told in under_way.end() {
                            let _ = told.send(answer.clone());
                        }
                    }
                    return answer;
                }
                // The first asker had less time left, or met a bug: one of the waiting ones asks again.
                Some(waiting) => {
                    if let Ok(answer) = waiting.await {
                        return answer;
                    }
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.borrow().is_empty()
    }
}

/// Ends a question when it is dropped, for whatever reason.
struct UnderWay<'a, Q: Eq + Hash, A> {
    all: &'a Together<Q, A>,
    question: Q,
}

impl<Q: Eq + Hash, A> UnderWay<'_, Q, A> {
    /// Takes the waiting askers.
    fn end(&self) -> Vec<oneshot::Sender<A>> {
        self.all.under_way.borrow_mut().remove(&self.question).unwrap_or_default()
    }
}

impl<Q: Eq + Hash, A> Drop for UnderWay<'_, Q, A> {
    fn drop(&mut self) {
        // The askers that are left get no answer: they see that their channel was dropped.
        drop(self.end());
    }
}
