//! An AUTH for this relay, its head read once.

use std::sync::Arc;

use msrp_proto::digest::{Authorization, AuthorizationError};
use msrp_proto::uri::{MsrpUri, Path};

use crate::quota::who::{Offence, UserKey, Who};
use crate::request::Transit;

/// An AUTH's wishes and credentials. Cloning one copies references only.
#[derive(Clone, Debug)]
pub(crate) struct AuthRequest {
    transit: Transit,
    is_through_relay: bool,
    is_by_websocket: bool,
    credentials: Credentials,
}

/// The content of an AUTH's Authorization.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// No header: the client asks for a challenge.
    Missing,
    /// Something other than a digest.
    Unreadable(AuthorizationError),
    /// Credentials to check.
    Given(Arc<Authorization<'static>>),
}

impl AuthRequest {
    /// `is_by_websocket`: the connection may have several clients at its other end (RFC 7977).
    pub(crate) fn parse(transit: Transit, is_by_websocket: bool) -> Self {
        let value = transit.head.authorization(&transit.bytes);
        let credentials = match value.map(Authorization::parse) {
            None => Credentials::Missing,
            Some(Err(error)) => Credentials::Unreadable(error),
            Some(Ok(authorization)) => Credentials::Given(Arc::new(authorization.into_owned())),
        };
        let is_through_relay = transit.received_from_path().len() > 1;
        Self { transit, is_through_relay, is_by_websocket, credentials }
    }

    pub(crate) fn transit(&self) -> &Transit {
        &self.transit
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The credentials, if they can be read.
    pub(crate) fn given(&self) -> Option<&Authorization<'static>> {
        match &self.credentials {
            Credentials::Given(authorization) => Some(authorization),
            Credentials::Missing | Credentials::Unreadable(_) => None,
        }
    }

    /// Whether it came through a relay.
    pub(crate) fn is_through_relay(&self) -> bool {
        self.is_through_relay
    }

    /// Whether its client may be one of several on the connection, told from the others by the URI nearest to this relay:
    /// behind a relay, and by WebSocket.
    pub(crate) fn is_of_several(&self) -> bool {
        self.is_through_relay || self.is_by_websocket
    }

    /// Whether it came by WebSocket.
    pub(crate) fn is_by_websocket(&self) -> bool {
        self.is_by_websocket
    }

    /// The URI in To-Path, exactly as sent.
    pub(crate) fn to(&self) -> &[u8] {
        self.transit.to_path().last().unwrap_or_default()
    }

    /// The way back to the client: relays, if any, and the client's own URI.
    pub(crate) fn way_back(&self) -> Path<'_> {
        self.transit.received_from_path()
    }

    /// The URI that names the client on the connection: the first in From-Path.
    pub(crate) fn nearest(&self) -> &[u8] {
        self.way_back().first().unwrap_or_default()
    }

    /// The relay that it came through, which has proven that name. Look-ups are shared among relays and addresses.
    pub(crate) fn relay(&self) -> Option<Who> {
        let uri = MsrpUri::parse(self.nearest()).ok().filter(|_| self.is_through_relay)?;
        Some(Who::User(UserKey::of_relay(uri.host_str())))
    }

    /// The offence that a failure counts as.
    pub(crate) fn offence(&self) -> Offence {
        if self.is_through_relay { Offence::AuthBehind } else { Offence::Auth }
    }
}
