//! Requests that can go no further on this core while their bytes still come in.
//!
//! Their connection is gone, or a session refused them, but the hop before does not know yet, and may have answered 200
//! when it learns of it. The next thing that arrives here decides whether the sender hears by a response or by a REPORT
//! (reqs F7, F10). An aborted end means that the hop before has stopped the request and told its sender. A regular end
//! means that it has not: then the notice goes out with the bytes counted so far. So there is exactly one notice.
//!
//! Invariants: bytes counted here have been credited; an entry goes with its request's end, or with the core that would
//! have sent the end.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use siphasher::sip::SipHasher13;

use crate::ids::{CoreId, StreamId};
use crate::message::{Message, SessionStep};
use crate::request::{Neighbour, Notice};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

/// The orphaned requests of one core, by the neighbour that was to take them.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    table: HashMap<(StreamId, Neighbour), Failure, BuildHasherDefault<SipHasher13>>,
}

/// The notice for the sender, and its code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) notice: Notice,
    pub(crate) status: Status,
}

impl Failure {
    /// The message for the session whose hop failed.
    pub(crate) fn into_message(self) -> Message {
        Message::ToSession {
            to: self.notice.session,
            step: SessionStep::Failed { notice: self.notice, status: self.status },
        }
    }
}

impl Orphans {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// `failure` covers the bytes seen so far.
    pub(crate) fn adopt(&mut self, place: Neighbour, failure: Failure) {
        self.table.insert((failure.notice.stream, place), failure);
    }

    /// More bytes of a request that may be an orphan.
    pub(crate) fn count(&mut self, place: Neighbour, stream: StreamId, bytes: usize) {
        if let Some(failure) = self.table.get_mut(&(stream, place)) {
            failure.notice.extend(bytes as u64);
        }
    }

    /// The end of a request. Returns the failure to report, if one is due.
    pub(crate) fn end(&mut self, place: Neighbour, stream: StreamId, flag: Flag) -> Option<Failure> {
        let failure = self.table.remove(&(stream, place))?;
        (flag != Flag::Aborted).then_some(failure)
    }

    /// A core is gone: the ends that it would have sent will not come.
    pub(crate) fn forget_core(&mut self, gone: CoreId) {
        self.table
            .retain(|(stream, _), failure| stream.peer.core != gone && failure.notice.session.core != gone);
    }
}
