//! Cuts a flush into TLS records.
//!
//! Invariants: the records, joined, are the flush; none is longer than a TLS record may be; none ends within an
//! end-line, because the most used client library loses the continuation flag if a read ends between a transaction id
//! and its flag (req I13). Bytes are copied only if a record has several parts: bulk, whose parts are as long as
//! several records, is passed on in place.
//!
//! It must not know what happens to a record.

use memchr::memmem;

/// One TLS record; the largest there is.
const RECORD_BYTES: usize = 16 << 10;
/// An end-line and what belongs to it: CRLF, hyphens, a transaction id, a flag, CRLF (RFC 4975, 9).
const END_LINE_BYTES_MAX: usize = 2 + 7 + 32 + 1 + 2;
/// How far to look beyond the end of a record, so that hyphens which begin before it, or whose CRLF does, are seen
/// whole.
const LOOK_AHEAD_BYTES: usize = 8;

/// Calls `each` with the content of one record after the other, until a call fails. `seam` is for records with several
/// parts.
pub fn cut<'a, E>(
    parts: impl Iterator<Item = &'a [u8]>,
    seam: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty()).collect();
    let mut rest = Rest { left: parts.iter().map(|part| part.len()).sum(), parts: &parts, used: 0 };
    while rest.left > 0 {
        let size = rest.record_size();
        match rest.first().get(..size) {
            Some(record) => each(record)?,
            None => {
                seam.clear();
                rest.append(0..size, seam);
                each(seam)?;
            }
        }
        rest.advance(size);
    }
    Ok(())
}

/// The rest of a flush.
struct Rest<'a> {
    parts: &'a [&'a [u8]],
    /// How many bytes of the first part are used.
    used: usize,
    left: usize,
}

impl<'a> Rest<'a> {
    fn first(&self) -> &'a [u8] {
        self.parts.first().and_then(|part| part.get(self.used..)).unwrap_or_default()
    }

    /// The length of the next record.
    fn record_size(&self) -> usize {
        if self.left <= RECORD_BYTES {
            return self.left;
        }
        let look_from = RECORD_BYTES - END_LINE_BYTES_MAX;
        let look_to = self.left.min(RECORD_BYTES + LOOK_AHEAD_BYTES);
        let mut gathered = Vec::new();
        let last = self.first().get(look_from..look_to).unwrap_or_else(|| {
            gathered.reserve_exact(look_to - look_from);
            self.append(look_from..look_to, &mut gathered);
            &gathered
        });
        // Hyphens at the very front would be complete by the end of the record.
        match memmem::rfind(last, b"-------").filter(|at| *at >= 2) {
            Some(at) => look_from + at - 2,
            None => RECORD_BYTES,
        }
    }

    /// Appends a range of the rest.
    fn append(&self, range: std::ops::Range<usize>, to: &mut Vec<u8>) {
        let (mut skip, mut wanted) = (range.start + self.used, range.len());
        for part in self.parts {
            let from_here = part.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            let taken = from_here.get(..wanted).unwrap_or(from_here);
            to.extend_from_slice(taken);
            wanted -= taken.len();
            if wanted == 0 {
                return;
            }
        }
    }

    fn advance(&mut self, size: usize) {
        self.left -= size;
        self.used += size;
        while let Some((first, behind)) = self.parts.split_first()
            && self.used >= first.len()
        {
            self.used -= first.len();
            self.parts = behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a flush that is cut into parts after these bytes, joined as well.
    fn records(flush: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        let mut begin = 0;
        for cut in cuts.iter().copied().chain([flush.len()]) {
            let cut = cut.clamp(begin, flush.len());
            parts.push(&flush[begin..cut]);
            begin = cut;
        }
        let (mut records, mut seam) = (Vec::new(), Vec::new());
        let cut = cut(parts.into_iter(), &mut seam, |record| {
            assert!(!record.is_empty() && record.len() <= RECORD_BYTES);
            records.push(record.to_vec());
            Ok::<_, ()>(())
        });
        assert_eq!(cut, Ok(()));
        assert_eq!(records.concat(), flush);
        records
    }

    // I13: whatever the flush and its parts, no end-line is cut.
    #[test]
    fn no_record_ends_within_an_end_line() {
        let line = b"\r\n-------abcdefghijklmnop$\r\n";
        for shift in 0..64 {
            let mut flush = vec![b'x'; RECORD_BYTES - 50 + shift];
            flush.extend_from_slice(line);
            let at = flush.len() - line.len();
            flush.extend_from_slice(&[b'y'; 40_000]);
            for cuts in [
                &[][..],
                &[10],
                &[at],
                &[at + 1],
                &[at + 5, at + 6, at + 20],
                &[1, 2, at + 12, at + 12, 50_000],
            ] {
                let mut end = 0;
                for record in records(&flush, cuts) {
                    end += record.len();
                    assert!(end <= at || end >= at + line.len(), "cut at {end}, the line is at {at}");
                }
            }
        }
        let hyphens = vec![b'-'; 100_000];
        for cuts in [&[][..], &[1000, 20_000]] {
            records(&hyphens, cuts);
        }
        assert!(records(b"", &[]).is_empty());
    }

    #[test]
    fn a_record_within_one_part_is_not_copied() {
        let flush = vec![b'x'; 10 * RECORD_BYTES];
        let (head, body) = flush.split_at(3 * RECORD_BYTES);
        let mut seam = Vec::new();
        let cut = cut([head, body].into_iter(), &mut seam, |record| {
            assert!(flush.as_ptr_range().contains(&record.as_ptr()));
            Ok::<_, ()>(())
        });
        assert_eq!(cut, Ok(()));
        assert_eq!(seam.capacity(), 0);
    }

    #[test]
    fn nothing_is_handed_on_after_a_failure() {
        let flush = vec![b'x'; 3 * RECORD_BYTES];
        let mut calls = 0;
        let cut = cut([&flush[..]].into_iter(), &mut Vec::new(), |_| {
            calls += 1;
            Err(calls)
        });
        assert_eq!((cut, calls), (Err(1), 1));
    }
}
