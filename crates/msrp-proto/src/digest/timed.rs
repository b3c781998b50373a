//! User names that say until when they are good: `EXPIRY:user`, in Unix seconds, as the REST API for TURN has them
//! (draft-uberti-behave-turn-rest) and Kamailio's `auth_ephemeral`.

/// A user name that says until when it is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedName<'a> {
    /// Unix seconds. What is too large to be counted is the largest.
    pub expires: u64,
    /// The part behind the colon; empty if there is none.
    pub user: &'a str,
}

/// Which names are taken for timed ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimedNames {
    /// None: a name is a name.
    #[default]
    None,
    /// Those with digits before a colon.
    WithColon,
    /// Those that are all digits as well, though they may be telephone numbers.
    Bare,
}

impl TimedNames {
    /// The parts of a name, if it is a timed one.
    #[must_use]
    pub fn parse(self, name: &str) -> Option<TimedName<'_>> {
        let (digits, user) = match (self, name.split_once(':')) {
            (Self::None, _) | (Self::WithColon, None) => return None,
            (Self::WithColon | Self::Bare, Some(parts)) => parts,
            (Self::Bare, None) => (name, ""),
        };
        let is_timed = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_timed.then(|| TimedName { expires: digits.parse().unwrap_or(u64::MAX), user })
    }

    /// Who it is: the part behind the colon, or the whole name where that is empty, or where the name is not a timed one.
    #[must_use]
    pub fn user_of(self, name: &str) -> &str {
        match self.parse(name) {
            Some(TimedName { user, .. }) if !user.is_empty() => user,
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(names: TimedNames, name: &str) -> Option<(u64, &str)> {
        names.parse(name).map(|TimedName { expires, user }| (expires, user))
    }

    #[test]
    fn name_with_digits_before_a_colon_is_timed_and_telephone_numbers_only_where_that_is_wished() {
        let (with, bare) = (TimedNames::WithColon, TimedNames::Bare);
        for (name, with_colon, all_digits) in [
            ("1764400000:alice", Some((1_764_400_000, "alice")), Some((1_764_400_000, "alice"))),
            ("1764400000:a:b", Some((1_764_400_000, "a:b")), Some((1_764_400_000, "a:b"))),
            ("1764400000:", Some((1_764_400_000, "")), Some((1_764_400_000, ""))),
            ("99999999999999999999999:alice", Some((u64::MAX, "alice")), Some((u64::MAX, "alice"))),
            ("1764400000", None, Some((1_764_400_000, ""))),
            ("alice", None, None),
            ("alice:1764400000", None, None),
            (":alice", None, None),
            ("+1764400000:alice", None, None),
            ("1764400000 :alice", None, None),
            ("\u{0661}\u{0662}:alice", None, None),
            ("", None, None),
        ] {
            assert_eq!(parts(with, name), with_colon, "{name}");
            assert_eq!(parts(bare, name), all_digits, "{name}");
            assert_eq!(parts(TimedNames::None, name), None, "{name}");
        }
    }

    #[test]
    fn user_is_the_part_behind_the_colon_or_the_whole_name() {
        for (name, user) in [
            ("1764400000:alice", "alice"),
            ("1764400000:", "1764400000:"),
            ("1764400000", "1764400000"),
            ("alice", "alice"),
            ("alice:1", "alice:1"),
        ] {
            assert_eq!(TimedNames::Bare.user_of(name), user);
        }
        assert_eq!(TimedNames::None.user_of("1764400000:alice"), "1764400000:alice");
    }
}
