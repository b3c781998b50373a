//! Which of several SRV records comes first (RFC 2782). Pure: the caller brings the dice.

use std::cmp::Reverse;

/// The service under which relays are found (RFC 4976, section 8).
pub const SERVICE: &str = "_msrps._tcp";
/// Where a relay listens that has no SRV record (RFC 4976, section 8).
pub const PORT_DEFAULT: u16 = 2855;

/// Puts records, each with its priority and weight, into the order in which to try them this time: by priority, lowest
/// first; within one priority by chance, in proportion to their weights.
///
/// `draw` gives a number below its argument, which is never 0, each with the same chance.
pub fn order<T>(mut records: Vec<(u16, u16, T)>, mut draw: impl FnMut(u32) -> u32) -> Vec<T> {
    records.sort_by_key(|(priority, weight, _)| (*priority, Reverse(*weight)));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some((priority, _, _)) = records.first() {
        let same = records.iter().take_while(|(other, _, _)| other == priority);
        let weights: Vec<u32> = same.map(|(_, weight, _)| u32::from(*weight)).collect();
        let (_, _, record) = records.remove(chosen(&weights, &mut draw));
        ordered.push(record);
    }
    ordered
}

/// One of several, with chances in proportion to their weights. Those of weight 0 come last, except for a small chance.
fn chosen(weights: &[u32], draw: &mut impl FnMut(u32) -> u32) -> usize {
    let sum: u32 = weights.iter().sum();
    if sum == 0 {
        // No record has a weight: by RFC 2782 every client would take the first that the name server tells.
        let below = u32::try_from(weights.len()).unwrap_or(u32::MAX).max(1);
        return draw(below) as usize;
    }
    // RFC 2782: a number from 0 to the sum, both included, and records of weight 0 come first.
    let mut left = draw(sum + 1);
    let (none, some): (Vec<_>, Vec<_>) = weights.iter().enumerate().partition(|(_, weight)| **weight == 0);
    for (at, weight) in none.into_iter().chain(some) {
        if left <= *weight {
            return at;
        }
        left -= weight;
    }
    0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#[allow(clippy::indexing_slicing, reason = "a failed index is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn priorities_come_before_chance() {
        let records = || vec![(20, 1, "c"), (10, 1, "a"), (10, 3, "b"), (20, 0, "d")];
        let orders: Vec<Vec<&str>> = (0..5).map(|number| order(records(), |below| number % below)).collect();
        for order in &orders {
            assert!(order[..2].contains(&"a") && order[..2].contains(&"b"), "{order:?}");
            assert_eq!(order.len(), 4);
        }
        assert!(orders.iter().any(|order| order[0] == "a") && orders.iter().any(|order| order[0] == "b"));
    }

    // Weight 3 against weight 1, with each possible number drawn once: 0 to 4.
    #[test]
    fn weights_are_chances() {
        let firsts: Vec<&str> = (0..5)
            .map(|number| {
                let records = vec![(0, 1, "light"), (0, 3, "heavy")];
                order(records, |below| if below == 5 { number } else { 0 })[0]
            })
            .collect();
        assert_eq!(firsts.iter().filter(|first| **first == "heavy").count(), 4);
        assert_eq!(order(Vec::<(u16, u16, ())>::new(), |_| 0), []);
    }

    #[test]
    fn without_weights_all_are_alike() {
        let first = |number: u32| order(vec![(0, 0, 0), (0, 0, 1), (0, 0, 2)], |below| number % below)[0];
        assert_eq!([first(0), first(1), first(2)], [0, 1, 2]);
    }
}
