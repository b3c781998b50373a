//! The memory budget: how much of what peers send all cores may hold together.
//!
//! Each core has an allowance, at first an equal part of the whole. A core that comes close to its own asks another
//! core for some of its spare allowance, and gives it back when it no longer needs it. Above its allowance a core is
//! *pressed*: it takes no new connections, and reads from each connection only as much as a request needs to be
//! complete. So all go on, slowly. Before that, connections that have proven nothing are closed: they need no account
//! (`Peers::shed_newcomers`).
//!
//! Two kinds are counted. *Held* bytes came from this core's connections and are neither written nor dropped, wherever
//! they are queued: they mirror the senders' credit. *Kept* bytes are everything else that grows with what peers send:
//! open transactions, requests that await an answer, answers and REPORTs that wait for a peer, bytes being written,
//! unfinished input, clients behind relays and their sessions. Each is counted by the core that has it in memory, see
//! `Peer::kept`.
//!
//! Invariants: the allowances of all cores, and the loans under way between them, add up to the whole; a dying core
//! takes its loans with it, and no other core gets its debts.

use std::time::{Duration, Instant};

use super::in_flight::Loans;
use crate::cores::Cores;
use crate::ids::CoreId;
use crate::message::{CoreStep, Message};

/// The smallest loan worth asking for.
const LOAN_BYTES_MIN: usize = 256 << 10;
/// After all cores were asked in vain, the core waits this long before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One core's share of the budget.
#[derive(Debug)]
pub(crate) struct Memory {
    held: usize,
    /// Bytes in memory here beside the queued ones.
    kept: usize,
    /// Bytes held from connections that are gone, by the core that holds them.
    left_behind: Loans,
    base: usize,
    borrowed: Vec<(CoreId, usize)>,
    lent: Vec<(CoreId, usize)>,
    pressed: bool,
    /// The pressure has begun; what can be given up at once is not yet given up.
    newly: bool,
    /// The pressure is over; the connections it held up do not know yet.
    relieved: bool,
    /// The core to ask next, by its distance from this one, and whether a core has been asked.
    next: usize,
    asked: Option<CoreId>,
    /// When all cores had been asked in vain.
    refused_at: Option<Instant>,
}

impl Memory {
    pub(crate) fn new(whole: usize, cores: usize) -> Self {
        Self {
            held: 0,
            kept: 0,
            left_behind: Loans::default(),
            base: whole / cores.max(1),
            borrowed: Vec::new(),
            lent: Vec::new(),
            pressed: false,
            newly: false,
            relieved: false,
            next: 1,
            asked: None,
            refused_at: None,
        }
    }

    /// The whole changes; every core is told.
    pub(crate) fn resize(&mut self, whole: usize, cores: usize) {
        self.base = whole / cores.max(1);
        self.press();
        self.look();
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// All that counts against the allowance.
    pub(crate) fn used(&self) -> usize {
        self.held + self.kept
    }

    pub(crate) fn allowance(&self) -> usize {
        (self.base + sum(&self.borrowed)).saturating_sub(sum(&self.lent))
    }

    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed
    }

