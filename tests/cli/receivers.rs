//! `msrp receive` against senders that scatter, alternate, exceed, abort or vanish.

use std::fs;
use std::process::Command;

use msrp_client::{Endpoint, Security, run_on_executor};
use msrp_proto::head::{Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::write::{FrameWriter, write_end_line};

use crate::limit::{LIMIT, alarm};
use testkit_net::tool::{Receiver, Tool, errors, status};

/// Plays a sender that the test scripts, against `msrp receive`.
fn with_scripted_sender(receiver: &Receiver, script: impl AsyncFn(&mut Endpoint, &str)) {
    let (target, path) = (receiver.target(), receiver.path.clone());
    run_on_executor(None, async {
        let play = async {
            let mut endpoint = Endpoint::connect(&target, &Security::Plain, LIMIT).await.unwrap();
            script(&mut endpoint, &path).await;
            endpoint.close().await.unwrap();
        };
        futures_lite::future::or(play, alarm()).await;
    })
    .unwrap();
}

struct Chunk<'a> {
    message: &'a str,
    range: &'a str,
    disposition: &'a str,
    body: &'a [u8],
    flag: Flag,
}

async fn send_chunk(endpoint: &mut Endpoint, path: &str, chunk: &Chunk<'_>) {
    let own_uri = endpoint.own_uri().to_owned();
    let tid = format!("t{}", chunk.range.replace(['-', '*', '/'], "."));
    let mut out = Vec::new();
    let mut writer = FrameWriter::request(&mut out, tid.as_bytes(), "SEND")
        .header("To-Path", path.as_bytes())
        .header("From-Path", own_uri.as_bytes())
        .header("Message-ID", chunk.message.as_bytes())
        .header("Success-Report", b"yes");
    if !chunk.range.is_empty() {
        writer = writer.header("Byte-Range", chunk.range.as_bytes());
    }
    writer
        .header("Content-Disposition", chunk.disposition.as_bytes())
        .header("Content-Type", b"application/octet-stream")
        .body_start();
    out.extend_from_slice(chunk.body);
    write_end_line(&mut out, tid.as_bytes(), chunk.flag, true);
    endpoint.outgoing.send(&out).await.unwrap();
}

/// The code of the next response, or the reported one of the next REPORT.
async fn next_code(endpoint: &mut Endpoint) -> (bool, u16) {
    let frame = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
    match frame.head.kind() {
        Kind::Response(status) => (false, status.code()),
        Kind::Request(_) => (true, frame.head.reported_status(&frame.bytes).unwrap().code()),
    }
}

#[test]
fn chunks_out_of_order_and_of_two_messages_are_put_together() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain", "--count", "2"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let chunk = |message, range, body, flag| Chunk {
            message,
            range,
            disposition: if message == "one1" {
                "attachment; filename=one"
            } else {
                "attachment; filename=\"two\""
            },
            body,
            flag,
        };
        for part in [
            chunk("one1", "7-12/18", b"world,", Flag::More),
            chunk("two2", "1-*/*", b"second", Flag::More),
            chunk("one1", "13-*/18", b" here.", Flag::Last),
            chunk("two2", "7-*/*", b" file", Flag::Last),
        ] {
            send_chunk(endpoint, path, &part).await;
            assert_eq!(next_code(endpoint).await, (false, 200));
        }
        assert_eq!(next_code(endpoint).await, (true, 200), "the second message is complete first");
        send_chunk(endpoint, path, &chunk("one1", "1-6/18", b"hello ", Flag::More)).await;
        assert_eq!(next_code(endpoint).await, (false, 200));
        assert_eq!(next_code(endpoint).await, (true, 200));
    });
    let (code, said) = receiver.finish();
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read(tool.path("in/one")).unwrap(), b"hello world, here.");
    assert_eq!(fs::read(tool.path("in/two")).unwrap(), b"second file");
}

