//! The form of the metrics that a request asks for (RFC 9110, 12.5.1).
//!
//! Invariant: every `Accept` gets an answer: by default the text format, which every reader knows.

/// A form of the figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// The text format of Prometheus, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// The form that `Accept` prefers; OpenMetrics if it is named and preferred equally.
    pub(super) fn wanted(accept: &str) -> Self {
        let ranges: Vec<_> = accept.split(',').filter_map(Range::parse).collect();
        let liked = |kinds: &[&str], versions: &[&str]| {
            // The most exact range counts.
            kinds.iter().find_map(|kind| {
                let fitting = ranges.iter().filter(|range| range.kind.eq_ignore_ascii_case(kind));
                let fitting = fitting.filter(|range| range.version.is_none_or(|v| versions.contains(&v)));
                fitting.map(|range| range.quality).reduce(f32::max)
            })
        };
        let open = liked(&["application/openmetrics-text"], &["1.0.0"]).unwrap_or(0.0);
        let text = liked(&["text/plain", "text/*", "*/*"], &["0.0.4"]).unwrap_or(0.0);
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }
}

struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    quality: f32,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { kind: parts.next()?, version: None, quality: 1.0 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "version" => range.version = Some(value.trim().trim_matches('"')),
                // A nonsensical quality counts as missing.
                "q" => range.quality = value.trim().parse().ok().filter(|q| (0.0..=1.0).contains(q))?,
                _ => {}
            }
        }
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        for accept in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
             application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4",
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=\"1.0.0\"",
            "text/plain, application/openmetrics-text",
        ] {
            assert_eq!(Form::wanted(accept), Form::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/*",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
            "application/openmetrics-text;q=0.3, text/plain;q=0.5",
            ";;,=;q=,",
        ] {
            assert_eq!(Form::wanted(accept), Form::Text, "{accept}");
        }
    }
}
