//! MSRP URIs, their comparison, and the paths made of them (RFC 4975 §6 and §9).
//!
//! Invariants: a [`MsrpUri`] keeps the exact bytes it was parsed from, for digests and for rewriting; two URIs
//! are compared by the rules of RFC 4975 §6.1 alone, never as bytes. Names are not resolved here.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;

use memchr::{memchr, memchr2, memchr3};

use super::address;

/// A parsed `msrp:` or `msrps:` URI, borrowed from the bytes it was found in.
#[derive(Clone, Copy)]
pub struct MsrpUri<'a> {
    bytes: &'a [u8],
    secure: bool,
    /// Without brackets.
    host: &'a str,
    v6: Option<Ipv6Addr>,
    port: Option<u16>,
    session_id: Option<&'a str>,
    transport: &'a str,
}

/// The host of a URI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host<'a> {
    /// A DNS name, as written: upper and lower case and %-escapes are kept.
    Name(&'a str),
    /// An IPv4 address, also in IPv4-mapped form.
    V4(Ipv4Addr),
    /// An IPv6 address; it stood in brackets.
    V6(Ipv6Addr),
}

/// Why bytes are not an MSRP URI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UriError {
    /// The URI begins with neither `msrp://` nor `msrps://`.
    #[error("the scheme is neither msrp nor msrps")]
    Scheme,
    /// A byte that user information cannot hold.
    #[error("bad user information")]
    UserInfo,
    /// No host, a byte that no host can hold, or no IPv6 address between the brackets.
    #[error("bad host")]
    Host,
    /// A colon not followed by a number of 0 to 65535.
    #[error("bad port")]
    Port,
    /// A slash not followed by a session id.
    #[error("bad session id")]
    SessionId,
    /// No transport, or not letters and digits.
    #[error("missing or bad transport")]
    Transport,
    /// A parameter that is not `name` or `name=value`.
    #[error("bad parameter")]
    Parameter,
}

impl<'a> MsrpUri<'a> {
    /// Parses one URI; the whole slice must be a URI.
    ///
    /// # Errors
    /// The first faulty part, from left to right.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UriError> {
        let (secure, rest) = split_scheme(bytes)?;
        let rest = skip_user_info(rest)?;
        let (host, v6, rest) = split_host(rest)?;
        let (port, rest) = split_port(rest)?;
        let (session_id, rest) = split_session_id(rest)?;
        let transport = split_transport(rest)?;
        Ok(Self { bytes, secure, host, v6, port, session_id, transport })
    }

    /// The bytes it was parsed from.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the scheme is `msrps`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host, as a name or an address.
    #[must_use]
    pub fn host(&self) -> Host<'a> {
        match self.v6.map(|address| address::canonical(address.into())) {
            Some(IpAddr::V4(address)) => Host::V4(address),
            Some(IpAddr::V6(address)) => Host::V6(address),
            None => self.host.parse().map_or(Host::Name(self.host), Host::V4),
        }
    }

    /// The host as written, an IPv6 address without its brackets.
    #[must_use]
    pub fn host_str(&self) -> &'a str {
        self.host
    }

    /// The port. There is no default (RFC 4975 §6): only the To-Path of an AUTH may omit it.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The session id, without the slash before it.
    #[must_use]
    pub fn session_id(&self) -> Option<&'a str> {
        self.session_id
    }

    /// The transport as written, such as `tcp` or `ws`.
    #[must_use]
    pub fn transport(&self) -> &'a str {
        self.transport
    }

    /// RFC 4975 §6.1: whether both name the same resource. User information and further parameters do not count. A URI
    /// with a port never equals one without, and an absent session id equals only another absent one.
    #[must_use]
    pub fn same_as(&self, other: &MsrpUri<'_>) -> bool {
        // The session id first: URIs of one relay differ in it.
        self.session_id == other.session_id
            && self.same_authority(other)
            && self.transport.eq_ignore_ascii_case(other.transport)
    }

    /// Whether scheme, host and port are the same.
    #[must_use]
    pub fn same_authority(&self, other: &MsrpUri<'_>) -> bool {
        self.secure == other.secure
            && self.port == other.port
            && match (self.v6, other.v6) {
                (None, None) => same_name(self.host, other.host),
                (Some(a), Some(b)) => address::canonical(a.into()) == address::canonical(b.into()),
                (Some(literal), None) => is_spelled(literal.into(), other.host),
                (None, Some(literal)) => is_spelled(literal.into(), self.host),
            }
    }
}

