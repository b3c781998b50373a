//! Scenes of arrival: AUTH in all its forms, guesses, half-sent heads, broken connections.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::driver::cast::{Cast, Outcome};
use crate::driver::line::{End, Leave, dial};
use crate::driver::listen::Manner;
use crate::driver::stage::{add, own_address};
use crate::driver::visitor::{Approach, Visitor};
use testkit_net::frame::{Request, fresh_id};

/// Accounts for scenes with errors: each fails too seldom to be banned (`limits.auth_failures_per_user_max`).
pub(crate) const UNLUCKY: u64 = 400;

/// Opens a session, prolongs it, replaces its URI, closes.
pub(crate) fn sessions_come_and_go(cast: &mut Cast) -> Outcome {
    let user = cast.user(false);
    let mut client = cast.client(false, Manner::default(), None)?;
    for _ in 0..cast.dice.between(0, 3) {
        client.refresh(&user, false)?;
        cast.pause(0, 200);
    }
    if cast.dice.chance(30) {
        client.refresh(&user, true)?;
        client.refresh(&user, false)?;
    }
    if cast.dice.chance(30) {
        client.let_go(cast.dice.pick(&[Leave::Truncate, Leave::Reset]));
        return Ok(());
    }
    client.finish()?;
    cast.pause(50, 400);
    Ok(())
}

/// A wrong password, each time from another address; then the right one, or more wrong ones until the relay closes.
pub(crate) fn guesses(cast: &mut Cast) -> Outcome {
    let from = own_address(64 + (cast.slot % 64) as u8, cast.dice.next());
    let mut visitor =
        Visitor::connect(&cast.stage, Approach { from, tls: true, old_tls: false, window: None })?;
    let number = cast.dice.between(0, UNLUCKY - 1);
    let user = format!("unlucky{number}");
    let password = cast.stage.password.clone();
    expect(visitor.log_in(&user, "not the password", None)?, 401)?;
    cast.pause(100, 1500);
    match cast.dice.between(0, 2) {
        0 => {
            expect(visitor.log_in(&user, &password, None)?, 200)?;
            visitor.close()
        }
        1 => visitor.close(),
        _ => {
            for _ in 0..2 {
                expect(visitor.log_in(&format!("absent{number}"), "a guess", None)?, 401)?;
            }
            match visitor.frame() {
                Err(End::Clean) => Ok(()),
                other => Err(format!("after three wrong passwords: {other:?}")),
            }
        }
    }
}

fn expect(status: u16, wanted: u16) -> Outcome {
    if status == wanted { Ok(()) } else { Err(format!("AUTH: {status} instead of {wanted}")) }
}

/// Half a head, then nothing more, for a moment or until the relay closes.
pub(crate) fn half_head(cast: &mut Cast) -> Outcome {
    let approach = cast.approach(false, None);
    let mut visitor = Visitor::connect(&cast.stage, approach)?;
    if cast.dice.chance(50) {
        let (user, password) = (cast.user(false), cast.stage.password.clone());
        expect(visitor.log_in(&user, &password, None)?, 200)?;
    }
    let to = cast.stage.auth_uri();
    let whole = Request::send(&format!("{to} {to}"), &visitor.uri, &fresh_id(), "1-*/1000").head();
    let part = cast.dice.between(1, whole.len() as u64 - 3) as usize;
    visitor.write(&whole[..part])?;
    if cast.dice.chance(30) {
        return match visitor.frame() {
            Err(End::Clean | End::Truncated) => Ok(()),
            other => Err(format!("half a head: {other:?}")),
        };
    }
    cast.pause(500, 4000);
    add(&cast.stage.tally.kills, 1);
    visitor.line.leave(cast.dice.pick(&[Leave::InOrder, Leave::Truncate, Leave::Reset]));
    Ok(())
}

/// A connection without a handshake, with half of one, with other bytes.
pub(crate) fn knocks(cast: &mut Cast) -> Outcome {
    let from = cast.approach(false, None).from;
    let stream = dial(cast.stage.tls, from, None).map_err(|error| format!("cannot connect: {error}"))?;
    add(&cast.stage.tally.connections, 1);
    let first: &[u8] = match cast.dice.between(0, 2) {
        0 => b"",
        1 => b"GET / HTTP/1.1\r\n\r\n",
        _ => &[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3],
    };
    let wrong = |error| format!("knocking: {error}");
    (&stream).write_all(first).map_err(wrong)?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).map_err(wrong)?;
    let mut alert = [0; 64];
    // An alert, the end, a reset or, to half a handshake, nothing: all of them are fine.
    let _ = (&stream).read(&mut alert);
    if cast.dice.chance(50) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(wrong)?;
    }
    drop(stream);
    cast.pause(50, 500);
    Ok(())
}

/// A session that its client wanted for two seconds, and perhaps another one after it.
pub(crate) fn expires(cast: &mut Cast) -> Outcome {
    let approach = cast.approach(false, None);
    let mut visitor = Visitor::connect(&cast.stage, approach)?;
    let (user, password) = (cast.user(false), cast.stage.password.clone());
    expect(visitor.log_in(&user, &password, Some(2))?, 200)?;
    cast.pause(2200, 3000);
    let session = visitor.session.clone().unwrap_or_default();
    let to = format!("{session} msrps://absent.invalid:2855/absent;tcp");
    let answer = visitor.ask(Request::send(&to, &visitor.uri, &fresh_id(), "1-0/0"))?;
    if answer.status() != Some(481) {
        return Err(format!("an expired session: {answer:?}"));
    }
    // The connection may have another session: at once, or when no request through the first can be under way.
    let rest = if cast.dice.chance(20) { 32 } else { 0 };
    for _ in 0..rest {
        if !cast.stage.is_over() {
            cast.pause(1000, 1000);
        }
    }
    if cast.dice.chance(50) {
        expect(visitor.log_in(&user, &password, None)?, 200)?;
    }
    visitor.close()
}
