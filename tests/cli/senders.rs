//! `msrp send` against receivers that refuse, report, vanish or keep silent; and both directions of one connection.

use std::process::Output;
use std::rc::Rc;

use msrp_client::{
    Endpoint, Event, Frame, Ledger, ListenSecurity, Listener, MessageSpec, MessageStream, Opening, Security,
    Target, open_session, run_on_executor,
};
use msrp_proto::head::{ByteRange, FailureReport, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::FrameWriter;
use sha2::{Digest as _, Sha256};

use crate::limit::{LIMIT, alarm};
use testkit_net::tool::{Tool, errors, status};

/// Plays a receiver that the test scripts: accepts one connection and hands it over. The file comes first.
fn with_scripted_receiver(
    tool: &Tool,
    arguments: &[&str],
    script: impl AsyncFn(&mut Endpoint) + Send + 'static,
) -> Output {
    opened_to_scripted_receiver(tool, &[arguments, &["--first-send", "file"]].concat(), script)
}

/// The same, but the session is opened as the arguments say.
fn opened_to_scripted_receiver(
    tool: &Tool,
    arguments: &[&str],
    script: impl AsyncFn(&mut Endpoint) + Send + 'static,
) -> Output {
    let (path_sender, path_receiver) = std::sync::mpsc::channel();
    let peer = std::thread::spawn(move || {
        run_on_executor(None, async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
            let own_uri = Endpoint::mint_uri(listener.address().unwrap(), false);
            path_sender.send(own_uri.clone()).unwrap();
            let play = async {
                let mut endpoint = Endpoint::new(listener.accept(LIMIT).await.unwrap(), own_uri);
                script(&mut endpoint).await;
            };
            futures_lite::future::or(play, alarm()).await;
        })
        .unwrap();
    });
    let output = tool.send(&path_receiver.recv().unwrap(), arguments);
    peer.join().unwrap();
    output
}

fn response(frame: &Frame, status: u16) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::response(
        &mut out,
        frame.head.tid(&frame.bytes),
        Status::new(status).unwrap(),
        Some("Because"),
    )
    .header("To-Path", frame.head.from_path(&frame.bytes).as_bytes())
    .header("From-Path", frame.head.to_path(&frame.bytes).as_bytes())
    .end(Flag::Last);
    out
}

fn report(frame: &Frame, status: &str, range: &str) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::request(&mut out, b"rep0rt", "REPORT")
        .header("To-Path", frame.head.from_path(&frame.bytes).as_bytes())
        .header("From-Path", frame.head.to_path(&frame.bytes).as_bytes())
        .header("Message-ID", frame.head.message_id(&frame.bytes).unwrap())
        .header("Byte-Range", range.as_bytes())
        .header("Status", status.as_bytes())
        .end(Flag::Last);
    out
}