    /// Bytes have come in. Returns whether they make the core pressed.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        self.press()
    }

    /// Something that took `before` bytes of memory takes `now`. Returns whether that makes the core pressed.
    pub(crate) fn keep(&mut self, before: usize, now: usize) -> bool {
        debug_assert!(self.kept >= before, "more given back than was kept");
        self.kept = self.kept.saturating_sub(before) + now;
        if now > before {
            return self.press();
        }
        self.look();
        false
    }

    fn press(&mut self) -> bool {
        let newly = !self.pressed && self.used() > self.allowance();
        self.pressed |= newly;
        self.newly |= newly;
        newly
    }

    /// Bytes have been written or dropped.
    pub(crate) fn free(&mut self, bytes: usize) {
        debug_assert!(self.held >= bytes, "more given back than came in");
        self.held = self.held.saturating_sub(bytes);
        self.look();
    }

    fn look(&mut self) {
        let allowance = self.allowance();
        // Not at the very edge, or each byte would switch it.
        if self.pressed && self.used() <= allowance - allowance / 4 {
            self.pressed = false;
            self.relieved = true;
        }
    }

    /// Whether the pressure has just begun.
    pub(crate) fn take_pressure(&mut self) -> bool {
        std::mem::take(&mut self.newly)
    }

    /// Whether the pressure has just ended.
    pub(crate) fn take_relief(&mut self) -> bool {
        std::mem::take(&mut self.relieved)
    }

    /// A connection is gone; other cores still hold some of its bytes.
    pub(crate) fn leave_behind(&mut self, with: &Loans) {
        self.left_behind.take_over(with);
    }

    /// `holder`, or this core, has written or dropped some of those bytes.
    pub(crate) fn free_left_behind(&mut self, holder: Option<CoreId>, bytes: usize) {
        if let Some(holder) = holder {
            self.left_behind.settle(holder, bytes);
        }
        self.free(bytes.min(self.held));
    }

    /// Some of those bytes are at another core, or here.
    pub(crate) fn relend_left_behind(&mut self, from: CoreId, to: Option<CoreId>, bytes: usize) {
        self.left_behind.pass_on(from, to, bytes);
    }

    /// The message for another core: a request for a loan when memory gets short, the return of a loan when not.
    pub(crate) fn balance(&mut self, me: CoreId, cores: &Cores, now: Instant) -> Option<Message> {
        let allowance = self.allowance();
        if self.used() > allowance - allowance / 8 {
            let in_vain = self.refused_at.is_some_and(|at| now < at + ASK_AGAIN_AFTER);
            if self.asked.is_some() || in_vain || cores.len() < 2 {
                return None;
            }
            while self.next < cores.len() {
                let index = (usize::from(me.index) + self.next) % cores.len();
                self.next += 1;
                if let Some(lender) = cores.running(index) {
                    self.asked = Some(lender);
                    return Some(Message::ToCore { to: lender, step: CoreStep::Borrow { borrower: me } });
                }
            }
            self.next = 1;
            self.refused_at = Some(now);
            return None;
        }
        let debts = sum(&self.borrowed);
        if debts > 0 && self.used() < (allowance - debts.min(allowance)) / 2 {
            let (lender, bytes) = self.borrowed.pop()?;
            return Some(Message::ToCore {
                to: lender,
                step: CoreStep::Lend { from: me, bytes, back: true },
            });
        }
        None
    }

    /// Another core asks for a loan: it gets half of what this core does not need.
    pub(crate) fn lend(&mut self, borrower: CoreId) -> usize {
        let spare = self.allowance().saturating_sub(self.used()) / 2;
        if self.pressed || spare < LOAN_BYTES_MIN {
            return 0;
        }
        add(&mut self.lent, borrower, spare);
        spare
    }

    /// A loan arrives, or returns. Returns the bytes that were not asked for.
    pub(crate) fn receive(&mut self, from: CoreId, bytes: usize, back: bool) -> usize {
        if back {
            take(&mut self.lent, from, bytes);
        } else if self.asked.take_if(|lender| *lender == from).is_none() {
            return bytes;
        } else if bytes > 0 {
            add(&mut self.borrowed, from, bytes);
            self.next = 1;
        }
        self.look();
        0
    }

    /// A core is up, and may have missed an earlier request. If it answers twice, the second loan goes back.
    pub(crate) fn ask_again(&mut self, core: CoreId) {
        if self.asked.take_if(|lender| *lender == core).is_some() {
            self.next = 1;
        }
    }

    /// A core is gone: what it lent is void, what it borrowed is here again, what it held is lost.
    pub(crate) fn forget_core(&mut self, gone: CoreId) {
        take(&mut self.borrowed, gone, usize::MAX);
        take(&mut self.lent, gone, usize::MAX);
        self.asked.take_if(|lender| *lender == gone);
        let lost = self.left_behind.write_off(gone, 0).min(self.held);
        self.free(lost);
        self.press();
    }
}

fn sum(list: &[(CoreId, usize)]) -> usize {
    list.iter().map(|(_, bytes)| bytes).sum()
}