impl fmt::Debug for MsrpUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A session id is a bearer secret: four characters are enough to tell two apart.
        let session = self.session_id.map(|id| id.get(..4).unwrap_or("?"));
        f.debug_struct("MsrpUri")
            .field("secure", &self.secure)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("session_prefix", &session)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// Whether two hosts (an IPv6 address without brackets) are the same: addresses as addresses, names without
/// regard to case and after decoding %-escapes of unreserved characters (RFC 4975 §6.1). The dot that may
/// end a complete name does not count: it is the same host, though not the same URI.
#[must_use]
pub fn host_matches(a: &str, b: &str) -> bool {
    let (a, b) = (without_root(a), without_root(b));
    match (address::parse(a), address::parse(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => same_name(a, b),
        (Some(literal), None) => is_spelled(literal, b),
        (None, Some(literal)) => is_spelled(literal, a),
    }
}

/// The value of To-Path, From-Path or Use-Path: URIs separated by a space. Runs of spaces are accepted. The URIs are
/// not parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Path<'a>(&'a [u8]);

impl<'a> Path<'a> {
    /// The path in the value of a header; empty for no bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Its bytes, as given.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The URIs from left to right.
    pub fn uris(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + Clone + use<'a> {
        self.0.split(|&byte| byte == b' ').filter(|uri| !uri.is_empty())
    }

    /// The leftmost URI: in a To-Path, the node that handles the frame.
    #[must_use]
    pub fn first(&self) -> Option<&'a [u8]> {
        self.uris().next()
    }

    /// The rightmost URI: in a To-Path, the final destination.
    #[must_use]
    pub fn last(&self) -> Option<&'a [u8]> {
        self.uris().next_back()
    }

    /// The path without its first `n` URIs and the spaces after them. The remaining bytes stay as they are.
    #[must_use]
    pub fn after(&self, n: usize) -> Self {
        let mut rest = self.0;
        for _ in 0..n {
            let uri = skip_spaces(rest);
            let behind = memchr(b' ', uri).and_then(|at| uri.get(at..)).unwrap_or_default();
            rest = skip_spaces(behind);
        }
        Self(rest)
    }

    /// How many URIs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uris().count()
    }

    /// Whether there is no URI at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Session ids must not get into a log.
        write!(f, "Path({} URIs)", self.len())
    }
}

fn skip_spaces(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
    bytes.get(spaces..).unwrap_or_default()
}

fn split_scheme(bytes: &[u8]) -> Result<(bool, &[u8]), UriError> {
    let at = memchr(b':', bytes).ok_or(UriError::Scheme)?;
    let (scheme, rest) = bytes.split_at_checked(at).ok_or(UriError::Scheme)?;
    let rest = rest.strip_prefix(b"://").ok_or(UriError::Scheme)?;
    let secure = scheme.eq_ignore_ascii_case(b"msrps");
    if !secure && !scheme.eq_ignore_ascii_case(b"msrp") {
        return Err(UriError::Scheme);
    }
    Ok((secure, rest))
}

/// `@` stands in a URI only after user information, which may itself hold a semicolon.
fn skip_user_info(rest: &[u8]) -> Result<&[u8], UriError> {
    let Some(at) = memchr(b'@', rest) else {
        return Ok(rest);
    };
    let (info, rest) = rest.split_at_checked(at).ok_or(UriError::UserInfo)?;
    if !is_escaped_text(info, |byte| is_reg_name(byte) || matches!(byte, b';' | b':')) {
        return Err(UriError::UserInfo);
    }
    rest.strip_prefix(b"@").ok_or(UriError::UserInfo)
}

type HostParts<'a> = (&'a str, Option<Ipv6Addr>, &'a [u8]);

