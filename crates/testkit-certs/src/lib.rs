//! Certificates for tests: chains of authorities, and chains that a hostile peer makes up to cost us time.
//!
//! Depends on none of our crates, so that the unit tests of all of them may use it.

#![allow(missing_docs, reason = "a fixture: its names say what it makes")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The host of every end entity.
pub const HOST: &str = "relay.example.com";

/// An authority, with its signing key.
pub struct Authority {
    pub certificate: CertificateDer<'static>,
    pub issuer: Issuer<'static, KeyPair>,
}

/// What an authority's certificate states.
#[derive(Clone, Default)]
pub struct Says {
    name: &'static str,
    key_id: Option<Vec<u8>>,
    padding: usize,
    expired: bool,
    without_key_ids: bool,
}

pub fn named(name: &'static str) -> Says {
    Says { name, ..Says::default() }
}

impl Says {
    pub fn with_key_id(self, id: &[u8]) -> Self {
        Self { key_id: Some(id.to_vec()), ..self }
    }

    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    pub fn expired(self) -> Self {
        Self { expired: true, ..self }
    }

    pub fn without_key_ids(self) -> Self {
        Self { without_key_ids: true, ..self }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = !self.without_key_ids;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, self.name);
        if let Some(id) = &self.key_id {
            params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(id.clone());
        }
        if self.padding > 0 {
            let comment = &[2, 16, 840, 1, 113_730, 1, 13];
            let padding = rcgen::CustomExtension::from_oid_content(comment, vec![0; self.padding]);
            params.custom_extensions.push(padding);
        }
        if self.expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        params
    }

    pub fn self_signed(self) -> Authority {
        self.with_key(KeyPair::generate().unwrap())
    }

    pub fn with_key(self, key: KeyPair) -> Authority {
        let params = self.params();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn signed_by(self, above: &Authority) -> Authority {
        self.with_key_signed_by(KeyPair::generate().unwrap(), above)
    }

    pub fn with_key_signed_by(self, key: KeyPair, above: &Authority) -> Authority {
        let params = self.params();
        let certificate = params.signed_by(&key, &above.issuer).unwrap().der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }
}

/// What a peer shows: its own certificate first, then the others, and its key.
pub struct Shown {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// An end entity with these statements, and the certificates shown with it.
pub fn shown_as(
    params: &CertificateParams,
    by: &Authority,
    others: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Shown {
    let key = KeyPair::generate().unwrap();
    let mut chain = vec![params.signed_by(&key, &by.issuer).unwrap().der().clone()];
    chain.extend(others);
    Shown { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
}

pub fn end_entity() -> CertificateParams {
    let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    params
}

/// An end entity of this authority, shown with these others.
pub fn shown(by: &Authority, others: impl IntoIterator<Item = CertificateDer<'static>>) -> Shown {
    shown_as(&end_entity(), by, others)
}

/// An end entity and authorities of one name: each could have issued each.
fn of_one_name(count: usize, says: &Says) -> Shown {
    let first = says.clone().self_signed();
    let others: Vec<_> = (0..count).map(|_| says.clone().signed_by(&first).certificate).collect();
    shown(&first, others)
}

/// Several of each name, each of which could be the issuer of each of the name before. Those at the end name `root`,
/// which has signed none of them.
fn maze(root: &'static str) -> Shown {
    let says = |name| named(name).without_key_ids();
    let mut above = says(root).self_signed();
    let mut all = Vec::new();
    for name in ["Fourth", "Third", "Second", "First"] {
        let level: Vec<_> = (0..8).map(|_| says(name).signed_by(&above)).collect();
        all.extend(level.iter().map(|one| one.certificate.clone()));
        above = level.into_iter().next().unwrap();
    }
    let mut params = end_entity();
    params.use_authority_key_identifier_extension = false;
    shown_as(&params, &above, all)
}

/// Chains that a peer can make up if an authority named `root` is trusted, each with its name here.
pub fn hostile(root: &'static str) -> Vec<(&'static str, Shown)> {
    let (one, two) = (named("One").self_signed(), named("Two").self_signed());
    let around = [named("One").signed_by(&two).certificate, named("Two").signed_by(&one).certificate];
    let impostor = named(root).self_signed();
    let impostors: Vec<_> = (0..10).map(|_| named(root).signed_by(&impostor).certificate).collect();
    let same = named("The same");
    let mut crowd = end_entity();
    crowd
        .subject_alt_names
        .extend((0..1500).map(|n| rcgen::SanType::DnsName(format!("n{n}.example.com").try_into().unwrap())));
    vec![
        ("ten of one name", of_one_name(10, &same)),
        ("ten of one name, padded", of_one_name(10, &same.clone().padded(3500))),
        ("ten of one name and key id", of_one_name(10, &same.clone().with_key_id(b"the same"))),
        ("ten of one name without key ids", of_one_name(10, &same.clone().without_key_ids())),
        ("ten of one name, all expired", of_one_name(10, &same.clone().expired())),
        ("many of one name", of_one_name(60, &same)),
        ("in a circle", shown(&one, around)),
        ("bearing the root's name", shown(&impostor, impostors)),
        ("a maze", maze(root)),
        ("scraps", shown(&impostor, (0..5000_u16).map(|n| CertificateDer::from(n.to_be_bytes().to_vec())))),
        ("very many names", shown_as(&crowd, &impostor, [])),
    ]
}
