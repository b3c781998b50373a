//! The `websocket:` section: what listeners with `websocket: true` accept, and what their clients are sent (RFC 7977).

use std::time::Duration;

use msrp_ws::upgrade::{Origins, Wanted};
use serde_yaml::Value;

use super::walk::{self, Section};

/// What listeners with `websocket: true` accept, and what their clients are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// `origins` and `path`: what a client's request must say.
    pub upgrade: Wanted,
    /// The longest message sent, in bytes; what must not be cut may be longer.
    pub max_message: usize,
    /// How often a client is asked whether it still lives; one that has said nothing since is given up.
    pub ping_interval: Duration,
    /// Body bytes that a client may be sent in one session without having answered for them.
    pub window: usize,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            upgrade: Wanted::default(),
            max_message: 64 << 10,
            ping_interval: Duration::from_secs(30),
            window: 1 << 20,
        }
    }
}

/// A head and the bytes that must not be cut fit into the least; a flush holds the most.
const MAX_MESSAGE_BOUNDS: (usize, usize) = (16 << 10, 1 << 20);
/// Below this a sleeping phone is given up; middleboxes forget a connection long before the hour.
const PING_INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// What a page may have to keep at once.
const WINDOW_BOUNDS: (usize, usize) = (64 << 10, 64 << 20);

impl WebSocket {
    pub(super) fn read(&mut self, section: &mut Section<'_>) {
        section.value("origins", &mut self.upgrade.origins, origins);
        section.value("path", &mut self.upgrade.path, path);
        let size = walk::bounded(walk::size, MAX_MESSAGE_BOUNDS, walk::spell_size);
        section.value("max_message", &mut self.max_message, size);
        let interval = walk::bounded(walk::duration, PING_INTERVAL_BOUNDS, walk::spell_duration);
        section.value("ping_interval", &mut self.ping_interval, interval);
        let window = walk::bounded(walk::size, WINDOW_BOUNDS, walk::spell_size);
        section.value("window", &mut self.window, window);
    }
}

fn origins(value: &Value) -> Result<Origins, String> {
    const REMEDY: &str = "write any, or a list such as [\"https://chat.example.com\"]";
    match value {
        Value::String(text) if text == "any" => Ok(Origins::Any),
        Value::Sequence(listed) if listed.is_empty() => {
            Err(format!("is empty, which would admit no page: {REMEDY}"))
        }
        Value::Sequence(listed) => listed.iter().map(origin).collect::<Result<_, _>>().map(Origins::Listed),
        _ => Err(format!("is neither: {REMEDY}")),
    }
}

/// Scheme, host and perhaps port, as a browser sends it (RFC 6454, 6.2).
fn origin(value: &Value) -> Result<String, String> {
    let text = walk::text(value)?;
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        is_scheme && !host.is_empty() && host.bytes().all(is_host)
    });
    match is_origin || text == "null" {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "\"{text}\" is not an origin: write it as https://chat.example.com, without path or slash at the end"
        )),
    }
}

fn path(value: &Value) -> Result<String, String> {
    let text = walk::text(value)?;
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    match text.starts_with('/') && text.len() <= 255 && text.bytes().all(plain) {
        true => Ok(text),
        false => Err(format!("\"{text}\" is not a path: write it as / or /msrp, without query")),
    }
}
