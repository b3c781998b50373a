//! Limits that hold for the whole process: by address, by user, over all cores; the memory budget; the
//! times after which a connection goes (reqs C2, C5, S3, S10, S14).
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::time::{Duration, Instant};

use msrp_relay_core::{
    CloseReason, CoreId, Effect, Input, Limit, Limits, OutBatch, Relay, Settings, Stage, Transport,
    WriteState,
};

use testkit_pure::{Conn, Decision, Frame, Request, World, answer_challenge, relay_uri, settings};

const CORES: usize = 3;

fn world(change: impl FnOnce(&mut Settings)) -> World {
    let mut settings = settings(CORES);
    change(&mut settings);
    World::with(settings)
}

/// Connects from an address. Returns the connection if it still exists when all cores have reported.
fn stays(world: &mut World, core: usize, address: &str) -> Option<Conn> {
    let conn = world.try_connect(core, true, address).ok()?;
    world.run();
    (!world.is_closed(conn)).then_some(conn)
}

fn was_reached(world: &World, limit: Limit) -> bool {
    let name = format!("LimitReached {{ limit: {limit:?}");
    world.events.iter().any(|event| event.contains(&name))
}

/// AUTH with a password of one's choice; the answer to the second round.
fn guess(world: &mut World, conn: Conn, user: &str, password: &str) -> Frame {
    let (to, uri) = (relay_uri(), world.end(conn).uri.clone());
    world.send(conn, Request::new("AUTH", &to, &uri).bytes());
    let challenge = world.take_one(conn);
    assert_eq!(challenge.status(), 401, "{challenge:?}");
    let authorization = answer_challenge(&challenge, user, password, &to, 1);
    world.send(conn, Request::new("AUTH", &to, &uri).header("Authorization", &authorization).bytes());
    world.take_one(conn)
}

// S10: the kernel spreads an address' connections over the cores; they are counted together.
#[test]
fn connections_of_one_address_are_bounded_over_all_cores() {
    let mut world = world(|s| s.limits.unauthenticated_per_address_max = 4);
    let kept: Vec<Conn> = (0..4).map(|n| stays(&mut world, n % CORES, "192.0.2.1").unwrap()).collect();
    assert!(stays(&mut world, 1, "192.0.2.1").is_none());
    assert!(was_reached(&world, Limit::UnauthenticatedPerAddress));
    assert!(stays(&mut world, 1, "192.0.2.2").is_some(), "another address");
    // One that has authenticated no longer counts among those that have not.
    world.auth(kept[0], "alice");
    assert!(stays(&mut world, 2, "192.0.2.1").is_some());
    world.lose(kept[1]);
    world.run();
    assert!(stays(&mut world, 0, "192.0.2.1").is_some());
    world.close_all();
}

#[test]
fn authenticated_connections_of_one_address_are_bounded_too() {
    let mut world = world(|s| {
        s.limits.connections_per_address_max = 2;
        s.limits.unauthenticated_per_address_max = 2;
    });
    for core in 0..2 {
        let conn = stays(&mut world, core, "2001:db8::1").unwrap();
        world.auth(conn, "alice");
    }
    assert!(stays(&mut world, 2, "2001:db8::99").is_none(), "the same /56");
    assert!(was_reached(&world, Limit::ConnectionsPerAddress));
    assert!(stays(&mut world, 2, "2001:db8:0:ff::99").is_none(), "the same /56");
    assert!(stays(&mut world, 2, "2001:db8:0:100::99").is_some());
    world.close_all();
}

// A core that dies takes its counts along, and one that counts is told again.
#[test]
fn counts_survive_the_death_of_the_core_that_keeps_them() {
    for dying in 0..CORES {
        let mut world = world(|s| s.limits.unauthenticated_per_address_max = 3);
        let conns: Vec<Conn> = (0..3).map(|core| stays(&mut world, core, "192.0.2.1").unwrap()).collect();
        assert!(stays(&mut world, 0, "192.0.2.1").is_none());
        world.kill_core(dying, true);
        world.run();
        assert!(world.is_closed(conns[dying]));
        // One place is free again, whichever core counts: no more and no less.
        assert!(stays(&mut world, dying, "192.0.2.1").is_some(), "core {dying}");
        assert!(stays(&mut world, dying, "192.0.2.1").is_none(), "core {dying}");
        world.close_all();
    }
}

// The same for several connections on one core, among others of the same core.
#[test]
fn all_connections_of_a_core_are_told_to_a_counter_that_comes_again() {
    for dying in 1..CORES {
        let mut world = world(|s| s.limits.unauthenticated_per_address_max = 3);
        assert_eq!(world.sizes().counted, 0);
        for address in ["192.0.2.1", "192.0.2.7", "192.0.2.1", "192.0.2.8", "192.0.2.1"] {
            assert!(stays(&mut world, 0, address).is_some());
        }
        assert_eq!(world.sizes().counted, 3, "addresses");
        world.kill_core(dying, true);
        world.run();
        assert!(stays(&mut world, 0, "192.0.2.1").is_none(), "core {dying} counts");
        assert!(stays(&mut world, 0, "192.0.2.7").is_some());
        assert_eq!(world.relay(0).cores(), CORES);
        world.close_all();
    }
}

// S10: clients that do not authenticate cannot fill the relay.
#[test]
fn unauthenticated_connections_are_a_share_of_all() {
    let mut world = world(|s| s.limits.unauthenticated_per_core_max = 2);
    let [first, second] = ["192.0.2.1", "192.0.2.2"].map(|from| stays(&mut world, 0, from).unwrap());
    let third = stays(&mut world, 0, "192.0.2.3").unwrap();
    assert!(world.is_closed(first), "the oldest of those that have said nothing");
    assert!(was_reached(&world, Limit::UnauthenticatedShare));
    assert_eq!(world.link(first).closing, Some(CloseReason::Limit(Limit::UnauthenticatedShare)));
    world.auth(second, "alice");
    assert!(stays(&mut world, 0, "192.0.2.4").is_some());
    assert!(!world.is_closed(second) && !world.is_closed(third));
    world.close_all();
}

