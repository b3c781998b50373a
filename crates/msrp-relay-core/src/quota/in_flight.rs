//! Which core holds how many of the bytes from one connection.
//!
//! Bytes go to the core of a session, and may go on from there to a third core. The core between reports that.
//!
//! Invariants: bytes lent to a core and given back leave nothing, in whatever order the reports come. Bytes that pass
//! through a third core may be given back before it is known where they are; their number is negative until then. When
//! a core dies, the bytes it had are lost, and possibly those that it says it has passed on. Those are struck out as
//! well, and if they did arrive, the sum is too low. Too low is harmless, because nothing waits for it.

use crate::ids::CoreId;

/// The books on the bytes that other cores hold.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    held: Vec<(CoreId, i64)>,
    /// Of those, the most that may have come to the second core through the first one.
    passed_on: Vec<((CoreId, CoreId), i64)>,
    /// Of the bytes here, the most that may have come back through a core.
    passed_back: Vec<(CoreId, i64)>,
    /// Some bytes were struck out that may have arrived.
    in_doubt: bool,
}

impl Loans {
    /// A core has more.
    pub(crate) fn lend(&mut self, to: CoreId, bytes: usize) {
        change(&mut self.held, to, narrow(bytes));
    }

    /// Bytes of one core are at another, or here if that is `None`.
    pub(crate) fn pass_on(&mut self, from: CoreId, to: Option<CoreId>, bytes: usize) {
        change(&mut self.held, from, -narrow(bytes));
        match to {
            Some(to) => {
                change(&mut self.held, to, narrow(bytes));
                change(&mut self.passed_on, (from, to), narrow(bytes));
            }
            None => change(&mut self.passed_back, from, narrow(bytes)),
        }
    }

    /// Some bytes here were written or dropped; `outstanding` bytes are left in all.
    pub(crate) fn settle_here(&mut self, outstanding: usize) {
        if !self.passed_back.is_empty() {
            let left = self.here(outstanding);
            self.passed_back.iter_mut().for_each(|(_, bytes)| *bytes = left.min(*bytes));
            self.passed_back.retain(|(_, bytes)| *bytes > 0);
        }
    }

    /// A core has given some bytes back.
    pub(crate) fn settle(&mut self, from: CoreId, bytes: usize) {
        change(&mut self.held, from, -narrow(bytes));
        if !self.passed_on.is_empty() {
            let left = self.held_by(from).max(0);
            for ((_, holder), bytes) in &mut self.passed_on {
                if *holder == from {
                    *bytes = left.min(*bytes);
                }
            }
            self.passed_on.retain(|(_, bytes)| *bytes > 0);
        }
    }

    /// A core is gone. Returns how many of the `outstanding` bytes are lost with it.
    pub(crate) fn write_off(&mut self, gone: CoreId, outstanding: usize) -> usize {
        let here = self.here(outstanding);
        let mut lost = self.held_by(gone).max(0);
        if let Some(index) = self.passed_back.iter().position(|(via, _)| *via == gone) {
            lost += self.passed_back.swap_remove(index).1.min(here);
            self.in_doubt = true;
        }
        self.held.retain(|(core, _)| *core != gone);
        for ((via, holder), bytes) in std::mem::take(&mut self.passed_on) {
            if via == gone && holder != gone {
                let on_its_way = bytes.min(self.held_by(holder)).max(0);
                change(&mut self.held, holder, -on_its_way);
                lost += on_its_way;
                self.in_doubt = true;
            } else if holder != gone {
                self.passed_on.push(((via, holder), bytes));
            }
        }
        usize::try_from(lost).unwrap_or(0)
    }

    /// Takes over the books of a connection that is gone.
    pub(crate) fn take_over(&mut self, other: &Self) {
        for (core, bytes) in &other.held {
            change(&mut self.held, *core, *bytes);
        }
        for (cores, bytes) in &other.passed_on {
            change(&mut self.passed_on, *cores, *bytes);
        }
    }

    /// Whether nothing stands in them.
    pub(crate) fn is_clear(&self) -> bool {
        self.held.is_empty() && self.passed_on.is_empty() && self.passed_back.is_empty() && !self.in_doubt
    }

