//! Digest authentication (RFC 4976 §5.1 and §9.1, RFC 7616): challenges, answers, their check.
//!
//! Invariants: [`check`] is the only maker of [`Verified`]; digests are compared in constant time; the hashed URI
//! is the bytes of the rightmost To-Path URI as sent, never rebuilt; no HA1 is ever printed. Whether a nonce is
//! fresh, a count (`nc`) new or a realm ours is the caller's to decide: there is no clock or state here.

mod algorithm;
mod hash;
mod parameters;
mod timed;

use core::fmt;
use std::borrow::Cow;

use subtle::{Choice, ConstantTimeEq as _};

use super::uri::hex_value;
pub use algorithm::Algorithm;
pub use hash::Hex;
use hash::{Hash, decode_hex, digits, hex_digit};
pub use parameters::AuthorizationError;
use parameters::{Parameters, Quoted};
pub use timed::{TimedName, TimedNames};

/// The value of an Authorization header, unescaped: received ([`Authorization::parse`]) or to be sent
/// ([`Challenge::answer`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// The user name.
    pub username: Cow<'a, str>,
    /// The realm that knows the name.
    pub realm: Cow<'a, str>,
    /// The challenge's nonce.
    pub nonce: Cow<'a, str>,
    /// The digest; hexadecimal if the peer is correct.
    pub response: Cow<'a, str>,
    /// The client's own nonce.
    pub cnonce: Cow<'a, str>,
    /// How many times this nonce has been used, counted from 1.
    pub nc: u32,
    /// The challenge's opaque. We always send it, and do not demand it back.
    pub opaque: Option<Cow<'a, str>>,
    /// The hash; MD5 where it was not named.
    pub algorithm: Algorithm,
    /// The eight digits of `nc` as sent, because the digest covers them.
    nc_digits: [u8; 8],
}

impl<'a> Authorization<'a> {
    /// Reads the value of an Authorization header. Every parameter may be quoted or not; unknown ones, such as
    /// `uri`, are ignored; white space and empty list elements do not matter.
    ///
    /// # Errors
    /// [`AuthorizationError`] says what to answer.
    pub fn parse(value: &'a [u8]) -> Result<Self, AuthorizationError> {
        let mut parameters = Parameters::of_digest(value)?;
        let username = parameters.required("username")?;
        let realm = parameters.required("realm")?;
        let nonce = parameters.required("nonce")?;
        let response = parameters.required("response")?;
        let cnonce = parameters.required("cnonce")?;
        let qop = parameters.required("qop")?;
        let (nc, nc_digits) = nonce_count(&parameters.required("nc")?)?;
        let opaque = parameters.optional("opaque");
        let algorithm = parameters.algorithm()?;
        if !qop.eq_ignore_ascii_case("auth") {
            return Err(AuthorizationError::Unsupported);
        }
        Ok(Self { username, realm, nonce, response, cnonce, nc, opaque, algorithm, nc_digits })
    }

    /// The same, with texts of its own.
    #[must_use]
    pub fn into_owned(self) -> Authorization<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Authorization {
            username: own(self.username),
            realm: own(self.realm),
            nonce: own(self.nonce),
            response: own(self.response),
            cnonce: own(self.cnonce),
            nc: self.nc,
            opaque: self.opaque.map(own),
            algorithm: self.algorithm,
            nc_digits: self.nc_digits,
        }
    }

    /// The digest that the server returns as `rspauth`: H(HA1:nonce:nc:cnonce:auth:H(":" uri)).
    #[must_use]
    pub fn rspauth(&self, ha1: &Ha1, uri: &[u8]) -> Hex {
        self.digest(ha1, "", uri).to_hex()
    }

    /// H(HA1:nonce:nc:cnonce:auth:H(method:uri)), by the algorithm of `ha1`.
    fn digest(&self, ha1: &Ha1, method: &str, uri: &[u8]) -> Hash {
        let algorithm = ha1.algorithm();
        let ha2 = Hash::of(algorithm, &[method.as_bytes(), b":", uri]).to_hex();
        let ha1 = ha1.hash.to_hex();
        let (nonce, cnonce) = (self.nonce.as_bytes(), self.cnonce.as_bytes());
        let parts: [&[u8]; 10] = [
            ha1.as_bytes(),
            b":",
            nonce,
            b":",
            &self.nc_digits,
            b":",
            cnonce,
            b":auth",
            b":",
            ha2.as_bytes(),
        ];
        Hash::of(algorithm, &parts)
    }
}

