//! Digest headers: a parsed header prints to text that parses to the same, and only the right password for the right
//! request passes [`check`].
//!
//! The input is the value of each of the three headers, and, cut at NULs, the parts of an exchange.

use msrp_proto::digest::{
    Algorithm, AuthenticationInfo, Authorization, AuthorizationError, Challenge, Ha1, NonceUse, check,
};

/// Parses, prints, answers and checks.
pub fn digest(bytes: &[u8]) {
    round_trips(bytes);
    if let Ok(authorization) = Authorization::parse(bytes) {
        // The author of the input knows neither of the passwords.
        for password in ["", "no such password"] {
            let (user, realm) = (&authorization.username, &authorization.realm);
            let ha1 = Ha1::new(authorization.algorithm, user, realm, password);
            assert_eq!(check(&authorization, &ha1, "AUTH", b"msrps://relay.example:2855;tcp"), None);
        }
        let dummy = Ha1::dummy(authorization.algorithm);
        assert_eq!(check(&authorization, &dummy, "AUTH", b"msrps://relay.example:2855;tcp"), None);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert_eq!(Ha1::from_hex(text).is_some(), hex && matches!(text.len(), 32 | 64));
        assert_eq!(
            Algorithm::of(text).is_some(),
            text.eq_ignore_ascii_case("md5") || text.eq_ignore_ascii_case("sha-256")
        );
    }
    let text = String::from_utf8_lossy(bytes);
    let parts: Vec<&str> = text.split('\0').collect();
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        exchange(algorithm, &parts);
    }
}

fn round_trips(bytes: &[u8]) {
    if let Ok(authorization) = Authorization::parse(bytes) {
        let printed = authorization.to_string();
        assert!(Authorization::parse(printed.as_bytes()) == Ok(authorization), "{printed}");
    }
    if let Ok(challenge) = Challenge::parse(bytes) {
        let printed = challenge.to_string();
        assert_eq!(Challenge::parse(printed.as_bytes()), Ok(challenge), "{printed}");
    }
    if let Ok(info) = AuthenticationInfo::parse(bytes) {
        let printed = info.to_string();
        assert_eq!(AuthenticationInfo::parse(printed.as_bytes()), Ok(info), "{printed}");
    }
    // Text that is no list of parameters at all is malformed in every header.
    if !bytes.contains(&b'=') {
        assert!(Authorization::parse(bytes).is_err() && Challenge::parse(bytes).is_err());
        assert_eq!(AuthenticationInfo::parse(bytes), Err(AuthorizationError::Malformed));
    }
}

/// A challenge, its answer and the server's proof, over the wire in between.
fn exchange(algorithm: Algorithm, parts: &[&str]) {
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    let (user, realm, password, wrong) = (part(0), part(1), part(2), part(3));
    let (nonce, cnonce, uri) = (part(4), part(5), part(6));
    let nc = parts.len() as u32;
    let sent = Challenge {
        realm: realm.into(),
        nonce: nonce.into(),
        opaque: parts.get(7).map(|opaque| (*opaque).into()),
        algorithm,
        stale: nonce.len() % 2 == 1,
    };
    let wire = sent.to_string();
    let received = Challenge::parse(wire.as_bytes()).unwrap();
    assert_eq!(received, sent, "{wire}");

    let ha1 = Ha1::new(algorithm, user, realm, password);
    let answer = received.answer(user, &ha1, uri.as_bytes(), NonceUse { nc, cnonce }).to_string();
    let answer = Authorization::parse(answer.as_bytes()).unwrap();
    assert_eq!((&*answer.username, &*answer.realm, &*answer.nonce), (user, realm, nonce));
    assert_eq!((answer.nc, answer.algorithm), (nc, algorithm));
    let verified = check(&answer, &ha1, "AUTH", uri.as_bytes()).unwrap();
    assert_eq!((verified.username(), verified.realm()), (user, realm));
    refusals(&answer, &ha1, (password, wrong), uri);

    // The dummy of an unknown user is public.
    let zeros = if algorithm == Algorithm::Md5 { "0".repeat(32) } else { "0".repeat(64) };
    let known = Ha1::from_hex(&zeros).unwrap();
    let forged = received.answer(user, &known, uri.as_bytes(), NonceUse { nc, cnonce });
    assert!(check(&forged, &known, "AUTH", uri.as_bytes()).is_some());
    assert_eq!(
        check(&forged, &Ha1::dummy(algorithm), "AUTH", uri.as_bytes()),
        None,
        "no client has authenticated"
    );

    let info = AuthenticationInfo {
        nextnonce: parts.get(8).map(|next| (*next).into()),
        rspauth: answer.rspauth(&ha1, uri.as_bytes()).as_str().to_owned().into(),
        cnonce: answer.cnonce.clone(),
        nc: answer.nc,
    };
    assert_ne!(info.rspauth, answer.response, "the server proves something of its own");
    let wire = info.to_string();
    assert_eq!(AuthenticationInfo::parse(wire.as_bytes()), Ok(info), "{wire}");
}

/// Everything that differs a little from the right answer.
fn refusals(answer: &Authorization<'_>, ha1: &Ha1, passwords: (&str, &str), uri: &str) {
    let (password, wrong) = passwords;
    let algorithm = ha1.algorithm();
    let (user, realm) = (&answer.username, &answer.realm);
    for guess in [wrong.to_owned(), format!("{password}x"), String::new()] {
        let guessed = Ha1::new(algorithm, user, realm, &guess);
        let passes = check(answer, &guessed, "AUTH", uri.as_bytes()).is_some();
        assert_eq!(passes, guess == password, "{guess:?} for {password:?}");
    }
    let other = if algorithm == Algorithm::Md5 { Algorithm::Sha256 } else { Algorithm::Md5 };
    let other = Ha1::new(other, user, realm, password);
    let forged = |change: fn(&mut Authorization<'_>)| {
        let mut forged = answer.clone();
        change(&mut forged);
        forged
    };
    let changed_digit = forged(|a| {
        let digit = if a.response.starts_with('0') { "1" } else { "0" };
        a.response = format!("{digit}{}", &a.response[1..]).into();
    });
    let shortened = forged(|a| a.response = a.response[2..].to_owned().into());
    let lengthened = forged(|a| a.response = format!("{}00", a.response).into());
    let no_hex = forged(|a| a.response = format!("g{}", &a.response[1..]).into());
    let empty = forged(|a| a.response = "".into());
    let other_nonce = forged(|a| a.nonce = format!("{}x", a.nonce).into());
    let other_cnonce = forged(|a| a.cnonce = format!("{}x", a.cnonce).into());
    for forged in [changed_digit, shortened, lengthened, no_hex, empty, other_nonce, other_cnonce] {
        assert_eq!(check(&forged, ha1, "AUTH", uri.as_bytes()), None);
    }
    for (ha1, method, uri) in [
        (&other, "AUTH", uri),
        (&Ha1::dummy(algorithm), "AUTH", uri),
        (ha1, "SEND", uri),
        (ha1, "AUTH", &format!("{uri}/")),
    ] {
        assert_eq!(check(answer, ha1, method, uri.as_bytes()), None);
    }
    let upper = forged(|a| a.response = a.response.to_uppercase().into());
    assert!(check(&upper, ha1, "AUTH", uri.as_bytes()).is_some(), "hexadecimal digits have no case");
}
