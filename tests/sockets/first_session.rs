//! Replays the transcript of `docs/client/first-session.md` against a relay process, byte for byte.
//!
//! The page is the script: its config, the senders, the receivers and the frames. The relay's random parts are on the
//! page as they were in one run. The test learns their values in this run where the relay first sends them, and
//! replaces them from then on. The page's digests must be right for the page's nonces.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use msrp_proto::digest::{Algorithm, Authorization, Challenge, Ha1, NonceUse};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const PAGE: &str = include_str!("../../docs/client/first-session.md");
const HOST: &str = "relay.example.com";
const PATIENCE: Duration = Duration::from_secs(30);

/// One frame of the page.
#[derive(Debug)]
struct Step {
    client: &'static str,
    sends: bool,
    /// With the line ends of the wire.
    frame: String,
}

/// The fenced blocks of the page: the kind, the last line in front that is not empty, and what is in them.
fn blocks() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut found = Vec::new();
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("\n```") {
        let (kind, after) = after.split_once('\n').unwrap();
        let (inside, after) = after.split_once("\n```\n").unwrap();
        let in_front = before.lines().rfind(|line| !line.trim().is_empty()).unwrap();
        found.push((kind, in_front, inside));
        rest = after;
    }
    found
}

/// The frames, in the order of the page. Each has a number and its sender: `3. **bob sends**`.
fn steps() -> Vec<Step> {
    let mut found = Vec::new();
    for (_, in_front, inside) in blocks().into_iter().filter(|(kind, ..)| *kind == "msrp") {
        let (number, title) = in_front.split_once(". **").unwrap_or_else(|| panic!("{in_front:?}"));
        assert_eq!(number.parse(), Ok(found.len() + 1), "{in_front}");
        let (client, verb) = title.strip_suffix("**").unwrap().split_once(' ').unwrap();
        assert!(["sends", "receives"].contains(&verb), "{in_front}");
        let frame = inside.replace('\n', "\r\n") + "\r\n";
        found.push(Step { client, sends: verb == "sends", frame });
    }
    found
}

fn config() -> &'static str {
    blocks().into_iter().find(|(kind, ..)| *kind == "yaml").unwrap().2
}

fn password(user: &str) -> &'static str {
    let (_, rest) = config().split_once(&format!("{{user: \"{user}@example.com\", password: \"")).unwrap();
    rest.split('"').next().unwrap()
}

/// The value of a header.
fn header<'a>(frame: &'a str, name: &str) -> Option<&'a str> {
    frame.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The value of a parameter, such as a nonce.
fn parameter<'a>(value: &'a str, name: &str) -> &'a str {
    let (_, rest) = value.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name}: {value}"));
    rest.split('"').next().unwrap()
}

/// The last part of a URI of the relay.
fn session_id(use_path: &str) -> &str {
    use_path.rsplit('/').next().unwrap().split(';').next().unwrap()
}

/// The digest that answers a challenge, and the relay's proof in return.
fn digests(user: &str, challenge: &str, request: &str) -> (String, String) {
    let challenge = Challenge::parse(challenge.as_bytes()).unwrap();
    let ha1 = Ha1::new(Algorithm::Md5, user, &challenge.realm, password(user));
    let uri = header(request, "To-Path").unwrap().rsplit(' ').next().unwrap().as_bytes();
    let cnonce = parameter(header(request, "Authorization").unwrap(), "cnonce");
    let answer: Authorization<'_> = challenge.answer(user, &ha1, uri, NonceUse { nc: 1, cnonce });
    (answer.response.to_string(), answer.rspauth(&ha1, uri).as_str().to_owned())
}

/// The replacements.
#[derive(Default)]
struct Places(Vec<(String, String)>);

impl Places {
    fn learn(&mut self, on_the_page: &str, here: &str) {
        assert!(on_the_page.len() >= 4, "{on_the_page:?} could be part of anything");
        self.0.push((on_the_page.to_owned(), here.to_owned()));
    }

    fn fill(&self, frame: &str) -> String {
        self.0.iter().fold(frame.to_owned(), |frame, (page, here)| frame.replace(page, here))
    }

    /// Learns the relay's random parts in this frame.
    fn learn_from(&mut self, page: &str, here: &str) {
        let start =
            |frame: &str| frame.lines().next().unwrap().split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (on_the_page, here_too) = (start(page), start(here));
        if ["SEND", "REPORT"].contains(&here_too[2].as_str()) {
            self.learn(&on_the_page[1], &here_too[1]);
        }
        for (name, parameters) in
            [("WWW-Authenticate", &["nonce", "opaque"][..]), ("Authentication-Info", &["nextnonce"])]
        {
            if let (Some(page), Some(here)) = (header(page, name), header(here, name)) {
                parameters.iter().for_each(|name| self.learn(parameter(page, name), parameter(here, name)));
            }
        }
        if let (Some(page), Some(here)) = (header(page, "Use-Path"), header(here, "Use-Path")) {
            self.learn(session_id(page), session_id(here));
        }
    }
}

