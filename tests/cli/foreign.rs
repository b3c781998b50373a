//! Foreign text on its way to the terminal: whatever it holds, a terminal shows it and obeys none of it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData};
use rcgen::string::Ia5String;
use serde_json::Value;
use untrusted::text::is_plain;

use testkit_net::tool::Tool;
use testkit_net::zone::Zone;

/// Valid in a frame: a C1 control sequence, bidirectional overrides, characters without width, and line breaks.
const EVIL: &str = "\u{9b}31mevil\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{85}end";
/// Invalid in a frame, but a peer may send it.
const WORSE: &str = "\u{1b}[2Jevil\u{7f}\u{7}";

/// One request as it came.
struct Request {
    tid: String,
    /// From-Path and To-Path, as headers of an answer.
    back: String,
    message_id: String,
}

fn read_request(stream: &mut TcpStream, seen: &mut Vec<u8>) -> Option<Request> {
    loop {
        let text = String::from_utf8_lossy(seen).into_owned();
        if let Some((first, _)) = text.split_once("\r\n") {
            let tid = first.split(' ').nth(1)?.to_owned();
            let ends = ['$', '+', '#'].map(|flag| format!("-------{tid}{flag}\r\n"));
            if let Some((at, end)) = ends.iter().find_map(|end| Some((text.find(end.as_str())?, end))) {
                let frame = text.get(..at)?.to_owned();
                // The tests' files are ASCII: bytes are characters.
                seen.drain(..at + end.len());
                let header = |name: &str| {
                    let found = frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    found.unwrap_or_default().to_owned()
                };
                let back =
                    format!("To-Path: {}\r\nFrom-Path: {}\r\n", header("From-Path"), header("To-Path"));
                return Some(Request { back, message_id: header("Message-ID"), tid });
            }
        }
        let mut room = [0; 4096];
        match stream.read(&mut room) {
            Ok(bytes) if bytes > 0 => seen.extend_from_slice(&room[..bytes]),
            _ => return None,
        }
    }
}

impl Request {
    fn answer(&self, status: &str, more: &str) -> String {
        let Self { tid, back, .. } = self;
        format!("MSRP {tid} {status}\r\n{back}{more}-------{tid}$\r\n")
    }
}

/// Answers every request on every connection; returns the port.
fn peer(answer: impl Fn(usize, &Request) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), mut seen, mut count) = (stream, Vec::new(), 0) else { return };
            while let Some(request) = read_request(&mut stream, &mut seen) {
                let _ = stream.write_all(answer(count, &request).as_bytes());
                count += 1;
            }
        }
    });
    port
}

/// The word in every foreign text has come through, and none of the text that a terminal obeys.
#[track_caller]
fn is_shown(output: &Output, what: &str) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("evil"), "{what} is not shown: {said:?}");
    for character in said.chars() {
        assert!(character == '\n' || is_plain(character), "{what}: {character:?} in {said:?}");
    }
}

/// The output is valid JSON and plain text.
#[track_caller]
fn is_json(output: &Output, what: &str) -> Value {
    is_shown(output, what);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn comments_of_responses_and_reports_are_shown_escaped() {
    let tool = Tool::new();
    std::fs::write(tool.path("file"), "x".repeat(100)).unwrap();
    for text in [EVIL, WORSE, &format!("evil{}", "x".repeat(200))] {
        let words = text.to_owned();
        let refusing = peer(move |_, request| request.answer(&format!("403 {words}"), ""));
        let words = text.to_owned();
        let reporting = peer(move |_, request| {
            let Request { back, message_id, .. } = request;
            let report = format!(
                "MSRP reporttid1 REPORT\r\n{back}Message-ID: {message_id}\r\nByte-Range: 1-100/100\r\n\
                 Status: 000 413 {words}\r\n-------reporttid1$\r\n"
            );
            request.answer("200 OK", "") + &report
        });
        for (port, what) in [(refusing, "a response"), (reporting, "a REPORT")] {
            let path = format!("msrp://127.0.0.1:{port}/s;tcp");
            // An answer that the tool rejects never comes.
            let timeout = if text == EVIL { "60s" } else { "5s" };
            let arguments = ["--plain", "--success-report", "yes", "--timeout", timeout, "file"];
            let output = tool.send(&path, &arguments);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            if text == EVIL {
                is_shown(&output, what);
                let output = tool.send(&path, &[&arguments[..], &["--json"]].concat());
                assert_eq!(is_json(&output, what)["ok"], false);
            } else {
                // The tool may reject such a frame; its error is safe.
                let said = String::from_utf8(output.stderr).unwrap();
                assert!(said.chars().all(|c| c == '\n' || is_plain(c)), "{what}: {said:?}");
            }
        }
    }
}

fn probe(tool: &Tool, port: u16, more: &[&str]) -> Output {
    let relay = format!("127.0.0.1:{port}");
    let mut command = tool.msrp(&["probe", "--relay", &relay, "--user", "alice@example.com"]);
    command.args(more).env("MSRP_PASSWORD", "x").output().unwrap()
}

#[test]
fn realms_paths_and_refusals_of_a_relay_are_shown_escaped() {
    let tool = Tool::new();
    let challenge = format!("WWW-Authenticate: Digest realm=\"{EVIL}\", nonce=\"n\", qop=\"auth\"\r\n");
    let granting = {
        let challenge = challenge.clone();
        peer(move |count, request| match count % 2 {
            0 => request.answer("401 Unauthorized", &challenge),
            _ => request
                .answer("200 OK", &format!("Use-Path: msrp://127.0.0.1:1/{EVIL};tcp\r\nExpires: 60\r\n")),
        })
    };
    let refusing = peer(move |count, request| match count % 2 {
        0 => request.answer("401 Unauthorized", &challenge),
        _ => request.answer(&format!("403 {EVIL}"), ""),
    });
    let nonsense = peer(move |_, request| request.answer(&format!("499 {EVIL}"), ""));
    let plain_path = peer(move |count, request| match count % 2 {
        0 => request.answer(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Digest realm=\"{EVIL}\", nonce=\"n\", qop=\"auth\"\r\n"),
        ),
        _ => request.answer("200 OK", "Use-Path: msrp://127.0.0.1:1/abc;tcp\r\nExpires: 60\r\n"),
    });
    let everywhere = [granting, refusing, nonsense, plain_path];
    for (port, what) in everywhere.into_iter().zip(["Use-Path", "403", "499", "realm"]) {
        let output = probe(&tool, port, &["--plain"]);
        let said = String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap();
        assert!(said.chars().all(|c| c == '\n' || is_plain(c)), "{what}: {said:?}");
        let json = probe(&tool, port, &["--plain", "--json"]);
        let _: Value = serde_json::from_slice(&json.stdout).unwrap();
        if what != "Use-Path" {
            is_shown(&output, what);
            is_shown(&json, what);
        }
    }
}

