//! AUTH with this relay as its target: challenge, look-up, check, a session (RFC 4976, 5.1, 6.3, 9.1).
//!
//! An AUTH's head is read once, into a [`request`], which travels from here on. [`verify`] judges it before and after
//! the look-up; [`refuse`] has the negative answers; [`grant`] opens or prolongs the session; [`through_relay`] has the
//! clients behind a relay; [`state`] is what the relay knows of a client's authentication.
//!
//! Invariants: a session is opened only with a [`Verified`](msrp_proto::digest::Verified); a nonce belongs to the
//! connection that asked for it, and its count strictly rises; an unknown user and a wrong password cost the same work
//! and get the same answer; an outage of the accounts never looks like a wrong password.
//!
//! During a look-up the relay reads nothing more from a client's connection: AUTHs are not pipelined. It does read on
//! from a connection with a relay: the other clients behind that relay do not wait.

pub(crate) mod applicants;
pub(crate) mod grant;
pub(crate) mod refuse;
pub(crate) mod request;
pub(crate) mod state;
pub(crate) mod through_relay;
pub(crate) mod verify;
