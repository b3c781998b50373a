//! Asking a relay for its metrics, as Prometheus does.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Sends bytes and reads all that comes back.
pub fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {text:?}")).parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n"))
}

/// The metrics as Prometheus asks for them.
pub fn openmetrics(address: SocketAddr) -> Answer {
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: relay\r\nAccept: {accept}\r\n\r\n"))
}

/// One metric.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    /// The name before the labels, the labels, the value.
    pub samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// A page of metrics.
#[derive(Debug)]
pub struct Page(pub BTreeMap<String, Family>);

impl Page {
    pub fn of(address: SocketAddr) -> Self {
        let answer = openmetrics(address);
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::parse(&answer.body)
    }

    /// Reads a page, strictly: anything unexpected fails the test.
    fn parse(text: &str) -> Self {
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let mut families = BTreeMap::<String, Family>::new();
        let mut current = String::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                current = name.to_owned();
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(families.insert(current.clone(), family).is_none(), "{name} is there twice");
                continue;
            }
            let family = families.get_mut(&current).unwrap();
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                family.kind = kind.strip_prefix(&current).unwrap().trim().to_owned();
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            assert!(name.starts_with(&current), "{line} below {current}");
            let labels = labels.strip_suffix('}').unwrap();
            let labels = labels.split_terminator(',').map(|label| {
                let (label, value) = label.split_once('=').unwrap();
                (label.to_owned(), value.trim_matches('"').to_owned())
            });
            family.samples.push((name.to_owned(), labels.collect(), value.parse().unwrap()));
        }
        Self(families)
    }

    /// All samples, whatever their metric.
    pub fn samples(&self) -> impl Iterator<Item = &(String, BTreeMap<String, String>, f64)> {
        self.0.values().flat_map(|family| &family.samples)
    }

    /// The sum of all samples of that name with these labels; there must be one.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
        };
        let values = self.samples().filter(|(found, all, _)| found == name && has(all));
        let values: Vec<_> = values.map(|(_, _, value)| *value).collect();
        assert!(!values.is_empty(), "no {name} with {labels:?}");
        values.into_iter().sum()
    }
}