#[test]
fn a_file_with_another_hash_is_reported_and_not_kept() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let disposition =
            format!("attachment; filename=\"f\"; size=4; hash=sha-256:{}", ["AB"; 32].join(":"));
        let chunk = Chunk {
            message: "bad1",
            range: "1-4/4",
            disposition: &disposition,
            body: b"data",
            flag: Flag::Last,
        };
        send_chunk(endpoint, path, &chunk).await;
        assert_eq!(next_code(endpoint).await, (false, 200));
        assert_eq!(next_code(endpoint).await, (true, 413));
    });
    let (code, said) = receiver.finish();
    assert_eq!(code, 1);
    assert!(said.contains("SHA-256"), "{said}");
    assert_eq!(tool.received(), [""; 0]);
}

#[test]
fn too_many_bytes_are_refused_while_they_come() {
    let tool = Tool::new();
    for (arguments, range, disposition) in [
        (vec!["--plain", "--max-size", "1000"], "1-*/*", "attachment"),
        (vec!["--plain"], "1-*/1000", "attachment"),
        (vec!["--plain", "--max-size", "1000"], "1-*/*", "attachment; size=2000"),
    ] {
        let receiver = tool.receiver(&arguments);
        with_scripted_sender(&receiver, async |endpoint, path| {
            let chunk = Chunk { message: "big1", range, disposition, body: &[b'x'; 2000], flag: Flag::Last };
            send_chunk(endpoint, path, &chunk).await;
            assert_eq!(next_code(endpoint).await, (false, 413));
        });
        assert_eq!(receiver.finish().0, 1);
        assert_eq!(tool.received(), [""; 0]);
    }
}

// A sender that counts characters announces fewer bytes than it sends.
#[test]
fn receiver_says_what_is_wrong_with_a_size() {
    let tool = Tool::new();
    let umlauts = "Gr\u{fc}\u{df}e, J\u{f6}rg".as_bytes();
    assert_eq!(umlauts.len(), 14);
    for (range, says) in [
        ("1-11/11", "it has 14 bytes or more, and 11 were announced: its sender may have counted characters"),
        ("1-20/20", "it ends after 14 bytes, and 20 were announced"),
    ] {
        let receiver = tool.receiver(&["--plain"]);
        with_scripted_sender(&receiver, async |endpoint, path| {
            let chunk =
                Chunk { message: "cnt1", range, disposition: "attachment", body: umlauts, flag: Flag::Last };
            send_chunk(endpoint, path, &chunk).await;
            assert_eq!(next_code(endpoint).await, (false, 413));
        });
        let (code, said) = receiver.finish();
        assert_eq!(code, 1);
        assert!(said.contains(says), "{said}");
        assert_eq!(tool.received(), [""; 0]);
    }
}

#[test]
fn blank_lines_between_frames_mean_nothing_to_the_receiver() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        for blank in ["\r\n", "\r\n\r\n", "\r", "\n"] {
            endpoint.outgoing.send(blank.as_bytes()).await.unwrap();
        }
        let chunk = Chunk {
            message: "one1",
            range: "1-4/4",
            disposition: "attachment; filename=f",
            body: b"data",
            flag: Flag::Last,
        };
        send_chunk(endpoint, path, &chunk).await;
        assert_eq!(next_code(endpoint).await, (false, 200));
        assert_eq!(next_code(endpoint).await, (true, 200));
    });
    assert_eq!(receiver.finish().0, 0);
    assert_eq!(tool.received(), ["f"]);
}

#[test]
fn an_aborted_file_leaves_nothing_behind() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let chunk = Chunk {
            message: "abo1",
            range: "1-*/9999",
            disposition: "attachment",
            body: b"only so much",
            flag: Flag::Aborted,
        };
        send_chunk(endpoint, path, &chunk).await;
        assert_eq!(next_code(endpoint).await, (false, 200));
    });
    assert_eq!(receiver.finish().0, 1);
    assert_eq!(tool.received(), [""; 0]);
}

