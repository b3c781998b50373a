//! Digest authentication (RFC 4976 §5.1 and §9.1, RFC 7616): challenges, answers, their check.
//!
//! Invariants: [`check`] is the only maker of [`Verified`]; digests are compared in constant time; the hashed URI
//! is the octets of the rightmost To-Path URI as sent, never rebuilt; no HA1 is ever printed. Whether a nonce is
//! fresh, a count (`nc`) new or a realm ours is the caller's to decide: there is no clock or state here.

use core::fmt::{self, Write as _};
use core::str;
use std::borrow::Cow;

use md5::Md5;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::uri::hex_value;

/// The hash a challenge asks for. Names are compared without regard to case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Algorithm {
    /// `MD5`, which every client speaks; also what an absent parameter means.
    Md5,
    /// `SHA-256`: an extension of ours by RFC 8760's example, which covers SIP alone.
    Sha256,
}

impl Algorithm {
    /// The canonical name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// The algorithm of that name. Not the `-sess` variants, which are not allowed (RFC 4976 §9.1).
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Md5, Self::Sha256]
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
    }
}

/// Why the value of a digest header cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthorizationError {
    /// Not a list of parameters, one missing or twice: answer 400.
    #[error("malformed digest parameters")]
    Malformed,
    /// Another scheme, algorithm or quality of protection than offered: answer 401.
    #[error("unsupported scheme, algorithm or quality of protection")]
    Unsupported,
}

/// The value of an Authorization header, unescaped: received ([`Authorization::parse`]) or to be sent
/// ([`Challenge::answer`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// Who it is.
    pub username: Cow<'a, str>,
    /// Where the name is known.
    pub realm: Cow<'a, str>,
    /// The challenge's nonce.
    pub nonce: Cow<'a, str>,
    /// The digest, in hexadecimal if the peer is sane.
    pub response: Cow<'a, str>,
    /// The client's own nonce.
    pub cnonce: Cow<'a, str>,
    /// How many times this nonce has been used, counted from 1.
    pub nc: u32,
    /// The challenge's opaque. Always sent by us, not demanded back.
    pub opaque: Option<Cow<'a, str>>,
    /// The hash; MD5 where it was not named.
    pub algorithm: Algorithm,
    /// The eight digits of `nc` as sent, for they are hashed.
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
        Ok(Self {
            username,
            realm,
            nonce,
            response,
            cnonce,
            nc,
            opaque,
            algorithm,
            nc_digits,
        })
    }

    /// The digest the server owes in return, `rspauth`: H(HA1:nonce:nc:cnonce:auth:H(":" uri)).
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
        write!(
            f,
            "Digest username={}, realm={}",
            Quoted(&self.username),
            Quoted(&self.realm)
        )?;
        write!(f, ", nonce={}", Quoted(&self.nonce))?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        write!(
            f,
            ", algorithm={}, qop=auth, nc={}",
            self.algorithm.as_str(),
            digits(&self.nc_digits)
        )?;
        write!(
            f,
            ", cnonce={}, response={}",
            Quoted(&self.cnonce),
            Quoted(&self.response)
        )
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
    /// A dummy never verifies anything, though somebody knows its value.
    real: bool,
}

impl Ha1 {
    /// From a password.
    #[must_use]
    pub fn new(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Self {
        let parts = [
            user.as_bytes(),
            b":",
            realm.as_bytes(),
            b":",
            password.as_bytes(),
        ];
        Self {
            hash: Hash::of(algorithm, &parts),
            real: true,
        }
    }

    /// From 32 (MD5) or 64 (SHA-256) hexadecimal digits of either case.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut octets = [0; 32];
        let len = decode_hex(hex, &mut octets)?;
        let hash = match len {
            16 => Hash::Md5(octets.get(..16)?.try_into().ok()?),
            32 => Hash::Sha256(octets),
            _ => return None,
        };
        Some(Self { hash, real: true })
    }

    /// For a user nobody knows: costs [`check`] the same work and never passes it.
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

/// Proof that somebody knows a user's password. Only [`check`] makes one.
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
}

