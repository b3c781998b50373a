//! File transfers that succeed, and transfers that never begin.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use testkit_net::tool::{Tool, errors, names_in, status};

#[test]
fn files_of_all_sizes_arrive_over_tls() {
    let tool = Tool::new();
    for (name, bytes) in
        [("none", 0), ("one", 1), ("small.txt", 2048), ("odd.bin", 300_001), ("large.bin", 9 << 20)]
    {
        let content = tool.file(name, bytes);
        let receiver = tool.receiver(&["--cert", "crt", "--key", "key"]);
        let sent = tool.send(&receiver.path, &[name, "--ca", "crt"]);
        assert_eq!(status(&sent), 0, "{name}: {}", errors(&sent));
        let (code, said) = receiver.finish();
        assert_eq!(code, 0, "{name}: {said}");
        assert!(said.contains("SHA-256 verified"), "{said}");
        assert_eq!(fs::read(tool.path("in").join(name)).unwrap(), content);
    }
}

#[test]
fn chunks_and_report_wishes_of_all_kinds_arrive_plain() {
    let tool = Tool::new();
    let content = tool.file("f.bin", 200_003);
    let wishes: [&[&str]; 7] = [
        &["--failure-report", "no"],
        &["--failure-report", "partial"],
        &["--chunk-size", "1000", "--window", "1"],
        &["--chunk-size", "64K"],
        &["--chunk-size", "2049", "--failure-report", "partial"],
        &["--chunk-size", "999", "--failure-report", "no", "--success-report"],
        &["--chunk-size", "7K", "--success-report", "no"],
    ];
    for wish in wishes {
        let receiver = tool.receiver(&["--plain"]);
        let sent = tool.msrp(&["send", "f.bin", "--to", &receiver.path]).args(wish).output().unwrap();
        assert_eq!(status(&sent), 0, "{wish:?}: {}", errors(&sent));
        assert_eq!(receiver.finish().0, 0);
        assert_eq!(fs::read(tool.path("in/f.bin")).unwrap(), content);
        fs::remove_file(tool.path("in/f.bin")).unwrap();
    }
}

#[test]
fn a_stream_of_unknown_length_arrives() {
    let tool = Tool::new();
    let receiver = tool.receiver(&["--plain"]);
    let mut sender = tool
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
    let received = fs::read_to_string(tool.path("in/piped.txt")).unwrap();
    assert_eq!(received.lines().count(), 2000);
    assert!(received.ends_with("line 1999\n"));
}

