//! The mix: how many places play which scenes, over and over until the time is up.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{churn, kills, talk};
use crate::driver::cast::{Cast, Outcome};
use crate::driver::content::Dice;
use crate::driver::party::spawn;
use crate::driver::stage::Stage;

type Play = fn(&mut Cast) -> Outcome;

/// Name, how many at a time, what. About a hundred connections all in all. Each place has two users of its own:
/// the script's config has accounts for all of them.
const SCENES: [(&str, u64, Play); 15] = [
    ("files", 12, talk::files),
    ("chat", 12, talk::chat),
    ("slow receiver", 4, talk::slow_receiver),
    ("resting receiver", 2, talk::resting_receiver),
    ("resting sender", 2, talk::resting_sender),
    ("sender dies", 4, kills::sender_dies),
    ("receiver dies", 4, kills::receiver_dies),
    ("sender aborts", 2, kills::sender_changes_its_mind),
    ("sender leaves early", 1, kills::sender_leaves_early),
    ("unreachable", 2, kills::unreachable),
    ("sessions", 4, churn::sessions_come_and_go),
    ("guesses", 2, churn::guesses),
    ("half a head", 2, churn::half_head),
    ("knocks", 1, churn::knocks),
    ("expiry", 1, churn::expires),
];

/// Between the first scenes of two places, so that the load rises gently.
const STAGGER: Duration = Duration::from_millis(60);

pub(crate) fn start(stage: &Arc<Stage>, seed: u64) -> Result<Vec<JoinHandle<()>>, String> {
    let places = SCENES.iter().flat_map(|scene| std::iter::repeat_n(scene, scene.1 as usize));
    let mut threads = Vec::new();
    for ((name, _, play), slot) in places.zip(0..) {
        let stage = Arc::clone(stage);
        threads.push(spawn(name, move || perform(name, *play, &stage, seed, slot))?);
        std::thread::sleep(STAGGER);
    }
    Ok(threads)
}

fn perform(name: &'static str, play: Play, stage: &Arc<Stage>, seed: u64, slot: u64) {
    for round in 0.. {
        if stage.is_over() {
            return;
        }
        let mut seeds = Dice::new(seed ^ slot << 48 ^ round);
        let mut cast = Cast { stage: Arc::clone(stage), dice: Dice::new(seeds.next()), slot };
        let began = Instant::now();
        if let Err(what) = play(&mut cast) {
            stage.tally.found(format!("{name}, place {slot}, round {round}: {what}"));
            // A relay in trouble must not be stormed.
            std::thread::sleep(Duration::from_secs(1));
        }
        stage.tally.scene(name, began.elapsed());
        cast.pause(0, 100);
    }
}