/// The first round of AUTH: the connection waits for the client's credentials.
fn asks(world: &mut World, conn: Conn) {
    let uri = world.end(conn).uri.clone();
    world.send(conn, Request::new("AUTH", &relay_uri(), &uri).bytes());
    assert_eq!(world.take_one(conn).status(), 401);
}

// Decision 12: the connection that has proven least makes room, and that is not a client in the midst of its login. The
// flood sends more than the client and reaches all stages.
#[test]
fn a_flood_makes_room_and_a_login_goes_on() {
    let mut world = world(|s| s.limits.unauthenticated_per_core_max = 5);
    let client = stays(&mut world, 0, "192.0.2.1").unwrap();
    let flood: Vec<Conn> = (0..4).map(|_| stays(&mut world, 0, "192.0.2.9").unwrap()).collect();
    asks(&mut world, flood[0]);
    world.advance_to(flood[1], Stage::Up);
    world.advance_to(flood[2], Stage::Handshake);
    for goes in [3, 2, 1] {
        // From wherever the next one comes.
        stays(&mut world, 0, &format!("198.51.100.{goes}")).unwrap();
        let gone: Vec<usize> = (0..4).filter(|n| world.is_closed(flood[*n])).collect();
        assert_eq!(gone, (goes..4).collect::<Vec<_>>());
    }
    // With one each, the silent ones go.
    world.advance_to(client, Stage::Handshake);
    for n in 1..=3 {
        stays(&mut world, 0, &format!("203.0.113.{n}")).unwrap();
    }
    assert!(!world.is_closed(flood[0]));
    world.auth(client, "alice");
    world.close_all();
}

// A stage that comes late, or again, takes nothing from a connection that has got further.
#[test]
fn no_stage_is_taken_back() {
    let mut world = world(|s| s.limits.unauthenticated_per_core_max = 2);
    let client = stays(&mut world, 0, "192.0.2.1").unwrap();
    asks(&mut world, client);
    world.advance_to(client, Stage::Handshake);
    let other = stays(&mut world, 0, "192.0.2.2").unwrap();
    world.advance_to(other, Stage::Up);
    assert!(stays(&mut world, 0, "192.0.2.3").is_some());
    assert!(!world.is_closed(client) && world.is_closed(other));
    world.close_all();
}

// The flood spreads over the cores, so that it has no more than a client on any of them.
#[test]
fn the_source_with_the_most_on_all_cores_makes_room() {
    let mut world = world(|s| s.limits.unauthenticated_per_core_max = 2);
    let others: Vec<Conn> = (1..CORES).map(|core| stays(&mut world, core, "192.0.2.9").unwrap()).collect();
    let client = stays(&mut world, 0, "192.0.2.1").unwrap();
    let flood = stays(&mut world, 0, "192.0.2.9").unwrap();
    world.advance_to(flood, Stage::Up);
    assert!(stays(&mut world, 0, "192.0.2.2").is_some());
    assert!(world.is_closed(flood), "it says more, but has two more elsewhere");
    assert!(!world.is_closed(client));
    assert!(others.iter().all(|conn| !world.is_closed(*conn)), "their cores have room");
    world.close_all();
}

// The new counter is told again, and what it reports after that is right.
#[test]
fn what_a_source_has_on_all_cores_survives_the_death_of_any_other_core() {
    for dying in 1..CORES {
        let mut world = world(|s| s.limits.unauthenticated_per_core_max = 3);
        for core in 1..CORES {
            stays(&mut world, core, "192.0.2.9").unwrap();
            stays(&mut world, core, "192.0.2.9").unwrap();
        }
        let flood = stays(&mut world, 0, "192.0.2.9").unwrap();
        world.advance_to(flood, Stage::Asking);
        let client = stays(&mut world, 0, "192.0.2.1").unwrap();
        world.kill_core(dying, true);
        world.run();
        assert!(stays(&mut world, 0, "192.0.2.2").is_some());
        assert!(stays(&mut world, 0, "192.0.2.3").is_some());
        assert!(world.is_closed(flood) && !world.is_closed(client), "core {dying}");
        world.close_all();
    }
}

// The same when the relay is full: clients with a session stay, and so does the last of the newcomers while any other
// has proven less.
#[test]
fn a_full_relay_makes_room_at_the_expense_of_who_has_proven_nothing() {
    let mut world = world(|s| s.limits.connections_per_core_max = 3);
    let (alice, _) = world.client(0, "alice");
    let flood = [(); 2].map(|()| stays(&mut world, 0, "192.0.2.9").unwrap());
    let (bob, _) = world.client(0, "bob");
    assert!(world.is_closed(flood[0]));
    assert!(was_reached(&world, Limit::Connections));
    let (carol, _) = world.client(0, "carol");
    assert!(world.is_closed(flood[1]));
    // No connection is left that could make room.
    assert_eq!(world.try_connect(0, true, "192.0.2.1"), Err(Limit::Connections));
    assert!([alice, bob, carol].iter().all(|conn| !world.is_closed(*conn)));
    world.lose(bob);
    assert!(stays(&mut world, 0, "192.0.2.1").is_some());
    world.close_all();
}

// So does a connection that a client needs to its next hop.
#[test]
fn a_next_hop_finds_room_in_a_relay_that_is_full_of_newcomers() {
    let mut world = world(|s| s.limits.connections_per_core_max = 3);
    let (client, session) = world.client(0, "alice");
    let flood = [(); 2].map(|()| stays(&mut world, 0, "192.0.2.9").unwrap());
    let own = world.end(client).uri.clone();
    let to = format!("{session} msrp://far.example:7000/x;tcp");
    world.send(client, Request::send(&to, &own, "mess", b"x").bytes());
    assert_eq!(world.take_one(client).status(), 200);
    assert_eq!(world.dialled.len(), 1);
    assert!(world.is_closed(flood[0]) && !world.is_closed(flood[1]));
    world.close_all();
}

