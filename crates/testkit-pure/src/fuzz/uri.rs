//! [`MsrpUri`], [`Path`] and the comparison of both: a parsed URI prints as it was, and comparison is an equivalence
//! that ignores exactly what RFC 4975 §6.1 says it ignores.
//!
//! The input is up to three lines, each used as a URI, a path and a host.

use msrp_proto::uri::{Host, MsrpUri, Path, host_matches};

/// Parses and compares what the lines hold.
pub fn uri(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.splitn(3, |byte| *byte == b'\n').collect();
    let uris: Vec<MsrpUri<'_>> = lines.iter().filter_map(|line| MsrpUri::parse(line).ok()).collect();
    for uri in &uris {
        check_parts(uri);
        check_variants(uri);
    }
    check_equivalence(&uris, |a, b| a.same_as(b));
    check_equivalence(&uris, |a, b| a.same_authority(b));
    for a in &uris {
        for b in &uris {
            assert!(!a.same_as(b) || a.same_authority(b), "the same URI at another authority");
        }
    }
    let hosts: Vec<&str> = lines.iter().filter_map(|line| std::str::from_utf8(line).ok()).collect();
    check_equivalence(&hosts, |a, b| host_matches(a, b));
    for host in &hosts {
        assert!(host_matches(host, &host.to_ascii_uppercase()));
        assert!(host_matches(&host.to_ascii_lowercase(), host));
    }
    for line in lines {
        check_path(line);
    }
}

fn check_equivalence<T>(values: &[T], same: impl Fn(&T, &T) -> bool) {
    for a in values {
        assert!(same(a, a), "reflexive");
        for b in values {
            assert_eq!(same(a, b), same(b, a), "symmetric");
            for c in values {
                assert!(!(same(a, b) && same(b, c)) || same(a, c), "transitive");
            }
        }
    }
}

/// The URI put together again from its parts.
fn canonical(uri: &MsrpUri<'_>) -> String {
    let scheme = if uri.is_secure() { "msrps" } else { "msrp" };
    let host = match uri.host_str() {
        literal if literal.contains(':') => format!("[{literal}]"),
        host => host.to_owned(),
    };
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    let session = uri.session_id().map(|id| format!("/{id}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{session};{}", uri.transport())
}

fn check_parts(uri: &MsrpUri<'_>) {
    assert_eq!(MsrpUri::parse(uri.as_bytes()).map(|again| again.same_as(uri)), Ok(true));
    let text = canonical(uri);
    let again = MsrpUri::parse(text.as_bytes()).unwrap();
    assert!(again.same_as(uri), "{text}");
    assert_eq!(canonical(&again), text);
    match uri.host() {
        Host::V4(address) => assert!(host_matches(uri.host_str(), &address.to_string())),
        Host::V6(address) => assert!(host_matches(uri.host_str(), &address.to_string())),
        Host::Name(name) => assert_eq!(name, uri.host_str()),
    }
    let printed = format!("{uri:?}");
    if let Some(id) = uri.session_id().filter(|id| id.len() > 4) {
        let others = [uri.host_str(), uri.transport(), "MsrpUri secure host port session_prefix transport"];
        assert!(!printed.contains(id) || others.iter().any(|other| other.contains(id)), "a secret is shown");
    }
}

/// Variants that are the same URI, and variants that are not.
fn check_variants(uri: &MsrpUri<'_>) {
    let text = canonical(uri);
    let (scheme, rest) = text.split_once("://").unwrap();
    let same = |other: String| {
        let other = MsrpUri::parse(other.as_bytes()).unwrap_or_else(|error| panic!("{other}: {error}"));
        assert!(uri.same_as(&other), "{text} and {other:?}");
    };
    let differs = |other: String| {
        let Ok(other) = MsrpUri::parse(other.as_bytes()) else { return };
        assert!(!uri.same_as(&other), "{text} and {other:?}");
    };
    same(format!("{}://{rest}", scheme.to_uppercase()));
    same(format!("{scheme}://some;body:%20@{rest}"));
    same(format!("{text};flag;name=value"));
    let host = uri.host_str();
    let tail = &rest[rest.find(host).unwrap() + host.len()..];
    let front = rest.strip_suffix(tail).unwrap().strip_suffix(host).unwrap();
    same(format!("{scheme}://{front}{}{tail}", host.to_ascii_uppercase()));
    if let Some(escaped) = escape_first(host).filter(|_| front.is_empty()) {
        same(format!("{scheme}://{escaped}{tail}"));
    }
    let before = text.strip_suffix(uri.transport()).unwrap();
    same(format!("{before}{}", uri.transport().to_ascii_uppercase()));

    differs(format!("{before}{}x", uri.transport()));
    differs(format!("{}://{rest}", if uri.is_secure() { "msrp" } else { "msrps" }));
    differs(format!("{scheme}://{front}{host}x{tail}"));
    let (bracket, tail) = tail.split_at(front.len());
    match uri.port() {
        Some(port) => {
            let behind = tail.strip_prefix(&format!(":{port}")).unwrap();
            differs(format!("{scheme}://{front}{host}{bracket}{behind}"));
            differs(format!("{scheme}://{front}{host}{bracket}:{}{behind}", port ^ 1));
        }
        None => differs(format!("{scheme}://{front}{host}{bracket}:2855{tail}")),
    }
    match uri.session_id() {
        Some(id) => {
            differs(before.strip_suffix(&format!("/{id};")).unwrap().to_owned() + ";" + uri.transport());
            differs(format!("{}{id}x;{}", before.strip_suffix(&format!("{id};")).unwrap(), uri.transport()));
        }
        None => differs(format!("{}/x;{}", before.strip_suffix(';').unwrap(), uri.transport())),
    }
}

/// A name with its first byte written as a %-escape, which must make no difference.
fn escape_first(host: &str) -> Option<String> {
    let first = host.bytes().next().filter(u8::is_ascii_alphanumeric)?;
    Some(format!("%{first:02x}{}", &host[1..]))
}

fn check_path(bytes: &[u8]) {
    let path = Path::new(bytes);
    let uris: Vec<&[u8]> = path.uris().collect();
    assert_eq!((path.len(), path.is_empty()), (uris.len(), uris.is_empty()));
    assert_eq!((path.first(), path.last()), (uris.first().copied(), uris.last().copied()));
    assert!(path.as_bytes() == bytes && path.after(0).as_bytes() == bytes);
    for n in 0..=uris.len() + 1 {
        let rest = path.after(n);
        assert!(rest.uris().eq(uris.iter().skip(n).copied()), "after {n}");
        assert!(bytes.ends_with(rest.as_bytes()), "what remains keeps its bytes");
        assert!(rest.uris().rev().eq(uris.iter().skip(n).rev().copied()));
    }
}
