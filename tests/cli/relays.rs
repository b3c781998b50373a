//! AUTH against a scripted relay: what the tool sends, which answers it accepts, how it ends.

use std::fs;
use std::process::Output;

use msrp_client::{Endpoint, Frame, ListenSecurity, Listener, run_on_executor};
use msrp_proto::digest::{Algorithm, Authorization, Ha1, check};
use msrp_proto::head::{Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::FrameWriter;
use serde_json::Value;

use crate::limit::{LIMIT, alarm};
use testkit_net::tool::{Tool, errors, status};

pub(crate) const AUTH_URI: &str = "msrps://example.com;tcp";
const USE_PATH: &str = "msrps://near.example:2855/aaa;tcp msrps://far.example:2855/bbb;tcp";

/// Plays a relay for one AUTH of alice, whose password is `s3cret`; `proof` is what it claims as rspauth.
fn with_scripted_relay(
    tool: &Tool,
    arguments: &[&str],
    password: &str,
    proof: Option<&'static str>,
) -> Output {
    fs::write(tool.path("password"), format!("{password}\nsecond line\n")).unwrap();
    let common = ["--user", "alice@example.com", "--password-file", "password", "--auth-uri", AUTH_URI];
    let names_uri = arguments.contains(&"--digest-uri");
    let script = async move |endpoint: &mut Endpoint| {
        let granting = Granting { proof, names_uri, ..Granting::new(AUTH_URI, USE_PATH) };
        answer_auth(endpoint, &granting).await;
    };
    with_script(tool, &[arguments, &common].concat(), script)
}

/// Plays the first relay of the tool, which gets its address as `--relay` in front of other options.
pub(crate) fn with_script(
    tool: &Tool,
    arguments: &[&str],
    script: impl AsyncFn(&mut Endpoint) + Send + 'static,
) -> Output {
    let (port_sender, port_receiver) = std::sync::mpsc::channel();
    let relay = std::thread::spawn(move || {
        run_on_executor(None, async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenSecurity::Plain).unwrap();
            port_sender.send(listener.address().unwrap().port()).unwrap();
            let play = async {
                let transport = listener.accept(LIMIT).await.unwrap();
                let mut endpoint = Endpoint::new(transport, AUTH_URI.to_owned());
                script(&mut endpoint).await;
                while let Ok(Some(_)) = endpoint.incoming.next().await {}
            };
            futures_lite::future::or(play, alarm()).await;
        })
        .unwrap();
    });
    let address = format!("127.0.0.1:{}", port_receiver.recv().unwrap());
    let (command, arguments) = arguments.split_first().unwrap();
    let output = tool.msrp(&[command, "--plain", "--relay", &address]).args(arguments).output().unwrap();
    relay.join().unwrap();
    output
}

/// A relay that grants a URI to a client that answers its challenge, or claims to.
pub(crate) struct Granting {
    /// The awaited To-Path, with this relay after those in between; the From-Path of its answers as they arrive.
    pub(crate) to_path: &'static str,
    /// Its own URI.
    pub(crate) uri: &'static str,
    pub(crate) use_path: &'static str,
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
    /// What it claims as rspauth; `None`: the truth.
    pub(crate) proof: Option<&'static str>,
    /// Whether it expects a `uri` in the credentials.
    pub(crate) names_uri: bool,
}

impl Granting {
    pub(crate) fn new(to_path: &'static str, use_path: &'static str) -> Self {
        let uri = to_path.split(' ').next_back().unwrap();
        Self { to_path, uri, use_path, user: "alice", password: "s3cret", proof: None, names_uri: false }
    }
}

/// The next AUTH, which must be for this path.
pub(crate) async fn expect_auth(endpoint: &mut Endpoint, to_path: &str) -> Frame {
    let frame = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
    assert_eq!(frame.head.kind(), Kind::Request(Method::Auth));
    assert_eq!(String::from_utf8_lossy(frame.head.to_path(&frame.bytes).as_bytes()), to_path);
    assert_eq!(frame.head.from_path(&frame.bytes).len(), 1, "the client alone");
    frame
}

pub(crate) fn response(frame: &Frame, from_path: &str, status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let status = Status::new(status).unwrap();
    let mut writer = FrameWriter::response(&mut out, frame.head.tid(&frame.bytes), status, None)
        .header("To-Path", frame.head.from_path(&frame.bytes).as_bytes())
        .header("From-Path", from_path.as_bytes());
    for (name, value) in headers {
        writer = writer.header(name, value.as_bytes());
    }
    writer.end(Flag::Last);
    out
}