impl fmt::Display for Authorization<'_> {
    /// The value of an Authorization header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest username={}, realm={}", Quoted(&self.username), Quoted(&self.realm))?;
        write!(f, ", nonce={}", Quoted(&self.nonce))?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        write!(f, ", algorithm={}, qop=auth, nc={}", self.algorithm.as_str(), digits(&self.nc_digits))?;
        write!(f, ", cnonce={}, response={}", Quoted(&self.cnonce), Quoted(&self.response))
    }
}

impl fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A captured response could be tried offline against guessed passwords.
        f.debug_struct("Authorization")
            .field("algorithm", &self.algorithm)
            .field("nc", &self.nc)
            .finish_non_exhaustive()
    }
}

/// H(user:realm:password): as good as the password for that realm.
#[derive(Clone)]
pub struct Ha1 {
    hash: Hash,
    /// False for a dummy, which never verifies anything, although its value is public.
    real: bool,
}

impl Ha1 {
    /// From a password.
    #[must_use]
    pub fn new(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Self {
        let parts = [user.as_bytes(), b":", realm.as_bytes(), b":", password.as_bytes()];
        Self { hash: Hash::of(algorithm, &parts), real: true }
    }

    /// From 32 (MD5) or 64 (SHA-256) hexadecimal digits of either case.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let len = decode_hex(hex, &mut bytes)?;
        let hash = match len {
            16 => Hash::Md5(bytes.get(..16)?.try_into().ok()?),
            32 => Hash::Sha256(bytes),
            _ => return None,
        };
        Some(Self { hash, real: true })
    }

    /// In hexadecimal, as [`Self::from_hex`] takes it: for storage, never for display.
    #[must_use]
    pub fn to_hex(&self) -> Hex {
        self.hash.to_hex()
    }

    /// For an unknown user: [`check`] does the same work on it and never accepts it.
    #[must_use]
    pub fn dummy(algorithm: Algorithm) -> Self {
        let hash = match algorithm {
            Algorithm::Md5 => Hash::Md5([0; 16]),
            Algorithm::Sha256 => Hash::Sha256([0; 32]),
        };
        Self { hash, real: false }
    }

    /// The hash it was made with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.hash {
            Hash::Md5(_) => Algorithm::Md5,
            Hash::Sha256(_) => Algorithm::Sha256,
        }
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ha1({})", self.algorithm().as_str())
    }
}

/// Proof that a client knows a user's password. Only [`check`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    username: String,
    realm: String,
}

impl Verified {
    /// The user.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The realm the user belongs to.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The same proof, of the user that the name means: a timed one says more than that.
    #[must_use]
    pub fn of_user(self, names: TimedNames) -> Self {
        Self { username: names.user_of(&self.username).to_owned(), realm: self.realm }
    }
}

/// Whether `authorization` proves knowledge of `ha1`. `uri` is the rightmost To-Path URI exactly as sent, `method` the
/// request's. Computing and comparing the digest takes the same time for a right digest, a wrong one, and a dummy.
#[must_use]
pub fn check(authorization: &Authorization<'_>, ha1: &Ha1, method: &str, uri: &[u8]) -> Option<Verified> {
    if authorization.algorithm != ha1.algorithm() {
        return None;
    }
    let expected = authorization.digest(ha1, method, uri);
    let mut bytes = [0; 32];
    let len = decode_hex(&authorization.response, &mut bytes)?;
    let same = expected.as_bytes().ct_eq(bytes.get(..len)?) & Choice::from(u8::from(ha1.real));
    bool::from(same).then(|| Verified {
        username: authorization.username.clone().into_owned(),
        realm: authorization.realm.clone().into_owned(),
    })
}

