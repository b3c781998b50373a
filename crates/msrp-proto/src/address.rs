//! Addresses in the one form in which they are compared.
//!
//! An IPv4 address can be written as an IPv6 address, and a socket for IPv6 may show an IPv4 peer that way. Both
//! spellings reach the same host. A comparison that knows only one of them is wrong: the relay would dial itself, an
//! operator's rule would not hold, or one host would get the share of two.
//!
//! Invariant: every address goes through [`canonical`], or a function here that calls it, where it enters: accepted,
//! resolved, read in a URI, in the config, or from another process of this relay. Later comparisons need no care.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The IPv4 address in an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`); any other address as it is.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The same with a port. A flow label is no part of an address.
#[must_use]
pub fn canonical_socket(address: SocketAddr) -> SocketAddr {
    match (address, canonical(address.ip())) {
        (SocketAddr::V6(mut v6), IpAddr::V6(_)) => {
            v6.set_flowinfo(0);
            SocketAddr::V6(v6)
        }
        (_, ip) => SocketAddr::new(ip, address.port()),
    }
}

/// Reads an address literal without brackets. `None` if it is not one. An address with a zone is not one: a zone has a
/// meaning only on the host that wrote it.
#[must_use]
pub fn parse(literal: &str) -> Option<IpAddr> {
    literal.parse().ok().map(canonical)
}

/// Reads an address with a port, an IPv6 address in brackets.
#[must_use]
pub fn parse_socket(text: &str) -> Option<SocketAddr> {
    text.parse().ok().map(canonical_socket)
}

/// The IPv4 addresses that packets for an IPv6 address may reach through a translator or a tunnel: NAT64 (RFC 6052),
/// 6to4 (RFC 3056), Teredo (RFC 4380: its server and the client behind it), and two deprecated forms: IPv4-compatible
/// (RFC 4291, 2.5.5.1) and IPv4-translated (RFC 2765).
pub fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let found = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low] => [v4(high, low), None],
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            [v4(server_high, server_low), v4(!high, !low)]
        }
        _ => [None, None],
    };
    found.into_iter().flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_ipv4_address_is_that_address() {
        for spelling in ["127.0.0.1", "::ffff:127.0.0.1", "::FFFF:7F00:1", "0:0:0:0:0:ffff:7f00:0001"] {
            assert_eq!(parse(spelling), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), "{spelling}");
        }
        for other in ["::1", "::127.0.0.1", "64:ff9b::7f00:1"] {
            assert!(parse(other).is_some_and(|address| address.is_ipv6()), "{other}");
        }
        for none in
            ["localhost", "127.1", "0x7f000001", "127.0.0.1.", "[::1]", "fe80::1%eth0", "fe80::1%2", ""]
        {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn addresses_with_ports_are_canonical_too() {
        let (mapped, plain) = ("[::ffff:192.0.2.1]:2855", "192.0.2.1:2855");
        assert_eq!(parse_socket(mapped), parse_socket(plain));
        let labelled = SocketAddr::V6(core::net::SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, 7, 3));
        let SocketAddr::V6(v6) = canonical_socket(labelled) else { return assert!(labelled.is_ipv4()) };
        assert_eq!((v6.flowinfo(), v6.scope_id(), v6.port()), (0, 3, 1));
    }

    #[test]
    fn addresses_inside_others_are_found() {
        for (outer, inner) in [
            ("64:ff9b::7f00:1", &["127.0.0.1"][..]),
            ("2002:a00:1::1", &["10.0.0.1"]),
            ("::10.0.0.1", &["10.0.0.1"]),
            ("::ffff:0:10.0.0.1", &["10.0.0.1"]),
            ("2001:0:c000:201:0:0:f5ff:fffe", &["192.0.2.1", "10.0.0.1"]),
            ("::", &[]),
            ("::1", &[]),
            ("2001:db8::1", &[]),
        ] {
            let found: Vec<String> = embedded(outer.parse().unwrap()).map(|v4| v4.to_string()).collect();
            assert_eq!(found, inner, "{outer}");
        }
    }
}