#[test]
fn json_is_one_object_at_both_ends() {
    let tool = Tool::new();
    let content = tool.file("j.bin", 5000);
    let mut receiver = tool
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
    BufReader::new(receiver.stderr.take().unwrap()).read_line(&mut path).unwrap();
    assert_eq!(fs::read_to_string(tool.path("path")).unwrap(), path);
    let sent = tool.send(path.trim_end(), &["j.bin", "--json"]);
    let sent: Value = serde_json::from_slice(&sent.stdout).unwrap();
    let received: Value = serde_json::from_slice(&receiver.wait_with_output().unwrap().stdout).unwrap();
    let digest = msrp_client::hex(&Sha256::digest(&content));
    for (object, key, expected) in [
        (&sent, "ok", Value::from(true)),
        (&sent, "bytes", Value::from(5000)),
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
    let tool = Tool::new();
    let content = tool.file("f.bin", 100);
    fs::write(tool.path("in/passwd"), "precious").unwrap();
    for (offered, stored) in [
        ("../../passwd", "passwd (1)"),
        ("/etc/passwd", "passwd (2)"),
        ("..", "file"),
        (".profile", "profile"),
        ("a\u{1b}]0;b.txt", "a_]0;b.txt"),
    ] {
        let receiver = tool.receiver(&["--plain"]);
        let sent = tool.send(&receiver.path, &["f.bin", "--name", offered]);
        assert_eq!(status(&sent), 0, "{}", errors(&sent));
        assert_eq!(receiver.finish().0, 0);
        assert_eq!(fs::read(tool.path("in").join(stored)).unwrap(), content, "{offered:?}");
    }
    assert_eq!(fs::read(tool.path("in/passwd")).unwrap(), b"precious");
    assert_eq!(names_in(tool.directory.path()), ["crt", "f.bin", "in", "key"]);
    assert_eq!(tool.received().len(), 6);
}

#[test]
fn untrusted_certificate_is_refused() {
    let tool = Tool::new();
    tool.file("f.bin", 100);
    let receiver = tool.receiver(&["--cert", "crt", "--key", "key"]);
    let refused = tool.send(&receiver.path, &["f.bin"]);
    assert_eq!(status(&refused), 3, "{}", errors(&refused));
    assert!(errors(&refused).contains("--ca"), "{}", errors(&refused));
    let other_name =
        tool.send(&receiver.path, &["f.bin", "--ca", "crt", "--server-name", "elsewhere.example"]);
    assert_eq!(status(&other_name), 3);
    let insecure = tool.send(&receiver.path, &["f.bin", "--insecure"]);
    assert_eq!(status(&insecure), 0, "{}", errors(&insecure));
    assert_eq!(receiver.finish().0, 0);
}

#[test]
fn usage_errors_have_their_own_status() {
    let tool = Tool::new();
    tool.file("f.bin", 1);
    let uri = "msrp://127.0.0.1:9/x;tcp";
    let wrong: [&[&str]; 9] = [
        &["send", "f.bin"],
        &["send", "f.bin", "--to", "not a path"],
        &["send", "f.bin", "--to", uri, "--chunk-size", "0"],
        &["send", "f.bin", "--to", uri, "--relay", "127.0.0.1:9"],
        &["send", "f.bin", "--to", uri, "--user", "alice@example.com", "--relay", "127.0.0.1:9"],
        &["send", "in", "--to", uri],
        &["receive"],
        &["receive", "--listen", "127.0.0.1:0"],
        &["receive", "--listen", "127.0.0.1:0", "--plain", "--out", "nowhere"],
    ];
    for arguments in wrong {
        let output = tool.msrp(arguments).output().unwrap();
        assert_eq!(status(&output), 2, "{arguments:?}: {}", errors(&output));
    }
}

#[test]
fn a_dead_address_is_a_connection_failure() {
    let tool = Tool::new();
    tool.file("f.bin", 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("msrp://{}/x;tcp", listener.local_addr().unwrap());
    drop(listener);
    let output = tool.send(&path, &["f.bin"]);
    assert_eq!(status(&output), 3, "{}", errors(&output));
}

#[test]
fn what_is_not_msrp_ends_the_transfer() {
    let tool = Tool::new();
    tool.file("f.bin", 100_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("msrp://{}/x;tcp", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = tool.send(&path, &["f.bin"]);
    assert_eq!(status(&output), 1, "{}", errors(&output));
    assert!(errors(&output).contains("not MSRP"), "{}", errors(&output));
    server.join().unwrap();
}

#[test]
fn a_body_full_of_look_alike_end_lines_arrives() {
    let tool = Tool::new();
    let content = "-------\r\n-------abcd$\r\n-------abcd+\r\nMSRP abcd 200 OK\r\n".repeat(3000);
    fs::write(tool.path("tricky"), &content).unwrap();
    for chunk_size in ["1", "13", "100", "5000"] {
        let receiver = tool.receiver(&["--plain"]);
        let file = if chunk_size == "1" { "crt" } else { "tricky" };
        let sent = tool.send(&receiver.path, &[file, "--chunk-size", chunk_size]);
        assert_eq!(status(&sent), 0, "{}", errors(&sent));
        assert_eq!(receiver.finish().0, 0);
        assert_eq!(fs::read(tool.path("in").join(file)).unwrap(), fs::read(tool.path(file)).unwrap());
        fs::remove_file(tool.path("in").join(file)).unwrap();
    }
}

#[test]
fn addresses_of_ipv6_work_as_well() {
    let tool = Tool::new();
    let content = tool.file("six.bin", 5000);
    let receiver = tool.receiver_at("[::1]:0", &["--plain"]);
    assert!(receiver.path.starts_with("msrp://[::1]:"), "{}", receiver.path);
    let sent = tool.send(&receiver.path, &["six.bin"]);
    assert_eq!(status(&sent), 0, "{}", errors(&sent));
    assert_eq!(receiver.finish().0, 0);
    assert_eq!(fs::read(tool.path("in/six.bin")).unwrap(), content);
}
