//! Connects to a next hop (RFC 4976, 6.4; reqs S2 and S3).
//!
//! The control plane resolves names, and connects wait there for their turn, so that no user's next hops hold up
//! another's. The egress policy judges every address after DNS, and the connection goes to the judged address. The
//! client gets the same 408 for every failure; the log tells them apart.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use engine::sock::Socket;
use futures_lite::future;
use msrp_tls::{TlsConn, TlsError};
use rustls_pki_types::ServerName;

use super::conn::{self, Origin};
use super::core::{Dial, Link, Shared};
use crate::config::{EndpointTls, Outbound};
use crate::control::{NoTurn, ResolveError, Turn};
use crate::telemetry::{LookUpEnd, Site, Source, gated};
use msrp_proto::address;
use msrp_relay_core::{CoreId, Holder, Input, Limit, ProvenNames, Target, Transport, Who};

/// Why a next hop could not be reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no address: {0}")]
    Resolve(#[from] ResolveError),
    #[error("too many connects are waiting")]
    TooManyWait,
    #[error("the same user's other connects took all the time")]
    NoTurn,
    #[error("egress policy forbids {0}; outbound.allow may permit it")]
    Forbidden(IpAddr),
    #[error("egress policy forbids port {0}; outbound.ports may permit it")]
    ForbiddenPort(u16),
    #[error("{0} is this relay's own")]
    Own(SocketAddr),
    #[error("outbound.endpoint_tls is refuse")]
    EndpointTlsRefused,
    #[error("the other process of this relay: {0}")]
    Generation(#[source] std::io::Error),
    #[error("not a name for TLS")]
    Name,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}: {1}")]
    Connect(SocketAddr, #[source] std::io::Error),
}

/// Connects to the next hops that the relay asks for, as long as the core runs.
pub(super) async fn serve(core: Rc<Shared>) {
    loop {
        let dial = core.dials.next().await;
        core.tasks.spawn(open(Rc::clone(&core), dial));
    }
}

/// Opens the connection that the relay asked for, unless the relay gives it up meanwhile.
async fn open(core: Rc<Shared>, Dial { peer, target, who, given_up }: Dial) {
    let abandoned = async {
        given_up.wait().await;
        None
    };
    let connected = async { Some(core.connect(&target, who).await) };
    let outcome = future::or(abandoned, connected).await;
    core.dials.ended(peer);
    match outcome {
        None => core.feed([Input::Lost { peer }]),
        Some(Ok(link)) => conn::start(&core, peer, link, Origin::Dialled(Box::new(target))),
        Some(Err(error)) => {
            let Holder { session, user } = core.with_relay(|relay| relay.holder(peer));
            let (host, port) = (target.host.as_str(), target.port);
            gated!(
                info,
                Site::NextHop,
                Source::of(host),
                { host, port, user, session, reason = %error },
                "Cannot connect"
            );
            core.feed([Input::DialFailed { peer }]);
        }
    }
}

impl Shared {
    async fn connect(&self, target: &Target, who: Who) -> Result<Link, DialError> {
        if let Some(home) = target.other_process {
            return self.connect_to_generation(home, target);
        }
        let config = self.config();
        let (outbound, limits) = (&config.outbound, &config.limits);
        if !target.by_service && !outbound.permits_port(target.port) {
            return Err(DialError::ForbiddenPort(target.port));
        }
        let tls = target.secure.then(|| self.client_tls(target, outbound.endpoint_tls)).transpose()?;
        let mut addresses = match address::parse(&target.host) {
            Some(address) => vec![SocketAddr::new(address, target.port)],
            None => self.resolve(target, who).await?,
        };
        if addresses.len() > limits.addresses_per_name_max {
            addresses.truncate(limits.addresses_per_name_max);
            self.limit_reached(Limit::AddressesPerName, None);
        }
        let mut failure = None;
        let mut permitted = Vec::new();
        for address in addresses {
            match self.judge(outbound, address) {
                Ok(()) => permitted.push(address),
                Err(error) => failure = Some(error),
            }
        }
        if permitted.is_empty() {
            return Err(failure.unwrap_or(DialError::Resolve(ResolveError::NoAddress)));
        }
        let asked = Instant::now();
        let _turn = self.turn_to_dial(who).await?;
        // The time in the queue is part of the first attempt's.
        let mut waited = asked.elapsed();
        for address in permitted {
            let limit = outbound.connect_timeout.saturating_sub(std::mem::take(&mut waited));
            match Socket::connect(address, limit).await {
                Ok(socket) if self.is_own(address, &socket) => failure = Some(DialError::Own(address)),
                Ok(socket) => return Ok(Link::new(socket, address, tls.map(Box::new))),
                Err(error) => failure = Some(DialError::Connect(address, error)),
            }
        }
        Err(failure.unwrap_or(DialError::Resolve(ResolveError::NoAddress)))
    }

    /// Whether an address may be connected to.
    fn judge(&self, outbound: &Outbound, address: SocketAddr) -> Result<(), DialError> {
        if !outbound.permits(address.ip()) {
            return Err(DialError::Forbidden(address.ip()));
        }
        if !outbound.permits_port(address.port()) {
            return Err(DialError::ForbiddenPort(address.port()));
        }
        if self.own.contains(&address) {
            return Err(DialError::Own(address));
        }
        Ok(())
    }

    /// Waits until the user may have one more connect under way. `None`: the control thread is gone, and its count with
    /// it; one connect too many is better than none at all.
    async fn turn_to_dial(&self, who: Who) -> Result<Option<Turn>, DialError> {
        match engine::from_outside(self.control.turn_to_dial(who)).await {
            Ok(turn) => Ok(Some(turn)),
            Err(NoTurn::Gone) => Ok(None),
            Err(NoTurn::Full) => {
                self.limit_reached(Limit::LookUpsWaiting, None);
                Err(DialError::TooManyWait)
            }
            Err(NoTurn::Late | NoTurn::Share) => {
                self.limit_reached(Limit::DialsPerUser, None);
                Err(DialError::NoTurn)
            }
        }
    }

    /// Another process of this relay is a next hop like any other, without a network between.
    fn connect_to_generation(&self, home: CoreId, target: &Target) -> Result<Link, DialError> {
        let transport = Transport { secure: target.secure, port: target.port, websocket: false };
        let address = self.own.iter().find(|own| own.port() == target.port);
        let address = address.copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], target.port)));
        // That process is this relay.
        let names = ProvenNames::new([target.host.as_str()]);
        let socket = self.generations.reach(home, address, transport, names);
        Ok(Link::new(socket.map_err(DialError::Generation)?, address, None))
    }

    /// Asks the control plane where a next hop is.
    async fn resolve(&self, target: &Target, who: Who) -> Result<Vec<SocketAddr>, ResolveError> {
        let asked = Instant::now();
        let host = target.host.clone();
        let found = match target.by_service {
            true => engine::from_outside(self.control.locate(who, host)).await,
            false => {
                let found = engine::from_outside(self.control.resolve(who, host)).await;
                found.map(|all| all.into_iter().map(|ip| SocketAddr::new(ip, target.port)).collect())
            }
        };
        let end = match &found {
            Ok(_) => LookUpEnd::Found,
            Err(ResolveError::NoAddress) => LookUpEnd::Unknown,
            Err(ResolveError::Failed(_)) => LookUpEnd::Failed,
            Err(ResolveError::TimedOut) => {
                self.limit_reached(Limit::ResolveTimeout, None);
                LookUpEnd::Late
            }
            Err(ResolveError::Busy) => {
                self.limit_reached(Limit::LookUpsWaiting, None);
                LookUpEnd::Busy
            }
            Err(ResolveError::Share) => {
                self.limit_reached(Limit::LookUpsPerUser, None);
                LookUpEnd::Busy
            }
        };
        self.counters.resolved(end, asked.elapsed());
        found
    }

    /// Whether a connection leads back to this process: a socket that listens on all addresses of a port has also those
    /// from which a process connects to itself.
    fn is_own(&self, address: SocketAddr, socket: &Socket) -> bool {
        let everywhere = |own: &SocketAddr| own.ip().is_unspecified() && own.port() == address.port();
        // The kernel knows where the connection really leads.
        let reached = socket.peer_addr().is_ok_and(|reached| self.own.contains(&reached));
        let is_here = || socket.local_addr().is_ok_and(|local| local.ip() == address.ip());
        reached || self.own.iter().any(everywhere) && is_here()
    }

    /// A relay must prove its name, whatever the policy for endpoints; endpoints are usually self-signed.
    fn client_tls(&self, target: &Target, policy: EndpointTls) -> Result<TlsConn, DialError> {
        let tls = &self.config().tls;
        let config = match (target.relay, policy) {
            (true, _) | (false, EndpointTls::Verify) => Arc::clone(&tls.client_verify),
            (false, EndpointTls::EncryptOnly) => Arc::clone(&tls.client_encrypt_only),
            (false, EndpointTls::Refuse) => return Err(DialError::EndpointTlsRefused),
        };
        let name = ServerName::try_from(target.host.clone()).map_err(|_| DialError::Name)?;
        Ok(TlsConn::client(config, name)?)
    }
}
