//! The hashes that a digest may be made with.

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
        [Self::Md5, Self::Sha256].into_iter().find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
    }
}
