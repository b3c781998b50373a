//! What happens once for each message, AUTH or end of a session costs no more with many sessions than with few.
//! `benches/relay.rs` measures it; here it is counted: walks through whole tables, which would make it grow with the
//! number of sessions, and their squares with all of them.

use std::time::Instant;

use testkit_pure::crowd::Crowd;
use testkit_pure::rig::Unwatched;

const SESSIONS: u32 = 1000;

/// As many clients as that, each of a user of its own; or of few users, written to by one connection.
fn crowd(has_stranger: bool) -> Crowd<Unwatched> {
    let users = if has_stranger { 7 } else { SESSIONS };
    let mut crowd = Crowd::new(users, Instant::now(), Unwatched);
    if has_stranger {
        crowd.add_stranger();
    }
    for _ in 0..SESSIONS {
        crowd.enter();
    }
    crowd
}

#[test]
fn messages_auths_alarms_and_ends_walk_through_no_table() {
    for has_stranger in [false, true] {
        let mut crowd = crowd(has_stranger);
        for hearer in 0..crowd.hearers() {
            crowd.message(hearer);
        }
        assert!(crowd.pass_alarms() > SESSIONS / 4, "connections that were written to had alarms");
        crowd.enter_and_expire(50, Crowd::expire);
        for _ in 0..100 {
            crowd.leave();
            crowd.enter();
            crowd.meet_last();
        }
        for _ in 0..100 {
            crowd.expire();
            crowd.leave_expired();
        }
        assert_eq!(crowd.relay().table_walks(), 0, "with a stranger: {has_stranger}");
        assert_eq!(crowd.relay().sessions().len(), crowd.len(), "all others live");
        assert_eq!(crowd.relay().table_walks(), 1, "an operator's question is a walk");
    }
}