/// An AUTH's credentials, for a search for the HA1 that proves them. Only [`check`] decides.
#[derive(Clone, Debug)]
pub struct Attempt {
    authorization: Authorization<'static>,
    uri: Vec<u8>,
}

impl Attempt {
    /// `uri` is the rightmost To-Path URI exactly as sent.
    #[must_use]
    pub fn new(authorization: &Authorization<'_>, uri: &[u8]) -> Self {
        Self { authorization: authorization.clone().into_owned(), uri: uri.to_vec() }
    }

    /// The user name as the client gave it.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.authorization.username
    }

    /// The realm in the challenge.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.authorization.realm
    }

    /// The hash that was used.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.authorization.algorithm
    }

    /// Whether the client knows `ha1`.
    #[must_use]
    pub fn proves(&self, ha1: &Ha1) -> bool {
        check(&self.authorization, ha1, "AUTH", &self.uri).is_some()
    }
}

/// The value of a WWW-Authenticate header: to be sent (its `Display`) or received. `qop` is always `auth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge<'a> {
    /// The realm that knows the user's name.
    pub realm: Cow<'a, str>,
    /// The server's nonce.
    pub nonce: Cow<'a, str>,
    /// Always sent: a widespread client breaks without it.
    pub opaque: Option<Cow<'a, str>>,
    /// The hash.
    pub algorithm: Algorithm,
    /// The digest was right, and only the nonce is too old.
    pub stale: bool,
}

/// How often a client has used a nonce, and what it adds to it (RFC 7616, 3.4).
#[derive(Clone, Copy, Debug)]
pub struct NonceUse<'a> {
    /// The number of the use, from 1.
    pub nc: u32,
    /// The client's own nonce.
    pub cnonce: &'a str,
}

impl<'a> Challenge<'a> {
    /// Reads the value of a WWW-Authenticate header. An absent `qop` is taken for `auth`.
    ///
    /// # Errors
    /// Malformed, or asking for what is not supported here.
    pub fn parse(value: &'a [u8]) -> Result<Self, AuthorizationError> {
        let mut parameters = Parameters::of_digest(value)?;
        let realm = parameters.required("realm")?;
        let nonce = parameters.required("nonce")?;
        let opaque = parameters.optional("opaque");
        let algorithm = parameters.algorithm()?;
        let stale = parameters.optional("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"));
        let offers_auth =
            |qop: Cow<'_, str>| qop.split(',').any(|offered| offered.trim().eq_ignore_ascii_case("auth"));
        if !parameters.optional("qop").is_none_or(offers_auth) {
            return Err(AuthorizationError::Unsupported);
        }
        Ok(Self { realm, nonce, opaque, algorithm, stale })
    }

    /// The client's answer. `ha1` is of the challenge's algorithm, `uri` the rightmost To-Path URI exactly as it
    /// will be sent.
    #[must_use]
    pub fn answer<'b>(
        &'b self,
        username: &'b str,
        ha1: &Ha1,
        uri: &[u8],
        NonceUse { nc, cnonce }: NonceUse<'b>,
    ) -> Authorization<'b> {
        let mut answer = Authorization {
            username: Cow::Borrowed(username),
            realm: Cow::Borrowed(&self.realm),
            nonce: Cow::Borrowed(&self.nonce),
            response: Cow::Borrowed(""),
            cnonce: Cow::Borrowed(cnonce),
            nc,
            opaque: self.opaque.as_deref().map(Cow::Borrowed),
            algorithm: ha1.algorithm(),
            nc_digits: nc_digits(nc),
        };
        answer.response = Cow::Owned(answer.digest(ha1, "AUTH", uri).to_hex().as_str().to_owned());
        answer
    }
}

