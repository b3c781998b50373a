//! The worked examples of `data/vectors.json`: parsed, rewritten and written byte for byte.

use msrp_proto::digest::{Algorithm, AuthenticationInfo, Authorization, Challenge, Ha1, NonceUse, check};
use msrp_proto::head::{ByteRange, Head, Kind, Method, Rewrite};
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;
use msrp_proto::write::{FrameWriter, write_end_line};
use testkit_pure::vectors::all as vectors;

/// The frame whose tag begins with `tag`.
fn frame(tag: &str) -> Vec<u8> {
    let vectors = vectors();
    let found = vectors["frames"]
        .as_array()
        .unwrap()
        .iter()
        .find(|frame| frame["tag"].as_str().unwrap().split(' ').next() == Some(tag));
    found.unwrap()["text"].as_str().unwrap().as_bytes().to_vec()
}

/// A value of `digests`, by set and name.
fn digest(set: &str, name: &str) -> String {
    vectors()["digests"][set][name].as_str().unwrap().to_owned()
}

fn uri(name: &str) -> String {
    digest("consts", name)
}

/// A parsed frame.
#[derive(PartialEq, Eq, Debug)]
struct Parsed {
    head: Head,
    head_bytes: Vec<u8>,
    body: Vec<u8>,
    flag: Flag,
    end_bytes: Vec<u8>,
}

/// Parses one frame that arrives in reads that end at `splits`.
fn parse_split(input: &[u8], splits: &[usize]) -> Parsed {
    let mut parser = Parser::new(ParserLimits::default());
    let (mut head, mut head_bytes, mut body, mut end) = (None, vec![], vec![], None);
    let mut at = 0;
    for &read_to in splits.iter().chain([&input.len()]) {
        while let Some(step) = parser.step(&input[at..read_to]).unwrap() {
            let bytes = &input[at..at + step.consumed];
            match step.piece {
                FramePart::Blank => panic!("blank lines in a frame"),
                FramePart::Head(read) => (head, head_bytes) = (Some(read), bytes.to_vec()),
                FramePart::Body(range) => body.extend_from_slice(&bytes[range]),
                FramePart::End(flag) => end = Some((flag, bytes.to_vec())),
            }
            at += step.consumed;
        }
    }
    assert!(at == input.len() && !parser.in_frame(), "not one frame");
    let (flag, end_bytes) = end.unwrap();
    Parsed { head: head.unwrap(), head_bytes, body, flag, end_bytes }
}