    /// Bytes that are neither lent nor given back.
    fn here(&self, outstanding: usize) -> i64 {
        (narrow(outstanding) - self.held.iter().map(|(_, bytes)| bytes).sum::<i64>()).max(0)
    }

    /// Bytes that all other cores have.
    #[cfg(test)]
    fn sum(&self) -> usize {
        usize::try_from(self.held.iter().map(|(_, bytes)| bytes).sum::<i64>()).unwrap_or(0)
    }

    /// Whether more may be given back than the books show as lent.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt || self.held.iter().any(|(_, bytes)| *bytes < 0)
    }

    fn held_by(&self, core: CoreId) -> i64 {
        self.held.iter().find(|(other, _)| *other == core).map_or(0, |(_, bytes)| *bytes)
    }
}

fn change<K: PartialEq>(list: &mut Vec<(K, i64)>, key: K, bytes: i64) {
    if bytes == 0 {
        return;
    }
    match list.iter().position(|(other, _)| *other == key) {
        None => list.push((key, bytes)),
        Some(index) => {
            let sum = &mut list[index].1;
            *sum += bytes;
            if *sum == 0 {
                list.swap_remove(index);
            }
        }
    }
}

/// Bytes in memory are never more than that.
fn narrow(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(index: u16) -> CoreId {
        CoreId { index, incarnation: 0 }
    }

    // 100 bytes go to core 1, which hands 60 of them to core 2. Core 2 gives them back before the news arrives here.
    #[test]
    fn order_does_not_matter() {
        let mut loans = Loans::default();
        loans.lend(core(1), 100);
        loans.settle(core(2), 60);
        assert!(loans.is_in_doubt());
        assert_eq!(loans.sum(), 40);
        loans.pass_on(core(1), Some(core(2)), 60);
        assert!(!loans.is_in_doubt());
        assert_eq!(
            (loans.sum(), loans.write_off(core(2), 40), loans.write_off(core(1), 40), loans.sum()),
            (40, 0, 40, 0)
        );
    }

    // Core 1 dies: its bytes, and those on the way to core 2, are lost; core 2's own bytes are not.
    #[test]
    fn what_was_on_its_way_from_a_core_that_dies_is_lost_with_it() {
        let mut loans = Loans::default();
        loans.lend(core(1), 100);
        loans.lend(core(2), 7);
        loans.pass_on(core(1), Some(core(2)), 60);
        loans.settle(core(2), 20);
        assert_eq!((loans.sum(), loans.write_off(core(1), 87), loans.sum()), (87, 87, 0));
        // So much is given back that no doubtful bytes can be left.
        loans.lend(core(1), 10);
        loans.pass_on(core(1), Some(core(2)), 10);
        loans.settle(core(2), 10);
        loans.lend(core(2), 5);
        assert_eq!((loans.write_off(core(1), 5), loans.sum()), (0, 5));
    }

    #[test]
    fn books_of_a_connection_that_is_gone_are_kept() {
        let (mut all, mut one) = (Loans::default(), Loans::default());
        one.lend(core(1), 100);
        one.pass_on(core(1), Some(core(2)), 60);
        one.pass_on(core(1), None, 10);
        all.lend(core(1), 5);
        all.take_over(&one);
        assert_eq!((all.sum(), all.write_off(core(2), 95), all.write_off(core(1), 35)), (95, 60, 35));
    }

    // 50 bytes of 80 come back here through core 1 when it dies; it is not known whether they arrived.
    #[test]
    fn what_was_on_its_way_back_is_lost_with_the_core_that_sent_it() {
        let mut loans = Loans::default();
        loans.lend(core(1), 50);
        loans.pass_on(core(1), None, 50);
        assert_eq!(loans.sum(), 0);
        // 20 bytes were written since: the rest may all be doubtful, or none of it.
        loans.settle_here(60);
        assert_eq!(loans.write_off(core(1), 60), 50);
        loans.lend(core(1), 50);
        loans.pass_on(core(1), None, 50);
        loans.settle_here(30);
        assert_eq!((loans.write_off(core(1), 30), loans.is_in_doubt()), (30, true));
    }
}
