//! Makes heads fit for display: without credentials, full session-ids, or text that a terminal obeys.
//!
//! Invariants: of a header about authentication only the name is left; of the session-id in a URI at most the first ten
//! characters, and at most half.

use msrp_relay_core::SessionId;
use untrusted::text;

/// Replaces the text that was taken out.
const REDACTED: &str = "(redacted)";

/// The head as text, one line for each of its lines, without line breaks at its end.
pub(super) fn head(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text.split("\r\n").map(line).collect();
    lines.join("\n").trim_end_matches('\n').to_owned()
}

fn line(line: &str) -> String {
    let shown = match line.split_once(':') {
        Some((name, _)) if is_secret(name) => format!("{name}: {REDACTED}"),
        _ => uris(line),
    };
    text::shown_line(&shown).into_owned()
}

fn is_secret(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    // Authorization, WWW-Authenticate, Authentication-Info, and any others of the kind.
    name.contains("auth") && !name.starts_with("msrp ")
}

/// A line without the secrets of its URIs.
fn uris(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(scheme) = rest.find("://") {
        let (before, authority) = rest.split_at(scheme + 3);
        shown.push_str(before);
        let ends = |c: char| c == ' ' || c == ';';
        let end = authority.find(|c| c == '/' || ends(c)).unwrap_or(authority.len());
        let (authority, behind) = authority.split_at(end);
        shown.push_str(authority);
        rest = behind;
        if let Some(id) = behind.strip_prefix('/') {
            let end = id.find(ends).unwrap_or(id.len());
            let (id, behind) = id.split_at(end);
            shown.push('/');
            shown.push_str(&shortened(id));
            rest = behind;
        }
    }
    shown.push_str(rest);
    shown
}

fn shortened(id: &str) -> String {
    let kept = SessionId::PREFIX.min(id.chars().count() / 2);
    let mut shown: String = id.chars().take(kept).collect();
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_challenges_are_taken_out_whatever_their_case() {
        let bytes = b"MSRP d93kswow 200 OK\r\nTo-Path: msrp://bob.example:8145/foo;tcp\r\n\
            AUTHORIZATION : Digest username=\"alice\", response=\"0123\"\r\nwww-authenticate: Digest nonce=\"n\"\r\n\
            Authentication-Info: nextnonce=\"456\"\r\nExpires: 1800\r\n";
        let shown = head(bytes);
        for secret in ["0123", "nonce=", "456", "alice"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(
            shown.starts_with("MSRP d93kswow 200 OK\nTo-Path: msrp://bob.example:8145/f…;tcp\n"),
            "{shown}"
        );
        assert!(shown.ends_with("Authentication-Info: (redacted)\nExpires: 1800"), "{shown}");
    }

    #[test]
    fn of_every_session_id_in_a_path_a_prefix_is_left() {
        let line =
            "To-Path: msrps://a.example:2855/AAAAAK3vQ1abcdefghijklmnopqr;tcp msrp://[::1]:7/short;tcp;x=/y";
        let shown = head(line.as_bytes());
        assert_eq!(shown, "To-Path: msrps://a.example:2855/AAAAAK3vQ1…;tcp msrp://[::1]:7/sh…;tcp;x=/y");
        assert_eq!(head(b"Use-Path: msrps://a.example:2855;tcp"), "Use-Path: msrps://a.example:2855;tcp");
        assert_eq!(head(b"X: http://"), "X: http://");
    }

    #[test]
    fn a_terminal_is_given_nothing_to_obey() {
        assert_eq!(head(b"MSRP x SEND\r\nX: \x1b[2J\xff\r\n"), "MSRP x SEND\nX: \\u{1b}[2J\u{fffd}");
    }
}
