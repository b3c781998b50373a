//! Answers the challenge of a relay: `cargo run -p msrp-proto --example auth`.
//!
//! Writes the second AUTH of RFC 4976, 5.1: the same request as the first, with the client's proof that it knows the password.

use std::io::{self, Write as _};

use msrp_proto::digest::{Challenge, Ha1, NonceUse};
use msrp_proto::parser::Flag;
use msrp_proto::write::FrameWriter;

const RELAY: &str = "msrps://relay.example.com:2855;tcp";
const CLIENT: &str = "msrps://alice.example.com:49152/98cjs;tcp";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The value of the 401's WWW-Authenticate header.
    let header = br#"Digest realm="example.com", nonce="dcd98b7102dd2f0e", algorithm=MD5, qop="auth""#;
    let challenge = Challenge::parse(header)?;
    let ha1 = Ha1::new(challenge.algorithm, "alice", &challenge.realm, "open sesame");
    // A real client draws the last one at random.
    let answer = challenge.answer("alice", &ha1, RELAY.as_bytes(), NonceUse { nc: 1, cnonce: "0a4f113b" });

    let mut frame = Vec::new();
    FrameWriter::request(&mut frame, b"49fh", "AUTH")
        .header("To-Path", RELAY.as_bytes())
        .header("From-Path", CLIENT.as_bytes())
        .header_fmt("Authorization", format_args!("{answer}"))
        .end(Flag::Last);
    io::stdout().lock().write_all(&frame)?;
    Ok(())
}
