//! What a hostile peer can do to a relay over real sockets, and what it cannot.
//!
//! Every attack is made on the real binary on two cores, as a process of its own, while a pair of well-behaved clients
//! converses through it. The tests check: what the attacker gets; that every byte of the pair arrives, also during the
//! attack; how much memory the relay took for the attack; and that nothing of it is left afterwards. [`attack`] is the
//! frame for that.

mod attack;
mod broken;
mod dialling;
mod floods;
mod fuzz_seeds;
mod guessing;
mod interruption;
mod memory;
mod newcomers;
mod next_hops;
mod responses;
mod sessions;
mod shares;
mod slow;
mod unread;