/// A file with one line, which appears whole.
fn written(path: &Path) -> String {
    for _ in 0..6000 {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text.trim_end().to_owned();
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} is never written", path.display());
}

#[test]
fn names_of_files_are_shown_escaped_and_stored_harmlessly() {
    for (offered, hash, stored) in [
        (EVIL, "", Some("_31mevil_____")),
        ("-rf evil", "", Some("_rf evil")),
        ("..\\/-evil", "", Some("_evil")),
        ("con.evil", "", Some("_con.evil")),
        (EVIL, "; hash=sha-256:00", Some("_31mevil_____")),
        (EVIL, &format!("; hash=sha-256:{}", "00:".repeat(31) + "00"), None),
    ] {
        for json in [false, true] {
            let tool = Tool::new();
            let options: &[&str] =
                if json { &["--plain", "--json", "--progress"] } else { &["--plain", "--progress"] };
            let mut receiver =
                tool.msrp(&["receive", "--listen", "127.0.0.1:0", "--out", "in", "--path-file", "path"]);
            let receiver = receiver.args(["--timeout", "60s"]).args(options).spawn().unwrap();
            let to = written(&tool.path("path"));
            let address = to.trim_start_matches("msrp://").split('/').next().unwrap().to_owned();
            let mut sender = TcpStream::connect(address).unwrap();
            let quoted = offered.replace('\\', "\\\\");
            let frame = format!(
                "MSRP sendtid12 SEND\r\nTo-Path: {to}\r\nFrom-Path: msrp://127.0.0.1:9/{EVIL};tcp\r\n\
                 Message-ID: mid12345\r\nByte-Range: 1-4/4\r\nContent-Disposition: attachment; filename=\"{quoted}\"{hash}\r\n\
                 Content-Type: text/{EVIL}\r\n\r\nbody\r\n-------sendtid12$\r\n"
            )
            .replace(&format!("9/{EVIL}"), "9/evil");
            sender.write_all(frame.as_bytes()).unwrap();
            // Its answer; then the receiver need not wait for more.
            let _ = sender.read(&mut [0; 4096]);
            drop(sender);
            let output = receiver.wait_with_output().unwrap();
            is_shown(&output, offered);
            let found = tool.received();
            match stored {
                Some(start) => {
                    assert!(found.len() == 1 && found[0].starts_with(start), "{offered:?}: {found:?}");
                    assert!(found[0].chars().all(is_plain));
                }
                None => assert!(found.is_empty() && !output.status.success()),
            }
            if json {
                let value: Value = serde_json::from_slice(&output.stdout).unwrap();
                let name = value["files"][0]["offered_name"].as_str().unwrap();
                assert_eq!(name, offered, "programs get the name as it was offered");
            }
        }
    }
}

#[test]
fn names_in_a_certificate_are_shown_escaped() {
    let tool = Tool::new();
    let mut parameters = rcgen::CertificateParams::default();
    let name = Ia5String::try_from("\u{1b}[2Jevil.example\n\u{7f}").unwrap();
    parameters.subject_alt_names = vec![
        rcgen::SanType::DnsName(name),
        rcgen::SanType::DnsName(Ia5String::try_from("evil.example").unwrap()),
    ];
    parameters.distinguished_name.push(rcgen::DnType::CommonName, EVIL);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
    let config = Arc::new(config);
    std::fs::write(tool.path("ca"), certificate.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = stream;
            // Until the client has seen enough.
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
            let _ = tls.complete_io(&mut stream);
        }
    });
    for more in [&["--insecure"][..], &["--insecure", "--json"], &["--ca", "ca"], &["--ca", "ca", "--json"]] {
        let output = tool.msrp(&["probe", "--relay", &relay]).args(more).output().unwrap();
        is_shown(&output, "a certificate");
    }
}

#[test]
fn names_in_the_dns_are_shown_escaped() {
    let target = Name::from_labels(vec![EVIL.as_bytes(), b"\x1b[2Jevil\x7f", b"test"]).unwrap();
    let records = vec![("_msrps._tcp.evil.test.".to_owned(), RData::SRV(SRV::new(1, 2, 2855, target)))];
    let zone = Zone::of_records("test.", records);
    let tool = Tool::new();
    let server = zone.address.to_string();
    for more in [&[][..], &["--json"]] {
        let mut command = tool.msrp(&["probe", "evil.test", "--dns", &server, "--connect-timeout", "5s"]);
        let output = command.args(more).stdin(Stdio::null()).output().unwrap();
        is_shown(&output, "an SRV target");
    }
}