impl fmt::Display for Challenge<'_> {
    /// The value of a WWW-Authenticate header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest realm={}, nonce={}", Quoted(&self.realm), Quoted(&self.nonce))?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        if self.stale {
            f.write_str(", stale=true")?;
        }
        write!(f, ", algorithm={}, qop=\"auth\"", self.algorithm.as_str())
    }
}

/// The value of an Authentication-Info header, due in every 200 to an AUTH (RFC 4976 §9.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthenticationInfo<'a> {
    /// The nonce to use from now on, its count beginning at 1 again.
    pub nextnonce: Option<Cow<'a, str>>,
    /// The server's proof; see [`Authorization::rspauth`].
    pub rspauth: Cow<'a, str>,
    /// The client's nonce in return.
    pub cnonce: Cow<'a, str>,
    /// The count in return.
    pub nc: u32,
}

impl<'a> AuthenticationInfo<'a> {
    /// Reads the value of an Authentication-Info header.
    ///
    /// # Errors
    /// Malformed.
    pub fn parse(value: &'a [u8]) -> Result<Self, AuthorizationError> {
        let mut parameters = Parameters::parse(value)?;
        let nextnonce = parameters.optional("nextnonce");
        let rspauth = parameters.required("rspauth")?;
        let cnonce = parameters.required("cnonce")?;
        let (nc, _) = nonce_count(&parameters.required("nc")?)?;
        Ok(Self { nextnonce, rspauth, cnonce, nc })
    }
}

impl fmt::Display for AuthenticationInfo<'_> {
    /// The value of an Authentication-Info header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nextnonce) = &self.nextnonce {
            write!(f, "nextnonce={}, ", Quoted(nextnonce))?;
        }
        write!(f, "rspauth={}, cnonce={}", Quoted(&self.rspauth), Quoted(&self.cnonce))?;
        write!(f, ", nc={:08x}, qop=auth", self.nc)
    }
}

fn nc_digits(nc: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    for (digit, shift) in digits.iter_mut().zip((0..8).rev()) {
        *digit = hex_digit((nc >> (4 * shift)) as u8 & 15);
    }
    digits
}