// A closing connection holds its place for as long as its peer likes, but not against others.
#[test]
fn a_connection_that_is_being_closed_makes_room_first() {
    let mut world = world(|s| s.limits.unauthenticated_per_core_max = 2);
    let lingers = stays(&mut world, 0, "192.0.2.1").unwrap();
    asks(&mut world, lingers);
    world.link_mut(lingers).stalled = true;
    let silent = stays(&mut world, 0, "192.0.2.2").unwrap();
    world.send(
        lingers,
        Request::new("AUTH", "msrps://elsewhere.example:9999;tcp", "msrp://h.example:1/x;tcp").bytes(),
    );
    world.run();
    assert_eq!(world.link(lingers).closing, Some(CloseReason::Misaddressed));
    assert!(!world.is_closed(lingers));
    assert!(stays(&mut world, 0, "192.0.2.3").is_some());
    assert!(world.is_closed(lingers) && !world.is_closed(silent));
    world.close_all();
}

// The system's bound on open files is one more that a flood can reach.
#[test]
fn without_a_descriptor_the_one_that_has_proven_least_goes() {
    let mut world = world(|_| ());
    let (client, _) = world.client(0, "alice");
    let flood = stays(&mut world, 0, "192.0.2.9").unwrap();
    let also = stays(&mut world, 0, "192.0.2.9").unwrap();
    world.input(0, Input::NoDescriptor);
    assert_eq!(world.link(flood).closing, Some(CloseReason::NoDescriptor));
    world.input(0, Input::NoDescriptor);
    world.input(0, Input::NoDescriptor);
    assert!(world.is_closed(also) && !world.is_closed(client));
    world.close_all();
}

// S10: guesses from one address, whatever the user and the core; others and live sessions go on.
#[test]
fn failed_auths_of_an_address_ban_it_on_every_core_until_the_window_ends() {
    let mut world = world(|s| s.limits.auth_failures_per_address_max = 4);
    let live = stays(&mut world, 0, "192.0.2.1").unwrap();
    let session = world.auth(live, "alice");
    for n in 0..4 {
        let conn = stays(&mut world, n % CORES, "192.0.2.1").unwrap();
        assert_eq!(guess(&mut world, conn, "bob", &format!("guess{n}")).status(), 401);
        world.lose(conn);
        world.run();
    }
    assert!(was_reached(&world, Limit::AuthFailuresPerAddress));
    let told = "LimitReached { limit: AuthFailuresPerAddress, peer: Some(";
    assert_eq!(world.events.iter().filter(|event| event.contains(told)).count(), 1, "whose, once");
    for core in 0..CORES {
        let conn = stays(&mut world, core, "192.0.2.1").unwrap();
        assert_eq!(guess(&mut world, conn, "bob", "5678").status(), 403, "right, but banned");
        let elsewhere = stays(&mut world, core, "192.0.2.9").unwrap();
        assert_eq!(guess(&mut world, elsewhere, "bob", "5678").status(), 200);
    }
    let uri = world.end(live).uri.clone();
    assert_eq!(world.auth_to(live, "alice", (&session, &uri), "").status(), 200, "a refresh");
    world.advance(world.settings.limits.failure_window);
    let conn = stays(&mut world, 1, "192.0.2.1").unwrap();
    assert_eq!(guess(&mut world, conn, "bob", "5678").status(), 200);
    world.close_all();
}

// S9, S10: the same for users, also for those that do not exist.
#[test]
fn failed_auths_for_a_user_ban_that_user_alone_known_or_not() {
    for user in ["bob", "absent"] {
        let mut world = world(|s| s.limits.auth_failures_per_user_max = 3);
        for n in 0..3_usize {
            let conn = stays(&mut world, n, &format!("192.0.2.{n}")).unwrap();
            assert_eq!(guess(&mut world, conn, user, "guess").status(), 401);
        }
        // The operator reads which user is locked out.
        let told = format!("user: Some(\"{user}\")");
        let is_told = |event: &String| event.contains("AuthFailuresPerUser") && event.contains(&told);
        assert_eq!(world.events.iter().filter(|event| is_told(event)).count(), 1, "{:?}", world.events);
        let conn = stays(&mut world, 0, "198.51.100.1").unwrap();
        assert_eq!(guess(&mut world, conn, user, "5678").status(), 403, "{user}");
        let conn = stays(&mut world, 0, "198.51.100.2").unwrap();
        assert_eq!(guess(&mut world, conn, "alice", "1234").status(), 200);
        world.close_all();
    }
}

// Of a name that a stranger has made up, only as much is kept as the log shows. Each client behind a relay may make up
// one, so the rest of it must not cost memory.
#[test]
fn of_a_name_that_was_tried_only_the_beginning_is_kept() {
    let mut world = world(|s| s.limits.auth_failures_per_user_max = 1);
    let conn = stays(&mut world, 0, "192.0.2.1").unwrap();
    let long = "\u{e9}".repeat(3000);
    assert_eq!(guess(&mut world, conn, &long, "guess").status(), 401);
    let told: Vec<&String> = world.events.iter().filter(|e| e.contains("AuthFailuresPerUser")).collect();
    let shown = format!("user: Some({:?})", "\u{e9}".repeat(64));
    assert!(matches!(&told[..], [one] if one.contains(&shown)), "{told:?}");
    world.close_all();
}

// S10: sessions of one user on all cores; the place is free when the connection goes.
#[test]
fn sessions_of_a_user_are_bounded_over_all_cores() {
    let mut world = world(|s| s.limits.sessions_per_user_max = 2);
    let (first, _) = world.client(0, "alice");
    let (second, _) = world.client(1, "alice");
    let third = world.connect(2);
    let uri = world.end(third).uri.clone();
    assert_eq!(world.auth_round(third, "alice", &uri, "").status(), 403);
    assert!(was_reached(&world, Limit::SessionsPerUser));
    world.client(2, "bob");
    // A replacement is no further session.
    let uri = world.end(second).uri.clone();
    assert_eq!(world.auth_round(second, "alice", &uri, "").status(), 200);
    world.lose(first);
    world.run();
    world.client(2, "alice");
    world.close_all();
}

