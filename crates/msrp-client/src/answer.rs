//! What an endpoint answers: responses (RFC 4975, 7.2) and REPORTs (7.1.2); and how it reads those of others.
//!
//! Invariants: these get no response: a REPORT, a request with Failure-Report `no`, a success with `partial`. The
//! response to a SEND goes one hop back, any other response all the way. Paths are copied byte for byte. Pure.

use super::random_token;
use msrp_proto::head::{ByteRange, FailureReport, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::FrameWriter;
use untrusted::text;

/// The response to this request, if it gets one.
pub(super) fn response(head: &Head, bytes: &[u8], status: Status, comment: Option<&str>) -> Option<Vec<u8>> {
    let Kind::Request(method) = head.kind() else {
        return None;
    };
    let wanted = match (method, head.failure_report()) {
        (Method::Report, _) => false,
        (Method::Send, FailureReport::No) => false,
        (Method::Send, FailureReport::Partial) => !status.is_success(),
        _ => true,
    };
    let from = head.from_path(bytes);
    let (own, to) =
        (head.to_path(bytes).first()?, if method == Method::Send { from.first()? } else { from.as_bytes() });
    if !wanted || to.is_empty() {
        return None;
    }
    let mut frame = Vec::with_capacity(256);
    FrameWriter::response(&mut frame, head.tid(bytes), status, comment)
        .header("To-Path", to)
        .header("From-Path", own)
        .end(Flag::Last);
    Some(frame)
}

/// How a sender, which wants no content, answers a request.
pub(super) fn of_a_sender(head: &Head, bytes: &[u8]) -> Option<Vec<u8>> {
    let status = match head.kind() {
        Kind::Request(_) if head.defect().is_some() => Status::BAD_REQUEST,
        Kind::Request(Method::Send) if head.has_body() => Status::STOP,
        Kind::Request(Method::Send) => Status::OK,
        _ => Status::NOT_IMPLEMENTED,
    };
    response(head, bytes, status, None)
}

/// What a REPORT is about.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    /// The From-Path of the message's chunks.
    pub(super) back: &'a [u8],
    /// Our URI.
    pub(super) own_uri: &'a str,
    /// The message.
    pub(super) message_id: &'a [u8],
    /// Its length in bytes as far as we know.
    pub(super) bytes: u64,
}

/// A REPORT about the whole message.
pub(super) fn report(subject: &Subject<'_>, status: Status, comment: Option<&str>) -> Vec<u8> {
    let tid = random_token(12);
    let range = ByteRange { start: 1, end: Some(subject.bytes), total: Some(subject.bytes) };
    let comment = comment.unwrap_or_else(|| status.phrase());
    let mut frame = Vec::with_capacity(512);
    FrameWriter::request(&mut frame, tid.as_bytes(), "REPORT")
        .header("To-Path", subject.back)
        .header("From-Path", subject.own_uri.as_bytes())
        .header("Message-ID", subject.message_id)
        .byte_range(range)
        .header_fmt("Status", format_args!("000 {:03} {comment}", status.code()))
        .end(Flag::Last);
    frame
}

/// A response's comment, fit for display; may be empty.
pub(super) fn comment(head: &Head, bytes: &[u8]) -> String {
    text::shown(&String::from_utf8_lossy(head.comment(bytes).unwrap_or_default())).into_owned()
}

/// The comment in a REPORT's Status header, fit for display; may be empty.
pub(super) fn report_comment(head: &Head, bytes: &[u8]) -> String {
    let status = head.status_header(bytes).unwrap_or_default();
    let mut parts = status.splitn(3, |byte| *byte == b' ');
    text::shown(&String::from_utf8_lossy(parts.nth(2).unwrap_or_default())).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;
    use msrp_proto::parser::{FramePart, Parser, ParserLimits};

    fn parsed(frame: &str) -> (Head, Vec<u8>) {
        let bytes = frame.replace('\n', "\r\n").into_bytes();
        let step = Parser::new(ParserLimits::default()).step(&bytes).unwrap().unwrap();
        let FramePart::Head(head) = step.piece else { panic!("not a head") };
        (head, bytes.get(..step.consumed).unwrap().to_vec())
    }

    fn request(method: &str, more: &str) -> (Head, Vec<u8>) {
        parsed(&format!(
            "MSRP w4Jd2Gk7Xo5a {method}\nTo-Path: msrp://f:1/f;tcp\nFrom-Path: msrp://r:1/u;tcp msrp://w:1/w;tcp\n\
             Message-ID: m71c0e52b9d4\n{more}-------w4Jd2Gk7Xo5a$\n"
        ))
    }

    fn answer(method: &str, more: &str, status: Status) -> Option<String> {
        let (head, bytes) = request(method, more);
        response(&head, &bytes, status, None).map(|frame| String::from_utf8(frame).unwrap())
    }

    #[test]
    fn a_send_is_answered_one_hop_back() {
        assert_eq!(
            answer("SEND", "", Status::OK).unwrap(),
            "MSRP w4Jd2Gk7Xo5a 200 OK\r\nTo-Path: msrp://r:1/u;tcp\r\nFrom-Path: msrp://f:1/f;tcp\r\n-------w4Jd2Gk7Xo5a$\r\n"
        );
    }

    #[test]
    fn other_methods_are_answered_all_the_way_back() {
        let frame = answer("NICKNAME", "", Status::NOT_IMPLEMENTED).unwrap();
        assert!(frame.contains("To-Path: msrp://r:1/u;tcp msrp://w:1/w;tcp\r\n"), "{frame}");
    }

    #[test]
    fn silence_where_silence_was_asked_for() {
        assert_eq!(answer("SEND", "Failure-Report: no\n", Status::OK), None);
        assert_eq!(answer("SEND", "Failure-Report: no\n", Status::STOP), None);
        assert_eq!(answer("SEND", "Failure-Report: partial\n", Status::OK), None);
        assert!(answer("SEND", "Failure-Report: partial\n", Status::STOP).is_some());
    }

    #[test]
    fn a_report_is_never_answered() {
        assert_eq!(answer("REPORT", "Status: 000 200 OK\n", Status::NOT_IMPLEMENTED), None);
    }

    #[test]
    fn the_words_of_a_report_are_found() {
        for (status, words) in
            [("000 413 Too much of it", "Too much of it"), ("000 413", ""), ("000 413 ", "")]
        {
            let (head, bytes) = request("REPORT", &format!("Status: {status}\n"));
            assert_eq!(report_comment(&head, &bytes), words);
        }
    }

    #[test]
    fn an_empty_message_is_reported_with_an_empty_range() {
        let subject = Subject {
            back: b"msrp://r:1/u;tcp",
            own_uri: "msrp://f:1/f;tcp",
            message_id: b"m1234",
            bytes: 0,
        };
        let frame = String::from_utf8(report(&subject, Status::OK, None)).unwrap();
        assert!(frame.contains("\r\nByte-Range: 1-0/0\r\nStatus: 000 200 OK\r\n-------"), "{frame}");
    }
}
