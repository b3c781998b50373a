//! From a SIP domain to the relays that serve it: SRV `_msrps._tcp`, then addresses of both families (RFC 2782; RFC 4976,
//! section 5.1).
//!
//! Blocks: a tool asks before it starts its executor. Invariants: relays come in the order in which a client should try
//! them, by priority; every question ends within the limit. Must not know what the answers are used for.

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
use msrp_proto::srv::{PORT_DEFAULT, SERVICE, order};

/// What the DNS says of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The name that was asked for.
    pub service: String,
    /// Whether there are SRV records; otherwise the domain name itself is its relay's.
    pub srv: bool,
    /// The relays, in the order to try them.
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

/// One way to a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The relay; its certificate must be for this host.
    pub relay: Target,
    /// One of its addresses.
    pub address: IpAddr,
}

impl Route {
    /// What to dial.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { host: self.address.to_string(), port: self.relay.port, web: None }
    }
}

impl Located {
    /// All routes to all relays, in the order in which this client should try them: by priority; within one priority by
    /// chance, in proportion to the weights (RFC 2782); for each relay its IPv4 addresses, then its IPv6 ones, each
    /// family shuffled, so that clients also spread over the addresses of one name.
    ///
    /// `draw` gives a number below its argument, which is never 0, each with the same chance.
    #[must_use]
    pub fn routes(&self, mut draw: impl FnMut(u32) -> u32) -> Vec<Route> {
        let records = self.relays.iter().map(|relay| (relay.priority, relay.weight, relay)).collect();
        let mut routes = Vec::new();
        for relay in order(records, &mut draw) {
            let mut addresses = relay.addresses.clone().unwrap_or_default();
            shuffle(&mut addresses, &mut draw);
            addresses.sort_by_key(IpAddr::is_ipv6);
            routes
                .extend(addresses.into_iter().map(|address| Route { relay: relay.target.clone(), address }));
        }
        routes
    }
}

fn shuffle(addresses: &mut [IpAddr], draw: &mut impl FnMut(u32) -> u32) {
    for last in (1..addresses.len()).rev() {
        let below = u32::try_from(last + 1).unwrap_or(u32::MAX);
        addresses.swap(last, draw(below) as usize);
    }
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
/// If the SRV question gets no answer, or the domain says that it has no relay.
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
        let service = Name::from_ascii(SERVICE).and_then(|front| front.append_domain(&domain));
        let service = service.map_err(|error| failed(&error))?;
        let found = within(limit, resolver.lookup(service.clone(), RecordType::SRV)).await;
        let mut relays: Vec<_> = match found {
            Ok(found) => found.answers().iter().filter_map(|record| relay(&record.data)).collect(),
            Err(NoAddress::None) => Vec::new(),
            Err(error) => return Err(failed(&error)),
        };
        let srv = !relays.is_empty();
        if relays.iter().any(|relay| relay.target.host.is_empty()) {
            // RFC 2782: a target of "." says that the service does not exist.
            return Err(failed(&format_args!("{} says that there is no relay", plain(&service))));
        }
        if !srv {
            let target = Target { host: plain(&domain), port: PORT_DEFAULT, web: None };
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

/// One question; tells its time-out from its "no".
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
    let target = Target { host: plain(&srv.target), port: srv.port, web: None };
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// Numbers that look random, the same ones each time.
    fn dice() -> impl FnMut(u32) -> u32 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((state >> 33) % u64::from(below)).unwrap()
        }
    }

    fn relay(name: &str, priority: u16, weight: u16, addresses: &[&str]) -> LocatedRelay {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let target = Target { host: name.to_owned(), port: 2855, web: None };
        LocatedRelay { priority, weight, target, addresses: Ok(addresses) }
    }

    fn located(relays: Vec<LocatedRelay>) -> Located {
        Located { service: String::new(), srv: true, relays }
    }

    #[test]
    fn clients_spread_by_weight_and_the_lowest_priority_comes_first() {
        let located = located(vec![
            relay("spare", 20, 0, &["192.0.2.3"]),
            relay("large", 10, 75, &["192.0.2.1"]),
            relay("small", 10, 25, &["192.0.2.2"]),
        ]);
        let mut draw = dice();
        let mut large_first = 0;
        for _ in 0..10_000 {
            let routes = located.routes(&mut draw);
            let order: Vec<_> = routes.iter().map(|route| route.relay.host.as_str()).collect();
            assert_eq!((order.len(), order[2]), (3, "spare"));
            large_first += usize::from(order[0] == "large");
        }
        assert!((7_200..7_800).contains(&large_first), "{large_first}");
    }

    #[test]
    fn without_weights_all_are_equal_and_weight_0_is_hardly_ever_first_beside_others() {
        let mut draw = dice();
        let mut first = |relays: Vec<LocatedRelay>| {
            let located = located(relays);
            (0..10_000).filter(|_| located.routes(&mut draw)[0].relay.host == "one").count()
        };
        let half = first(vec![relay("one", 0, 0, &["192.0.2.1"]), relay("two", 0, 0, &["192.0.2.2"])]);
        assert!((4_700..5_300).contains(&half), "{half}");
        let few = first(vec![relay("one", 0, 0, &["192.0.2.1"]), relay("two", 0, 99, &["192.0.2.2"])]);
        assert!((50..150).contains(&few), "{few}");
    }

    #[test]
    fn the_addresses_of_one_name_share_the_clients_and_ipv6_comes_second() {
        let located =
            located(vec![relay("relay", 0, 0, &["2001:db8::1", "192.0.2.1", "192.0.2.2", "2001:db8::2"])]);
        let mut draw = dice();
        let mut first = 0;
        for _ in 0..1_000 {
            let routes = located.routes(&mut draw);
            let six: Vec<_> = routes.iter().map(|route| route.address.is_ipv6()).collect();
            assert_eq!(six, [false, false, true, true]);
            first += usize::from(routes[0].address.to_string() == "192.0.2.1");
        }
        assert!((400..600).contains(&first), "{first}");
        assert!(located.routes(&mut draw).iter().all(|route| route.target().port == 2855));
    }

    #[test]
    fn a_relay_without_an_address_is_left_out() {
        let mut gone = relay("gone", 0, 0, &[]);
        gone.addresses = Err(NoAddress::None);
        let routes = located(vec![gone, relay("here", 1, 0, &["192.0.2.1"])]).routes(dice());
        assert_eq!(routes.iter().map(|route| &*route.relay.host).collect::<Vec<_>>(), ["here"]);
    }
}