// One session too many is better than none at all.
#[test]
fn a_claim_is_granted_when_the_core_that_counts_dies() {
    for dying in 1..CORES {
        let mut world = world(|s| s.limits.sessions_per_user_max = 1);
        let conn = world.connect(0);
        let (to, uri) = (relay_uri(), world.end(conn).uri.clone());
        world.send(conn, Request::new("AUTH", &to, &uri).bytes());
        let challenge = world.take_one(conn);
        world.hold_messages = true;
        let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
        world.send(conn, Request::new("AUTH", &to, &uri).header("Authorization", &authorization).bytes());
        world.run();
        world.kill_core(dying, false);
        world.hold_messages = false;
        assert_eq!(world.take_one(conn).status(), 200, "core {dying}");
        world.close_all();
    }
}

// A session that has expired gives its place back, though its connection stays.
#[test]
fn an_expired_session_no_longer_counts_among_its_users() {
    let mut world = world(|s| s.limits.sessions_per_user_max = 1);
    let first = world.connect(0);
    let uri = world.end(first).uri.clone();
    assert_eq!(world.auth_round(first, "alice", &uri, "Expires: 60\r\n").status(), 200);
    world.advance(Duration::from_secs(91));
    let (second, _) = world.client(1, "alice");
    world.lose(second);
    world.run();
    assert!(!world.is_closed(first));
    assert_eq!(world.auth_round(first, "alice", &uri, "").status(), 200, "and the first may have another");
    world.close_all();
}

// S6, S7: each excess in a head is counted under the limit that it exceeds.
#[test]
fn each_bound_of_a_head_has_its_counter() {
    let uri = |id: &str| format!("msrp://h.example:7000/{id};tcp");
    let many = vec![uri("a"); 17].join(" ");
    let cases: [(Limit, String); 5] = [
        (Limit::LineBytes, format!("X-Long: {}\r\n", "x".repeat(9000))),
        (Limit::Headers, "X-Many: x\r\n".repeat(70)),
        (Limit::UriBytes, uri(&"x".repeat(200))),
        (Limit::PathUris, many),
        (Limit::MessageIdBytes, "m".repeat(200)),
    ];
    for (limit, what) in cases {
        let mut world = world(|_| ());
        let (client, session) = world.client(0, "alice");
        let own = world.end(client).uri.clone();
        let request = match limit {
            Limit::UriBytes | Limit::PathUris => {
                Request::send(&format!("{session} {what}"), &own, "mess", b"x")
            }
            Limit::MessageIdBytes => Request::send(&format!("{session} {own}"), &own, &what, b"x"),
            _ => Request::send(&format!("{session} {own}"), &own, "mess", b"x").raw(&what),
        };
        world.send(client, request.bytes());
        world.run();
        // An unreadable request has no sender to answer.
        assert!(world.take(client).iter().all(|frame| frame.is("400")), "{limit:?}");
        assert!(was_reached(&world, limit), "{limit:?}: {:?}", world.events);
        assert_eq!(world.relay(0).stats().limits_reached[limit as usize], 1);
        world.close_all();
    }
}

// The operator's counters of the relay's work.
#[test]
fn chunks_bytes_dials_and_reports_are_counted() {
    let mut world = world(|_| ());
    let pair = world.pair(0, 0);
    for n in 1..4_u64 {
        let request = Request::send(&pair.to_bob, &pair.alice_uri, &format!("mess{n}"), b"hello");
        world.send(pair.alice, request.bytes());
        world.run();
        let stats = world.relay(0).stats();
        assert_eq!((stats.chunks_in, stats.chunks_out), (n, n));
        assert_eq!((stats.body_bytes_in, stats.body_bytes_out), (5 * n, 5 * n));
        assert_eq!((stats.sessions_opened, stats.sessions_closed, stats.links_local), (2, 0, 1));
    }
    world.dial_decision = Decision::Fail;
    for n in 1..3_u64 {
        let (carol, session) = world.client(0, "carol");
        let own = world.end(carol).uri.clone();
        let to = format!("{session} msrps://192.0.2.1:7000/x;tcp");
        world.send(carol, Request::send(&to, &own, "mess", b"x").bytes());
        world.run();
        assert!(world.take(carol).iter().any(|frame| frame.is("REPORT") && frame.reported() == 408));
        let stats = world.relay(0).stats();
        assert_eq!((stats.dials, stats.dials_failed, stats.reports_sent), (n, n, n));
        world.lose(carol);
        world.run();
        assert_eq!(world.relay(0).stats().sessions_closed, n);
    }
    world.close_all();
}

// The relay stops: first it reads no more, then it writes what it has and closes.
#[test]
fn a_relay_that_stops_reads_no_more_and_then_closes_everybody() {
    let mut world = world(|_| ());
    let pair = world.pair(0, 1);
    world.link_mut(pair.bob).stalled = true;
    world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", b"hello").bytes());
    world.run();
    assert_eq!(world.take_one(pair.alice).status(), 200);
    for core in 0..CORES {
        world.input(core, Input::Quiesce);
    }
    world.run();
    assert!(world.link(pair.alice).paused && world.link(pair.bob).paused);
    assert!(!world.is_closed(pair.alice));
    world.link_mut(pair.bob).stalled = false;
    for core in 0..CORES {
        world.input(core, Input::Shutdown);
    }
    world.run();
    assert_eq!(world.link(pair.bob).closing, Some(CloseReason::Stopping));
    assert!(world.is_closed(pair.alice) && world.is_closed(pair.bob));
    assert_eq!(world.take(pair.bob).len(), 1, "what had been answered is still delivered");
}

