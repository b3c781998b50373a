//! Guessing passwords.

use super::attack::{Attack, CONNECTION_KIB_MAX, two_cores};
use testkit_net::account::{DOMAIN, Login, password};
use testkit_net::bounded;
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Frame, Request};

/// `auth.max_attempts`.
const ATTEMPTS: usize = 3;
/// Connections that guess.
const GUESSERS: usize = 60;

/// Where the AUTHs go.
fn target(attack: &Attack) -> String {
    format!("msrps://{DOMAIN}:{};tcp", attack.relay.addresses[0].port())
}

fn login<'a>(user: &'a str, password: &'a str, to: &'a str) -> Login<'a> {
    Login::new(user, password, to)
}

/// One more guess, answering the challenge that came with the refusal of the one before.
fn guess(endpoint: &mut Endpoint, login: &Login<'_>, challenge: &str) -> Frame {
    let request = Request::new("AUTH", login.to, &endpoint.uri.clone());
    let tid = endpoint.send_bare(request.header("Authorization", &login.answer(challenge)));
    endpoint.response(&tid)
}

/// A frame without the parts that differ each time.
fn shape(frame: &Frame, endpoint: &Endpoint) -> String {
    let challenge = frame.required("WWW-Authenticate");
    let secrets = challenge.split('"').skip(1).step_by(2).filter(|value| value.len() == 22);
    let text = secrets.fold(frame.head_text(), |text, secret| text.replace(secret, "*"));
    text.replace(&frame.tid(), "*").replace(&endpoint.uri, "*")
}

#[test]
fn guessed_passwords_get_the_same_refusals_for_every_user_and_then_the_end() {
    bounded(|| {
        // The number of guesses per address is another test's.
        let limits = "limits: {auth_failures_per_address_max: 0}";
        let attack = Attack::with(&two_cores(limits), GUESSERS as u64 * CONNECTION_KIB_MAX);
        let to = target(&attack);
        let mut guessers = Vec::new();
        let mut shapes = Vec::new();
        for n in 0..GUESSERS {
            // Users that exist, and users that do not.
            let user = format!("user{}", n * 10);
            let mut culprit = attack.relay.stranger("mallory");
            let words: Vec<String> = (0..ATTEMPTS).map(|n| format!("guess {n}")).collect();
            let (_, mut refusal) = login(&user, &words[0], &to).attempt(&mut culprit);
            for word in &words[1..] {
                assert_eq!(refusal.status(), Some(401), "{refusal:?}");
                let challenge = refusal.required("WWW-Authenticate");
                refusal = guess(&mut culprit, &login(&user, word, &to), &challenge);
            }
            assert_eq!(refusal.status(), Some(401), "{refusal:?}");
            shapes.push(shape(&refusal, &culprit));
            assert_eq!(culprit.end(), End::Clean);
            guessers.push(culprit);
            if n % 20 == 0 {
                attack.goes_on();
            }
        }
        shapes.dedup();
        assert_eq!(shapes.len(), 1, "{shapes:?}");
        drop(guessers);
        let log = attack.end();
        assert!(!log.contains("guess"), "{log}");
    });
}

/// Guesses that do not wait for the answers to earlier ones do not count as more.
#[test]
fn guesses_sent_all_at_once_are_not_more() {
    bounded(|| {
        let attack = Attack::start(CONNECTION_KIB_MAX);
        let to = target(&attack);
        let mut culprit = attack.relay.stranger("mallory");
        let (_, refusal) = login("alice", "guess", &to).attempt(&mut culprit);
        let challenge = refusal.required("WWW-Authenticate");
        let mut all = Vec::new();
        for n in 0..1000 {
            // The right one among them comes too late.
            let word = if n == 500 { password("alice") } else { format!("guess {n}") };
            let request = Request::new("AUTH", &to, &culprit.uri);
            all.extend(
                request.header("Authorization", &login("alice", &word, &to).answer(&challenge)).bare(),
            );
        }
        culprit.writer.write(&all);
        let mut judged = 1;
        let end = loop {
            match culprit.reader.next_frame().map(|frame| frame.status()) {
                Ok(Some(401)) => judged += 1,
                // While another one is being judged.
                Ok(status) => assert_eq!(status, Some(400)),
                Err(end) => break end,
            }
        };
        // The others are refusals as well: they may end the connection before that many have been judged.
        assert!(end == End::Clean && judged <= ATTEMPTS, "{end:?} after {judged}");
        drop(culprit);
        attack.end();
    });
}

#[test]
fn credentials_that_cannot_be_read_count_as_guesses() {
    bounded(|| {
        let attack = Attack::start(CONNECTION_KIB_MAX);
        let to = target(&attack);
        for words in ["Digest", "Digest username=\"alice\"", "Basic YWxpY2U6Z3Vlc3M=", "Digest =,=,=\"\""] {
            let mut culprit = attack.relay.stranger("mallory");
            for _ in 0..ATTEMPTS {
                let request = Request::new("AUTH", &to, &culprit.uri).header("Authorization", words);
                let tid = culprit.send_bare(request);
                let status = culprit.status(&tid);
                assert!(matches!(status, 400 | 401), "{words}: {status}");
            }
            assert_eq!(culprit.end(), End::Clean, "{words}");
        }
        attack.end();
    });
}
