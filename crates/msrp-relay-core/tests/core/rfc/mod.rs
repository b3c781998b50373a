//! One test for each requirement on a relay that no other test holds; the requirement's id stands before it.
//!
//! The ids are those of `docs/conformance.md`, which says what each asks for and names its tests. Everything here runs
//! over `support`'s world: no sockets, a clock that is stepped.

mod auth;
mod codes;
mod connections;
mod expiry;
mod extensions;
mod forwarding;
mod hygiene;
mod interop;
mod malformed;
mod max_chunk;
mod pieces;
mod relays;
mod relays_abuse;
mod renewal;
mod sending;

use testkit_pure::line::{Line, only};
use testkit_pure::{Conn, Frame, Request, World};

/// An endpoint that no relay of this world serves.
const FAR: &str = "msrps://203.0.113.40:49300/p8Yc2nB6vH1xLk;tcp";

/// The first round of AUTH.
fn challenged(world: &mut World, conn: Conn, to: &str) -> Frame {
    let uri = world.end(conn).uri.clone();
    world.send(conn, Request::new("AUTH", to, &uri).octets());
    let frame = world.take_one(conn);
    assert_eq!(frame.status(), 401);
    frame
}

/// The second round of AUTH.
fn auth_with(world: &mut World, conn: Conn, to: &str, authorization: &str) -> Frame {
    let uri = world.end(conn).uri.clone();
    let request = Request::new("AUTH", to, &uri).header("Authorization", authorization);
    world.send(conn, request.octets());
    world.take_one(conn)
}

/// A first request, answered: from now on the two ends belong together.
fn bind(line: &mut Line) {
    let world = &mut line.world;
    world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "first").octets());
    world.run();
    world.take(line.from);
    let first = only(world.take(line.to), "SEND");
    world.send(line.to, first.response(200));
    world.run();
}

/// Methods and codes, in the order in which they arrived.
fn words(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(Frame::method).collect()
}