// A draining relay leaves its clients' sessions alone, and sends clients without a session elsewhere.
#[test]
fn a_relay_that_drains_prolongs_sessions_and_opens_none() {
    let mut world = world(|_| ());
    let pair = world.pair(0, 1);
    let stranger = world.connect(0);
    for core in 0..CORES {
        world.input(core, Input::Drain);
    }
    let uri = world.end(stranger).uri.clone();
    world.send(stranger, Request::new("AUTH", &relay_uri(), &uri).bytes());
    let refused = world.take_one(stranger);
    assert_eq!(refused.status(), 408, "{refused:?}");
    world.run();
    assert!(world.is_closed(stranger));
    // Prolonged, and replaced by another URI.
    for to in [pair.alice_session.clone(), relay_uri()] {
        let uri = pair.alice_uri.clone();
        assert_eq!(world.auth_to(pair.alice, "alice", (&to, &uri), "").status(), 200);
    }
    world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", b"hello").bytes());
    assert_eq!(world.take_one(pair.bob).body, b"hello");
    world.close_all();
}

// F9: the relay has answered 200 for requests that no hop will answer any more.
#[test]
fn what_still_awaits_its_answer_when_a_relay_stops_is_reported() {
    for bob_core in [0, 1] {
        let mut world = world(|_| ());
        let pair = world.pair(0, bob_core);
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", b"hello").bytes());
        let quiet = Request::send(&pair.to_bob, &pair.alice_uri, "quiet", b"hello");
        world.send(pair.alice, quiet.raw("Failure-Report: no\r\n").bytes());
        world.run();
        assert_eq!(world.take_one(pair.alice).status(), 200);
        for input in [|| Input::Quiesce, || Input::GiveUp, || Input::Shutdown] {
            for core in 0..CORES {
                world.input(core, input());
            }
            world.run();
        }
        let report = world.take_one(pair.alice);
        assert_eq!(report.header("Message-ID").as_deref(), Some("mess"), "{report:?}");
        assert_eq!(report.header("Status").as_deref(), Some("000 408 Request Timeout"), "{report:?}");
        assert_eq!(report.header("Byte-Range").as_deref(), Some("1-5/5"), "{report:?}");
        assert!(world.take(pair.alice).is_empty() && world.is_closed(pair.alice));
        world.close_all();
    }
}

// What an operator accounts for: bytes each way, once, and the reason of the end.
#[test]
fn the_end_of_a_session_is_told_with_its_figures_and_its_reason() {
    for bob_core in [0, 1] {
        let mut world = world(|_| ());
        let pair = world.pair(0, bob_core);
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "one", b"hello").bytes());
        world.send(pair.bob, Request::send(&pair.to_alice, &pair.bob_uri, "two", b"hello too").bytes());
        world.run();
        let short = world.connect(2);
        let uri = world.end(short).uri.clone();
        assert_eq!(world.auth_round(short, "alice", &uri, "Expires: 60\r\n").status(), 200);
        world.advance(Duration::from_secs(91));
        let handle = world.relay(0).sessions()[0];
        world.input(0, Input::CloseSession(handle));
        world.run();
        assert!(world.is_closed(pair.alice));
        world.lose(pair.bob);
        world.run();
        let ends: Vec<_> = world.events.iter().filter(|event| event.starts_with("SessionClosed")).collect();
        let [expired, alice, bob] = ends[..] else { panic!("{ends:#?}") };
        assert!(expired.contains("reason: Expired") && expired.contains("bytes_from_client: 0"), "{expired}");
        assert!(alice.contains("bytes_from_client: 5, bytes_to_client: 9"), "{alice}");
        assert!(alice.contains("reason: Closed(Operator)") && alice.contains("state: Bound"), "{alice}");
        assert!(bob.contains("bytes_from_client: 9, bytes_to_client: 5"), "{bob}");
        assert!(bob.contains("reason: ConnectionLost") && bob.contains("state: Lost"), "{bob}");
        world.close_all();
    }
}

// C2: AUTHs that lead nowhere are refusals, too.
#[test]
fn a_stranger_that_asks_for_challenges_without_end_is_closed() {
    let mut world = world(|s| s.limits.refused_requests_max = 5);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    for n in 0..5 {
        assert!(!world.is_closed(conn), "after {n}");
        world.send(conn, Request::new("AUTH", &relay_uri(), &uri).bytes());
        assert_eq!(world.take_one(conn).status(), 401);
    }
    assert!(world.is_closed(conn));
    world.close_all();
}

// A client that leaves before its claim is answered leaves nothing behind.
#[test]
fn session_of_a_client_that_left_is_given_back() {
    for core in 0..CORES {
        let mut world = world(|s| s.limits.sessions_per_user_max = 1);
        let conn = world.connect(core);
        let (to, uri) = (relay_uri(), world.end(conn).uri.clone());
        world.send(conn, Request::new("AUTH", &to, &uri).bytes());
        let challenge = world.take_one(conn);
        world.hold_messages = true;
        let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
        world.send(conn, Request::new("AUTH", &to, &uri).header("Authorization", &authorization).bytes());
        world.run();
        world.lose(conn);
        world.hold_messages = false;
        world.run();
        let (conn, _) = world.client(core, "alice");
        world.lose(conn);
        world.close_all();
    }
}

// S10: bytes a second of one user, over all connections; no other user is slowed, nothing is lost.
#[test]
fn a_user_sends_no_faster_than_its_rate_and_loses_nothing() {
    const RATE: u64 = 100_000;
    let mut world = world(|s| s.limits.bytes_per_second_per_user_max = RATE);
    world.read_max = 4096;
    let pair = world.pair(0, 1);
    world.client(2, "alice");
    let body = vec![b'x'; 500_000];
    world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", &body).bytes());
    let mut received = Vec::new();
    for _ in 0..20 {
        world.advance(Duration::from_secs(1));
        received.push(world.end(pair.bob).body_bytes);
    }
    // Two sessions: half of the rate each, and one second's worth at once.
    let expected = |seconds: u64| RATE + seconds * RATE / 2;
    for (n, bytes) in received.iter().take(6).enumerate() {
        let seconds = n as u64 + 1;
        assert!(*bytes <= expected(seconds) + 8192, "after {seconds} s: {bytes}");
    }
    assert!(received[19] >= 500_000, "{received:?}");
    let stats = world.relay(0).stats();
    assert!(stats.limits_reached[Limit::BytesPerSecondPerUser as usize] > 0);
    world.close_all();
}

