//! The `msrp` tool as its users meet it: two processes, real sockets, real files, exit statuses.
//!
//! Client to client, without a relay: what one end does wrong cannot be made good by a relay in between. A scripted peer
//! (the library's [`Endpoint`]) plays the partners that misbehave.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use msrprelay::client::{
    Endpoint, Frame, ListenSecurity, Listener, MessageSpec, MessageStream, Security, Target,
    run_on_executor,
};
use msrprelay::proto::head::{ByteRange, FailureReport, Kind, Method};
use msrprelay::proto::parser::Flag;
use msrprelay::proto::status::Status;
use msrprelay::proto::uri::MsrpUri;
use msrprelay::proto::write::{FrameWriter, write_end_line};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const LIMIT: Duration = Duration::from_secs(20);

/// A directory with a file to send, a place to receive, and a certificate.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("in")).unwrap();
        let identity =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
                .unwrap();
        fs::write(directory.path().join("crt"), identity.cert.pem()).unwrap();
        fs::write(
            directory.path().join("key"),
            identity.signing_key.serialize_pem(),
        )
        .unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of so many octets that do not repeat soon.
    fn file(&self, name: &str, octets: usize) -> Vec<u8> {
        let mut content = Vec::with_capacity(octets + 32);
        let mut block = Sha256::digest(name).to_vec();
        while content.len() < octets {
            block = Sha256::digest(&block).to_vec();
            content.extend_from_slice(&block);
        }
        content.truncate(octets);
        fs::write(self.path(name), &content).unwrap();
        content
    }

    fn msrp(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msrp"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("MSRP_PASSWORD");
        command
    }

    /// Starts `msrp receive --listen …` and waits for the path it prints.
    fn receiver(&self, arguments: &[&str]) -> Receiver {
        let mut child = self
            .msrp(&[
                "receive",
                "--listen",
                "127.0.0.1:0",
                "--out",
                "in",
                "--timeout",
                "20s",
            ])
            .args(arguments)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut path = String::new();
        stdout.read_line(&mut path).unwrap();
        Receiver {
            child,
            stdout,
            path: path.trim_end().to_owned(),
        }
    }

    fn send(&self, path: &str, arguments: &[&str]) -> Output {
        self.msrp(&["send", "--to", path])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn received(&self) -> Vec<String> {
        names_in(&self.path("in"))
    }
}

struct Receiver {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    path: String,
}

