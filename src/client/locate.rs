//! From a SIP domain to the relays that serve it: SRV `_msrps._tcp`, then addresses of both families (RFC 2782; RFC 4976,
//! section 5.1).
//!
//! Blocks: a tool asks before it starts its executor. Invariants: relays come in the order in which a client should try
//! them, by priority; every question ends within the limit. It must not know what becomes of the answers.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{ClientError, Target};

/// Where relays are looked for without an SRV record (RFC 4976, section 5.1 leaves it to the default port).
const PORT_DEFAULT: u16 = 2855;

/// What the DNS says of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The name that was asked for.
    pub service: String,
    /// Whether there are SRV records; otherwise the domain itself stands for its relay.
    pub srv: bool,
    /// The relays, the first to be tried first.
    pub relays: Vec<LocatedRelay>,
}

/// One relay of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedRelay {
    /// Lower is tried first.
    pub priority: u16,
    /// Among equals, the share of the clients.
    pub weight: u16,
    /// Host name and port.
    pub target: Target,
    /// Its addresses of both families; or why there are none.
    pub addresses: Result<Vec<IpAddr>, NoAddress>,
}

/// Why a host name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// The name server says so.
    #[error("has no address")]
    None,
    /// No answer, or a useless one.
    #[error("cannot be resolved: {0}")]
    Failed(String),
}

/// Asks the system's name servers, or `server` alone.
///
/// # Errors
/// If the SRV question cannot be answered, with yes or no, or the domain says that it has no relay.
pub fn locate(domain: &str, server: Option<SocketAddr>, limit: Duration) -> Result<Located, ClientError> {
    let failed = |reason: &dyn fmt::Display| ClientError::Resolve {
        host: domain.to_owned(),
        source: io::Error::other(reason.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    runtime.block_on(async {
        let resolver = resolver(server, limit).map_err(|error| failed(&error))?;
        let mut domain = Name::from_ascii(domain).map_err(|error| failed(&error))?;
        domain.set_fqdn(true);
        let service = Name::from_ascii("_msrps._tcp").and_then(|front| front.append_domain(&domain));
        let service = service.map_err(|error| failed(&error))?;
        let found = within(limit, resolver.lookup(service.clone(), RecordType::SRV)).await;
        let mut relays: Vec<_> = match found {
            Ok(found) => found.answers().iter().filter_map(|record| relay(&record.data)).collect(),
            Err(NoAddress::None) => Vec::new(),
            Err(error) => return Err(failed(&error)),
        };
        let srv = !relays.is_empty();
        if relays.iter().any(|relay| relay.target.host.is_empty()) {
            // RFC 2782: a target of "." says that the service is decidedly not there.
            return Err(failed(&format_args!("{} says that there is no relay", plain(&service))));
        }
        if !srv {
            let target = Target { host: plain(&domain), port: PORT_DEFAULT };
            relays.push(LocatedRelay { priority: 0, weight: 0, target, addresses: Err(NoAddress::None) });
        }
        relays.sort_by_key(|relay| (relay.priority, std::cmp::Reverse(relay.weight)));
        for relay in &mut relays {
            relay.addresses = addresses(&resolver, &relay.target.host, limit).await;
        }
        Ok(Located { service: plain(&service), srv, relays })
    })
}

fn resolver(server: Option<SocketAddr>, limit: Duration) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(address) => {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.attempts = 1;
    options.timeout = limit / 2;
    builder.build()
}

/// One question, its time-out and its "no" told apart.
async fn within<T>(
    limit: Duration,
    question: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NoAddress> {
    match tokio::time::timeout(limit, question).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) if error.is_nx_domain() || error.is_no_records_found() => Err(NoAddress::None),
        Ok(Err(error)) => Err(NoAddress::Failed(error.to_string())),
        Err(_) => Err(NoAddress::Failed("no name server answered in time".to_owned())),
    }
}

fn relay(data: &RData) -> Option<LocatedRelay> {
    let RData::SRV(srv) = data else { return None };
    let target = Target { host: plain(&srv.target), port: srv.port };
    Some(LocatedRelay { priority: srv.priority, weight: srv.weight, target, addresses: Err(NoAddress::None) })
}

async fn addresses(resolver: &TokioResolver, host: &str, limit: Duration) -> Result<Vec<IpAddr>, NoAddress> {
    let mut name = Name::from_ascii(host).map_err(|error| NoAddress::Failed(error.to_string()))?;
    name.set_fqdn(true);
    let found = within(limit, resolver.lookup_ip(name)).await?;
    let addresses: Vec<_> = found.iter().collect();
    if addresses.is_empty() { Err(NoAddress::None) } else { Ok(addresses) }
}

/// A name without the dot at its end.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