// S3: an account cannot find out what listens where by trying one next hop after another.
#[test]
fn failed_dials_of_a_user_ban_further_ones() {
    let mut world = world(|s| s.limits.dial_failures_per_user_max = 3);
    world.dial_decision = Decision::Fail;
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let attempt = |world: &mut World, n: usize| {
        let to = format!("{session} msrps://192.0.2.{n}:7000/x;tcp");
        world.send(alice, Request::send(&to, &uri, &format!("mess{n}"), b"x").bytes());
        world.run();
        let told = world.take(alice);
        let code = |frame: &Frame| if frame.is("REPORT") { frame.reported() } else { frame.status() };
        assert!(told.iter().any(|frame| code(frame) == 408), "{told:?}");
    };
    for n in 0..3 {
        attempt(&mut world, n);
    }
    world.dial_decision = Decision::Hold;
    attempt(&mut world, 9);
    assert!(world.dials.is_empty(), "nothing was tried");
    assert!(was_reached(&world, Limit::DialFailuresPerUser));
    assert!(world.events.iter().any(|event| event.contains("user: Some(\"alice\")")), "{:?}", world.events);
    world.advance(world.settings.limits.failure_window);
    let to = format!("{session} msrps://192.0.2.1:7000/x;tcp");
    world.send(alice, Request::send(&to, &uri, "again", b"x").bytes());
    world.run();
    assert_eq!(world.dials.len(), 1);
    world.close_all();
}

// S3: a client that left before the dial failed has still tried.
#[test]
fn dials_that_fail_after_their_client_has_left_count_as_well() {
    let mut world = world(|s| s.limits.dial_failures_per_user_max = 3);
    world.dial_decision = Decision::Hold;
    for n in 0..3 {
        let (alice, session) = world.client(0, "alice");
        let uri = world.end(alice).uri.clone();
        let to = format!("{session} msrps://192.0.2.{n}:7000/x;tcp");
        world.send(alice, Request::send(&to, &uri, "mess", b"x").bytes());
        world.run();
        world.lose(alice);
        world.run();
        world.finish_dial(0, false);
        world.run();
    }
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let to = format!("{session} msrps://192.0.2.9:7000/x;tcp");
    world.send(alice, Request::send(&to, &uri, "mess", b"x").bytes());
    world.run();
    assert!(world.dials.is_empty(), "nothing was tried");
    world.close_all();
}

// S10: a restarted core refuses the addresses that the others refuse.
#[test]
fn a_core_that_comes_again_knows_the_bans_that_hold() {
    let mut world = world(|s| s.limits.auth_failures_per_address_max = 3);
    for n in 0..3 {
        let conn = stays(&mut world, n % CORES, "192.0.2.1").unwrap();
        assert_eq!(guess(&mut world, conn, "bob", "guess").status(), 401);
    }
    // One after the other; a core that counts this address forgets the count, not the ban.
    let mut refused = 0;
    for core in 0..CORES {
        world.kill_core(core, true);
        world.run();
        let conn = stays(&mut world, core, "192.0.2.1").unwrap();
        refused += usize::from(guess(&mut world, conn, "bob", "5678").status() == 403);
    }
    assert_eq!(refused, CORES);
    world.close_all();
}

// A core that starts later than another has missed what that one asked it.
#[test]
fn a_claim_that_a_core_could_not_hear_yet_is_made_again_when_it_is_up() {
    let settings =
        Settings { limits: Limits { sessions_per_user_max: 1, ..Limits::default() }, ..settings(CORES) };
    let mut waited = 0;
    for user in ["alice", "bob", "carol"] {
        let mut world = World::with(settings.clone());
        let conn = world.connect(0);
        let (to, uri) = (relay_uri(), world.end(conn).uri.clone());
        world.send(conn, Request::new("AUTH", &to, &uri).bytes());
        let challenge = world.take_one(conn);
        world.hold_messages = true;
        let password = world.accounts[&format!("{user}@{}", testkit_pure::REALM)].clone();
        let authorization = answer_challenge(&challenge, user, &password, &to, 1);
        world.send(conn, Request::new("AUTH", &to, &uri).header("Authorization", &authorization).bytes());
        world.run();
        for lane in world.lanes() {
            world.drop_messages(lane);
        }
        world.hold_messages = false;
        world.run();
        waited += usize::from(world.take(conn).is_empty());
        for index in 1..u16::try_from(CORES).unwrap() {
            world.input(0, Input::CoreChanged { index, running: Some(0) });
        }
        world.run();
        world.take(conn);
        // It has its place, and this user gets no other one.
        let second = world.connect(1);
        let uri = world.end(second).uri.clone();
        let refused = world.auth_round(second, user, &uri, "");
        assert_eq!(refused.status(), 403, "{user}");
        world.close_all();
    }
    assert!(waited > 0, "all three are counted by the core that asked");
}

// C5: disuse begins when a session ends, not with its client's last request.
#[test]
fn a_connection_that_was_in_use_until_now_is_not_idle_yet() {
    let mut world = world(|_| ());
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    assert_eq!(world.auth_round(conn, "alice", &uri, "Expires: 3600\r\n").status(), 200);
    let idle_timeout = world.settings.limits.idle_timeout;
    assert!(idle_timeout <= Duration::from_secs(3600), "or the session ends before");
    world.advance(Duration::from_secs(3640));
    assert!(!world.is_closed(conn), "its session has just ended");
    assert_eq!(world.auth_round(conn, "alice", &uri, "Expires: 60\r\n").status(), 200);
    world.advance(Duration::from_secs(100) + idle_timeout);
    assert!(world.is_closed(conn));
    world.close_all();
}

