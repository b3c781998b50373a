//! What asks for sessions by one connection. The clients that share a WebSocket are kept like those behind a relay.

use super::request::AuthRequest;
use super::state::{AuthState, Claim};
use super::through_relay::{Behind, Client};
use crate::ids::SessionRef;
use msrp_proto::digest::Verified;

/// The clients that ask for sessions by one connection: the client at its other end, or the clients behind the relay
/// there; never both.
#[derive(Debug, Default)]
pub(crate) enum Applicants {
    /// None so far.
    #[default]
    None,
    Own(Box<AuthState>),
    /// Several: behind a relay, or by WebSocket.
    Behind(Box<Behind>),
}

impl Applicants {
    pub(crate) fn own(&self) -> Option<&AuthState> {
        match self {
            Self::Own(auth) => Some(auth),
            Self::None | Self::Behind(_) => None,
        }
    }

    /// Who has proven to be the client at the other end, or one of those there.
    pub(crate) fn first_verified(&self) -> Option<&Verified> {
        match self {
            Self::None => None,
            Self::Own(auth) => auth.verified(),
            Self::Behind(behind) => behind.first_verified(),
        }
    }

    pub(crate) fn behind_mut(&mut self) -> Option<&mut Behind> {
        match self {
            Self::Behind(behind) => Some(behind),
            Self::None | Self::Own(_) => None,
        }
    }

    /// The clients behind the relay there. The caller has checked that the peer is not a client itself.
    pub(super) fn behind_or_insert_with(&mut self, new: impl FnOnce() -> Behind) -> &mut Behind {
        if !matches!(self, Self::Behind(_)) {
            *self = Self::Behind(Box::new(new()));
        }
        match self {
            Self::Behind(behind) => behind,
            Self::None | Self::Own(_) => unreachable!("inserted above"),
        }
    }

    /// The state of the client that an AUTH comes from.
    pub(super) fn of(&mut self, request: &AuthRequest) -> Option<&mut AuthState> {
        match self {
            Self::Own(auth) if !request.is_of_several() => Some(auth),
            Self::Behind(behind) if request.is_of_several() => {
                behind.client(request.nearest()).map(|client| &mut client.auth)
            }
            _ => None,
        }
    }

    /// The client behind a relay, or one of several by WebSocket, that an AUTH comes from.
    pub(super) fn client_behind(&mut self, request: &AuthRequest) -> Option<&mut Client> {
        self.behind_mut().filter(|_| request.is_of_several())?.client(request.nearest())
    }

    /// A number that the answers to an AUTH's questions carry.
    pub(super) fn take_ticket(&mut self, request: &AuthRequest) -> u32 {
        match self {
            Self::Own(auth) => {
                auth.ticket = auth.ticket.wrapping_add(1);
                auth.ticket
            }
            Self::Behind(behind) => behind.take_ticket(request.nearest(), request.transit().cost()),
            Self::None => 0,
        }
    }

    /// The client that waits for the answer with that number.
    pub(super) fn by_ticket(&mut self, number: u32) -> Option<&mut AuthState> {
        match self {
            Self::Own(auth) => Some(auth),
            Self::Behind(behind) => behind.by_ticket(number),
            Self::None => None,
        }
    }

    /// Forgets that number, unless the AUTH still asks for a place among the user's sessions.
    pub(super) fn drop_idle_ticket(&mut self, number: u32) {
        if let Self::Behind(behind) = self
            && behind.by_ticket(number).is_none_or(|auth| !auth.is_waiting())
        {
            behind.drop_ticket(number);
        }
    }

    /// AUTHs that wait for a place among their user's sessions.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Claim> {
        let behind = match self {
            Self::Behind(behind) => Some(behind),
            Self::None | Self::Own(_) => None,
        };
        let states = self.own().into_iter().chain(behind.into_iter().flat_map(|behind| behind.states()));
        states.filter_map(AuthState::claim)
    }

    /// Whether the client at the other end waits for something.
    pub(crate) fn is_own_waiting(&self) -> bool {
        self.own().is_some_and(AuthState::is_waiting)
    }

    /// Whether any of them waits for something.
    pub(crate) fn is_any_waiting(&self) -> bool {
        match self {
            Self::None => false,
            Self::Own(auth) => auth.is_waiting(),
            Self::Behind(behind) => behind.is_any_waiting(),
        }
    }

    /// The connection, and its one session, are at another core from now on.
    pub(crate) fn move_to(&mut self, session: SessionRef) {
        if let Self::Behind(behind) = self {
            behind.move_to(session);
        }
    }

    /// Bytes of memory that they take.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Own(auth) => auth.kept(),
            Self::Behind(behind) => behind.kept(),
        }
    }
}
