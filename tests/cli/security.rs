//! The tool's errors when TLS fails, and which certificates it accepts.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use testkit_net::tool::{Tool, errors, status};

/// Like the output of `openssl req -x509`: self-signed, for a host, and marked as an authority.
fn by_openssl(tool: &Tool, name: &str, dates: Option<(i32, i32)>) {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    if let Some((from, to)) = dates {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(tool.path(name), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(tool.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Sends a file to a receiver with this certificate. Returns the sender's error.
fn refusal(tool: &Tool, certificate: &str, options: &[&str]) -> String {
    let receiver = tool.receiver(&["--cert", certificate, "--key", &format!("{certificate}.key")]);
    let sent = tool.send(&receiver.path, &[&["f"], options].concat());
    receiver.kill();
    assert_eq!(status(&sent), 3, "{}", errors(&sent));
    errors(&sent)
}

#[test]
fn self_signed_certificate_given_with_ca_is_taken_though_it_calls_itself_an_authority() {
    let tool = Tool::new();
    let content = tool.file("f", 1000);
    by_openssl(&tool, "own", None);
    let receiver = tool.receiver(&["--cert", "own", "--key", "own.key"]);
    let sent = tool.send(&receiver.path, &["f", "--ca", "own"]);
    assert_eq!(status(&sent), 0, "{}", errors(&sent));
    assert_eq!(receiver.finish().0, 0);
    assert_eq!(fs::read(tool.path("in/f")).unwrap(), content);

    let said = refusal(&tool, "own", &["--ca", "own", "--server-name", "other.example"]);
    assert!(said.contains("for 127.0.0.1, not for other.example"), "{said}");
    by_openssl(&tool, "other", None);
    let said = refusal(&tool, "other", &["--ca", "own"]);
    assert!(said.contains("if it is self-signed, give exactly it with --ca FILE"), "{said}");
    by_openssl(&tool, "old", Some((2001, 2002)));
    let said = refusal(&tool, "old", &["--ca", "old"]);
    assert!(said.contains("has expired on 2002-01-01"), "{said}");
}

#[test]
fn certificate_for_another_name_is_told_with_its_names_and_what_to_do() {
    let tool = Tool::new();
    tool.file("f", 10);
    fs::copy(tool.path("key"), tool.path("crt.key")).unwrap();
    let said = refusal(&tool, "crt", &["--ca", "crt", "--server-name", "other.example"]);
    let told = "its certificate is for another name: for localhost, 127.0.0.1, not for other.example (if that is the \
                right server, say the name with --server-name NAME)";
    assert!(said.contains(told), "{said}");
}

#[test]
fn plain_to_a_port_of_tls_is_told_to_leave_out_plain() {
    let tool = Tool::new();
    tool.file("f", 10);
    fs::write(tool.path("password"), "x").unwrap();
    let receiver = tool.receiver(&["--cert", "crt", "--key", "key"]);
    let sent = tool.send(&receiver.path.replace("msrps:", "msrp:"), &["f"]);
    assert_eq!(status(&sent), 3, "{}", errors(&sent));
    assert!(errors(&sent).contains("the other side speaks TLS (leave out --plain"), "{}", errors(&sent));

    let relay = receiver.target().to_string();
    let login = ["--user", "a@example.com", "--password-file", "password"];
    let probed = tool.msrp(&["probe", "--plain", "--relay", &relay]).args(login).output().unwrap();
    assert_eq!(status(&probed), 3, "{}", errors(&probed));
    assert!(errors(&probed).contains("the other side speaks TLS (leave out --plain"), "{}", errors(&probed));
    receiver.kill();
}

// Some servers of TLS only close.
#[test]
fn plain_to_a_port_that_closes_is_told_what_it_may_be() {
    let tool = Tool::new();
    fs::write(tool.path("password"), "x").unwrap();
    let (address, server) = serving(|stream| drop(stream.read(&mut [0; 4096])));
    let login = ["--user", "a@example.com", "--password-file", "password"];
    let probed = tool.msrp(&["probe", "--plain", "--relay", &address]).args(login).output().unwrap();
    server.join().unwrap();
    assert!(errors(&probed).contains("if that port speaks TLS: without --plain"), "{}", errors(&probed));
}

/// A server that treats one connection like this.
fn serving(talk: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        talk(&mut stream);
    });
    (address, server)
}

#[test]
fn tls_to_a_port_without_is_told_to_try_plain() {
    let tool = Tool::new();
    let answers: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what it sends is not TLS"),
        (b"MSRP 1234 400 What\r\n-------1234$\r\n", "what it sends is not TLS"),
        (b"", "instead of shaking hands"),
    ];
    for (answer, what) in answers {
        let (address, server) = serving(move |stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        });
        let probed = tool.msrp(&["probe", "--relay", &address, "--insecure"]).output().unwrap();
        server.join().unwrap();
        assert_eq!(status(&probed), 3, "{}", errors(&probed));
        let said = errors(&probed);
        assert!(said.contains(what) && said.contains("(if that port speaks no TLS: --plain)"), "{said}");
    }
}

#[test]
fn probe_shows_the_certificate_that_it_does_not_trust() {
    let tool = Tool::new();
    by_openssl(&tool, "own", Some((2001, 2002)));
    let receiver = tool.receiver(&["--cert", "own", "--key", "own.key"]);
    let relay = receiver.target().to_string();
    let pem = fs::read(tool.path("own")).unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    let fingerprint: Vec<_> = Sha256::digest(&der).iter().map(|byte| format!("{byte:02X}")).collect();
    for (options, wrong) in [
        (
            &[][..],
            "signed by no authority that is trusted here (give its issuer, or a self-signed certificate itself, with --ca FILE)",
        ),
        (&["--ca", "own"], "has expired on 2002-01-01"),
        (&["--ca", "own", "--server-name", "other.example"], "for 127.0.0.1, not for other.example"),
    ] {
        let arguments = [&["probe", "--relay", &relay], options].concat();
        let output = tool.msrp(&arguments).output().unwrap();
        assert_eq!(status(&output), 3, "{}", errors(&output));
        let shown = String::from_utf8_lossy(&output.stdout);
        for words in [
            "certificate  127.0.0.1; valid 2001-01-01 00:00:00Z to 2002-01-01 00:00:00Z",
            "subject    CN=rcgen self signed cert",
            "issued by  itself",
            &format!("SHA-256    {}", fingerprint.join(":")),
            "trust        NOT TRUSTED: TLS with 127.0.0.1:",
        ] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        if !options.contains(&"--server-name") {
            assert!(shown.contains(wrong) && errors(&output).contains(wrong), "{wrong}: {shown}");
        }
        let output = tool.msrp(&[&arguments[..], &["--json"]].concat()).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["ok"], &json["tls"]["verified"]), (&false.into(), &false.into()));
        assert_eq!(json["tls"]["certificates"][0]["sha256"], fingerprint.join(":"));
    }
    receiver.kill();
}
