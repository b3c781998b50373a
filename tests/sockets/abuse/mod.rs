//! What a hostile peer can do to a relay over real sockets, and what it cannot.
//!
//! Every attack is made on the real binary on two cores, as a process of its own, while a pair of
//! well-behaved clients converses through it. Looked at are: what the culprit gets; that every byte of the
//! pair arrives and that it goes on arriving while the attack is on; how much memory the relay took for the
//! attack; and that nothing of it is left afterwards. [`attack`] is the frame for that.

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