/// Whether `authorization` proves knowledge of `ha1`. `uri` is the rightmost To-Path URI exactly as sent, `method`
/// the request's. The digest is computed and compared in the same time whether it is right, wrong, or `ha1` is a
/// dummy.
#[must_use]
pub fn check(
    authorization: &Authorization<'_>,
    ha1: &Ha1,
    method: &str,
    uri: &[u8],
) -> Option<Verified> {
    if authorization.algorithm != ha1.algorithm() {
        return None;
    }
    let expected = authorization.digest(ha1, method, uri);
    let mut octets = [0; 32];
    let len = decode_hex(&authorization.response, &mut octets)?;
    let same = expected.as_bytes().ct_eq(octets.get(..len)?) & Choice::from(u8::from(ha1.real));
    bool::from(same).then(|| Verified {
        username: authorization.username.clone().into_owned(),
        realm: authorization.realm.clone().into_owned(),
    })
}

/// The value of a WWW-Authenticate header: to be sent (its `Display`) or received. `qop` is always `auth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge<'a> {
    /// Where the user's name is known.
    pub realm: Cow<'a, str>,
    /// The server's nonce.
    pub nonce: Cow<'a, str>,
    /// Always sent: a widespread client breaks without it.
    pub opaque: Option<Cow<'a, str>>,
    /// The hash.
    pub algorithm: Algorithm,
    /// The digest was right, the nonce merely old.
    pub stale: bool,
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
        let stale = parameters
            .optional("stale")
            .is_some_and(|stale| stale.eq_ignore_ascii_case("true"));
        let offers_auth = |qop: Cow<'_, str>| {
            qop.split(',')
                .any(|offered| offered.trim().eq_ignore_ascii_case("auth"))
        };
        if !parameters.optional("qop").is_none_or(offers_auth) {
            return Err(AuthorizationError::Unsupported);
        }
        Ok(Self {
            realm,
            nonce,
            opaque,
            algorithm,
            stale,
        })
    }

    /// The client's answer. `ha1` is of the challenge's algorithm, `uri` the rightmost To-Path URI exactly as it
    /// will be sent, `nc` the number of times the nonce is used, from 1.
    #[must_use]
    pub fn answer<'b>(
        &'b self,
        username: &'b str,
        ha1: &Ha1,
        uri: &[u8],
        nc: u32,
        cnonce: &'b str,
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
        write!(
            f,
            "Digest realm={}, nonce={}",
            Quoted(&self.realm),
            Quoted(&self.nonce)
        )?;
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
        Ok(Self {
            nextnonce,
            rspauth,
            cnonce,
            nc,
        })
    }
}

impl fmt::Display for AuthenticationInfo<'_> {
    /// The value of an Authentication-Info header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nextnonce) = &self.nextnonce {
            write!(f, "nextnonce={}, ", Quoted(nextnonce))?;
        }
        write!(
            f,
            "rspauth={}, cnonce={}",
            Quoted(&self.rspauth),
            Quoted(&self.cnonce)
        )?;
        write!(f, ", nc={:08x}, qop=auth", self.nc)
    }
}

/// A digest in lower-case hexadecimal.
#[derive(Clone, Copy)]
pub struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        digits(self.as_bytes())
    }

    fn as_bytes(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }
}

/// The output of a hash.
#[derive(Clone)]
enum Hash {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

impl Hash {
    fn of(algorithm: Algorithm, parts: &[&[u8]]) -> Self {
        match algorithm {
            Algorithm::Md5 => Self::Md5(
                parts
                    .iter()
                    .fold(Md5::new(), |hash, part| hash.chain_update(part))
                    .finalize()
                    .into(),
            ),
            Algorithm::Sha256 => Self::Sha256(
                parts
                    .iter()
                    .fold(Sha256::new(), |hash, part| hash.chain_update(part))
                    .finalize()
                    .into(),
            ),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Md5(octets) => octets,
            Self::Sha256(octets) => octets,
        }
    }

    fn to_hex(&self) -> Hex {
        let mut hex = Hex {
            digits: [0; 64],
            len: self.as_bytes().len() * 2,
        };
        for (pair, octet) in hex
            .digits
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(self.as_bytes())
        {
            *pair = [hex_digit(octet >> 4), hex_digit(octet & 15)];
        }
        hex
    }
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' + value - 10
    }
}

/// How many octets were decoded; `None` if these are not pairs of digits or too many.
fn decode_hex(hex: &str, octets: &mut [u8; 32]) -> Option<usize> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > octets.len() {
        return None;
    }
    for (octet, &[high, low]) in octets.iter_mut().zip(pairs) {
        *octet = hex_value(high)? * 16 + hex_value(low)?;
    }
    Some(pairs.len())
}

