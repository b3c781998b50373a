//! An AUTH for this relay, its head read once.

use std::sync::Arc;

use msrp_proto::digest::{Authorization, AuthorizationError};
use msrp_proto::uri::{MsrpUri, Path};

use crate::quota::who::{Offence, UserKey, Who};
use crate::request::Transit;

/// What an AUTH asks for, and by which credentials. Cloning one costs references only.
#[derive(Clone, Debug)]
pub(crate) struct AuthRequest {
    transit: Transit,
    is_through_relay: bool,
    credentials: Credentials,
}

/// What an AUTH has in its Authorization.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// Nothing: it asks for a challenge.
    Missing,
    /// Something else than a digest.
    Unreadable(AuthorizationError),
    /// Those to be checked.
    Given(Arc<Authorization<'static>>),
}

impl AuthRequest {
    pub(crate) fn parse(transit: Transit) -> Self {
        let value = transit.head.authorization(&transit.bytes);
        let credentials = match value.map(Authorization::parse) {
            None => Credentials::Missing,
            Some(Err(error)) => Credentials::Unreadable(error),
            Some(Ok(authorization)) => Credentials::Given(Arc::new(authorization.into_owned())),
        };
        let is_through_relay = transit.received_from_path().len() > 1;
        Self { transit, is_through_relay, credentials }
    }

    pub(crate) fn transit(&self) -> &Transit {
        &self.transit
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The credentials, where they can be read.
    pub(crate) fn given(&self) -> Option<&Authorization<'static>> {
        match &self.credentials {
            Credentials::Given(authorization) => Some(authorization),
            Credentials::Missing | Credentials::Unreadable(_) => None,
        }
    }

    /// Whether it has come through a relay.
    pub(crate) fn is_through_relay(&self) -> bool {
        self.is_through_relay
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

    /// The relay that it has come through, to share look-ups with other relays and addresses. It has proven that name.
    pub(crate) fn relay(&self) -> Option<Who> {
        let uri = MsrpUri::parse(self.nearest()).ok().filter(|_| self.is_through_relay)?;
        Some(Who::User(UserKey::of_relay(uri.host_str())))
    }

    /// What a failure counts as.
    pub(crate) fn offence(&self) -> Offence {
        if self.is_through_relay { Offence::AuthBehind } else { Offence::Auth }
    }
}