#[test]
fn a_connection_that_ends_in_mid_file_leaves_nothing_behind_and_the_receiver_waits_for_the_rest() {
    let tool = Tool::new();
    let content = tool.file("f.bin", 5000);
    let receiver = tool.receiver(&["--plain", "--count", "2"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let chunk = Chunk {
            message: "cut1",
            range: "1-*/9999",
            disposition: "attachment",
            body: b"start",
            flag: Flag::More,
        };
        send_chunk(endpoint, path, &chunk).await;
        assert_eq!(next_code(endpoint).await, (false, 200));
    });
    let sent = tool.send(&receiver.path, &["f.bin"]);
    assert_eq!(status(&sent), 0, "{}", errors(&sent));
    let (code, said) = receiver.finish();
    assert_eq!(code, 1, "one of the two was lost: {said}");
    assert_eq!(tool.received(), ["f.bin"]);
    assert_eq!(fs::read(tool.path("in/f.bin")).unwrap(), content);
}

#[test]
fn other_sessions_methods_and_keep_alives_get_the_answers_they_deserve() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let own_uri = endpoint.own_uri().to_owned();
        let other = path.replace(";tcp", "x;tcp");
        for (method, to, headers, expected) in [
            ("SEND", path, "Byte-Range: 1-0/0\r\n", 200),
            ("SEND", path, "Byte-Range: 1-0/0\r\nKeep-Alive: yes\r\n", 200),
            ("SEND", other.as_str(), "Byte-Range: 1-0/0\r\n", 481),
            ("SEND", path, "Byte-Range: 0-0/0\r\n", 400),
            ("NICKNAME", path, "", 501),
        ] {
            let frame = format!(
                "MSRP tid1 {method}\r\nTo-Path: {to}\r\nFrom-Path: {own_uri}\r\nMessage-ID: ping1\r\n{headers}-------tid1$\r\n"
            );
            endpoint.outgoing.send(frame.as_bytes()).await.unwrap();
            assert_eq!(next_code(endpoint).await, (false, expected), "{frame}");
        }
    });
    receiver.kill();
}

#[test]
fn an_interrupted_receiver_leaves_nothing_behind() {
    let tool = Tool::new();
    let mut receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let chunk = Chunk {
            message: "int1",
            range: "1-*/9999",
            disposition: "attachment",
            body: b"start",
            flag: Flag::More,
        };
        send_chunk(endpoint, path, &chunk).await;
        assert_eq!(next_code(endpoint).await, (false, 200));
        assert_eq!(tool.received().len(), 1, "the temporary file");
        let pid = receiver.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(receiver.child.wait().unwrap().code(), Some(130));
    assert_eq!(tool.received(), [""; 0]);
}

/// A message of one chunk that is not a file, with these headers and this body.
async fn send_message(endpoint: &mut Endpoint, path: &str, headers: &str, body: &str) {
    let own_uri = endpoint.own_uri().to_owned();
    let frame = format!(
        "MSRP talk1 SEND\r\nTo-Path: {path}\r\nFrom-Path: {own_uri}\r\nMessage-ID: {}\r\nSuccess-Report: yes\r\n\
         {headers}\r\n\r\n{body}\r\n-------talk1$\r\n",
        msrp_client::random_token(12)
    );
    endpoint.outgoing.send(frame.as_bytes()).await.unwrap();
    assert_eq!(next_code(endpoint).await, (false, 200), "{headers}");
    assert_eq!(next_code(endpoint).await, (true, 200), "{headers}");
}

const TYPING: &str = "<isComposing><state>active</state></isComposing>";
const WRAPPED: &str = "From: Alice <im:alice@example.com>\r\nTo: <im:bob@example.com>\r\n\r\n\
                       Content-Type: text/plain; charset=utf-8\r\n\r\nIn a wrapper";

/// What chat clients send beside a file: headers and body.
const TALK: [(&str, &str); 7] = [
    ("Byte-Range: 1-48/48\r\nContent-Type: application/im-iscomposing+xml", TYPING),
    ("Content-Type: application/im-iscomposing+xml; charset=UTF-8", TYPING),
    ("Content-Disposition: notification\r\nContent-Type: message/imdn+xml", "<imdn/>"),
    ("Content-Type: text/x-msrp-heartbeat", "HEARTBEAT"),
    ("Content-Type: text/plain", "The file\r\nis coming"),
    ("Content-Type: message/CPIM", WRAPPED),
    ("Content-Disposition: render\r\nContent-Type: text/plain", ""),
];