fn digits(octets: &[u8]) -> &str {
    str::from_utf8(octets).unwrap_or_default()
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
    let digits: [u8; 8] = text
        .as_bytes()
        .try_into()
        .map_err(|_| AuthorizationError::Malformed)?;
    let number = digits.iter().try_fold(0, |number: u32, &digit| {
        Some(number << 4 | u32::from(hex_value(digit)?))
    });
    Ok((number.ok_or(AuthorizationError::Malformed)?, digits))
}

/// A quoted-string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            if matches!(character, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(character)?;
        }
        f.write_str("\"")
    }
}

/// The parameters of a digest header. Known ones stand once; others are dropped.
struct Parameters<'a> {
    values: [Option<Cow<'a, str>>; NAMES.len()],
}

const NAMES: [&str; 12] = [
    "username",
    "realm",
    "nonce",
    "response",
    "cnonce",
    "nc",
    "qop",
    "opaque",
    "algorithm",
    "stale",
    "nextnonce",
    "rspauth",
];

impl<'a> Parameters<'a> {
    /// Behind the scheme, which must be `Digest`.
    fn of_digest(value: &'a [u8]) -> Result<Self, AuthorizationError> {
        let value = str::from_utf8(value).map_err(|_| AuthorizationError::Malformed)?;
        let (scheme, list) = value
            .trim_start()
            .split_once([' ', '\t'])
            .ok_or(AuthorizationError::Malformed)?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return Err(AuthorizationError::Unsupported);
        }
        Self::parse(list.as_bytes())
    }

    fn parse(list: &'a [u8]) -> Result<Self, AuthorizationError> {
        let mut rest = str::from_utf8(list).map_err(|_| AuthorizationError::Malformed)?;
        let mut parameters = Self {
            values: [const { None }; NAMES.len()],
        };
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Ok(parameters);
            }
            let (name, behind) = rest.split_once('=').ok_or(AuthorizationError::Malformed)?;
            let (value, behind) = split_value(behind.trim_start_matches([' ', '\t']))?;
            rest = behind.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(AuthorizationError::Malformed);
            }
            parameters.keep(name.trim_end_matches([' ', '\t']), value)?;
        }
    }

    fn keep(&mut self, name: &str, value: Cow<'a, str>) -> Result<(), AuthorizationError> {
        if !super::uri::is_token(name.as_bytes()) {
            return Err(AuthorizationError::Malformed);
        }
        match self.slot(name) {
            Some(Some(_)) => return Err(AuthorizationError::Malformed),
            Some(slot) => *slot = Some(value),
            None => {}
        }
        Ok(())
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        let at = NAMES
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))?;
        self.values.get_mut(at)
    }

    fn optional(&mut self, name: &str) -> Option<Cow<'a, str>> {
        self.slot(name).and_then(Option::take)
    }

    fn required(&mut self, name: &str) -> Result<Cow<'a, str>, AuthorizationError> {
        self.optional(name).ok_or(AuthorizationError::Malformed)
    }

    fn algorithm(&mut self) -> Result<Algorithm, AuthorizationError> {
        match self.optional("algorithm") {
            None => Ok(Algorithm::Md5),
            Some(name) => Algorithm::of(&name).ok_or(AuthorizationError::Unsupported),
        }
    }
}

/// A quoted-string or a bare value off the front, and what is behind it.
fn split_value(text: &str) -> Result<(Cow<'_, str>, &str), AuthorizationError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, behind) = text
            .split_at_checked(end)
            .ok_or(AuthorizationError::Malformed)?;
        // Many things are sent bare; a quote in the midst of one is garbage.
        return if value.is_empty() || value.contains('"') {
            Err(AuthorizationError::Malformed)
        } else {
            Ok((Cow::Borrowed(value), behind))
        };
    };
    let mut unescaped = String::new();
    let mut rest = quoted;
    loop {
        let stop = rest
            .find(['"', '\\'])
            .ok_or(AuthorizationError::Malformed)?;
        let (plain, behind) = rest
            .split_at_checked(stop)
            .ok_or(AuthorizationError::Malformed)?;
        if let Some(behind) = behind.strip_prefix('"') {
            let value = if unescaped.is_empty() {
                Cow::Borrowed(plain)
            } else {
                Cow::Owned(unescaped + plain)
            };
            return Ok((value, behind));
        }
        let mut escaped = behind.chars();
        escaped.next();
        unescaped.push_str(plain);
        unescaped.push(escaped.next().ok_or(AuthorizationError::Malformed)?);
        rest = escaped.as_str();
    }
}