/// Eight hexadecimal digits, and the number they are.
fn nonce_count(text: &str) -> Result<(u32, [u8; 8]), AuthorizationError> {
    let digits: [u8; 8] = text.as_bytes().try_into().map_err(|_| AuthorizationError::Malformed)?;
    let number =
        digits.iter().try_fold(0, |number: u32, &digit| Some(number << 4 | u32::from(hex_value(digit)?)));
    Ok((number.ok_or(AuthorizationError::Malformed)?, digits))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USERNAME: &str = "Mufasa";
    const REALM: &str = "http-auth@example.org";
    const PASSWORD: &str = "Circle of Life";
    const URI: &[u8] = b"/dir/index.html";

    fn authorization(algorithm: &str, response: &str) -> String {
        format!(
            "Digest username=\"{USERNAME}\", realm=\"{REALM}\", nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             uri=\"/dir/index.html\", algorithm={algorithm}, nc=00000001, \
             cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"{response}\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        )
    }

    const MD5: &str = "8ca523f5e9506fed4657c9700eebdbec";
    const SHA_256: &str = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";

    // RFC 7616 section 3.9.1.
    #[test]
    fn the_examples_of_rfc_7616_are_verified() {
        for (algorithm, name, response) in
            [(Algorithm::Md5, "MD5", MD5), (Algorithm::Sha256, "SHA-256", SHA_256)]
        {
            let text = authorization(name, response);
            let parsed = Authorization::parse(text.as_bytes()).unwrap();
            assert_eq!((parsed.algorithm, parsed.nc), (algorithm, 1));
            let ha1 = Ha1::new(algorithm, USERNAME, REALM, PASSWORD);
            let verified = check(&parsed, &ha1, "GET", URI).unwrap();
            assert_eq!((verified.username(), verified.realm()), (USERNAME, REALM));
        }
    }

    #[test]
    fn what_a_log_may_show_of_credentials_is_no_secret() {
        let text = authorization("MD5", MD5);
        let shown = format!("{:?}", Authorization::parse(text.as_bytes()).unwrap());
        assert!(shown.contains("Md5") && shown.contains("nc: 1"), "{shown}");
        assert!(!shown.contains(MD5) && !shown.contains(USERNAME), "{shown}");
    }

    #[test]
    fn anything_wrong_is_not_verified() {
        let ha1 = Ha1::new(Algorithm::Md5, USERNAME, REALM, PASSWORD);
        let right = authorization("MD5", MD5);
        let passes = |text: &str, ha1: &Ha1, method, uri| {
            check(&Authorization::parse(text.as_bytes()).unwrap(), ha1, method, uri).is_some()
        };
        assert!(passes(&right, &ha1, "GET", URI));
        assert!(!passes(&right, &ha1, "AUTH", URI));
        assert!(!passes(&right, &ha1, "GET", b"/dir/INDEX.html"));
        assert!(!passes(&right, &Ha1::new(Algorithm::Md5, USERNAME, REALM, "circle of life"), "GET", URI));
        assert!(!passes(&right, &Ha1::new(Algorithm::Sha256, USERNAME, REALM, PASSWORD), "GET", URI));
        for response in [
            "",
            "0",
            "8ca523f5e9506fed4657c9700eebdbe",
            "no hex digits at all, but 32 here",
            SHA_256,
            &"0".repeat(66),
        ] {
            assert!(!passes(&authorization("MD5", response), &ha1, "GET", URI), "{response:?}");
        }
        for (from, to) in [("xlj9", "xlj8"), ("00000001", "00000002"), ("wE4q", "wE4r")] {
            assert!(!passes(&right.replace(from, to), &ha1, "GET", URI), "{to}");
        }
    }

    #[test]
    fn a_response_may_be_in_upper_case() {
        let text = authorization("md5", &MD5.to_ascii_uppercase());
        let ha1 = Ha1::new(Algorithm::Md5, USERNAME, REALM, PASSWORD);
        assert!(check(&Authorization::parse(text.as_bytes()).unwrap(), &ha1, "GET", URI).is_some());
    }

    // Every reader of this file knows the dummy's value.
    #[test]
    fn a_dummy_never_verifies_even_the_right_digest() {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let dummy = Ha1::dummy(algorithm);
            let real = Ha1::from_hex(dummy.hash.to_hex().as_str()).unwrap();
            let challenge =
                Challenge { realm: "r".into(), nonce: "n".into(), opaque: None, algorithm, stale: false };
            let answer = challenge.answer("u", &real, URI, NonceUse { nc: 1, cnonce: "c" });
            assert!(check(&answer, &real, "AUTH", URI).is_some());
            assert!(check(&answer, &dummy, "AUTH", URI).is_none());
        }
    }

    #[test]
    fn ha1_is_read_from_hex_of_the_right_length_only() {
        let ha1 = Ha1::new(Algorithm::Md5, "wren", "osier.example", "Tarn-Quill-77");
        assert_eq!(ha1.hash.to_hex().as_str(), "1b32ae9f3174d83f44fafdc148d1c8ee");
        let upper = Ha1::from_hex("1B32AE9F3174D83F44FAFDC148D1C8EE").unwrap();
        assert_eq!(upper.hash.as_bytes(), ha1.hash.as_bytes());
        assert_eq!(Ha1::from_hex(&"ab".repeat(32)).unwrap().algorithm(), Algorithm::Sha256);
        for hex in
            ["", "1b", "xb32ae9f3174d83f44fafdc148d1c8ee", &"a".repeat(31), &"a".repeat(33), &"a".repeat(66)]
        {
            assert!(Ha1::from_hex(hex).is_none(), "{hex}");
        }
    }

    #[test]
    fn neither_ha1_nor_a_response_is_printed() {
        let ha1 = Ha1::new(Algorithm::Md5, USERNAME, REALM, PASSWORD);
        assert_eq!(format!("{ha1:?}"), "Ha1(MD5)");
        let text = authorization("MD5", MD5);
        let printed = format!("{:?}", Authorization::parse(text.as_bytes()).unwrap());
        assert!(!printed.contains(MD5) && !printed.contains(USERNAME), "{printed}");
    }

    #[test]
    fn real_clients_spellings_are_understood() {
        for text in [
            // Everything quoted.
            "Digest username=\"u\", realm=\"r\", nonce=\"n\", response=\"x\", qop=\"auth\", nc=\"0000000a\", cnonce=\"c\", algorithm=\"MD5\", opaque=\"o\"",
            // Nothing quoted, no space after commas.
            "Digest username=u,realm=r,nonce=n,response=x,qop=auth,nc=0000000a,cnonce=c,algorithm=MD5,opaque=o",
            // White space, upper case, unknown parameters, empty elements.
            "dIGEST \t USERNAME = \"u\" ,\trealm=\"r\",, nonce=n , uri=msrps://h:1;tcp, response=x, qop=AUTH, nc=0000000A, x=\"a,b=\\\"c\", cnonce=\"c\", Algorithm=md5, opaque=\"o\",",
        ] {
            let parsed =
                Authorization::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
            let fields = [&parsed.username, &parsed.realm, &parsed.nonce, &parsed.response, &parsed.cnonce];
            assert_eq!(fields, ["u", "r", "n", "x", "c"], "{text}");
            assert_eq!(
                (parsed.nc, parsed.opaque.as_deref(), parsed.algorithm),
                (10, Some("o"), Algorithm::Md5)
            );
        }
        let bare = "Digest username=u,realm=r,nonce=MTc3/a+b==,response=x,qop=auth,nc=00000001,cnonce=c";
        let parsed = Authorization::parse(bare.as_bytes()).unwrap();
        assert_eq!((&*parsed.nonce, parsed.opaque, parsed.algorithm), ("MTc3/a+b==", None, Algorithm::Md5));
    }

    #[test]
    fn quoted_strings_are_unescaped_and_escaped_again() {
        let text = r#"Digest username="a\"b\\c", realm="r", nonce="n", response="x", qop=auth, nc=00000001, cnonce="", algorithm=MD5"#;
        let parsed = Authorization::parse(text.as_bytes()).unwrap();
        assert_eq!((&*parsed.username, &*parsed.cnonce), (r#"a"b\c"#, ""));
        assert!(parsed.to_string().contains(r#"username="a\"b\\c""#), "{parsed}");
    }

    #[test]
    fn malformed_is_told_from_unsupported() {
        let good = "Digest username=\"u\", realm=\"r\", nonce=\"n\", response=\"x\", qop=auth, nc=00000001, cnonce=\"c\"";
        assert!(Authorization::parse(good.as_bytes()).is_ok());
        let error = |text: &str| Authorization::parse(text.as_bytes()).unwrap_err();
        for name in ["username", "realm", "nonce", "response", "qop", "nc", "cnonce"] {
            assert_eq!(
                error(&good.replace(&format!("{name}="), "x=")),
                AuthorizationError::Malformed,
                "no {name}"
            );
            assert_eq!(
                error(&format!("{good}, {name}=00000001")),
                AuthorizationError::Malformed,
                "two {name}"
            );
        }
        for text in [
            "",
            "Digest",
            "Digest ",
            "Digest x",
            "Digest \"u\"=u",
            &good.replace("realm=", "realm "),
            &good.replace("\"r\"", "\"r"),
            &good.replace("\"r\"", "\"r\"r"),
            &good.replace("\"r\"", "r\"r"),
            &good.replace("\"r\"", ""),
            &good.replace("\"r\",", "\"r\""),
            &good.replace("\"c\"", "\"c\\"),
            &good.replace("00000001", "1"),
            &good.replace("00000001", "0000000g"),
            &good.replace("00000001", "000000001"),
        ] {
            assert_eq!(error(text), AuthorizationError::Malformed, "{text}");
        }
        assert_eq!(
            Authorization::parse(b"Digest username=\"\xff\"").unwrap_err(),
            AuthorizationError::Malformed
        );
        for text in [
            "Basic d3Jlbjpwdw==",
            &good.replace("qop=auth", "qop=auth-int"),
            &format!("{good}, algorithm=MD5-sess"),
            &format!("{good}, algorithm=SHA-512-256"),
        ] {
            assert_eq!(error(text), AuthorizationError::Unsupported, "{text}");
        }
    }

    #[test]
    fn a_challenge_is_read_back_as_written() {
        for (stale, opaque) in [(true, None), (false, Some("o"))] {
            let challenge = Challenge {
                realm: "a \"realm\"".into(),
                nonce: "n".into(),
                opaque: opaque.map(Cow::Borrowed),
                algorithm: Algorithm::Sha256,
                stale,
            };
            let text = challenge.to_string();
            assert_eq!(Challenge::parse(text.as_bytes()).unwrap(), challenge, "{text}");
        }
    }

    #[test]
    fn a_challenge_must_offer_auth() {
        let parse =
            |qop: &str| Challenge::parse(format!("Digest realm=\"r\", nonce=\"n\"{qop}").as_bytes()).is_ok();
        assert!(
            parse("") && parse(", qop=\"auth\"") && parse(", qop=auth") && parse(", qop=\"auth-int, AUTH\"")
        );
        assert!(!parse(", qop=\"auth-int\"") && !parse(", qop=\"\""));
    }

    #[test]
    fn a_client_s_answer_is_verified_and_the_server_s_proof_too() {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let text = Challenge {
                realm: "r".into(),
                nonce: "n".into(),
                opaque: Some("o".into()),
                algorithm,
                stale: false,
            }
            .to_string();
            let challenge = Challenge::parse(text.as_bytes()).unwrap();
            let ha1 = Ha1::new(algorithm, "u", "r", "password");
            let uri = b"msrps://relay.example:2855;tcp";
            let answer = challenge.answer("u", &ha1, uri, NonceUse { nc: 0xab, cnonce: "c" }).to_string();
            assert!(answer.contains("nc=000000ab") && answer.contains("opaque=\"o\""), "{answer}");
            let received = Authorization::parse(answer.as_bytes()).unwrap();
            assert!(check(&received, &ha1, "AUTH", uri).is_some());
            let info = AuthenticationInfo {
                nextnonce: None,
                rspauth: received.rspauth(&ha1, uri).as_str().to_owned().into(),
                cnonce: received.cnonce.clone(),
                nc: received.nc,
            }
            .to_string();
            let info = AuthenticationInfo::parse(info.as_bytes()).unwrap();
            assert_eq!(
                (&*info.rspauth, info.nextnonce),
                (
                    challenge
                        .answer("u", &ha1, uri, NonceUse { nc: 0xab, cnonce: "c" })
                        .rspauth(&ha1, uri)
                        .as_str(),
                    None
                )
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(username in "\\PC{0,12}", realm in "[ -~]{0,12}", cnonce in "[ -~]{0,12}", nc: u32) {
            let challenge = Challenge { realm: realm.as_str().into(), nonce: "n".into(), opaque: None, algorithm: Algorithm::Md5, stale: false };
            let ha1 = Ha1::new(Algorithm::Md5, &username, &realm, "p");
            let answer = challenge.answer(&username, &ha1, URI, NonceUse { nc, cnonce: &cnonce });
            let text = answer.to_string();
            let read = Authorization::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(&read.to_string(), &text);
            prop_assert!(read == answer);
            prop_assert!(check(&read, &ha1, "AUTH", URI).is_some());
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>, text in "Digest ([a-z]{0,2}=?[\",\\\\ a]{0,3}){0,6}") {
            for value in [bytes.as_slice(), text.as_bytes()] {
                let _ = (Authorization::parse(value), Challenge::parse(value), AuthenticationInfo::parse(value));
            }
        }
    }
}
