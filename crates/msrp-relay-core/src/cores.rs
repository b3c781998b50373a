//! Which cores live: those of this process by position, and the other processes of this relay by generation.

use crate::ids::CoreId;

/// The cores as far as this one knows.
#[derive(Debug)]
pub(crate) struct Cores {
    /// The present life of each core, by position; `None` while the core is down.
    running: Vec<Option<u16>>,
    /// The last ended life of each core.
    ended: Vec<Option<u16>>,
    /// Generations of other processes of this relay: requests for their sessions are passed to them.
    pub(crate) other_generations: [Option<u8>; 2],
}

impl Cores {
    pub(crate) fn new(me: CoreId, count: usize) -> Self {
        let mut running = vec![Some(0); count];
        if let Some(own) = running.get_mut(usize::from(me.index)) {
            *own = Some(me.incarnation);
        }
        Self { running, ended: vec![None; count], other_generations: [None; 2] }
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// A core begins another life, or has none. Returns the life that ended.
    pub(crate) fn change(&mut self, index: u16, running: Option<u16>) -> Option<CoreId> {
        let entry = self.running.get_mut(usize::from(index))?;
        let before = std::mem::replace(entry, running);
        let incarnation = before.filter(|_| before != running)?;
        self.ended[usize::from(index)] = Some(incarnation);
        Some(CoreId { index, incarnation })
    }

    /// The present life of the core at a position.
    pub(crate) fn running(&self, index: usize) -> Option<CoreId> {
        let incarnation = self.running.get(index).copied().flatten()?;
        Some(CoreId { index: u16::try_from(index).ok()?, incarnation })
    }

    pub(crate) fn is_alive(&self, core: CoreId) -> bool {
        self.running.get(usize::from(core.index)).copied().flatten() == Some(core.incarnation)
    }

    /// Whether a core is known to be dead. A restarted core may write before this core hears of its restart.
    pub(crate) fn has_ended(&self, core: CoreId) -> bool {
        self.ended.get(usize::from(core.index)).copied().flatten() == Some(core.incarnation)
    }

    /// Whether a core is of another process of this relay.
    pub(crate) fn is_of_other_process(&self, core: CoreId) -> bool {
        self.other_generations.contains(&Some(core.generation()))
    }
}