fn split_host(rest: &[u8]) -> Result<HostParts<'_>, UriError> {
    if let Some(inside) = rest.strip_prefix(b"[") {
        let (literal, rest) =
            memchr(b']', inside).and_then(|at| inside.split_at_checked(at)).ok_or(UriError::Host)?;
        let host = str::from_utf8(literal).map_err(|_| UriError::Host)?;
        let address = host.parse().map_err(|_| UriError::Host)?;
        return Ok((host, Some(address), rest.strip_prefix(b"]").ok_or(UriError::Host)?));
    }
    let end = memchr3(b':', b'/', b';', rest).unwrap_or(rest.len());
    let (host, rest) = rest.split_at_checked(end).ok_or(UriError::Host)?;
    if host.is_empty() || !is_escaped_text(host, is_reg_name) {
        return Err(UriError::Host);
    }
    Ok((str::from_utf8(host).map_err(|_| UriError::Host)?, None, rest))
}

fn split_port(rest: &[u8]) -> Result<(Option<u16>, &[u8]), UriError> {
    let Some(rest) = rest.strip_prefix(b":") else {
        return Ok((None, rest));
    };
    let end = memchr2(b'/', b';', rest).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at_checked(end).ok_or(UriError::Port)?;
    if !matches!(digits.len(), 1..=5) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(UriError::Port);
    }
    let port = digits.iter().fold(0_u32, |port, digit| port * 10 + u32::from(digit - b'0'));
    Ok((Some(u16::try_from(port).map_err(|_| UriError::Port)?), rest))
}

fn split_session_id(rest: &[u8]) -> Result<(Option<&str>, &[u8]), UriError> {
    let Some(rest) = rest.strip_prefix(b"/") else {
        return Ok((None, rest));
    };
    let end = memchr(b';', rest).unwrap_or(rest.len());
    let (id, rest) = rest.split_at_checked(end).ok_or(UriError::SessionId)?;
    let valid = |&byte: &u8| is_unreserved(byte) || matches!(byte, b'+' | b'=' | b'/');
    if id.is_empty() || !id.iter().all(valid) {
        return Err(UriError::SessionId);
    }
    Ok((Some(str::from_utf8(id).map_err(|_| UriError::SessionId)?), rest))
}

/// `;transport` and any parameters that follow it.
fn split_transport(rest: &[u8]) -> Result<&str, UriError> {
    let rest = rest.strip_prefix(b";").ok_or(UriError::Transport)?;
    let mut parts = rest.split(|&byte| byte == b';');
    let transport = parts.next().unwrap_or_default();
    if transport.is_empty() || !transport.iter().all(u8::is_ascii_alphanumeric) {
        return Err(UriError::Transport);
    }
    if !parts.all(is_parameter) {
        return Err(UriError::Parameter);
    }
    str::from_utf8(transport).map_err(|_| UriError::Transport)
}

fn is_parameter(parameter: &[u8]) -> bool {
    match memchr(b'=', parameter).and_then(|at| parameter.split_at_checked(at)) {
        Some((name, value)) => is_token(name) && value.strip_prefix(b"=").is_some_and(is_token),
        None => is_token(parameter),
    }
}

/// A `token` of RFC 4975 §9: parameter and header names.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    let valid = |&byte: &u8| {
        matches!(byte,
            b'!' | b'#'..=b'\'' | b'*'..=b'+' | b'-'..=b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'~')
    };
    !bytes.is_empty() && bytes.iter().all(valid)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What a registered name may hold besides %-escapes. Not the semicolon, which begins the transport.
fn is_reg_name(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&'..=b',' | b'=')
}

/// Whether every byte is `valid` or part of a %-escape.
fn is_escaped_text(bytes: &[u8], valid: impl Fn(u8) -> bool) -> bool {
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = match behind {
            [high, low, behind @ ..]
                if byte == b'%' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                behind
            }
            _ if valid(byte) => behind,
            _ => return false,
        };
    }
    true
}

fn same_name(a: &str, b: &str) -> bool {
    if memchr(b'%', a.as_bytes()).is_none() && memchr(b'%', b.as_bytes()).is_none() {
        return a.eq_ignore_ascii_case(b);
    }
    Decoded(a.as_bytes()).eq(Decoded(b.as_bytes()))
}

