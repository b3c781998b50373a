//! Resolves host names to addresses, and domains to their relays, for the relay's dials.
//!
//! Invariants: an answer is never empty and at most one longer than `addresses_per_name_max`; every look-up ends within
//! the time that its asker has left; look-ups of one name at the same time ask once, each in its asker's turn, and the
//! order of a domain's relays is drawn for each; a name is always taken as complete, so the host's search list cannot
//! turn a client's `intranet` into an internal host. `localhost` and the hosts file are honoured. Must not know which
//! addresses may be dialled (they are judged afterwards). RFC 4976, section 5.2.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::together::Together;
use crate::config::{DnsServers, Limits};
use msrp_proto::address::{self, canonical};
use msrp_proto::srv::{PORT_DEFAULT, SERVICE, order};

/// Why a name has no addresses for us. The client sees no difference between these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, has no address, or cannot be a name.
    #[error("there is no address for this name")]
    NoAddress,
    /// No server answered in time.
    #[error("no name server answered in time")]
    TimedOut,
    /// Too many look-ups wait already, or the control thread has gone.
    #[error("too many name look-ups are waiting")]
    Busy,
    /// Too many look-ups of the same user were under way, so that this one got no turn in time.
    #[error("the same user's other look-ups took all the time")]
    Share,
    /// A server refused or answered nonsense.
    #[error("the name server failed: {0}")]
    Failed(String),
}

/// A relay of a domain: priority, weight, and where it listens.
type Record = (u16, u16, (Name, u16));

/// The resolver and its bounds.
pub(super) struct Resolver {
    resolver: TokioResolver,
    addresses_max: usize,
    hosts: Together<Name, Result<Vec<IpAddr>, ResolveError>>,
    services: Together<Name, Result<Vec<Record>, ResolveError>>,
}

impl Resolver {
    /// Must be called within the control thread's runtime.
    pub(super) fn new(servers: &DnsServers, limits: &Limits) -> Result<Self, NetError> {
        let mut builder = match servers {
            DnsServers::System => TokioResolver::builder_tokio()?,
            DnsServers::List(servers) => {
                let servers = servers.iter().copied().map(server).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // One repetition within the caller's time.
        options.attempts = 1;
        options.timeout = limits.resolve_timeout / 2;
        Ok(Self {
            resolver: builder.build()?,
            addresses_max: limits.addresses_per_name_max + 1,
            hosts: Together::new(may_be_shared),
            services: Together::new(may_be_shared),
        })
    }

    /// The addresses of `host`, IPv4 first. The caller sets the time-out, here and below.
    pub(super) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(address) = address::parse(host) {
            return Ok(vec![address]);
        }
        self.addresses(complete(host)?).await
    }

    /// Where the relay of a domain listens: its SRV records, in a freshly drawn order; without any, the domain itself
    /// at the default port (RFC 4976, section 8).
    pub(super) async fn locate(&self, domain: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let domain = complete(domain)?;
        let service = Name::from_ascii(SERVICE).and_then(|front| front.append_domain(&domain));
        let service = service.map_err(|_| ResolveError::NoAddress)?;
        let mut records = match self.records(service).await {
            Err(ResolveError::NoAddress) => Vec::new(),
            records => records?,
        };
        if records.is_empty() {
            records.push((0, 0, (domain, PORT_DEFAULT)));
        }
        // A target of "." says that the service does not exist (RFC 2782).
        records.retain(|(_, _, (target, _))| !target.is_root());
        let draw = |below: u32| getrandom::u32().unwrap_or_default() % below;
        let (mut ways, mut failure) = (Vec::new(), ResolveError::NoAddress);
        for (target, port) in order(records, draw) {
            match self.addresses(target).await {
                Ok(found) => ways.extend(found.into_iter().map(|address| SocketAddr::new(address, port))),
                Err(error) => failure = error,
            }
            if ways.len() >= self.addresses_max {
                break;
            }
        }
        ways.truncate(self.addresses_max);
        if ways.is_empty() { Err(failure) } else { Ok(ways) }
    }

    async fn addresses(&self, name: Name) -> Result<Vec<IpAddr>, ResolveError> {
        let ask = async || {
            let found = self.resolver.lookup_ip(name.clone()).await.map_err(|error| explain(&error))?;
            let addresses: Vec<_> = found.iter().map(canonical).take(self.addresses_max).collect();
            if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses) }
        };
        self.hosts.ask(name.clone(), ask).await
    }

    async fn records(&self, service: Name) -> Result<Vec<Record>, ResolveError> {
        let ask = async || {
            let found = self.resolver.lookup(service.clone(), RecordType::SRV).await;
            let found = found.map_err(|error| explain(&error))?;
            let records = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some((srv.priority, srv.weight, (srv.target.clone(), srv.port))),
                _ => None,
            });
            Ok(records.collect())
        };
        self.services.ask(service.clone(), ask).await
    }
}

/// Silence may come from a lost packet: a later asker has time left to try again.
fn may_be_shared<T>(answer: &Result<T, ResolveError>) -> bool {
    !matches!(answer, Err(ResolveError::TimedOut | ResolveError::Busy))
}

/// A host name, taken as complete.
fn complete(host: &str) -> Result<Name, ResolveError> {
    let mut name = Name::from_ascii(host).map_err(|_| ResolveError::NoAddress)?;
    name.set_fqdn(true);
    if name.is_root() { Err(ResolveError::NoAddress) } else { Ok(name) }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn explain(error: &NetError) -> ResolveError {
    match error {
        NetError::Timeout => ResolveError::TimedOut,
        NetError::Busy => ResolveError::Busy,
        error if error.is_nx_domain() || error.is_no_records_found() => ResolveError::NoAddress,
        error => ResolveError::Failed(error.to_string()),
    }
}