// C3: occasional stray requests, among valid ones, never end a connection in use.
#[test]
fn strays_count_only_in_a_row() {
    let mut world = world(|s| s.limits.refused_requests_max = 4);
    let pair = world.pair(0, 0);
    let (client, session) = world.client(0, "carol");
    let path = format!("{session} {}", world.end(client).uri.clone());
    let shared = world.connect(0);
    let uri = world.end(shared).uri.clone();
    let elsewhere = format!("msrps://other.example:2855/abc;tcp {}", pair.bob_uri);
    for n in 0..13 {
        let to = if n % 3 == 0 { &path } else { &elsewhere };
        world.send(shared, Request::send(to, &uri, &format!("mess{n}"), b"x").bytes());
        world.run();
        assert!(!world.is_closed(shared), "after {n}");
    }
    for n in 0..4 {
        assert!(!world.is_closed(shared), "in a row: {n}");
        world.send(shared, Request::send(&elsewhere, &uri, "mess", b"x").bytes());
        world.run();
    }
    assert!(world.is_closed(shared));
    world.close_all();
}

// A refresh whose session ends during the look-up gets 481.
#[test]
fn a_refresh_that_is_looked_up_for_longer_than_its_session_lasts_gets_481() {
    let mut world = world(|_| ());
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let opened = world.auth_round(conn, "alice", &uri, "Expires: 60\r\n");
    let session = opened.header("Use-Path").unwrap();
    world.advance(Duration::from_secs(50));
    world.look_up_decision = Decision::Hold;
    world.send(conn, Request::new("AUTH", &session, &uri).bytes());
    let challenge = world.take_one(conn);
    let authorization = answer_challenge(&challenge, "alice", "1234", &session, 1);
    world.send(conn, Request::new("AUTH", &session, &uri).header("Authorization", &authorization).bytes());
    world.run();
    world.advance(Duration::from_secs(60));
    world.finish_look_up(0);
    assert_eq!(world.take_one(conn).status(), 481);
    world.close_all();
}

// S14: many stalled receivers fill the budget. Then no new client gets in, all others go on, and one core may use what
// another does not need.
#[test]
fn memory_budget_holds_up_senders_and_newcomers_and_loses_no_byte() {
    const BUDGET: usize = 4 << 20;
    let mut world = world(|s| s.limits.queue_bytes_total = BUDGET);
    world.read_max = 4096;
    let body = vec![b'y'; 400_000];
    let mut pairs = Vec::new();
    for _ in 0..40 {
        let pair = world.pair(0, 0);
        world.link_mut(pair.bob).stalled = true;
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", &body).bytes());
        pairs.push(pair);
        world.run();
        if was_reached(&world, Limit::QueueBytesTotal) {
            break;
        }
    }
    assert!(pairs.len() > 6, "a core alone has room for {} pairs only", pairs.len());
    assert!(pairs.len() < 20, "the budget never bit");
    let held = world.sizes().bytes_queued;
    assert!(held <= BUDGET + (300 << 10), "{held}");
    assert_eq!(world.try_connect(0, true, "192.0.2.200"), Err(Limit::QueueBytesTotal));
    for pair in &pairs {
        world.link_mut(pair.bob).stalled = false;
    }
    world.run();
    for pair in &pairs {
        let bytes: u64 = world.end(pair.bob).body_bytes;
        assert_eq!(bytes, 400_000);
    }
    assert!(world.try_connect(0, true, "192.0.2.200").is_ok(), "the pressure is over");
    world.close_all();
}

// Unfinished input of strangers takes memory, too: it must not make memory short for later clients, or for those that
// have sessions.
#[test]
fn unfinished_heads_of_strangers_neither_hold_up_sessions_nor_keep_newcomers_out() {
    const BUDGET: usize = 4 << 20;
    let mut world = world(|s| s.limits.queue_bytes_total = BUDGET);
    let pair = world.pair(0, 0);
    let light = stays(&mut world, 0, "192.0.2.77").unwrap();
    let head = format!("MSRP tid1 SEND\r\nX-Long: {}", "x".repeat(15_000));
    for n in 0..600 {
        let conn = stays(&mut world, 0, &format!("198.51.{}.{}", n / 200, n % 200));
        let conn = conn.unwrap_or_else(|| panic!("number {n} is refused"));
        world.send(conn, &head);
        world.run();
    }
    assert!(was_reached(&world, Limit::QueueBytesTotal));
    let kept = world.sizes().bytes_kept;
    assert!(kept < BUDGET * 7 / 8, "{kept} bytes of strangers are kept");
    assert!(!world.is_closed(light), "who takes nothing does not go for it");
    world.auth(light, "alice");
    let late = stays(&mut world, 0, "192.0.2.78").unwrap();
    world.auth(late, "alice");
    world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", &[b'y'; 100_000]).bytes());
    world.run();
    assert_eq!(world.end(pair.bob).body_bytes, 100_000);
    world.close_all();
}

// C2: refused again and again before it has proven anything.
#[test]
fn a_stranger_whose_requests_are_all_refused_is_closed_early() {
    let mut world = world(|s| s.limits.refused_requests_max = 5);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let to = format!("msrps://{}:{}/no-such-session;tcp {uri}", testkit_pure::HOST, testkit_pure::PORT);
    for n in 0..5 {
        assert!(!world.is_closed(conn), "after {n}");
        world.send(conn, Request::send(&to, &uri, &format!("mess{n}"), b"x").bytes());
        assert_eq!(world.take_one(conn).status(), 481);
    }
    assert!(world.is_closed(conn));
    assert_eq!(world.link(conn).closing, Some(CloseReason::Refusals));
}