struct Relay {
    child: Child,
    address: SocketAddr,
    roots: RootCertStore,
    _place: tempfile::TempDir,
}

impl Relay {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let write = |name: &str, text: String| fs::write(place.path().join(name), text).unwrap();
        write("relay.crt", made.cert.pem());
        write("relay.key", made.signing_key.serialize_pem());
        assert_eq!(config().matches("127.0.0.1:2855").count(), 1);
        write("config.yaml", config().replace("127.0.0.1:2855", "127.0.0.1:0"));
        let ready = place.path().join("ready");
        let mut child = Command::new(env!("CARGO_BIN_EXE_msrprelay"))
            .arg("--config")
            .arg(place.path().join("config.yaml"))
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let address = first_line(&ready, &mut child).parse().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
        Self { child, address, roots, _place: place }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(self.roots.clone()).with_no_client_auth();
        let name = ServerName::try_from(HOST).unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        Client { stream: StreamOwned::new(tls, stream), read: Vec::new(), challenge: None, rspauth: None }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_line(file: &Path, child: &mut Child) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(line) =
            fs::read_to_string(file).ok().and_then(|text| text.lines().next().map(str::to_owned))
        {
            return line;
        }
        assert_eq!(child.try_wait().unwrap(), None, "the relay has ended");
        assert!(Instant::now() < deadline, "the relay is not ready");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    read: Vec<u8>,
    /// The last challenge: of the page, and of this run.
    challenge: Option<(String, String)>,
    /// The proofs that the relay owes: of the page, and of this run.
    rspauth: Option<(String, String)>,
}

impl Client {
    /// The next frame, to the end of its end-line.
    fn frame(&mut self) -> String {
        loop {
            let text = std::str::from_utf8(&self.read).unwrap();
            if let Some(tid) = text.strip_prefix("MSRP ").and_then(|rest| rest.split(' ').next())
                && let Some(at) = text.find(&format!("\r\n-------{tid}"))
                && let Some(end) = text[at + 2..].find("\r\n")
            {
                let frame = self.read.drain(..at + 2 + end + 2).collect();
                return String::from_utf8(frame).unwrap();
            }
            let mut some = [0; 4096];
            let n = self.stream.read(&mut some).unwrap();
            assert_ne!(n, 0, "the relay has closed the connection behind {text:?}");
            self.read.extend_from_slice(&some[..n]);
        }
    }

    fn send(&mut self, user: &str, page: &str, places: &Places) {
        let mut frame = places.fill(page);
        if let Some(authorization) = header(page, "Authorization") {
            let (page_challenge, challenge) = self.challenge.as_ref().unwrap();
            let on_the_page = digests(user, page_challenge, page);
            assert_eq!(parameter(authorization, "response"), on_the_page.0, "{user}: the digest on the page");
            let here = digests(user, challenge, &frame);
            frame = frame.replace(&on_the_page.0, &here.0);
            self.rspauth = Some((on_the_page.1, here.1));
        }
        self.stream.write_all(frame.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    fn receive(&mut self, page: &str, places: &mut Places) {
        let here = self.frame();
        places.learn_from(page, &here);
        if let (Some(page), Some(here)) =
            (header(page, "WWW-Authenticate"), header(&here, "WWW-Authenticate"))
        {
            self.challenge = Some((page.to_owned(), here.to_owned()));
        }
        let mut page = page.to_owned();
        if let Some(info) = header(&page, "Authentication-Info") {
            let (on_the_page, here) = self.rspauth.take().unwrap();
            assert_eq!(parameter(info, "rspauth"), on_the_page, "the relay's proof on the page");
            page = page.replace(&on_the_page, &here);
        }
        assert_eq!(here, places.fill(&page));
    }
}

#[test]
fn first_session_of_the_page_is_what_a_relay_says() {
    let steps = steps();
    assert!(steps.len() >= 14, "{}", steps.len());
    let relay = Relay::start();
    let mut places = Places::default();
    places.learn(&format!("{HOST}:2855"), &format!("{HOST}:{}", relay.address.port()));
    let mut clients: HashMap<&str, Client> = HashMap::new();
    for step in &steps {
        let client = clients.entry(step.client).or_insert_with(|| relay.connect());
        match step.sends {
            true => client.send(step.client, &step.frame, &places),
            false => client.receive(&step.frame, &mut places),
        }
    }
}
