//! The worked chain of the protocol notes (X7), over sockets: what this relay writes as the inner and as the outer one,
//! byte for byte, except the random parts.

use std::net::TcpListener;
use std::thread;

use testkit_pure::vectors;

use super::relays::{Relays, address_of};
use testkit_net::account::{Login, password};
use testkit_net::bounded;
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::Frame;

const INNER: &str = "msrps://r1.osier.example:2855/Lw5tCe8RkY2hPz0NqXs7Bv;tcp";
const OUTER: &str = "msrps://r2.alder.example:2855/Gm4yUj9SdT1oVxK6aFb3Qc;tcp";
const TARGET: &str = "msrps://r2.alder.example;tcp";
const CLIENT: &str = "msrps://198.51.100.23:41502/u4Kd0wR9sQ2mZ7;tcp";

/// The frames X7.1 to X7.4.
fn frames() -> [String; 4] {
    ["X7.1", "X7.2", "X7.3", "X7.4"].map(vectors::frame)
}

/// A frame as it was written; these have no bodies.
fn text(frame: &Frame) -> String {
    format!("{}-------{}$\r\n", frame.head_text(), frame.tid())
}

// As the inner relay: X7.1 in, X7.2 out; X7.3 in, X7.4 out. The URI that it has minted, its name and the transaction ids
// are its own, the port of the outer one is this machine's.
#[test]
fn inner_relay_writes_what_the_example_says() {
    bounded(|| {
        let relays = Relays::new();
        let a = relays.relay("a.osier.example");
        let listener = TcpListener::bind((address_of("r2.alder.example"), 0)).unwrap();
        let target = format!("msrps://r2.alder.example:{};tcp", listener.local_addr().unwrap().port());
        let config = relays.relay_as_server("r2.alder.example", None);
        let mut wren = a.connect("wren");
        CLIENT.clone_into(&mut wren.uri);
        assert_eq!(super::relays::log_in(&mut wren, "alice", &a.uri()), 200);
        let ours = wren.relay.clone().unwrap();
        let here = |frame: &str| frame.replace(INNER, &ours).replace(TARGET, &target);
        let [x1, x2, x3, x4] = frames().map(|frame| here(&frame));

        let outer = thread::spawn(move || {
            let mut outer = Endpoint::accept_tls(&listener, &config, "");
            let request = outer.frame();
            assert_eq!(text(&request), x2.replace("q1Rz8Pm4Lj6d", &request.tid()));
            outer.writer.write(x3.replace("q1Rz8Pm4Lj6d", &request.tid()).as_bytes());
            outer
        });
        wren.writer.write(x1.as_bytes());
        assert_eq!(text(&wren.frame()), x4);
        outer.join().unwrap();
    });
}

// As the outer relay: after a challenge, X7.2 in, X7.3 out. Its own besides: the nonces and what is computed of them, and how
// long it grants.
#[test]
fn outer_relay_writes_what_the_example_says() {
    bounded(|| {
        let relays = Relays::new();
        let b = relays.relay("b.alder.example");
        let config = relays.relay_as_client(&relays.authority, "r1.osier.example");
        let mut inner = b.connect_as("r1", &config);
        let from = format!("{INNER} {CLIENT}");
        from.clone_into(&mut inner.uri);
        let (uri, user) = (b.uri(), "alice");
        let password = password(user);
        let login = Login::new(user, &password, &uri);
        let (challenge, granted) = login.attempt(&mut inner);
        assert_eq!(challenge.required("To-Path"), from);
        assert_eq!(challenge.required("From-Path"), uri);

        let info = granted.required("Authentication-Info");
        let use_path = granted.required("Use-Path");
        let ours = use_path.strip_prefix(INNER).unwrap().trim_start();
        assert!(ours.starts_with(&format!("msrps://b.alder.example:{}/", b.address().port())));
        let [_, _, example, _] = frames();
        let (before, after) = example.split_once("Authentication-Info: ").unwrap();
        let (example_info, end) = after.split_once("\r\n").unwrap();
        let expected = format!("{before}Authentication-Info: {info}\r\n{end}")
            .replace("q1Rz8Pm4Lj6d", &granted.tid())
            .replace(OUTER, ours)
            .replace(TARGET, &uri)
            .replace("Expires: 1200", "Expires: 600");
        assert_eq!(text(&granted), expected);
        // The same parameters in the same order.
        let names = |info: &str| -> Vec<String> {
            info.split(", ").map(|part| part.split('=').next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&info), names(example_info));
        assert!(info.contains("cnonce=\"0123456789abcdef\", nc=00000001, qop=auth"), "{info}");
    });
}