#[test]
fn an_error_response_stops_the_sender() {
    let tool = Tool::new();
    tool.file("f.bin", 1_000_000);
    let output = with_scripted_receiver(&tool, &["f.bin", "--chunk-size", "10K"], async |endpoint| {
        let frame = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        endpoint.outgoing.send(&response(&frame, 413)).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 1);
    assert!(errors(&output).contains("413 Because"), "{}", errors(&output));
}

#[test]
fn a_giant_chunk_is_aborted_in_the_middle_when_refused() {
    let tool = Tool::new();
    tool.file("f.bin", 40 << 20);
    let (flag_sender, flag_receiver) = std::sync::mpsc::channel();
    let output = with_scripted_receiver(&tool, &["f.bin"], async move |endpoint| {
        let Some(Event::Head { head, bytes }) = endpoint.incoming.next().await.unwrap() else {
            panic!("no head")
        };
        let frame = Frame { head, bytes: bytes.to_vec(), body: Vec::new(), flag: Flag::Last };
        endpoint.outgoing.send(&response(&frame, 413)).await.unwrap();
        while let Ok(Some(event)) = endpoint.incoming.next().await {
            if let Event::End(flag) = event {
                flag_sender.send(flag).unwrap();
            }
        }
    });
    assert_eq!(status(&output), 1, "{}", errors(&output));
    assert_eq!(flag_receiver.try_iter().collect::<Vec<_>>(), [Flag::Aborted]);
}

#[test]
fn a_failure_report_stops_the_sender_even_after_200() {
    let tool = Tool::new();
    tool.file("f.bin", 1000);
    let output = with_scripted_receiver(&tool, &["f.bin"], async |endpoint| {
        let frame = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        endpoint.outgoing.send(&response(&frame, 200)).await.unwrap();
        endpoint.outgoing.send(&report(&frame, "000 408 Downstream timeout", "1-1000/1000")).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 1);
    assert!(errors(&output).contains("408 Downstream timeout"), "{}", errors(&output));
}

#[test]
fn reports_for_parts_add_up_to_a_delivery() {
    let tool = Tool::new();
    tool.file("f.bin", 1000);
    let output = with_scripted_receiver(&tool, &["f.bin", "--failure-report", "no"], async |endpoint| {
        let frame = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        endpoint.outgoing.send(&report(&frame, "000 200 OK", "601-1000/1000")).await.unwrap();
        endpoint.outgoing.send(&report(&frame, "000 200 OK", "1-600/1000")).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn a_connection_lost_before_the_report_is_a_failure() {
    let tool = Tool::new();
    tool.file("f.bin", 1000);
    let output = with_scripted_receiver(&tool, &["f.bin"], async |endpoint| {
        let frame = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        endpoint.outgoing.send(&response(&frame, 200)).await.unwrap();
        endpoint.outgoing.finish().await.unwrap();
    });
    assert_eq!(status(&output), 1);
    assert!(errors(&output).contains("connection ended"), "{}", errors(&output));
}

#[test]
fn silence_is_given_up_after_the_time_limit() {
    let tool = Tool::new();
    tool.file("f.bin", 1000);
    let output = with_scripted_receiver(&tool, &["f.bin", "--timeout", "300ms"], async |endpoint| {
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 1);
}

#[test]
fn a_request_in_the_middle_of_a_giant_chunk_is_answered_at_once() {
    let tool = Tool::new();
    let content = tool.file("f.bin", 40 << 20);
    let output = with_scripted_receiver(&tool, &["f.bin"], async move |endpoint| {
        let Some(Event::Head { head, bytes }) = endpoint.incoming.next().await.unwrap() else {
            panic!("no head")
        };
        let first = Frame { head, bytes: bytes.to_vec(), body: Vec::new(), flag: Flag::Last };
        let mut ping = Vec::new();
        FrameWriter::request(&mut ping, b"keepalive", "SEND")
            .header("To-Path", first.head.from_path(&first.bytes).as_bytes())
            .header("From-Path", first.head.to_path(&first.bytes).as_bytes())
            .header("Message-ID", b"ping1")
            .byte_range(ByteRange { start: 1, end: Some(0), total: Some(0) })
            .end(Flag::Last);
        endpoint.outgoing.send(&ping).await.unwrap();
        let (mut hash, mut bytes, mut frames, mut answered_at) = (Sha256::new(), 0, vec![first], None);
        loop {
            match endpoint.incoming.next().await.unwrap().unwrap() {
                Event::Head { head, bytes: head_bytes } => {
                    if let Kind::Response(answer) = head.kind() {
                        assert_eq!((answer, head.tid(head_bytes)), (Status::OK, b"keepalive".as_slice()));
                        answered_at = Some(bytes);
                    } else {
                        assert_eq!(head.kind(), Kind::Request(Method::Send));
                        assert_eq!(head.byte_range().unwrap().start, bytes + 1, "gapless after the cut");
                        frames.push(Frame {
                            head,
                            bytes: head_bytes.to_vec(),
                            body: Vec::new(),
                            flag: Flag::Last,
                        });
                    }
                }
                Event::Body(piece) => {
                    hash.update(piece);
                    bytes += piece.len() as u64;
                }
                Event::End(Flag::Last) if bytes == content.len() as u64 => break,
                Event::End(_) => {}
            }
        }
        assert_eq!(hash.finalize()[..], Sha256::digest(&content)[..]);
        assert!(answered_at.is_some_and(|at| at < content.len() as u64), "answered before the end");
        assert_eq!(frames.len(), 2, "one cut for one answer");
        for frame in &frames {
            endpoint.outgoing.send(&response(frame, 200)).await.unwrap();
        }
        let range = format!("1-{0}/{0}", content.len());
        endpoint.outgoing.send(&report(&frames[0], "000 200 OK", &range)).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn both_directions_of_one_connection_carry_messages_at_once() {
    const BYTES: usize = 3 << 20;
    let send_and_count = async |endpoint: &mut Endpoint, to: &str| {
        let spec = MessageSpec {
            failure_report: FailureReport::No,
            total: Some(BYTES as u64),
            ..MessageSpec::new(to, endpoint.own_uri(), "application/octet-stream")
        };
        let ledger = Rc::new(Ledger::new(FailureReport::No));
        let (incoming, outgoing) = (&mut endpoint.incoming, &mut endpoint.outgoing);
        let sending = async {
            let mut stream = MessageStream::new(outgoing, &spec, ledger);
            for _ in 0..BYTES / 4096 {
                stream.write(&[b'-'; 4096]).await.unwrap();
            }
            stream.finish().await.unwrap();
        };
        let receiving = async {
            let mut bytes = 0;
            loop {
                match incoming.next().await.unwrap().unwrap() {
                    Event::Head { .. } => {}
                    Event::Body(piece) => bytes += piece.len(),
                    Event::End(_) => return bytes,
                }
            }
        };
        futures_lite::future::zip(sending, receiving).await.1
    };
    run_on_executor(None, async {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
        let address = listener.address().unwrap();
        let own_uri = Endpoint::mint_uri(address, false);
        let target = Target { host: address.ip().to_string(), port: address.port(), web: None };
        let dialling = async { Endpoint::connect(&target, &Security::Plain, LIMIT).await.unwrap() };
        let accepting = async { Endpoint::new(listener.accept(LIMIT).await.unwrap(), own_uri.clone()) };
        let (mut alice, mut bob) = futures_lite::future::zip(dialling, accepting).await;
        let alice_uri = alice.own_uri().to_owned();
        let (to_alice, to_bob) = futures_lite::future::zip(
            send_and_count(&mut alice, &own_uri),
            send_and_count(&mut bob, &alice_uri),
        )
        .await;
        assert_eq!((to_alice, to_bob), (BYTES, BYTES));
    })
    .unwrap();
}

/// The next frame, which must be a SEND without a body (RFC 4975, 5.4).
async fn expect_empty_send(endpoint: &mut Endpoint) -> Frame {
    let frame = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
    assert_eq!(frame.head.kind(), Kind::Request(Method::Send));
    assert!(!frame.head.has_body() && frame.head.content_type(&frame.bytes).is_none());
    frame
}

#[test]
fn empty_send_opens_the_session_and_the_file_follows_unasked() {
    let tool = Tool::new();
    let content = tool.file("f.bin", 1000);
    let output = opened_to_scripted_receiver(&tool, &["f.bin"], async move |endpoint| {
        let first = expect_empty_send(endpoint).await;
        // That SEND has no answer yet.
        let file = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        assert_eq!(file.body, content);
        assert_ne!(file.head.message_id(&file.bytes), first.head.message_id(&first.bytes));
        // A receiver may refuse the empty SEND: the file counts.
        endpoint.outgoing.send(&response(&first, 400)).await.unwrap();
        endpoint.outgoing.send(&response(&file, 200)).await.unwrap();
        endpoint.outgoing.send(&report(&file, "000 200 OK", "1-1000/1000")).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn stream_is_opened_by_an_empty_send_too() {
    let tool = Tool::new();
    let output = opened_to_scripted_receiver(&tool, &["-"], async |endpoint| {
        expect_empty_send(endpoint).await;
        let file = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        assert!(file.head.has_body() && file.body.is_empty());
        endpoint.outgoing.send(&response(&file, 413)).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert!(errors(&output).contains("413 Because"), "{}", errors(&output));
}

#[test]
fn file_waits_for_the_answer_to_the_first_send_where_that_is_asked_for() {
    let tool = Tool::new();
    tool.file("f.bin", 1000);
    let arguments = ["f.bin", "--first-send", "wait", "--timeout", "300ms"];
    let unanswered = opened_to_scripted_receiver(&tool, &arguments, async |endpoint| {
        expect_empty_send(endpoint).await;
        while let Ok(Some(event)) = endpoint.incoming.next().await {
            assert!(!matches!(event, Event::Body(_)), "a file before the session is open");
        }
    });
    assert_eq!(status(&unanswered), 1);
    let arguments = ["f.bin", "--first-send", "wait", "--timeout", "60s"];
    let answered = opened_to_scripted_receiver(&tool, &arguments, async |endpoint| {
        let first = expect_empty_send(endpoint).await;
        endpoint.outgoing.send(&response(&first, 200)).await.unwrap();
        let file = endpoint.incoming.next_frame(1 << 20).await.unwrap().unwrap();
        endpoint.outgoing.send(&response(&file, 200)).await.unwrap();
        endpoint.outgoing.send(&report(&file, "000 200 OK", "1-1000/1000")).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&answered), 0, "{}", errors(&answered));
}

#[test]
fn session_that_is_not_there_is_told_before_the_file_is_sent() {
    let tool = Tool::new();
    tool.file("f.bin", 1000);
    for by_report in [false, true] {
        let arguments = ["f.bin", "--first-send", "wait"];
        let output = opened_to_scripted_receiver(&tool, &arguments, async move |endpoint| {
            let first = expect_empty_send(endpoint).await;
            let refusal = match by_report {
                false => response(&first, 481),
                // As a relay reports it, after an answer of its own or before.
                true => report(&first, "000 481 Because", "1-0/0"),
            };
            endpoint.outgoing.send(&refusal).await.unwrap();
            while let Ok(Some(event)) = endpoint.incoming.next().await {
                assert!(!matches!(event, Event::Body(_)), "a file without a session");
            }
        });
        assert_eq!(status(&output), 1);
        let said = errors(&output);
        assert!(said.contains("the session was refused: 481 Because"), "{said}");
    }
}

/// Keeps a receiver with a time limit waiting while a large file is read for its hash.
#[test]
fn session_is_kept_alive_and_the_peer_answered_while_there_is_nothing_to_send() {
    let (path_sender, path_receiver) = std::sync::mpsc::channel();
    let (seen_sender, seen_receiver) = async_channel::bounded(1);
    let peer = std::thread::spawn(move || {
        run_on_executor(None, async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
            let own_uri = Endpoint::mint_uri(listener.address().unwrap(), false);
            path_sender.send((own_uri.clone(), listener.address().unwrap())).unwrap();
            let play = async {
                let mut endpoint = Endpoint::new(listener.accept(LIMIT).await.unwrap(), own_uri);
                let first = expect_empty_send(&mut endpoint).await;
                let mut ping = Vec::new();
                FrameWriter::request(&mut ping, b"keepalive", "SEND")
                    .header("To-Path", first.head.from_path(&first.bytes).as_bytes())
                    .header("From-Path", first.head.to_path(&first.bytes).as_bytes())
                    .header("Message-ID", b"ping1")
                    .end(Flag::Last);
                endpoint.outgoing.send(&ping).await.unwrap();
                let answer = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
                assert_eq!(answer.head.kind(), Kind::Response(Status::OK));
                let second = expect_empty_send(&mut endpoint).await;
                assert_ne!(first.head.message_id(&first.bytes), second.head.message_id(&second.bytes));
                seen_sender.send(()).await.unwrap();
                while let Ok(Some(_)) = endpoint.incoming.next().await {}
            };
            futures_lite::future::or(play, alarm()).await;
        })
        .unwrap();
    });
    let (path, address) = path_receiver.recv().unwrap();
    run_on_executor(None, async {
        let target = Target { host: address.ip().to_string(), port: address.port(), web: None };
        let mut endpoint = Endpoint::connect(&target, &Security::Plain, LIMIT).await.unwrap();
        let opening = Opening { to_path: &path, await_answer: false, idle_limit: LIMIT };
        let work = async { seen_receiver.recv().await.unwrap() };
        open_session(&mut endpoint, opening, work).await.unwrap();
        endpoint.close().await.unwrap();
    })
    .unwrap();
    peer.join().unwrap();
}

/// A file takes minutes to read: a waiting receiver, or one without a session, must not be left alone so long.
#[test]
fn session_is_open_before_the_file_is_read_for_its_hash() {
    let tool = Tool::new();
    // A sparse file: none of it is on the disk.
    std::fs::File::create(tool.path("f.bin")).unwrap().set_len(256 << 30).unwrap();
    let output = opened_to_scripted_receiver(&tool, &["f.bin"], async |endpoint| {
        let first = expect_empty_send(endpoint).await;
        endpoint.outgoing.send(&response(&first, 481)).await.unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 1);
    assert!(errors(&output).contains("the session was refused: 481 Because"), "{}", errors(&output));
}