impl Receiver {
    /// Exit status, and what it said after the path.
    fn finish(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let output = self.child.wait_with_output().unwrap();
        rest.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), rest)
    }

    /// For receivers that are not going to end by themselves.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn target(&self) -> Target {
        let uri = MsrpUri::parse(self.path.as_bytes()).unwrap();
        Target {
            host: uri.host_str().to_owned(),
            port: uri.port().unwrap(),
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn files_of_all_sizes_arrive_over_tls() {
    let scene = Scene::new();
    for (name, octets) in [
        ("none", 0),
        ("one", 1),
        ("small.txt", 2048),
        ("odd.bin", 300_001),
        ("large.bin", 9 << 20),
    ] {
        let content = scene.file(name, octets);
        let receiver = scene.receiver(&["--cert", "crt", "--key", "key"]);
        let sent = scene.send(&receiver.path, &[name, "--ca", "crt"]);
        assert_eq!(status(&sent), 0, "{name}: {}", errors(&sent));
        let (code, said) = receiver.finish();
        assert_eq!(code, 0, "{name}: {said}");
        assert!(said.contains("SHA-256 verified"), "{said}");
        assert_eq!(fs::read(scene.path("in").join(name)).unwrap(), content);
    }
}

#[test]
fn chunks_and_report_wishes_of_all_kinds_arrive_plain() {
    let scene = Scene::new();
    let content = scene.file("f.bin", 200_003);
    let wishes: [&[&str]; 7] = [
        &["--failure-report", "no"],
        &["--failure-report", "partial"],
        &["--chunk-size", "1000", "--window", "1"],
        &["--chunk-size", "64K"],
        &["--chunk-size", "2049", "--failure-report", "partial"],
        &[
            "--chunk-size",
            "999",
            "--failure-report",
            "no",
            "--success-report",
        ],
        &["--chunk-size", "7K", "--success-report", "no"],
    ];
    for wish in wishes {
        let receiver = scene.receiver(&["--plain"]);
        let sent = scene
            .msrp(&["send", "f.bin", "--to", &receiver.path])
            .args(wish)
            .output()
            .unwrap();
        assert_eq!(status(&sent), 0, "{wish:?}: {}", errors(&sent));
        assert_eq!(receiver.finish().0, 0);
        assert_eq!(fs::read(scene.path("in/f.bin")).unwrap(), content);
        fs::remove_file(scene.path("in/f.bin")).unwrap();
    }
}

#[test]
fn a_stream_of_unknown_length_arrives() {
    let scene = Scene::new();
    let receiver = scene.receiver(&["--plain"]);
    let mut sender = scene
        .msrp(&["send", "-", "--name", "piped.txt", "--to", &receiver.path])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sender.stdin.take().unwrap();
    for line in 0..2000 {
        writeln!(stdin, "line {line}").unwrap();
    }
    drop(stdin);
    assert!(sender.wait().unwrap().success());
    assert_eq!(receiver.finish().0, 0);
    let received = fs::read_to_string(scene.path("in/piped.txt")).unwrap();
    assert_eq!(received.lines().count(), 2000);
    assert!(received.ends_with("line 1999\n"));
}

#[test]
fn json_is_one_object_at_both_ends() {
    let scene = Scene::new();
    let content = scene.file("j.bin", 5000);
    let mut receiver = scene
        .msrp(&[
            "receive",
            "--listen",
            "127.0.0.1:0",
            "--plain",
            "--out",
            "in",
            "--json",
            "--path-file",
            "path",
        ])
        .spawn()
        .unwrap();
    let mut path = String::new();
    BufReader::new(receiver.stderr.take().unwrap())
        .read_line(&mut path)
        .unwrap();
    assert_eq!(fs::read_to_string(scene.path("path")).unwrap(), path);
    let sent = scene.send(path.trim_end(), &["j.bin", "--json"]);
    let sent: Value = serde_json::from_slice(&sent.stdout).unwrap();
    let received: Value =
        serde_json::from_slice(&receiver.wait_with_output().unwrap().stdout).unwrap();
    let digest = msrprelay::client::hex(&Sha256::digest(&content));
    for (object, key, expected) in [
        (&sent, "ok", Value::from(true)),
        (&sent, "octets", Value::from(5000)),
        (&sent, "reported", Value::from(true)),
        (&sent, "sha256", Value::from(digest.clone())),
        (&received, "ok", Value::from(true)),
        (&received["files"][0], "sha256", Value::from(digest)),
        (&received["files"][0], "verified", Value::from(true)),
        (&received["files"][0], "path", Value::from("in/j.bin")),
    ] {
        assert_eq!(object[key], expected, "{key} of {object}");
    }
}

#[test]
fn offered_names_cannot_leave_the_directory_or_replace_anything() {
    let scene = Scene::new();
    let content = scene.file("f.bin", 100);
    fs::write(scene.path("in/passwd"), "precious").unwrap();
    for (offered, stored) in [
        ("../../passwd", "passwd (1)"),
        ("/etc/passwd", "passwd (2)"),
        ("..", "file"),
        (".profile", "profile"),
        ("a\u{1b}]0;b.txt", "a_]0;b.txt"),
    ] {
        let receiver = scene.receiver(&["--plain"]);
        let sent = scene.send(&receiver.path, &["f.bin", "--name", offered]);
        assert_eq!(status(&sent), 0, "{}", errors(&sent));
        assert_eq!(receiver.finish().0, 0);
        assert_eq!(
            fs::read(scene.path("in").join(stored)).unwrap(),
            content,
            "{offered:?}"
        );
    }
    assert_eq!(fs::read(scene.path("in/passwd")).unwrap(), b"precious");
    assert_eq!(
        names_in(scene.directory.path()),
        ["crt", "f.bin", "in", "key"]
    );
    assert_eq!(scene.received().len(), 6);
}

#[test]
fn a_certificate_nobody_vouches_for_is_refused() {
    let scene = Scene::new();
    scene.file("f.bin", 100);
    let receiver = scene.receiver(&["--cert", "crt", "--key", "key"]);
    let refused = scene.send(&receiver.path, &["f.bin"]);
    assert_eq!(status(&refused), 3, "{}", errors(&refused));
    assert!(errors(&refused).contains("--ca"), "{}", errors(&refused));
    let other_name = scene.send(
        &receiver.path,
        &["f.bin", "--ca", "crt", "--server-name", "elsewhere.example"],
    );
    assert_eq!(status(&other_name), 3);
    let insecure = scene.send(&receiver.path, &["f.bin", "--insecure"]);
    assert_eq!(status(&insecure), 0, "{}", errors(&insecure));
    assert_eq!(receiver.finish().0, 0);
}

#[test]
fn usage_errors_have_their_own_status() {
    let scene = Scene::new();
    scene.file("f.bin", 1);
    let uri = "msrp://127.0.0.1:9/x;tcp";
    let wrong: [&[&str]; 9] = [
        &["send", "f.bin"],
        &["send", "f.bin", "--to", "not a path"],
        &["send", "f.bin", "--to", uri, "--chunk-size", "0"],
        &["send", "f.bin", "--to", uri, "--relay", "127.0.0.1:9"],
        &[
            "send",
            "f.bin",
            "--to",
            uri,
            "--user",
            "alice@example.com",
            "--relay",
            "127.0.0.1:9",
        ],
        &["send", "in", "--to", uri],
        &["receive"],
        &["receive", "--listen", "127.0.0.1:0"],
        &[
            "receive",
            "--listen",
            "127.0.0.1:0",
            "--plain",
            "--out",
            "nowhere",
        ],
    ];
    for arguments in wrong {
        let output = scene.msrp(arguments).output().unwrap();
        assert_eq!(status(&output), 2, "{arguments:?}: {}", errors(&output));
    }
}

#[test]
fn a_dead_address_is_a_connection_failure() {
    let scene = Scene::new();
    scene.file("f.bin", 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("msrp://{}/x;tcp", listener.local_addr().unwrap());
    drop(listener);
    let output = scene.send(&path, &["f.bin"]);
    assert_eq!(status(&output), 3, "{}", errors(&output));
}

#[test]
fn what_is_not_msrp_ends_the_transfer() {
    let scene = Scene::new();
    scene.file("f.bin", 100_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("msrp://{}/x;tcp", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = scene.send(&path, &["f.bin"]);
    assert_eq!(status(&output), 1, "{}", errors(&output));
    assert!(errors(&output).contains("not MSRP"), "{}", errors(&output));
    server.join().unwrap();
}

/// Ends a test whose partner never does what is waited for.
async fn alarm() {
    glommio::timer::sleep(LIMIT).await;
    panic!("nothing came of it within the time limit");
}

/// Plays a receiver that the test scripts: accepts one connection and hands it over.
fn with_scripted_receiver(
    scene: &Scene,
    arguments: &[&str],
    script: impl AsyncFn(&mut Endpoint) + Send + 'static,
) -> Output {
    let (path_sender, path_receiver) = std::sync::mpsc::channel();
    let peer = std::thread::spawn(move || {
        run_on_executor(None, async {
            let listener =
                Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
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
    let output = scene.send(&path_receiver.recv().unwrap(), arguments);
    peer.join().unwrap();
    output
}

fn response(frame: &Frame, status: u16) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::response(
        &mut out,
        frame.head.tid(&frame.octets),
        Status::new(status).unwrap(),
        Some("Because"),
    )
    .header("To-Path", frame.head.from_path(&frame.octets).as_bytes())
    .header("From-Path", frame.head.to_path(&frame.octets).as_bytes())
    .end(Flag::Last);
    out
}

fn report(frame: &Frame, status: &str, range: &str) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::request(&mut out, b"rep0rt", "REPORT")
        .header("To-Path", frame.head.from_path(&frame.octets).as_bytes())
        .header("From-Path", frame.head.to_path(&frame.octets).as_bytes())
        .header("Message-ID", frame.head.message_id(&frame.octets).unwrap())
        .header("Byte-Range", range.as_bytes())
        .header("Status", status.as_bytes())
        .end(Flag::Last);
    out
}

#[test]
fn an_error_response_stops_the_sender() {
    let scene = Scene::new();
    scene.file("f.bin", 1_000_000);
    let output = with_scripted_receiver(
        &scene,
        &["f.bin", "--chunk-size", "10K"],
        async |endpoint| {
            let frame = endpoint
                .incoming
                .next_frame(1 << 20)
                .await
                .unwrap()
                .unwrap();
            endpoint
                .outgoing
                .send(&response(&frame, 413))
                .await
                .unwrap();
            while let Ok(Some(_)) = endpoint.incoming.next().await {}
        },
    );
    assert_eq!(status(&output), 1);
    assert!(
        errors(&output).contains("413 Because"),
        "{}",
        errors(&output)
    );
}

#[test]
fn a_giant_chunk_is_aborted_in_the_middle_when_refused() {
    let scene = Scene::new();
    scene.file("f.bin", 40 << 20);
    let (flag_sender, flag_receiver) = std::sync::mpsc::channel();
    let output = with_scripted_receiver(&scene, &["f.bin"], async move |endpoint| {
        use msrprelay::client::Event;
        let Some(Event::Head { head, octets }) = endpoint.incoming.next().await.unwrap() else {
            panic!("no head")
        };
        let frame = Frame {
            head,
            octets: octets.to_vec(),
            body: Vec::new(),
            flag: Flag::Last,
        };
        endpoint
            .outgoing
            .send(&response(&frame, 413))
            .await
            .unwrap();
        while let Ok(Some(event)) = endpoint.incoming.next().await {
            if let Event::End(flag) = event {
                flag_sender.send(flag).unwrap();
            }
        }
    });
    assert_eq!(status(&output), 1, "{}", errors(&output));
    assert_eq!(
        flag_receiver.try_iter().collect::<Vec<_>>(),
        [Flag::Aborted]
    );
}

#[test]
fn a_failure_report_stops_the_sender_even_after_200() {
    let scene = Scene::new();
    scene.file("f.bin", 1000);
    let output = with_scripted_receiver(&scene, &["f.bin"], async |endpoint| {
        let frame = endpoint
            .incoming
            .next_frame(1 << 20)
            .await
            .unwrap()
            .unwrap();
        endpoint
            .outgoing
            .send(&response(&frame, 200))
            .await
            .unwrap();
        endpoint
            .outgoing
            .send(&report(&frame, "000 408 Downstream timeout", "1-1000/1000"))
            .await
            .unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 1);
    assert!(
        errors(&output).contains("408 Downstream timeout"),
        "{}",
        errors(&output)
    );
}

#[test]
fn reports_for_parts_add_up_to_a_delivery() {
    let scene = Scene::new();
    scene.file("f.bin", 1000);
    let output = with_scripted_receiver(
        &scene,
        &["f.bin", "--failure-report", "no"],
        async |endpoint| {
            let frame = endpoint
                .incoming
                .next_frame(1 << 20)
                .await
                .unwrap()
                .unwrap();
            endpoint
                .outgoing
                .send(&report(&frame, "000 200 OK", "601-1000/1000"))
                .await
                .unwrap();
            endpoint
                .outgoing
                .send(&report(&frame, "000 200 OK", "1-600/1000"))
                .await
                .unwrap();
            while let Ok(Some(_)) = endpoint.incoming.next().await {}
        },
    );
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn a_connection_lost_before_the_report_is_a_failure() {
    let scene = Scene::new();
    scene.file("f.bin", 1000);
    let output = with_scripted_receiver(&scene, &["f.bin"], async |endpoint| {
        let frame = endpoint
            .incoming
            .next_frame(1 << 20)
            .await
            .unwrap()
            .unwrap();
        endpoint
            .outgoing
            .send(&response(&frame, 200))
            .await
            .unwrap();
        endpoint.outgoing.finish().await.unwrap();
    });
    assert_eq!(status(&output), 1);
    assert!(
        errors(&output).contains("connection ended"),
        "{}",
        errors(&output)
    );
}

#[test]
fn silence_is_given_up_after_the_time_limit() {
    let scene = Scene::new();
    scene.file("f.bin", 1000);
    let output =
        with_scripted_receiver(&scene, &["f.bin", "--timeout", "300ms"], async |endpoint| {
            while let Ok(Some(_)) = endpoint.incoming.next().await {}
        });
    assert_eq!(status(&output), 1);
}

#[test]
fn a_request_in_the_middle_of_a_giant_chunk_is_answered_at_once() {
    let scene = Scene::new();
    let content = scene.file("f.bin", 40 << 20);
    let output = with_scripted_receiver(&scene, &["f.bin"], async move |endpoint| {
        use msrprelay::client::Event;
        let Some(Event::Head { head, octets }) = endpoint.incoming.next().await.unwrap() else {
            panic!("no head")
        };
        let first = Frame {
            head,
            octets: octets.to_vec(),
            body: Vec::new(),
            flag: Flag::Last,
        };
        let mut ping = Vec::new();
        FrameWriter::request(&mut ping, b"keepalive", "SEND")
            .header("To-Path", first.head.from_path(&first.octets).as_bytes())
            .header("From-Path", first.head.to_path(&first.octets).as_bytes())
            .header("Message-ID", b"ping1")
            .byte_range(ByteRange {
                start: 1,
                end: Some(0),
                total: Some(0),
            })
            .end(Flag::Last);
        endpoint.outgoing.send(&ping).await.unwrap();
        let (mut hash, mut octets, mut frames, mut answered_at) =
            (Sha256::new(), 0, vec![first], None);
        loop {
            match endpoint.incoming.next().await.unwrap().unwrap() {
                Event::Head {
                    head,
                    octets: head_octets,
                } => {
                    if let Kind::Response(answer) = head.kind() {
                        assert_eq!(
                            (answer, head.tid(head_octets)),
                            (Status::OK, b"keepalive".as_slice())
                        );
                        answered_at = Some(octets);
                    } else {
                        assert_eq!(head.kind(), Kind::Request(Method::Send));
                        assert_eq!(
                            head.byte_range().unwrap().start,
                            octets + 1,
                            "gapless after the cut"
                        );
                        frames.push(Frame {
                            head,
                            octets: head_octets.to_vec(),
                            body: Vec::new(),
                            flag: Flag::Last,
                        });
                    }
                }
                Event::Body(piece) => {
                    hash.update(piece);
                    octets += piece.len() as u64;
                }
                Event::End(Flag::Last) if octets == content.len() as u64 => break,
                Event::End(_) => {}
            }
        }
        assert_eq!(hash.finalize()[..], Sha256::digest(&content)[..]);
        assert!(
            answered_at.is_some_and(|at| at < content.len() as u64),
            "answered before the end"
        );
        assert_eq!(frames.len(), 2, "one cut for one answer");
        for frame in &frames {
            endpoint.outgoing.send(&response(frame, 200)).await.unwrap();
        }
        let range = format!("1-{0}/{0}", content.len());
        endpoint
            .outgoing
            .send(&report(&frames[0], "000 200 OK", &range))
            .await
            .unwrap();
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

/// Plays a sender that the test scripts, against `msrp receive`.
fn with_scripted_sender(receiver: &Receiver, script: impl AsyncFn(&mut Endpoint, &str)) {
    let (target, path) = (receiver.target(), receiver.path.clone());
    run_on_executor(None, async {
        let play = async {
            let mut endpoint = Endpoint::connect(&target, &Security::Plain, LIMIT)
                .await
                .unwrap();
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
        Kind::Request(_) => (
            true,
            frame.head.reported_status(&frame.octets).unwrap().code(),
        ),
    }
}

#[test]
fn chunks_out_of_order_and_of_two_messages_are_put_together() {
    let scene = Scene::new();
    let receiver = scene.receiver(&["--plain", "--count", "2"]);
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
        assert_eq!(
            next_code(endpoint).await,
            (true, 200),
            "the second message is complete first"
        );
        send_chunk(
            endpoint,
            path,
            &chunk("one1", "1-6/18", b"hello ", Flag::More),
        )
        .await;
        assert_eq!(next_code(endpoint).await, (false, 200));
        assert_eq!(next_code(endpoint).await, (true, 200));
    });
    let (code, said) = receiver.finish();
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        fs::read(scene.path("in/one")).unwrap(),
        b"hello world, here."
    );
    assert_eq!(fs::read(scene.path("in/two")).unwrap(), b"second file");
}

#[test]
fn a_file_with_another_hash_is_reported_and_not_kept() {
    let scene = Scene::new();
    let receiver = scene.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let disposition = format!(
            "attachment; filename=\"f\"; size=4; hash=sha-256:{}",
            ["AB"; 32].join(":")
        );
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
    assert_eq!(scene.received(), [""; 0]);
}

#[test]
fn too_many_octets_are_refused_while_they_come() {
    let scene = Scene::new();
    for (arguments, range, disposition) in [
        (vec!["--plain", "--max-size", "1000"], "1-*/*", "attachment"),
        (vec!["--plain"], "1-*/1000", "attachment"),
        (
            vec!["--plain", "--max-size", "1000"],
            "1-*/*",
            "attachment; size=2000",
        ),
    ] {
        let receiver = scene.receiver(&arguments);
        with_scripted_sender(&receiver, async |endpoint, path| {
            let chunk = Chunk {
                message: "big1",
                range,
                disposition,
                body: &[b'x'; 2000],
                flag: Flag::Last,
            };
            send_chunk(endpoint, path, &chunk).await;
            assert_eq!(next_code(endpoint).await, (false, 413));
        });
        assert_eq!(receiver.finish().0, 1);
        assert_eq!(scene.received(), [""; 0]);
    }
}

#[test]
fn an_aborted_file_leaves_nothing_behind() {
    let scene = Scene::new();
    let receiver = scene.receiver(&["--plain"]);
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
    assert_eq!(scene.received(), [""; 0]);
}

#[test]
fn a_connection_that_ends_in_mid_file_leaves_nothing_behind_and_the_receiver_waits_for_the_rest() {
    let scene = Scene::new();
    let content = scene.file("f.bin", 5000);
    let receiver = scene.receiver(&["--plain", "--count", "2"]);
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
    let sent = scene.send(&receiver.path, &["f.bin"]);
    assert_eq!(status(&sent), 0, "{}", errors(&sent));
    let (code, said) = receiver.finish();
    assert_eq!(code, 1, "one of the two was lost: {said}");
    assert_eq!(scene.received(), ["f.bin"]);
    assert_eq!(fs::read(scene.path("in/f.bin")).unwrap(), content);
}

#[test]
fn other_sessions_methods_and_keep_alives_get_the_answers_they_deserve() {
    let scene = Scene::new();
    let receiver = scene.receiver(&["--plain"]);
    with_scripted_sender(&receiver, async |endpoint, path| {
        let own_uri = endpoint.own_uri().to_owned();
        let other = path.replace(";tcp", "x;tcp");
        for (method, to, headers, expected) in [
            ("SEND", path, "Byte-Range: 1-0/0\r\n", 200),
            (
                "SEND",
                path,
                "Byte-Range: 1-0/0\r\nKeep-Alive: yes\r\n",
                200,
            ),
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
fn a_body_full_of_look_alike_end_lines_arrives() {
    let scene = Scene::new();
    let content = "-------\r\n-------abcd$\r\n-------abcd+\r\nMSRP abcd 200 OK\r\n".repeat(3000);
    fs::write(scene.path("tricky"), &content).unwrap();
    for chunk_size in ["1", "13", "100", "5000"] {
        let receiver = scene.receiver(&["--plain"]);
        let file = if chunk_size == "1" { "crt" } else { "tricky" };
        let sent = scene.send(&receiver.path, &[file, "--chunk-size", chunk_size]);
        assert_eq!(status(&sent), 0, "{}", errors(&sent));
        assert_eq!(receiver.finish().0, 0);
        assert_eq!(
            fs::read(scene.path("in").join(file)).unwrap(),
            fs::read(scene.path(file)).unwrap()
        );
        fs::remove_file(scene.path("in").join(file)).unwrap();
    }
}

#[test]
fn an_interrupted_receiver_leaves_nothing_behind() {
    let scene = Scene::new();
    let mut receiver = scene.receiver(&["--plain"]);
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
        assert_eq!(scene.received().len(), 1, "the temporary file");
        let pid = receiver.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        while let Ok(Some(_)) = endpoint.incoming.next().await {}
    });
    assert_eq!(receiver.child.wait().unwrap().code(), Some(130));
    assert_eq!(scene.received(), [""; 0]);
}

#[test]
fn both_directions_of_one_connection_carry_messages_at_once() {
    const OCTETS: usize = 3 << 20;
    let send_and_count = async |endpoint: &mut Endpoint, to: &str| {
        let spec = MessageSpec {
            failure_report: FailureReport::No,
            total: Some(OCTETS as u64),
            ..MessageSpec::new(to, endpoint.own_uri(), "application/octet-stream")
        };
        let ledger = std::rc::Rc::new(msrprelay::client::Ledger::new(FailureReport::No));
        let (incoming, outgoing) = (&mut endpoint.incoming, &mut endpoint.outgoing);
        let sending = async {
            let mut stream = MessageStream::new(outgoing, &spec, ledger);
            for _ in 0..OCTETS / 4096 {
                stream.write(&[b'-'; 4096]).await.unwrap();
            }
            stream.finish().await.unwrap();
        };
        let receiving = async {
            let mut octets = 0;
            loop {
                match incoming.next().await.unwrap().unwrap() {
                    msrprelay::client::Event::Head { .. } => {}
                    msrprelay::client::Event::Body(piece) => octets += piece.len(),
                    msrprelay::client::Event::End(_) => return octets,
                }
            }
        };
        futures_lite::future::zip(sending, receiving).await.1
    };
    run_on_executor(None, async {
        let listener =
            Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
        let address = listener.address().unwrap();
        let own_uri = Endpoint::mint_uri(address, false);
        let target = Target {
            host: address.ip().to_string(),
            port: address.port(),
        };
        let dialling = async {
            Endpoint::connect(&target, &Security::Plain, LIMIT)
                .await
                .unwrap()
        };
        let accepting =
            async { Endpoint::new(listener.accept(LIMIT).await.unwrap(), own_uri.clone()) };
        let (mut alice, mut bob) = futures_lite::future::zip(dialling, accepting).await;
        let alice_uri = alice.own_uri().to_owned();
        let (to_alice, to_bob) = futures_lite::future::zip(
            send_and_count(&mut alice, &own_uri),
            send_and_count(&mut bob, &alice_uri),
        )
        .await;
        assert_eq!((to_alice, to_bob), (OCTETS, OCTETS));
    })
    .unwrap();
}

const AUTH_URI: &str = "msrps://example.com;tcp";
const USE_PATH: &str = "msrps://near.example:2855/aaa;tcp msrps://far.example:2855/bbb;tcp";

/// Plays a relay for one AUTH of alice, whose password is `s3cret`; `proof` is what it claims as rspauth.
fn with_scripted_relay(
    scene: &Scene,
    arguments: &[&str],
    password: &str,
    proof: Option<&'static str>,
) -> Output {
    let (port_sender, port_receiver) = std::sync::mpsc::channel();
    let relay = std::thread::spawn(move || {
        run_on_executor(None, async {
            let listener =
                Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
            port_sender
                .send(listener.address().unwrap().port())
                .unwrap();
            let play = async {
                let transport = listener.accept(LIMIT).await.unwrap();
                answer_auth(&mut Endpoint::new(transport, AUTH_URI.to_owned()), proof).await;
            };
            futures_lite::future::or(play, alarm()).await;
        })
        .unwrap();
    });
    let relay_address = format!("127.0.0.1:{}", port_receiver.recv().unwrap());
    fs::write(scene.path("password"), format!("{password}\nsecond line\n")).unwrap();
    let common = [
        "--plain",
        "--relay",
        &relay_address,
        "--user",
        "alice@example.com",
        "--password-file",
        "password",
    ];
    let output = scene
        .msrp(arguments)
        .args(common)
        .args(["--auth-uri", AUTH_URI])
        .output()
        .unwrap();
    relay.join().unwrap();
    output
}

async fn answer_auth(endpoint: &mut Endpoint, proof: Option<&str>) {
    use msrprelay::proto::digest::{Algorithm, Authorization, Ha1, check};
    let weak =
        "Digest realm=\"example.com\", nonce=\"n1\", opaque=\"o\", algorithm=MD5, qop=\"auth\"";
    let strong = weak.replace("MD5", "SHA-256");
    let first = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
    assert_eq!(
        first.head.to_path(&first.octets).as_bytes(),
        AUTH_URI.as_bytes()
    );
    let respond = |frame: &Frame, status: u16, headers: &[(&str, &str)]| {
        let mut out = Vec::new();
        let status = Status::new(status).unwrap();
        let mut writer =
            FrameWriter::response(&mut out, frame.head.tid(&frame.octets), status, None)
                .header("To-Path", frame.head.from_path(&frame.octets).as_bytes())
                .header("From-Path", AUTH_URI.as_bytes());
        for (name, value) in headers {
            writer = writer.header(name, value.as_bytes());
        }
        writer.end(Flag::Last);
        out
    };
    let challenges = [
        ("WWW-Authenticate", "Basic realm=\"x\""),
        ("WWW-Authenticate", &strong),
        ("WWW-Authenticate", weak),
    ];
    endpoint
        .outgoing
        .send(&respond(&first, 401, &challenges))
        .await
        .unwrap();
    let second = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
    let authorization =
        Authorization::parse(second.head.authorization(&second.octets).unwrap()).unwrap();
    let ha1 = Ha1::new(Algorithm::Sha256, "alice", "example.com", "s3cret");
    let answer = if check(&authorization, &ha1, "AUTH", AUTH_URI.as_bytes()).is_some() {
        let rspauth = authorization.rspauth(&ha1, AUTH_URI.as_bytes());
        let proof = proof.unwrap_or_else(|| rspauth.as_str());
        let info = format!(
            "rspauth=\"{proof}\", cnonce=\"{}\", nc=00000001, qop=auth",
            authorization.cnonce
        );
        respond(
            &second,
            200,
            &[
                ("Use-Path", USE_PATH),
                ("Expires", "600"),
                ("Authentication-Info", &info),
            ],
        )
    } else {
        respond(&second, 401, &challenges)
    };
    endpoint.outgoing.send(&answer).await.unwrap();
    while let Ok(Some(_)) = endpoint.incoming.next().await {}
}

#[test]
fn probe_tells_what_the_relay_grants() {
    let scene = Scene::new();
    let output = with_scripted_relay(&scene, &["probe", "--json"], "s3cret", None);
    assert_eq!(status(&output), 0, "{}", errors(&output));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let auth = &object["auth"];
    assert_eq!(auth["realm"], "example.com");
    assert_eq!(
        auth["algorithm"], "SHA-256",
        "the strongest challenge is answered"
    );
    assert_eq!(auth["expires"], 600);
    assert_eq!(auth["relay_proved_itself"], true);
    let peers = auth["path_for_peers"].as_str().unwrap();
    let reversed =
        "msrps://far.example:2855/bbb;tcp msrps://near.example:2855/aaa;tcp msrp://127.0.0.1:";
    assert!(peers.starts_with(reversed), "{peers}");
}

#[test]
fn a_wrong_password_has_its_own_status() {
    let scene = Scene::new();
    let output = with_scripted_relay(&scene, &["probe"], "wrong", None);
    assert_eq!(status(&output), 4);
    assert!(
        errors(&output).contains("401 Unauthorized (wrong user"),
        "{}",
        errors(&output)
    );
}

#[test]
fn a_relay_that_does_not_know_the_password_is_not_believed() {
    let scene = Scene::new();
    let output = with_scripted_relay(
        &scene,
        &["probe"],
        "s3cret",
        Some("00000000000000000000000000000000"),
    );
    assert_eq!(status(&output), 4);
    assert!(errors(&output).contains("rspauth"), "{}", errors(&output));
}

#[test]
fn the_path_is_printed_and_silence_is_given_up() {
    let scene = Scene::new();
    let output = with_scripted_relay(
        &scene,
        &["receive", "--out", "in", "--timeout", "300ms"],
        "s3cret",
        None,
    );
    assert_eq!(status(&output), 1, "{}", errors(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.starts_with(
            "msrps://far.example:2855/bbb;tcp msrps://near.example:2855/aaa;tcp msrp://"
        ),
        "{stdout}"
    );
}
