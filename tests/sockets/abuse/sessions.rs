//! Stolen session URIs, and made-up ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::attack::{Attack, CONNECTION_KIB_MAX};
use testkit_net::account::{Login, password};
use testkit_net::bounded;
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Request, fresh_id};

const WORDS: &[u8] = b"Do you hear me?";

/// The status of a short message with this whole To-Path.
fn status_of(from: &mut Endpoint, to: &str) -> u16 {
    let request = Request::send(to, &from.uri, &fresh_id(), "1-*/*");
    let tid = from.send(request, WORDS);
    from.status(&tid)
}

/// The same for a message with two hops within the relay: the first hop may have accepted it before the second refused
/// it, and then a REPORT tells.
fn refusal_of(from: &mut Endpoint, to: &str) -> u16 {
    let status = status_of(from, to);
    if status != 200 {
        return status;
    }
    let report = from.request("REPORT").required("Status");
    report.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Two clients that have begun to converse; no other client hears them or is heard.
fn conversation(attack: &Attack, (here, there): (usize, usize)) -> (Endpoint, Endpoint) {
    let (mut one, mut other) = (attack.client_on(here, "user0"), attack.client_on(there, "user1"));
    still_there(&mut one, &mut other);
    still_there(&mut other, &mut one);
    (one, other)
}

/// The next frame that comes to either is the other's.
#[track_caller]
fn still_there(from: &mut Endpoint, to: &mut Endpoint) {
    let words = fresh_id();
    let tid = from.say(&to.path(), words.as_bytes());
    assert_eq!(from.status(&tid), 200);
    assert_eq!(to.request("SEND").body, words.as_bytes());
}

const PLACES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

// -- in the wrong hands ----------------------------------------------------------------------------

#[test]
fn a_session_that_is_bound_answers_506_to_everybody_else_and_nothing_reaches_its_client() {
    bounded(|| {
        let attack = Attack::start(16 * CONNECTION_KIB_MAX);
        for places in PLACES {
            let (mut one, mut other) = conversation(&attack, places);
            for victim in [one.path(), other.path()] {
                let mut stranger = attack.relay.stranger("mallory");
                assert_eq!(status_of(&mut stranger, &victim), 506);
                // Pretending to be the peer does not help.
                stranger.uri.clone_from(&one.uri);
                assert_eq!(status_of(&mut stranger, &victim), 506);
                for core in 0..2 {
                    let mut client = attack.client_on(core, "user2");
                    let to = client.route(&victim);
                    assert_eq!(refusal_of(&mut client, &to), 506);
                }
                // If no answer is due, none comes: the next one is for the next request.
                let silent = Request::send(&victim, &stranger.uri, &fresh_id(), "1-0/0");
                stranger.send_bare(silent.header("Failure-Report", "no"));
                let report = Request::new("REPORT", &victim, &stranger.uri).header("Message-ID", &fresh_id());
                stranger.send_bare(report.header("Status", "000 413 Stop"));
                assert_eq!(status_of(&mut stranger, &victim), 506);
            }
            still_there(&mut one, &mut other);
            still_there(&mut other, &mut one);
        }
        attack.end();
    });
}

#[test]
fn a_stolen_session_uri_leads_nowhere_from_another_connection() {
    bounded(|| {
        let attack = Attack::start(16 * CONNECTION_KIB_MAX);
        for places in PLACES {
            let (mut one, mut other) = conversation(&attack, places);
            let stolen = one.relay.clone().unwrap();
            let mut thieves = vec![
                attack.relay.stranger("mallory"),
                attack.client_on(0, "user2"),
                attack.client_on(1, "user2"),
                // The same user, with a session of its own.
                attack.relay.client("user0"),
            ];
            for thief in &mut thieves {
                let (elsewhere, peer) = ("msrps://192.0.2.1:2855/elsewhere;tcp", other.path());
                for next in [elsewhere, &peer, &other.uri, &thief.uri.clone()] {
                    assert_eq!(status_of(thief, &format!("{stolen} {next}")), 481, "{next}");
                }
                assert_eq!(status_of(thief, &stolen), 481);
                refresh(thief, &stolen);
            }
            still_there(&mut one, &mut other);
            still_there(&mut other, &mut one);
        }
        attack.end();
    });
}

/// AUTH to another user's session, with that user's own password.
fn refresh(thief: &mut Endpoint, stolen: &str) {
    let request = Request::new("AUTH", stolen, &thief.uri);
    let tid = thief.send_bare(request);
    let answer = thief.response(&tid);
    let status = match answer.header("WWW-Authenticate") {
        None => answer.status(),
        Some(challenge) => {
            let password = password("user0");
            let login = Login::new("user0", &password, stolen);
            let request = Request::new("AUTH", stolen, &thief.uri);
            let tid = thief.send_bare(request.header("Authorization", &login.answer(&challenge)));
            thief.response(&tid).status()
        }
    };
    assert_eq!(status, Some(481), "{answer:?}");
}

// -- on another core -------------------------------------------------------------------------------

/// Enough for some to come to the session's own core and some to the other.
const STRANGERS: usize = 40;
/// What the pairs of the attack can have added to either kind of link.
const OWN_LINKS: u64 = 4;

#[test]
fn a_session_is_reached_from_whatever_core_a_connection_comes_to() {
    bounded(|| {
        let attack = Attack::start(2 * STRANGERS as u64 * CONNECTION_KIB_MAX);
        let mut all = Vec::new();
        for n in 0..STRANGERS {
            let mut client = attack.client_on(n % 2, "user0");
            let mut stranger = attack.relay.stranger("far");
            assert_eq!(status_of(&mut stranger, &client.path()), 200);
            assert_eq!(client.request("SEND").body, WORDS);
            let tid = client.say(&stranger.uri, b"Who is there?");
            assert_eq!(client.status(&tid), 200);
            assert_eq!(stranger.request("SEND").body, b"Who is there?");
            all.push((client, stranger));
        }
        drop(all);
        let log = attack.end();
        let sum = |counter| -> u64 { log.split(counter).skip(1).map(number).sum() };
        let (local, split, moved) =
            (sum("links_local="), sum("links_split="), sum("connections_handed_over="));
        let seen = format!("{local} on one core, {split} on two, {moved} handed over");
        assert!(local > OWN_LINKS && split <= OWN_LINKS && moved > 0, "{seen}");
    });
}

/// The number that a text begins with.
fn number(text: &str) -> u64 {
    text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

// -- made up ---------------------------------------------------------------------------------------

/// A session id is base64 of its home core's index, that core's incarnation, and a random rest.
fn forged(uri: &str, forge: impl FnOnce(&mut Vec<u8>)) -> String {
    let id = uri.rsplit('/').next().unwrap().trim_end_matches(";tcp");
    let mut bytes = URL_SAFE_NO_PAD.decode(id).unwrap();
    assert_eq!(bytes.len(), 21);
    forge(&mut bytes);
    uri.replace(id, &URL_SAFE_NO_PAD.encode(bytes))
}

fn forgeries(uri: &str, core: usize) -> Vec<(&'static str, String)> {
    let other = u8::try_from(1 - core).unwrap();
    vec![
        ("the other core", forged(uri, |id| id[1] = other)),
        ("the first core that there is not", forged(uri, |id| id[1] = 2)),
        ("the last core that can be written", forged(uri, |id| id[..2].fill(255))),
        ("a life that this core has not had yet", forged(uri, |id| id[3] = 1)),
        ("its last life", forged(uri, |id| id[2..4].fill(255))),
        ("another random rest", forged(uri, |id| id[4..].reverse())),
        ("one bit", forged(uri, |id| id[20] ^= 1)),
        ("nothing but the core", forged(uri, |id| id[4..].fill(0))),
        ("too short", forged(uri, |id| id.truncate(18))),
        ("too long", forged(uri, |id| id.resize(24, 0))),
        ("no base64", uri.replacen(";tcp", ".;tcp", 1)),
    ]
}

#[test]
fn forged_session_ids_get_481_and_do_no_harm() {
    bounded(|| {
        let attack = Attack::start(16 * CONNECTION_KIB_MAX);
        for places in PLACES {
            let (mut one, mut other) = conversation(&attack, places);
            let mut free = attack.client_on(0, "user2");
            let uri = one.relay.clone().unwrap();
            for (what, forged) in forgeries(&uri, places.0) {
                // As its client, as a peer that sends to it, and as another client of this relay that does.
                let (outward, inward) =
                    (format!("{forged} {}", other.path()), format!("{forged} {}", one.uri));
                let through = free.route(&inward);
                let mut stranger = attack.relay.stranger("mallory");
                assert_eq!(status_of(&mut one, &outward), 481, "{what}");
                assert_eq!(status_of(&mut stranger, &inward), 481, "{what}");
                assert_eq!(status_of(&mut stranger, &outward), 481, "{what}");
                assert_eq!(refusal_of(&mut free, &through), 481, "{what}");
            }
            still_there(&mut one, &mut other);
            still_there(&mut other, &mut one);
        }
        attack.end();
    });
}
