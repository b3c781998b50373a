//! Which addresses the relay may dial on behalf of a client.
//!
//! RFC 4976, section 5: a client names the next hop, so without a policy every account could make the relay connect to
//! the operator's internal services. The address is judged after DNS, on every attempt, in its canonical form: an
//! IPv4-mapped IPv6 address is judged as the IPv4 address, and an IPv6 address that leads to an IPv4 one through a
//! translator or a tunnel is judged as both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::values::Outbound;
use msrp_proto::address::{canonical, embedded};

impl Outbound {
    /// True if `address` may be dialled: not in `deny`, and either in `allow` or on the public Internet; the same must
    /// hold for every IPv4 address inside it. The unspecified addresses (`0.0.0.0`, `::`) lead to this host and are
    /// never allowed.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        let inner: Vec<IpAddr> = match address {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4).collect(),
        };
        let within = |nets: &[IpNet], address: &IpAddr| nets.iter().any(|net| net.contains(address));
        let may = |address: &IpAddr| {
            !address.is_unspecified() && (within(&self.allow, address) || is_public(*address))
        };
        let is_denied = within(&self.deny, &address) || inner.iter().any(|inner| within(&self.deny, inner));
        !is_denied && inner.iter().all(may) && (may(&address) || is_translated(address))
    }
}

impl Outbound {
    /// True if `port` may be dialled. The well-known ports belong to other services.
    #[must_use]
    pub fn permits_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }
}

/// Whether an address stands only for the IPv4 address inside it, which alone is then judged.
fn is_translated(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => matches!(v6.segments(), [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0x2002, ..]),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0 // "this network"
        || a >= 240 // reserved, and the broadcast address
        || (a == 100 && (64..128).contains(&b)) // carrier NAT, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments, RFC 6890
        || (a == 198 && (b == 18 || b == 19)); // benchmarks, RFC 2544
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local() // also where clouds keep their metadata services
        || address.is_multicast()
        || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // 2000::/3 is the whole global unicast space: loopback, link-local, unique local, multicast, site-local and the
    // unspecified address lie outside it. Inside it, documentation and Teredo addresses are not public.
    let [first, second, ..] = address.segments();
    let global = first & 0xe000 == 0x2000;
    let documentation = (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
    let teredo = first == 0x2001 && second == 0;
    global && !documentation && !teredo
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn outbound(allow: &[&str], deny: &[&str]) -> Outbound {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        Outbound { allow: nets(allow), deny: nets(deny), ..Outbound::default() }
    }

    #[test]
    fn only_public_addresses_are_dialled_by_default() {
        let outbound = outbound(&[], &[]);
        for address in ["8.8.8.8", "100.63.0.1", "172.32.0.1", "2606:4700::1", "2002:808:808::1"] {
            assert!(outbound.permits(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "fec0::1",
            "::127.0.0.1",
        ] {
            assert!(!outbound.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn allow_opens_a_private_range_and_nothing_else() {
        let outbound = outbound(&["127.0.0.0/8", "fd12::/16"], &[]);
        assert!(outbound.permits("127.0.0.1".parse().unwrap()));
        assert!(outbound.permits("::ffff:127.0.0.1".parse().unwrap()));
        assert!(outbound.permits("fd12::1".parse().unwrap()));
        assert!(!outbound.permits("10.0.0.1".parse().unwrap()));
        assert!(!outbound.permits("::1".parse().unwrap()));
    }

    // A wide range does not allow the IPv4 addresses that hide in it.
    #[test]
    fn an_address_inside_another_is_judged_too() {
        let wide = outbound(&["::/0", "10.1.0.0/16"], &["192.0.2.0/24"]);
        for address in [
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::192.0.2.1",
            "2002:7f00:1::1",
            "2002:c000:201::1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::ffff:127.0.0.1",
            "2001:0:808:808:0:0:80ff:fffe",
            "2001:0:7f00:1:0:0:f7f7:f7f7",
        ] {
            assert!(!wide.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["64:ff9b::10.1.0.1", "64:ff9b::8.8.8.8", "2001:0:808:808:0:0:f7f7:f7f7", "fd00::1"] {
            assert!(wide.permits(address.parse().unwrap()), "{address}");
        }
        let denied = outbound(&[], &["64:ff9b::/96", "2002::/16"]);
        assert!(!denied.permits("64:ff9b::8.8.8.8".parse().unwrap()), "as itself");
        assert!(!denied.permits("2002:808:808::1".parse().unwrap()), "as itself");
        assert!(denied.permits("8.8.8.8".parse().unwrap()));
    }

    // The kernel takes these for this host, which no range is meant to allow.
    #[test]
    fn no_address_at_all_is_never_dialled() {
        let everything = outbound(&["0.0.0.0/0", "::/0"], &[]);
        for address in ["0.0.0.0", "::", "::ffff:0.0.0.0", "64:ff9b::0.0.0.0", "2002::1"] {
            assert!(!everything.permits(address.parse().unwrap()), "{address}");
        }
        assert!(everything.permits("127.0.0.1".parse().unwrap()));
        assert!(everything.permits("::1".parse().unwrap()));
    }

    #[test]
    fn well_known_ports_are_not_dialled_by_default() {
        let outbound = outbound(&[], &[]);
        assert!([2855, 1024, 65535].iter().all(|port| outbound.permits_port(*port)));
        assert!([0, 9, 22, 25, 80, 443, 1023].iter().all(|port| !outbound.permits_port(*port)));
    }

    #[test]
    fn deny_wins_over_allow_and_over_the_default() {
        let outbound = outbound(&["10.0.0.0/8"], &["10.9.0.0/16", "8.8.8.0/24"]);
        assert!(outbound.permits("10.1.0.1".parse().unwrap()));
        assert!(!outbound.permits("10.9.0.1".parse().unwrap()));
        assert!(!outbound.permits("8.8.8.8".parse().unwrap()));
        assert!(!outbound.permits("::ffff:10.9.0.1".parse().unwrap()));
    }
}
