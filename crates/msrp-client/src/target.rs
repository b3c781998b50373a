//! Where to dial, as people write it. Pure.

use std::fmt;
use std::str::FromStr;

/// The port RFC 4975 recommends.
const PORT_DEFAULT: u16 = 2855;
/// That of web servers.
const WEB_PORT_DEFAULT: u16 = 443;

/// A host and port to dial, as the user writes them: `host`, `host:port`, `192.0.2.1:2855`, `[2001:db8::1]:2855`; or
/// `wss://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address without brackets.
    pub host: String,
    /// The port; 2855 where none was given.
    pub port: u16,
    /// The path at which it speaks WebSocket (RFC 7977); `None`: it speaks MSRP as it is.
    pub web: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("ws://") {
            return Err("write wss://; for a relay without TLS add --plain".to_owned());
        }
        let (text, web) = match text.strip_prefix("wss://") {
            None => (text, None),
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let path = if path.is_empty() { "/" } else { path };
                if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
                    return Err("the path has characters that must be escaped".to_owned());
                }
                (authority, Some(path.to_owned()))
            }
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or("the `]` is missing")?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err("after `]` only `:PORT` may follow".to_owned()),
                }
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err("write IPv6 addresses in brackets".to_owned());
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.contains(|character: char| character.is_whitespace() || character == '/') {
            return Err("expected HOST:PORT".to_owned());
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("the port must be 1 to 65535")?,
            None if web.is_some() => WEB_PORT_DEFAULT,
            None => PORT_DEFAULT,
        };
        Ok(Self { host: host.to_owned(), port, web })
    }
}

/// Host and port.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written_alike() {
        for (text, host, port) in [
            ("relay.example:2856", "relay.example", 2856),
            ("relay.example", "relay.example", 2855),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:2855", "2001:db8::1", 2855),
            ("[::1]", "::1", 2855),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn web_addresses_have_a_path_and_the_port_of_the_web() {
        for (text, host, port, path) in [
            ("wss://relay.example", "relay.example", 443, "/"),
            ("wss://relay.example:8443/msrp", "relay.example", 8443, "/msrp"),
            ("wss://[::1]/", "::1", 443, "/"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port, target.web.as_deref()), (host, port, Some(path)));
        }
    }

    #[test]
    fn nonsense_is_no_target() {
        for text in [
            "",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "2001:db8::1",
            "[::1",
            "[::1]x",
            "a b:1",
            "msrps://x:1",
            "ws://x",
            "wss://",
            "wss://x:1/a b",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