/// Whether a host without brackets spells an IPv4 address, IPv4-mapped or with %-escapes.
fn is_spelled(literal: IpAddr, host: &str) -> bool {
    match address::canonical(literal) {
        IpAddr::V4(address) => same_name(&address.to_string(), host),
        IpAddr::V6(_) => false,
    }
}

/// A name without the dot at its end, which stands for the root of the DNS.
fn without_root(name: &str) -> &str {
    let bare = name.strip_suffix('.').or_else(|| name.strip_suffix("%2e"));
    let bare = bare.or_else(|| name.strip_suffix("%2E"));
    bare.filter(|bare| !bare.is_empty()).unwrap_or(name)
}

/// The bytes of a name in lower case, unreserved characters decoded.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = (u8, bool);

    /// A byte, and whether it begins a %-escape that must stay one.
    fn next(&mut self) -> Option<(u8, bool)> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        let [high, low, behind @ ..] = rest else {
            return Some((byte.to_ascii_lowercase(), false));
        };
        if byte != b'%' {
            return Some((byte.to_ascii_lowercase(), false));
        }
        let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low)) else {
            return Some((byte, false));
        };
        let decoded = high * 16 + low;
        self.0 = behind;
        if is_unreserved(decoded) {
            Some((decoded.to_ascii_lowercase(), false))
        } else {
            Some((decoded, true))
        }
    }
}

