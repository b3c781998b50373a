//! AUTH against a scripted relay: what the tool sends, what it believes, how it ends.

use std::fs;
use std::process::Output;

use msrprelay::client::{Endpoint, Frame, ListenSecurity, Listener, run_on_executor};
use msrprelay::proto::digest::{Algorithm, Authorization, Ha1, check};
use msrprelay::proto::parser::Flag;
use msrprelay::proto::status::Status;
use msrprelay::proto::write::FrameWriter;
use serde_json::Value;

use crate::scene::{LIMIT, Scene, alarm, errors, status};

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
    let names_uri = arguments.contains(&"--digest-uri");
    let relay = std::thread::spawn(move || {
        run_on_executor(None, async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
            port_sender.send(listener.address().unwrap().port()).unwrap();
            let play = async {
                let transport = listener.accept(LIMIT).await.unwrap();
                answer_auth(&mut Endpoint::new(transport, AUTH_URI.to_owned()), proof, names_uri).await;
            };
            futures_lite::future::or(play, alarm()).await;
        })
        .unwrap();
    });
    let relay_address = format!("127.0.0.1:{}", port_receiver.recv().unwrap());
    fs::write(scene.path("password"), format!("{password}\nsecond line\n")).unwrap();
    let common =
        ["--plain", "--relay", &relay_address, "--user", "alice@example.com", "--password-file", "password"];
    let output = scene.msrp(arguments).args(common).args(["--auth-uri", AUTH_URI]).output().unwrap();
    relay.join().unwrap();
    output
}

async fn answer_auth(endpoint: &mut Endpoint, proof: Option<&str>, names_uri: bool) {
    let weak = "Digest realm=\"example.com\", nonce=\"n1\", opaque=\"o\", algorithm=MD5, qop=\"auth\"";
    let strong = weak.replace("MD5", "SHA-256");
    let first = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
    assert_eq!(first.head.to_path(&first.octets).as_bytes(), AUTH_URI.as_bytes());
    let respond = |frame: &Frame, status: u16, headers: &[(&str, &str)]| {
        let mut out = Vec::new();
        let status = Status::new(status).unwrap();
        let mut writer = FrameWriter::response(&mut out, frame.head.tid(&frame.octets), status, None)
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
    endpoint.outgoing.send(&respond(&first, 401, &challenges)).await.unwrap();
    let second = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
    let credentials = second.head.authorization(&second.octets).unwrap();
    let text = String::from_utf8_lossy(credentials);
    assert_eq!(text.contains(&format!(", uri=\"{AUTH_URI}\"")), names_uri, "{text}");
    let authorization = Authorization::parse(credentials).unwrap();
    let ha1 = Ha1::new(Algorithm::Sha256, "alice", "example.com", "s3cret");
    let answer = if check(&authorization, &ha1, "AUTH", AUTH_URI.as_bytes()).is_some() {
        let rspauth = authorization.rspauth(&ha1, AUTH_URI.as_bytes());
        let proof = proof.unwrap_or_else(|| rspauth.as_str());
        let info = format!("rspauth=\"{proof}\", cnonce=\"{}\", nc=00000001, qop=auth", authorization.cnonce);
        respond(&second, 200, &[("Use-Path", USE_PATH), ("Expires", "600"), ("Authentication-Info", &info)])
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
    assert_eq!(auth["algorithm"], "SHA-256", "the strongest challenge is answered");
    assert_eq!(auth["expires"], 600);
    assert_eq!(auth["relay_proved_itself"], true);
    let peers = auth["path_for_peers"].as_str().unwrap();
    let reversed = "msrps://far.example:2855/bbb;tcp msrps://near.example:2855/aaa;tcp msrp://127.0.0.1:";
    assert!(peers.starts_with(reversed), "{peers}");
}

// G13: there is no `uri` in the credentials unless somebody asks for it.
#[test]
fn a_relay_that_wants_a_uri_in_the_credentials_can_have_it() {
    let scene = Scene::new();
    let output = with_scripted_relay(&scene, &["probe", "--digest-uri"], "s3cret", None);
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn a_wrong_password_has_its_own_status() {
    let scene = Scene::new();
    let output = with_scripted_relay(&scene, &["probe"], "wrong", None);
    assert_eq!(status(&output), 4);
    assert!(errors(&output).contains("401 Unauthorized (wrong user"), "{}", errors(&output));
}

#[test]
fn a_relay_that_does_not_know_the_password_is_not_believed() {
    let scene = Scene::new();
    let output = with_scripted_relay(&scene, &["probe"], "s3cret", Some("00000000000000000000000000000000"));
    assert_eq!(status(&output), 4);
    assert!(errors(&output).contains("rspauth"), "{}", errors(&output));
}

#[test]
fn the_path_is_printed_and_silence_is_given_up() {
    let scene = Scene::new();
    let output =
        with_scripted_relay(&scene, &["receive", "--out", "in", "--timeout", "300ms"], "s3cret", None);
    assert_eq!(status(&output), 1, "{}", errors(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.starts_with("msrps://far.example:2855/bbb;tcp msrps://near.example:2855/aaa;tcp msrp://"),
        "{stdout}"
    );
}