fn parse(input: &[u8]) -> Parsed {
    parse_split(input, &[])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_frame_parses_alike_whole_byte_by_byte_and_split_anywhere() {
    let vectors = vectors();
    let frames = vectors["frames"].as_array().unwrap();
    assert!(frames.len() >= 24);
    for frame in frames {
        let input = frame["text"].as_str().unwrap().as_bytes();
        assert_eq!(input.len(), frame["octets"].as_u64().unwrap() as usize);
        let whole = parse(input);
        assert_eq!(whole.head.defect(), None, "{}", frame["tag"]);
        assert_eq!([&whole.head_bytes[..], &whole.body, &whole.end_bytes].concat(), input);
        let every: Vec<usize> = (0..input.len()).collect();
        assert_eq!(parse_split(input, &every), whole, "{} byte by byte", frame["tag"]);
        for split in 0..input.len() {
            assert_eq!(parse_split(input, &[split]), whole, "{} split at {split}", frame["tag"]);
        }
    }
}

#[test]
fn all_frames_parse_when_they_arrive_at_once() {
    let vectors = vectors();
    let frames: Vec<&str> =
        vectors["frames"].as_array().unwrap().iter().map(|frame| frame["text"].as_str().unwrap()).collect();
    let input = frames.concat();
    let (mut parser, mut at, mut ends) = (Parser::new(ParserLimits::default()), 0, 0);
    while let Some(step) = parser.step(&input.as_bytes()[at..]).unwrap() {
        at += step.consumed;
        ends += usize::from(matches!(step.piece, FramePart::End(_)));
    }
    assert_eq!((at, ends), (input.len(), frames.len()));
}

#[test]
fn what_the_frames_say_is_read() {
    let send = parse(&frame("X3.1"));
    assert_eq!(send.head.kind(), Kind::Request(Method::Send));
    assert_eq!(send.body, b"Low tide at six; bring the rope.");
    assert!(send.head.success_report());
    let to_path = send.head.to_path(&send.head_bytes);
    assert_eq!(to_path.uris().collect::<Vec<_>>(), [uri("U1").as_bytes(), uri("F").as_bytes()]);

    let cut = parse(&frame("X5.1"));
    assert_eq!(cut.flag, Flag::More);
    assert_eq!(cut.head.byte_range(), Some(ByteRange { start: 1, end: None, total: Some(36) }));

    let report = parse(&frame("X6.1"));
    assert_eq!(report.head.kind(), Kind::Request(Method::Report));
    assert_eq!(report.head.reported_status(&report.head_bytes), Some(Status::TIMEOUT));

    let answer = parse(&frame("X2.2"));
    assert_eq!(
        (answer.head.kind(), answer.head.min_expires()),
        (Kind::Response(Status::OUT_OF_BOUNDS), Some(60))
    );
    assert_eq!(answer.head.comment(&answer.head_bytes), Some(&b"Interval Out-of-Bounds"[..]));
    assert_eq!(parse(&frame("X1.4")).head.expires(), Some(600));
}

/// The frame `tag` as it leaves a relay.
fn forward(tag: &str, tid: &str, moves: usize, byte_range: Option<ByteRange>) -> String {
    let parsed = parse(&frame(tag));
    let mut out = Vec::new();
    let rewrite = Rewrite { tid: tid.as_bytes(), moves, byte_range };
    parsed.head.rewrite(&parsed.head_bytes, &rewrite, &mut out);
    out.extend_from_slice(&parsed.body);
    write_end_line(&mut out, tid.as_bytes(), parsed.flag, parsed.head.has_body());
    text(&out)
}

#[test]
fn forwarded_frames_are_as_in_the_examples() {
    for (received, tid, moves, sent) in [
        ("X3.1", "r9Tb3Uy6Pe0n", 1, "X3.3"),
        ("X3.5", "r2Ma6Qh4Sk7j", 1, "X3.6"),
        ("X4.1", "r4Xn7Lz1Fu6q", 2, "X4.3"),
        ("X7.1", "q1Rz8Pm4Lj6d", 1, "X7.2"),
        ("X7.3", "w6Ni3Ox7Bt1k", 1, "X7.4"),
    ] {
        assert_eq!(forward(received, tid, moves, None), text(&frame(sent)), "{received} -> {sent}");
    }
}

#[test]
fn two_hops_made_at_once_are_as_two_made_in_turn() {
    let first = forward("X4.1", "between1", 1, None);
    let parsed = parse(first.as_bytes());
    let mut second = Vec::new();
    let rewrite = Rewrite { tid: b"r4Xn7Lz1Fu6q", moves: 1, byte_range: None };
    parsed.head.rewrite(&parsed.head_bytes, &rewrite, &mut second);
    assert!(frame("X4.3").starts_with(&second));
}

#[test]
fn an_interrupted_chunk_goes_out_under_heads_as_in_the_example() {
    let text_of = |tid: &str, range: &str, body: &str| {
        format!(
            "MSRP {tid} SEND\r\nTo-Path: {} {}\r\nFrom-Path: {}\r\nMessage-ID: m4b7e90c3f15\r\n{range}\
             Content-Type: application/octet-stream\r\n\r\n{body}\r\n-------{tid}$\r\n",
            uri("U1"),
            uri("F"),
            uri("W")
        )
    };
    let body = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    // The received head with a number for an end, with `*`, and without any Byte-Range, gives the same.
    for range in ["Byte-Range: 1-36/36\r\n", "Byte-Range: 1-*/36\r\n", ""] {
        let received = parse(text_of("w9Cc4Dd5Ee6f", range, body).as_bytes());
        for (tid, start, bytes, flag, sent) in
            [("r6Kq9Wd2Am5t", 1, 0..20, Flag::More, "X5.1"), ("r7Vc1Ns5Gh3y", 21, 20..36, Flag::Last, "X5.3")]
        {
            let byte_range = Some(ByteRange { start, end: None, total: Some(36) });
            let mut out = Vec::new();
            received.head.rewrite(
                &received.head_bytes,
                &Rewrite { tid: tid.as_bytes(), moves: 1, byte_range },
                &mut out,
            );
            out.extend_from_slice(&received.body[bytes]);
            write_end_line(&mut out, tid.as_bytes(), flag, true);
            assert_eq!(text(&out), text(&frame(sent)), "{range:?} -> {sent}");
        }
    }
}

#[test]
fn the_challenge_is_written_as_in_the_example() {
    let (nonce, asked) = (digest("consts", "nonce"), parse(&frame("X1.1")));
    let challenge = Challenge {
        realm: "osier.example".into(),
        nonce: nonce.into(),
        opaque: Some("b7d1c0".into()),
        algorithm: Algorithm::Md5,
        stale: false,
    };
    let mut out = Vec::new();
    FrameWriter::response(&mut out, asked.head.tid(&asked.head_bytes), Status::UNAUTHORIZED, None)
        .header("To-Path", asked.head.from_path(&asked.head_bytes).as_bytes())
        .header("From-Path", asked.head.to_path(&asked.head_bytes).as_bytes())
        .header_fmt("WWW-Authenticate", format_args!("{challenge}"))
        .end(Flag::Last);
    assert_eq!(text(&out), text(&frame("X1.2")));
}

#[test]
fn the_client_s_answer_is_written_as_in_the_example() {
    let challenged = parse(&frame("X1.2"));
    let challenge =
        Challenge::parse(challenged.head.www_authenticate(&challenged.head_bytes).unwrap()).unwrap();
    let ha1 = Ha1::new(challenge.algorithm, "wren", &challenge.realm, "Tarn-Quill-77");
    let (to, cnonce) = (uri("AU"), digest("consts", "cn"));
    let answer = challenge.answer("wren", &ha1, to.as_bytes(), NonceUse { nc: 1, cnonce: &cnonce });
    let mut out = Vec::new();
    FrameWriter::request(&mut out, b"w2Lf5Vb9Rt4u", "AUTH")
        .header("To-Path", to.as_bytes())
        .header("From-Path", uri("W").as_bytes())
        .header_fmt("Authorization", format_args!("{answer}"))
        .header_fmt("Expires", format_args!("{}", 600))
        .end(Flag::Last);
    assert_eq!(text(&out), text(&frame("X1.3")));
}

#[test]
fn the_200_to_an_auth_is_written_as_in_the_example() {
    let asked = parse(&frame("X1.3"));
    let authorization = Authorization::parse(asked.head.authorization(&asked.head_bytes).unwrap()).unwrap();
    let to_path = asked.head.to_path(&asked.head_bytes);
    let ha1 = Ha1::from_hex(&digest("md5", "ha1")).unwrap();
    let verified = check(&authorization, &ha1, "AUTH", to_path.last().unwrap()).unwrap();
    assert_eq!((verified.username(), verified.realm()), ("wren", "osier.example"));
    let info = AuthenticationInfo {
        nextnonce: Some(digest("consts", "nonce2").into()),
        rspauth: authorization.rspauth(&ha1, to_path.last().unwrap()).as_str().to_owned().into(),
        cnonce: authorization.cnonce.clone(),
        nc: authorization.nc,
    };
    let mut out = Vec::new();
    FrameWriter::response(&mut out, asked.head.tid(&asked.head_bytes), Status::OK, None)
        .header("To-Path", asked.head.from_path(&asked.head_bytes).as_bytes())
        .header("From-Path", to_path.as_bytes())
        .header("Use-Path", uri("U1").as_bytes())
        .header_fmt("Expires", format_args!("{}", asked.head.expires().unwrap()))
        .header_fmt("Authentication-Info", format_args!("{info}"))
        .end(Flag::Last);
    assert_eq!(text(&out), text(&frame("X1.4")));
}

#[test]
fn the_423_is_written_as_in_the_example() {
    let mut out = Vec::new();
    FrameWriter::response(&mut out, b"w3Hs8Nm1Yd6c", Status::OUT_OF_BOUNDS, None)
        .header("To-Path", uri("W").as_bytes())
        .header("From-Path", uri("AU").as_bytes())
        .header("Min-Expires", b"60")
        .end(Flag::Last);
    assert_eq!(text(&out), text(&frame("X2.2")));
}

#[test]
fn the_failure_report_is_written_as_in_the_example() {
    let mut out = Vec::new();
    FrameWriter::request(&mut out, b"r8Df6Tk2Ue9m", "REPORT")
        .header("To-Path", uri("W").as_bytes())
        .header("From-Path", uri("U1").as_bytes())
        .header("Message-ID", b"m4b7e90c3f15")
        .byte_range(ByteRange { start: 21, end: Some(36), total: Some(36) })
        .header_fmt("Status", format_args!("000 {} Downstream timeout", Status::TIMEOUT))
        .end(Flag::Last);
    assert_eq!(text(&out), text(&frame("X6.1")));
}

#[test]
fn each_digest_of_the_examples_is_computed() {
    for (set, algorithm, realm, password, nonce, cnonce, to) in [
        ("md5", Algorithm::Md5, "osier.example", "Tarn-Quill-77", "nonce", "cn", "AU"),
        ("sha", Algorithm::Sha256, "osier.example", "Tarn-Quill-77", "nonceS", "cn", "AU"),
        ("md5_next", Algorithm::Md5, "osier.example", "Tarn-Quill-77", "nonce2", "cn", "AU"),
        ("md5_chain", Algorithm::Md5, "alder.example", "Alder.Gate/9", "n3", "c3", "R2A"),
    ] {
        let (nonce, cnonce, to) = (uri(nonce), uri(cnonce), uri(to));
        let challenge =
            Challenge { realm: realm.into(), nonce: nonce.into(), opaque: None, algorithm, stale: false };
        // From the password and from what an account database holds.
        let stored = Ha1::from_hex(&digest(set, "ha1")).unwrap();
        for ha1 in [Ha1::new(algorithm, "wren", realm, password), stored] {
            let answer = challenge.answer("wren", &ha1, to.as_bytes(), NonceUse { nc: 1, cnonce: &cnonce });
            assert_eq!(answer.response, digest(set, "response"), "{set}");
            assert_eq!(answer.rspauth(&ha1, to.as_bytes()).as_str(), digest(set, "rspauth"), "{set}");
            assert!(check(&answer, &ha1, "AUTH", to.as_bytes()).is_some());
        }
    }
}

#[test]
fn the_digests_in_the_frames_are_verified() {
    for (tag, set) in [("X1.3", "md5"), ("X2.1", "md5_next"), ("X7.1", "md5_chain"), ("X7.2", "md5_chain")] {
        let asked = parse(&frame(tag));
        let authorization =
            Authorization::parse(asked.head.authorization(&asked.head_bytes).unwrap()).unwrap();
        let ha1 = Ha1::from_hex(&digest(set, "ha1")).unwrap();
        let target = asked.head.to_path(&asked.head_bytes).last().unwrap();
        assert!(check(&authorization, &ha1, "AUTH", target).is_some(), "{tag}");
    }
}

#[test]
fn the_server_s_proof_in_the_frames_is_read() {
    let answer = parse(&frame("X1.4"));
    let info =
        AuthenticationInfo::parse(answer.head.authentication_info(&answer.head_bytes).unwrap()).unwrap();
    assert_eq!(info.nextnonce.unwrap(), digest("consts", "nonce2"));
    assert_eq!(
        (&*info.rspauth, &*info.cnonce, info.nc),
        (&*digest("md5", "rspauth"), &*digest("consts", "cn"), 1)
    );
    let use_path = answer.head.use_path(&answer.head_bytes).unwrap();
    let minted = MsrpUri::parse(use_path.last().unwrap()).unwrap();
    assert!(minted.is_secure() && minted.session_id() == Some("7rG2mXw0QbLs9TzEoVh4Kd"));
}