/// The value of a hexadecimal digit of either case.
pub(super) fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> MsrpUri<'_> {
        MsrpUri::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn error(text: &str) -> UriError {
        MsrpUri::parse(text.as_bytes()).map(|_| ()).unwrap_err()
    }

    #[test]
    fn every_part_of_a_uri_is_read() {
        let full = uri("MSRPS://wren;x:y@Relay.Example:2855/aZ09-._~+=/b;tcp;flag;p=v");
        assert!(full.is_secure());
        assert_eq!(full.host(), Host::Name("Relay.Example"));
        assert_eq!(full.port(), Some(2855));
        assert_eq!(full.session_id(), Some("aZ09-._~+=/b"));
        assert_eq!(full.transport(), "tcp");

        let bare = uri("msrp://example.com;ws");
        assert!(!bare.is_secure());
        assert_eq!((bare.port(), bare.session_id(), bare.transport()), (None, None, "ws"));
    }

    #[test]
    fn hosts_are_told_apart() {
        assert_eq!(
            uri("msrp://[::ffff:192.0.2.1]:9/s;tcp").host(),
            Host::V4(Ipv4Addr::new(192, 0, 2, 1)),
            "in IPv6 clothing"
        );
        // A zone has a meaning on one host only.
        for zone in ["msrp://[fe80::1%25eth0]:9/s;tcp", "msrp://[fe80::1%2]:9/s;tcp"] {
            assert_eq!(error(zone), UriError::Host, "{zone}");
        }
        assert_eq!(uri("msrp://192.0.2.1:9/s;tcp").host(), Host::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(uri("msrp://192.0.2.256:9/s;tcp").host(), Host::Name("192.0.2.256"));
        let v6 = uri("msrp://[2001:DB8::1]:9/s;tcp");
        assert_eq!(v6.host(), Host::V6("2001:db8::1".parse().unwrap()));
        assert_eq!(v6.host_str(), "2001:DB8::1");
        assert_eq!(uri("msrps://df7jal23ls0d.invalid/98cjs;ws").host(), Host::Name("df7jal23ls0d.invalid"));
    }

    #[test]
    fn each_bad_part_is_named() {
        for (text, expected) in [
            ("", UriError::Scheme),
            ("sip://a;tcp", UriError::Scheme),
            ("msrps:host:1/s;tcp", UriError::Scheme),
            ("msrpss://a;tcp", UriError::Scheme),
            ("msrp://a b@h;tcp", UriError::UserInfo),
            ("msrp://a%4@h;tcp", UriError::UserInfo),
            ("msrp://;tcp", UriError::Host),
            ("msrp://a@;tcp", UriError::Host),
            ("msrp://:1;tcp", UriError::Host),
            ("msrp://h\u{e9};tcp", UriError::Host),
            ("msrp://h%zz;tcp", UriError::Host),
            ("msrp://[::1;tcp", UriError::Host),
            ("msrp://[192.0.2.1]:1;tcp", UriError::Host),
            ("msrp://h:;tcp", UriError::Port),
            ("msrp://h:65536/s;tcp", UriError::Port),
            ("msrp://h:+1/s;tcp", UriError::Port),
            ("msrp://h:000001/s;tcp", UriError::Port),
            ("msrp://h:1/;tcp", UriError::SessionId),
            ("msrp://h:1/a%20;tcp", UriError::SessionId),
            ("msrp://h:1/s", UriError::Transport),
            ("msrp://h:1/s;", UriError::Transport),
            ("msrp://h:1/s;t-p", UriError::Transport),
            ("msrp://[::1]x;tcp", UriError::Transport),
            ("msrp://h:1/s;tcp;", UriError::Parameter),
            ("msrp://h:1/s;tcp;a=", UriError::Parameter),
            ("msrp://h:1/s;tcp;=b", UriError::Parameter),
            ("msrp://h:1/s;tcp;a=b=c", UriError::Parameter),
            ("msrp://h:1/s;tcp ", UriError::Transport),
        ] {
            assert_eq!(error(text), expected, "{text:?}");
        }
    }

    // RFC 4975 section 6.1.
    #[test]
    fn uris_equal_by_the_rules_of_the_rfc() {
        let reference = uri("msrps://relay.example:2855/sEss;tcp");
        for same in [
            "MSRPS://relay.example:2855/sEss;tcp",
            "msrps://RELAY.Example:2855/sEss;tcp",
            "msrps://%72el%41y.example:2855/sEss;tcp",
            "msrps://user@relay.example:2855/sEss;tcp",
            "msrps://relay.example:2855/sEss;TCP",
            "msrps://relay.example:2855/sEss;tcp;other=1",
            "msrps://relay.example:02855/sEss;tcp",
        ] {
            assert!(reference.same_as(&uri(same)), "{same}");
        }
        for other in [
            "msrp://relay.example:2855/sEss;tcp",
            "msrps://relay.example/sEss;tcp",
            "msrps://relay.example:2856/sEss;tcp",
            "msrps://relay.example.:2855/sEss;tcp",
            "msrps://relay.example:2855/sess;tcp",
            "msrps://relay.example:2855;tcp",
            "msrps://relay.example:2855/sEss;ws",
            "msrps://relay.example:2855/./sEss;tcp",
        ] {
            assert!(!reference.same_as(&uri(other)), "{other}");
        }
        assert!(uri("msrp://[2001:DB8:0::1]:1/s;tcp").same_as(&uri("msrp://[2001:db8::1]:1/s;tcp")));
        assert!(!uri("msrp://[2001:db8::1]:1/s;tcp").same_as(&uri("msrp://[2001:db8::2]:1/s;tcp")));
        // One address in two spellings, and no other.
        assert!(uri("msrp://[::ffff:192.0.2.1]:1/s;tcp").same_as(&uri("msrp://192.0.2.1:1/s;tcp")));
        assert!(uri("msrp://[::ffff:192.0.2.1]:1/s;tcp").same_as(&uri("msrp://%3192.0.2.1:1/s;tcp")));
        assert!(!uri("msrp://[::192.0.2.1]:1/s;tcp").same_as(&uri("msrp://192.0.2.1:1/s;tcp")));
        assert!(!uri("msrp://[::1]:1/s;tcp").same_as(&uri("msrp://localhost:1/s;tcp")));
    }

    #[test]
    fn the_authority_is_scheme_host_and_port() {
        let base = uri("msrps://relay.example:2855;tcp");
        assert!(base.same_authority(&uri("msrps://u@Relay.example:2855/s;ws")));
        assert!(!base.same_authority(&uri("msrps://relay.example;tcp")));
        assert!(!base.same_authority(&uri("msrp://relay.example:2855;tcp")));
    }

    #[test]
    fn hosts_match_as_addresses_or_as_names() {
        assert!(host_matches("EXAMPLE.com", "example.COM"));
        assert!(host_matches("%65xample.com", "example.com"));
        assert!(host_matches("a%2fb", "a%2Fb"));
        assert!(!host_matches("a%2fb", "a/b"));
        assert!(host_matches("::0001", "::1"));
        assert!(!host_matches("::1", "localhost"));
        assert!(!host_matches("192.0.2.1", "192.0.2.2"));
        assert!(host_matches("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!host_matches("::192.0.2.1", "192.0.2.1"));
        for complete in ["example.com.", "Example.com%2e", "EXAMPLE.COM%2E"] {
            assert!(host_matches(complete, "example.com"), "{complete}");
        }
        assert!(host_matches("192.0.2.1.", "192.0.2.1"));
        assert!(host_matches("%3192.0.2.1", "192.0.2.1") && host_matches("%3192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!host_matches("example.com..", "example.com"));
        assert!(host_matches(".", ".") && !host_matches(".", "example"));
    }

    #[test]
    fn what_a_log_may_show_of_a_path_is_its_length() {
        let path = Path::new(b"msrp://h:1/secret;tcp msrp://h:2/other;tcp");
        assert_eq!(format!("{path:?}"), "Path(2 URIs)");
    }

    #[test]
    fn a_path_accepts_runs_of_spaces_and_keeps_what_remains() {
        let path = Path::new(b"a  b c");
        assert_eq!(path.uris().collect::<Vec<_>>(), [&b"a"[..], b"b", b"c"]);
        assert_eq!((path.first(), path.last(), path.len()), (Some(&b"a"[..]), Some(&b"c"[..]), 3));
        assert_eq!(path.after(0).as_bytes(), b"a  b c");
        assert_eq!(path.after(1).as_bytes(), b"b c");
        assert_eq!(path.after(2).as_bytes(), b"c");
        assert!(path.after(3).is_empty() && path.after(9).is_empty());
        assert!(Path::new(b"").is_empty() && Path::new(b"  ").is_empty());
    }

    #[test]
    fn a_session_id_is_not_printed_whole() {
        let printed = format!("{:?}", uri("msrp://h:1/secretsecret;tcp"));
        assert!(printed.contains("secr") && !printed.contains("secrets"), "{printed}");
    }

    fn any_uri() -> impl Strategy<Value = String> {
        let host = prop_oneof![
            "[a-zA-Z0-9.-]{1,4}",
            "(%[46][1-3]|[aAbB]){1,3}",
            Just("[::1]".to_owned()),
            Just("[0::1]".to_owned())
        ];
        ("(msrps?|MSRP)", "(u@)?", host, "(:[0-9]{1,4})?", "(/[aA+/=]{1,2})?", "(tcp|TCP|ws)(;x(=1)?)?")
            .prop_map(|(scheme, user, host, port, session, tail)| {
                format!("{scheme}://{user}{host}{port}{session};{tail}")
            })
    }

    proptest! {
        #[test]
        fn comparison_is_reflexive_and_symmetric(a in any_uri(), b in any_uri()) {
            let (a, b) = (uri(&a), uri(&b));
            prop_assert!(a.same_as(&a) && b.same_as(&b));
            prop_assert_eq!(a.same_as(&b), b.same_as(&a));
            prop_assert_eq!(a.same_authority(&b), b.same_authority(&a));
            prop_assert_eq!(host_matches(a.host_str(), b.host_str()), host_matches(b.host_str(), a.host_str()));
            prop_assert_eq!(MsrpUri::parse(a.as_bytes()).unwrap().as_bytes(), a.as_bytes());
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>, at in 0..40_usize, text in any_uri()) {
            let _ = MsrpUri::parse(&bytes);
            let mut broken = text.into_bytes();
            let at = at.min(broken.len());
            broken.splice(at..at, bytes.iter().copied());
            let _ = MsrpUri::parse(&broken);
            let path = Path::new(&broken);
            prop_assert_eq!(path.after(1).len(), path.len().saturating_sub(1));
        }
    }
}
