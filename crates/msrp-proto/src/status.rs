//! Status codes of responses and of REPORT's Status header, and their phrases (RFC 4975 §10, RFC 4976 §7,
//! RFC 7701 §7).
//!
//! Any three digits are a [`Status`]: unknown codes travel through this program unchanged.

use core::fmt;

/// A three-digit status code, 000 to 999.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Status(u16);

impl Status {
    /// 200: the request was carried out.
    pub const OK: Self = Self(200);
    /// 400: the request could not be understood.
    pub const BAD_REQUEST: Self = Self(400);
    /// 401: authenticate first (RFC 4976 §7).
    pub const UNAUTHORIZED: Self = Self(401);
    /// 403: understood and refused.
    pub const FORBIDDEN: Self = Self(403);
    /// 408: no answer from the next hop in time.
    pub const TIMEOUT: Self = Self(408);
    /// 413: stop sending this message.
    pub const STOP: Self = Self(413);
    /// 415: the media type is not wanted.
    pub const UNSUPPORTED_MEDIA: Self = Self(415);
    /// 423: Expires is shorter or longer than allowed (RFC 4976 §7).
    pub const OUT_OF_BOUNDS: Self = Self(423);
    /// 481: there is no such session.
    pub const NO_SESSION: Self = Self(481);
    /// 501: the method is not known, or not allowed.
    pub const NOT_IMPLEMENTED: Self = Self(501);
    /// 506: the session is bound to another connection.
    pub const SESSION_IN_USE: Self = Self(506);

    /// The status of `code`; `None` above 999.
    #[must_use]
    pub fn new(code: u16) -> Option<Self> {
        (code <= 999).then_some(Self(code))
    }

    /// Exactly three ASCII digits, as on the wire.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Self> {
        if digits.len() != 3 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Self(digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'))))
    }

    /// The number.
    #[must_use]
    pub fn code(self) -> u16 {
        self.0
    }

    /// Whether the code is of the 200 class. Every other class is a failure.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self.0, 200..=299)
    }

    /// The comment to send with this code: ASCII and never empty, because some receivers take a response
    /// without a comment for a request.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self.0 {
            200..=299 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            408 => "Request Timeout",
            413 => "Stop Sending Message",
            415 => "Unsupported Media Type",
            423 => "Interval Out-of-Bounds",
            424 => "Malformed Nickname",
            425 => "Nickname Not Available",
            428 => "Private Messages Not Supported",
            481 => "No Such Session",
            501 => "Not Implemented",
            506 => "Session Already In Use",
            _ => "Unspecified",
        }
    }
}

/// Three digits.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_three_digits_are_a_status_and_nothing_else_is() {
        for code in 0..=999 {
            let status = Status::new(code).unwrap();
            assert_eq!(Status::parse(status.to_string().as_bytes()), Some(status));
        }
        assert_eq!(Status::new(1000), None);
        for wrong in ["", "20", "2000", "2x0", "+20", " 20"] {
            assert_eq!(Status::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_phrase_is_ascii_and_not_empty() {
        for code in 0..=999 {
            let phrase = Status::new(code).unwrap().phrase();
            assert!(!phrase.is_empty() && phrase.is_ascii(), "{code}");
        }
    }

    // RFC 4975, 10; RFC 4976, 9; RFC 7701, 9: what they say of each code they define.
    #[test]
    fn every_code_has_the_phrase_that_fits_it() {
        for (code, phrase) in [
            (200, "OK"),
            (400, "Bad Request"),
            (401, "Unauthorized"),
            (403, "Forbidden"),
            (404, "Not Found"),
            (408, "Request Timeout"),
            (413, "Stop Sending Message"),
            (415, "Unsupported Media Type"),
            (423, "Interval Out-of-Bounds"),
            (424, "Malformed Nickname"),
            (425, "Nickname Not Available"),
            (428, "Private Messages Not Supported"),
            (481, "No Such Session"),
            (501, "Not Implemented"),
            (506, "Session Already In Use"),
            (999, "Unspecified"),
        ] {
            let status = Status::new(code).unwrap();
            assert_eq!((status.code(), status.phrase()), (code, phrase));
        }
    }

    #[test]
    fn only_the_200_class_is_success() {
        assert!(Status::OK.is_success() && Status::new(299).unwrap().is_success());
        assert!(!Status::new(199).unwrap().is_success() && !Status::new(300).unwrap().is_success());
    }
}