fn add(list: &mut Vec<(CoreId, usize)>, core: CoreId, bytes: usize) {
    if bytes == 0 {
        return;
    }
    match list.iter_mut().find(|(other, _)| *other == core) {
        Some((_, sum)) => *sum += bytes,
        None => list.push((core, bytes)),
    }
}

/// Takes up to `bytes` from a core's entry; returns how many there were.
fn take(list: &mut Vec<(CoreId, usize)>, core: CoreId, bytes: usize) -> usize {
    let Some(index) = list.iter().position(|(other, _)| *other == core) else {
        return 0;
    };
    let sum = &mut list[index].1;
    let taken = bytes.min(*sum);
    *sum -= taken;
    if *sum == 0 {
        list.swap_remove(index);
    }
    taken
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn core(index: u16) -> CoreId {
        CoreId { index, incarnation: 0 }
    }

    fn both() -> Cores {
        Cores::new(core(0), 2)
    }

    /// Carries messages between two budgets until there are none.
    fn settle(a: &mut Memory, b: &mut Memory, now: Instant) {
        for _ in 0..8 {
            let said = [a.balance(core(0), &both(), now), b.balance(core(1), &both(), now)];
            for message in said.into_iter().flatten() {
                match message {
                    Message::ToCore { to: lender, step: CoreStep::Borrow { borrower } } => {
                        let (from, to) =
                            if lender == core(0) { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
                        let bytes = from.lend(borrower);
                        to.receive(lender, bytes, false);
                    }
                    Message::ToCore { to, step: CoreStep::Lend { from, bytes, back } } => {
                        if to == core(0) { &mut *a } else { &mut *b }.receive(from, bytes, back);
                    }
                    _ => unreachable!("budgets say nothing else"),
                }
            }
        }
    }

    #[test]
    fn a_tight_core_borrows_and_gives_back_and_nothing_is_lost_on_the_way() {
        let now = Instant::now();
        let (mut a, mut b) = (Memory::new(64 * MIB, 2), Memory::new(64 * MIB, 2));
        assert!(!a.hold(30 * MIB));
        settle(&mut a, &mut b, now);
        assert_eq!((a.allowance(), b.allowance()), (48 * MIB, 16 * MIB));
        assert!(!a.hold(10 * MIB), "not pressed with what it borrowed");
        a.free(38 * MIB);
        settle(&mut a, &mut b, now);
        assert_eq!((a.allowance(), b.allowance()), (32 * MIB, 32 * MIB));
    }

    #[test]
    fn who_holds_more_than_its_allowance_is_pressed_until_well_below_it() {
        let mut budget = Memory::new(8 * MIB, 1);
        assert!(budget.hold(9 * MIB) && budget.is_pressed());
        assert!(!budget.hold(MIB), "told once");
        budget.free(3 * MIB);
        assert!(budget.is_pressed(), "just below is not enough");
        budget.free(2 * MIB);
        assert!(!budget.is_pressed() && budget.take_relief() && !budget.take_relief());
    }

    #[test]
    fn two_tight_cores_ask_each_other_once_and_not_for_ever() {
        let now = Instant::now();
        let (mut a, mut b) = (Memory::new(2 * MIB, 2), Memory::new(2 * MIB, 2));
        a.hold(MIB);
        b.hold(MIB);
        settle(&mut a, &mut b, now);
        assert!(a.balance(core(0), &both(), now).is_none() && b.balance(core(1), &both(), now).is_none());
        assert_eq!((a.allowance(), b.allowance()), (MIB, MIB));
        b.free(MIB);
        settle(&mut a, &mut b, now);
        assert_eq!(a.allowance(), MIB, "not for every byte");
        settle(&mut a, &mut b, now + ASK_AGAIN_AFTER);
        assert!(a.allowance() > MIB, "it is as tight as before, but the other core is not");
    }

    #[test]
    fn a_pressed_core_lends_nothing_though_it_would_have_some() {
        let mut budget = Memory::new(8 * MIB, 2);
        budget.hold(5 * MIB);
        budget.free(MIB / 4);
        assert!(budget.is_pressed(), "there is more than a quarter of a MiB below its 4 MiB only later");
        budget.free(MIB + MIB / 2);
        assert!(budget.is_pressed());
        assert_eq!(budget.lend(core(1)), 0);
        budget.free(MIB);
        assert!(!budget.is_pressed());
        assert_eq!(budget.lend(core(1)), (2 * MIB + MIB / 4) / 2 - MIB / 4);
    }

    #[test]
    fn kept_bytes_press_and_relieve_as_held_ones_do() {
        let mut budget = Memory::new(8 * MIB, 2);
        assert!(!budget.hold(2 * MIB));
        assert!(!budget.keep(0, 2 * MIB));
        assert!(budget.keep(2 * MIB, 2 * MIB + 1), "both together exceed the allowance");
        assert!(!budget.keep(2 * MIB + 1, 3 * MIB), "only once");
        assert!(budget.is_pressed());
        assert_eq!((budget.held(), budget.kept(), budget.lend(core(1))), (2 * MIB, 3 * MIB, 0));
        budget.keep(3 * MIB, MIB);
        assert!(!budget.is_pressed() && budget.take_relief());
    }

    #[test]
    fn loans_to_two_cores_are_two() {
        let mut budget = Memory::new(96 * MIB, 3);
        let first = budget.lend(core(1));
        let second = budget.lend(core(2));
        assert_eq!((first, second), (16 * MIB, 8 * MIB));
        budget.receive(core(1), first, true);
        assert_eq!(budget.allowance(), 24 * MIB);
        budget.forget_core(core(1));
        assert_eq!(budget.allowance(), 24 * MIB, "it had given back everything");
        budget.forget_core(core(2));
        assert_eq!(budget.allowance(), 32 * MIB);
    }

    // A core that was asked before it was up is asked again. The second loan goes back.
    #[test]
    fn a_loan_that_was_not_asked_for_is_given_back() {
        let now = Instant::now();
        let mut budget = Memory::new(64 * MIB, 2);
        budget.hold(30 * MIB);
        assert!(matches!(
            budget.balance(core(0), &both(), now),
            Some(Message::ToCore { step: CoreStep::Borrow { .. }, .. })
        ));
        assert!(budget.balance(core(0), &both(), now).is_none(), "one at a time");
        budget.ask_again(core(1));
        assert!(matches!(
            budget.balance(core(0), &both(), now),
            Some(Message::ToCore { step: CoreStep::Borrow { .. }, .. })
        ));
        assert_eq!(budget.receive(core(1), 16 * MIB, false), 0);
        assert_eq!(budget.receive(core(1), 8 * MIB, false), 8 * MIB);
        assert_eq!(budget.allowance(), 48 * MIB);
    }

    #[test]
    fn a_core_is_tight_above_seven_eighths() {
        let now = Instant::now();
        let mut budget = Memory::new(16 * MIB, 2);
        budget.hold(7 * MIB);
        assert!(budget.balance(core(0), &both(), now).is_none());
        budget.hold(1);
        assert!(budget.balance(core(0), &both(), now).is_some());
    }

    #[test]
    fn the_death_of_a_lender_or_a_borrower_restores_the_base() {
        let now = Instant::now();
        let (mut a, mut b) = (Memory::new(64 * MIB, 2), Memory::new(64 * MIB, 2));
        a.hold(30 * MIB);
        settle(&mut a, &mut b, now);
        b.forget_core(core(0));
        assert_eq!(b.allowance(), 32 * MIB);
        a.hold(10 * MIB);
        a.forget_core(core(1));
        assert_eq!(a.allowance(), 32 * MIB);
        assert!(a.is_pressed());
    }

    #[test]
    fn what_a_lost_connection_left_with_another_core_goes_with_that_core() {
        let mut budget = Memory::new(8 * MIB, 2);
        budget.hold(3 * MIB);
        let mut loans = Loans::default();
        loans.lend(core(1), 2 * MIB);
        budget.leave_behind(&loans);
        budget.free_left_behind(Some(core(1)), MIB);
        assert_eq!(budget.held(), 2 * MIB);
        budget.forget_core(core(1));
        assert_eq!(budget.held(), MIB);
    }
}