pub(crate) async fn answer_auth(endpoint: &mut Endpoint, relay: &Granting) {
    let weak = "Digest realm=\"example.com\", nonce=\"n1\", opaque=\"o\", algorithm=MD5, qop=\"auth\"";
    let strong = weak.replace("MD5", "SHA-256");
    let first = expect_auth(endpoint, relay.to_path).await;
    let challenges = [
        ("WWW-Authenticate", "Basic realm=\"x\""),
        ("WWW-Authenticate", &strong),
        ("WWW-Authenticate", weak),
    ];
    endpoint.outgoing.send(&response(&first, relay.to_path, 401, &challenges)).await.unwrap();
    let second = expect_auth(endpoint, relay.to_path).await;
    let credentials = second.head.authorization(&second.bytes).unwrap();
    let text = String::from_utf8_lossy(credentials);
    assert_eq!(text.contains(&format!(", uri=\"{}\"", relay.uri)), relay.names_uri, "{text}");
    let authorization = Authorization::parse(credentials).unwrap();
    let ha1 = Ha1::new(Algorithm::Sha256, relay.user, "example.com", relay.password);
    let answer = if check(&authorization, &ha1, "AUTH", relay.uri.as_bytes()).is_some() {
        let rspauth = authorization.rspauth(&ha1, relay.uri.as_bytes());
        let proof = relay.proof.unwrap_or_else(|| rspauth.as_str());
        let info = format!("rspauth=\"{proof}\", cnonce=\"{}\", nc=00000001, qop=auth", authorization.cnonce);
        let headers =
            [("Use-Path", relay.use_path), ("Expires", "600"), ("Authentication-Info", info.as_str())];
        response(&second, relay.to_path, 200, &headers)
    } else {
        response(&second, relay.to_path, 401, &challenges)
    };
    endpoint.outgoing.send(&answer).await.unwrap();
}

#[test]
fn probe_tells_what_the_relay_grants() {
    let tool = Tool::new();
    let output = with_scripted_relay(&tool, &["probe", "--json"], "s3cret", None);
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

// G13: there is no `uri` in the credentials unless an option asks for it.
#[test]
fn a_relay_that_wants_a_uri_in_the_credentials_can_have_it() {
    let tool = Tool::new();
    let output = with_scripted_relay(&tool, &["probe", "--digest-uri"], "s3cret", None);
    assert_eq!(status(&output), 0, "{}", errors(&output));
}

#[test]
fn a_wrong_password_has_its_own_status() {
    let tool = Tool::new();
    let output = with_scripted_relay(&tool, &["probe"], "wrong", None);
    assert_eq!(status(&output), 4);
    assert!(
        errors(&output).contains(
            "example.com refused AUTH: 401 Unauthorized (wrong user or password; its realm is example.com)"
        ),
        "{}",
        errors(&output)
    );
}

#[test]
fn a_relay_that_does_not_know_the_password_is_not_believed() {
    let tool = Tool::new();
    let output = with_scripted_relay(&tool, &["probe"], "s3cret", Some("00000000000000000000000000000000"));
    assert_eq!(status(&output), 4);
    assert!(errors(&output).contains("rspauth"), "{}", errors(&output));
}

#[test]
fn the_path_is_printed_and_silence_is_given_up() {
    let tool = Tool::new();
    let output = with_scripted_relay(&tool, &["receive", "--out", "in", "--timeout", "3s"], "s3cret", None);
    assert_eq!(status(&output), 1, "{}", errors(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.starts_with("msrps://far.example:2855/bbb;tcp msrps://near.example:2855/aaa;tcp msrp://"),
        "{stdout}"
    );
}

#[test]
fn realm_that_cannot_match_is_told_with_what_to_do() {
    let tool = Tool::new();
    fs::write(tool.path("password"), "s3cret\n").unwrap();
    for (command, options, remedy) in [
        (
            "probe",
            &[][..],
            "ask for the realm of your account with --auth-uri 'msrps://example.com;tcp', or have",
        ),
        (
            "receive",
            &[],
            "ask for the realm of your account with --auth-uri 'msrps://example.com;tcp', or have",
        ),
        (
            "probe",
            &["--auth-uri", AUTH_URI],
            "too: have its operator write `realm: example.com` into its config",
        ),
    ] {
        let arguments =
            [&[command, "--user", "alice@example.com", "--password-file", "password"], options].concat();
        let output = with_script(&tool, &arguments, async |endpoint| {
            let challenge =
                [("WWW-Authenticate", "Digest realm=\"relay.example\", nonce=\"n\", qop=\"auth\"")];
            for _ in 0..2 {
                let auth = endpoint.incoming.next_frame(0).await.unwrap().unwrap();
                let to_path = String::from_utf8(auth.head.to_path(&auth.bytes).as_bytes().to_vec()).unwrap();
                endpoint.outgoing.send(&response(&auth, &to_path, 401, &challenge)).await.unwrap();
            }
        });
        assert_eq!(status(&output), 4);
        let said = errors(&output);
        assert!(said.contains("its realm is relay.example, which cannot match alice@example.com"), "{said}");
        assert!(said.contains(remedy), "{said}");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(shown.contains("realm        relay.example; AUTH refused"), command == "probe", "{shown}");
    }
}
