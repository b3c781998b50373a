//! AUTH with this relay as its target: challenge, look-up, check, a session (RFC 4976, 5.1, 6.3, 9.1).
//!
//! An AUTH's head is read once, into a [`request`] that travels from here on. In [`verify`], what is judged before and
//! after the look-up; in [`refuse`], the answers that are no; in [`grant`], what follows when all is right; in
//! [`through_relay`], the clients behind a relay; in [`state`], what a client has to do with authentication.
//!
//! Invariants: a session is opened with a [`Verified`](msrp_proto::digest::Verified) only; nonces belong to the connection
//! that asked for them and their count strictly rises; an unknown user and a wrong password cost the same work and get the
//! same answer; accounts that cannot be asked never look like a wrong password.
//!
//! While a look-up is under way nothing more is read from a client's connection: AUTHs are not pipelined. A connection
//! with a relay is read on: the others behind that relay do not wait.

pub(crate) mod applicants;
pub(crate) mod grant;
pub(crate) mod refuse;
pub(crate) mod request;
pub(crate) mod state;
pub(crate) mod through_relay;
pub(crate) mod verify;