// C2: a closing connection takes a while to be gone; the reason for closing it is not due again meanwhile.
#[test]
fn a_connection_that_is_being_closed_is_not_closed_again_with_each_tick() {
    let settings = settings(1);
    let (start, wait) = (Instant::now(), settings.limits.first_request_timeout);
    let me = CoreId { index: 0, incarnation: 0 };
    let mut relay = Relay::new(me, settings, [1; 32], start);
    let mut out = OutBatch::new();
    let transport = Transport { secure: true, port: testkit_pure::PORT, websocket: false };
    let peer = relay.accept(start, transport, "192.0.2.1".parse().unwrap()).unwrap();
    assert_eq!(relay.next_deadline(), Some(start + wait));
    relay.handle(start + wait, Input::Tick);
    let closed = |relay: &mut Relay| {
        let effects = std::iter::from_fn(|| relay.poll_effect());
        effects.filter(|effect| matches!(effect, Effect::Close { .. })).count()
    };
    assert_eq!(closed(&mut relay), 1);
    assert_eq!(relay.poll_write(start + wait, peer, &mut out), WriteState::Finished);
    assert_eq!(relay.next_deadline(), None);
    relay.handle(start + 2 * wait, Input::Tick);
    assert_eq!(closed(&mut relay), 0);
}

// A client that sends a message and closes its side at once still gets the answer, whichever core decides it.
#[test]
fn who_ends_its_side_right_behind_a_request_still_gets_the_answer() {
    for bob_core in 0..2 {
        let mut world = World::new(2);
        let pair = world.pair(0, bob_core);
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", b"hello").bytes());
        world.end_of_stream(pair.alice);
        world.run();
        let answers = world.take(pair.alice);
        assert_eq!(answers.iter().map(Frame::status).collect::<Vec<_>>(), [200], "core {bob_core}");
        assert!(world.is_closed(pair.alice));
        assert_eq!(world.take(pair.bob).len(), 1);
        world.close_all();
    }
}

/// The config is read again, core by core. Either each core settles before the next one gets it, or not.
fn reconfigure(world: &mut World, cores: [usize; CORES], change: impl FnOnce(&mut Settings)) {
    let mut settings = world.settings.clone();
    change(&mut settings);
    for core in cores {
        world.input(core, Input::Reconfigured(Box::new(settings.clone())));
        if cores[0] == 0 {
            world.run();
        }
    }
    world.run();
    world.settings = settings;
}

const ORDERS: [[usize; CORES]; 2] = [[0, 1, 2], [2, 1, 0]];

// Bytes that were written and not yet credited under large queues would fill small ones for ever.
#[test]
fn queues_that_shrink_under_a_message_do_not_block_it() {
    for (bob_core, order) in [(0, ORDERS[0]), (1, ORDERS[0]), (1, ORDERS[1])] {
        let mut world = world(|_| ());
        world.read_max = 4096;
        let pair = world.pair(0, bob_core);
        let bytes = Request::send(&pair.to_bob, &pair.alice_uri, "mess", &vec![b'x'; 500_000]).bytes();
        world.send(pair.alice, &bytes[..60_000]);
        world.run();
        reconfigure(&mut world, order, |settings| {
            settings.limits.queue_bytes_low = settings.limits.request_bytes_max;
            settings.limits.queue_bytes_high = 32 << 10;
        });
        world.send(pair.alice, &bytes[60_000..]);
        world.run();
        assert_eq!(world.end(pair.bob).body_bytes, 500_000);
        let held = world.queued_max;
        assert!(held < 128 << 10, "the old bounds still hold: {held}");
        world.close_all();
    }
}

// Sessions that began while no core counted count among their user's as soon as one does.
#[test]
fn sessions_that_began_without_a_limit_count_when_there_is_one() {
    for order in ORDERS {
        let mut world = world(|_| ());
        let (first, _) = world.client(0, "alice");
        let (second, _) = world.client(1, "alice");
        reconfigure(&mut world, order, |s| s.limits.sessions_per_user_max = 2);
        let third = world.connect(2);
        let uri = world.end(third).uri.clone();
        assert_eq!(world.auth_round(third, "alice", &uri, "").status(), 403);
        world.client(2, "bob");
        world.lose(first);
        world.run();
        world.client(2, "alice");
        // Then no core counts any more, and then one counts again.
        reconfigure(&mut world, order, |s| s.limits.sessions_per_user_max = 0);
        world.client(0, "alice");
        world.lose(second);
        world.run();
        reconfigure(&mut world, order, |s| s.limits.sessions_per_user_max = 3);
        world.client(1, "alice");
        let uri = world.end(third).uri.clone();
        assert_eq!(world.auth_round(third, "alice", &uri, "").status(), 403);
        world.close_all();
    }
}

#[test]
fn reload_applies_rate_to_existing_sessions_and_lifts_it() {
    const RATE: u64 = 100_000;
    for order in ORDERS {
        let mut world = world(|_| ());
        world.read_max = 4096;
        let pair = world.pair(0, 1);
        world.client(2, "alice");
        reconfigure(&mut world, order, |s| s.limits.bytes_per_second_per_user_max = RATE);
        let body = vec![b'x'; 900_000];
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", &body).bytes());
        world.advance(Duration::from_secs(4));
        let received = world.end(pair.bob).body_bytes;
        // Two sessions: half of the rate each, and one second's worth at once.
        assert!((RATE..RATE + 4 * RATE / 2 + 8192).contains(&received), "{received}");
        reconfigure(&mut world, order, |s| s.limits.bytes_per_second_per_user_max = 0);
        assert_eq!(world.end(pair.bob).body_bytes, 900_000);
        world.close_all();
    }
}

#[test]
fn a_shorter_time_out_holds_for_connections_that_there_are() {
    let mut world = world(|_| ());
    let (client, _) = world.client(0, "alice");
    let idle = world.connect(1);
    let (to, uri) = (relay_uri(), world.end(idle).uri.clone());
    assert_eq!(world.auth_to(idle, "bob", (&to, &uri), "Expires: 60\r\n").status(), 200);
    world.advance(Duration::from_secs(100));
    assert!(!world.is_closed(idle), "its session is over, and it may stay for an hour");
    reconfigure(&mut world, ORDERS[0], |s| s.limits.idle_timeout = Duration::from_secs(20));
    world.advance(Duration::from_secs(21));
    assert!(world.is_closed(idle));
    assert!(!world.is_closed(client));
    world.close_all();
}
