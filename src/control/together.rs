//! One question for all who ask the same at the same time.
//!
//! Invariant: if the one who put the question gives up, meets a bug, or hears what holds for itself alone, one of the
//! others puts it again, in its own time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use tokio::sync::oneshot;

/// Questions under way, and who waits for what will be said.
#[derive(Debug)]
pub(super) struct Together<Q, A> {
    under_way: RefCell<HashMap<Q, Vec<oneshot::Sender<A>>>>,
    holds_for_all: fn(&A) -> bool,
}

impl<Q: Clone + Eq + Hash, A: Clone> Together<Q, A> {
    /// `holds_for_all`: whether an answer is one for the others, too.
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
                // Who asked had less time left, or met a bug: then one of those who waited asks.
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

/// A question that is over when this is dropped, whatever ended it.
struct UnderWay<'a, Q: Eq + Hash, A> {
    all: &'a Together<Q, A>,
    question: Q,
}

impl<Q: Eq + Hash, A> UnderWay<'_, Q, A> {
    /// Those who wait.
    fn end(&self) -> Vec<oneshot::Sender<A>> {
        self.all.under_way.borrow_mut().remove(&self.question).unwrap_or_default()
    }
}

impl<Q: Eq + Hash, A> Drop for UnderWay<'_, Q, A> {
    fn drop(&mut self) {
        // If there are any left, there is no answer for them: they see that they were dropped.
        drop(self.end());
    }
}