#[test]
fn chat_and_notices_are_not_taken_for_the_file() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        for (headers, body) in TALK {
            send_message(endpoint, path, headers, body).await;
        }
        let disposition =
            "Content-Disposition: attachment; filename=\"plan.txt\"\r\nContent-Type: text/plain";
        send_message(endpoint, path, disposition, "the file").await;
    });
    let (code, said) = receiver.finish();
    assert_eq!(code, 0, "{said}");
    assert_eq!(tool.received(), ["plan.txt"]);
    for line in [
        "msrp: message: The file\n",
        "msrp: message: is coming\n",
        "msrp: message from Alice <im:alice@example.com>: In a wrapper\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(said.matches("msrp: message").count(), 3, "{said}");
}

#[test]
fn every_message_is_stored_where_that_is_asked_for() {
    let tool = Tool::new();
    let count = TALK.len().to_string();
    let receiver = tool.receiver(&["--plain", "--every-message", "--count", &count]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        for (headers, body) in TALK {
            send_message(endpoint, path, headers, body).await;
        }
    });
    let (code, said) = receiver.finish();
    assert_eq!(code, 0, "{said}");
    assert_eq!(tool.received().len(), TALK.len());
    assert_eq!(fs::read(tool.path("in/message.bin")).unwrap(), TYPING.as_bytes());
}

#[test]
fn long_text_is_a_file_whatever_is_said_of_its_length() {
    let tool = Tool::new();
    let body = "a line of text\r\n".repeat(1000);
    for range in ["", "Byte-Range: 1-*/*\r\n", "Byte-Range: 1-*/16000\r\n"] {
        let receiver = tool.receiver(&["--plain"]);
        with_scripted_sender(&receiver, async |endpoint, path| {
            send_message(endpoint, path, &format!("{range}Content-Type: text/plain"), &body).await;
        });
        let (code, said) = receiver.finish();
        assert_eq!(code, 0, "{said}");
        assert_eq!(fs::read(tool.path("in/message.txt")).unwrap(), body.as_bytes(), "{range}");
        fs::remove_file(tool.path("in/message.txt")).unwrap();
    }
}

#[test]
fn file_has_the_name_of_the_extended_form() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let headers = "Content-Disposition: attachment; filename=\"plan.txt\"; filename*=UTF-8''na%C3%AFve%20plan.txt\r\n\
                       Content-Type: text/plain";
        send_message(endpoint, path, headers, "x").await;
    });
    assert_eq!(receiver.finish().0, 0);
    assert_eq!(tool.received(), ["naïve plan.txt"]);
}

#[test]
fn sender_learns_why_the_receiver_cannot_store_a_file() {
    let tool = Tool::new();
    tool.file("f.bin", 5000);
    let receiver = tool.receiver(&["--plain"]);
    fs::remove_dir(tool.path("in")).unwrap();
    let sent = tool.send(&receiver.path, &["f.bin"]);
    assert_eq!(status(&sent), 1);
    assert!(errors(&sent).contains("413 The receiver's directory is gone"), "{}", errors(&sent));
    let (_, said) = receiver.finish();
    assert!(said.contains("msrp: rejected"), "{said}");
    assert!(!errors(&sent).contains(tool.directory.path().to_str().unwrap()), "paths stay here");
}

/// Each hop writes its own answer, with its own words for a code.
#[test]
fn reason_goes_in_a_report_to_who_is_behind_a_relay() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain", "--max-size", "10"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let own_uri = endpoint.own_uri().to_owned();
        let frame = format!(
            "MSRP big1 SEND\r\nTo-Path: {path}\r\nFrom-Path: msrp://relay.example:1/r;tcp {own_uri}\r\n\
             Message-ID: big1\r\nByte-Range: 1-*/100\r\nContent-Type: a/b\r\n\r\nx\r\n-------big1+\r\n"
        );
        endpoint.outgoing.send(frame.as_bytes()).await.unwrap();
        let report = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
        assert_eq!(report.head.kind(), Kind::Request(Method::Report));
        assert_eq!(report.head.status_header(&report.bytes), Some(&b"000 413 Too large"[..]));
        assert_eq!(next_code(endpoint).await, (false, 413));
    });
    assert_eq!(receiver.finish().0, 1);
}
