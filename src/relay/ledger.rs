//! Which core holds how many octets: a short list, one entry for each core, none for a core that holds nothing.
//!
//! Invariant: what is added for a core and subtracted for it again leaves nothing, in whatever order: octets that pass
//! through a third core may be given back before it is known where they are, and are fewer than none until then.

use super::ids::CoreId;

/// A core has more.
pub(crate) fn add(list: &mut Vec<(CoreId, i64)>, core: CoreId, octets: usize) {
    change(list, core, narrow(octets));
}

/// A core has less.
pub(crate) fn subtract(list: &mut Vec<(CoreId, i64)>, core: CoreId, octets: usize) {
    change(list, core, -narrow(octets));
}

/// Strikes a core out; what it had.
pub(crate) fn take_all(list: &mut Vec<(CoreId, i64)>, core: CoreId) -> usize {
    let Some(index) = list.iter().position(|(other, _)| *other == core) else {
        return 0;
    };
    usize::try_from(list.swap_remove(index).1).unwrap_or(0)
}

/// What all of them have.
pub(crate) fn sum(list: &[(CoreId, i64)]) -> usize {
    usize::try_from(list.iter().map(|(_, octets)| octets).sum::<i64>()).unwrap_or(0)
}

fn change(list: &mut Vec<(CoreId, i64)>, core: CoreId, octets: i64) {
    if octets == 0 {
        return;
    }
    match list.iter().position(|(other, _)| *other == core) {
        None => list.push((core, octets)),
        Some(index) => {
            let sum = &mut list[index].1;
            *sum += octets;
            if *sum == 0 {
                list.swap_remove(index);
            }
        }
    }
}

/// Octets in memory are never more than that.
fn narrow(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(index: u16) -> CoreId {
        CoreId { index, incarnation: 0 }
    }

    // 100 octets go to core 1, which hands 60 of them to core 2; that gives them back before the news is here.
    #[test]
    fn order_does_not_matter() {
        let mut list = Vec::new();
        add(&mut list, core(1), 100);
        subtract(&mut list, core(2), 60);
        assert_eq!(sum(&list), 40);
        subtract(&mut list, core(1), 60);
        add(&mut list, core(2), 60);
        assert_eq!(list, [(core(1), 40)]);
        assert_eq!((take_all(&mut list, core(1)), take_all(&mut list, core(1)), sum(&list)), (40, 0, 0));
    }
}
