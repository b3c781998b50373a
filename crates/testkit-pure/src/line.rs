//! Two ends that can talk to each other, in every way in which the relay may stand between them.

use msrp_proto::parser::Flag;

use super::{Conn, Frame, Pair, Request, World};

/// Both sessions on one core, and on two.
pub const LAYOUTS: [(usize, usize); 3] = [(0, 0), (0, 1), (1, 0)];

/// The one frame of this method among the arrived ones; there must be no other.
pub fn only(frames: Vec<Frame>, method: &str) -> Frame {
    assert_eq!(frames.len(), 1, "{frames:#?}");
    assert_eq!(frames[0].method(), method, "{frames:#?}");
    frames.into_iter().next().unwrap()
}

/// The body of one message put together from its chunks, which must be gapless and in order.
pub fn joined(frames: &[Frame]) -> Vec<u8> {
    let mut body = Vec::new();
    let sends: Vec<&Frame> = frames.iter().filter(|frame| frame.is("SEND")).collect();
    for (n, frame) in sends.iter().enumerate() {
        assert_eq!(frame.range().start, body.len() as u64 + 1);
        if let Some(end) = frame.range().end {
            assert_eq!(end, (body.len() + frame.body.len()) as u64);
        }
        let last = n + 1 == sends.len();
        let expected = if last { Flag::Last } else { Flag::More };
        assert_eq!(frame.flag, expected);
        body.extend_from_slice(&frame.body);
    }
    body
}

/// The ways in which two ends may be connected through the relay.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Both behind the relay.
    Both,
    /// Only the receiver: the sender comes in as a foreign connection.
    Receiver,
    /// Only the sender: the relay dials.
    Sender,
}

pub struct Line {
    pub world: World,
    pub from: Conn,
    pub to: Conn,
    pub path: String,
    pub from_uri: String,
    /// The way back.
    pub back: String,
    pub to_uri: String,
}

impl Line {
    /// From the first of a pair to the second.
    pub fn of(world: World, pair: Pair) -> Self {
        Self {
            world,
            from: pair.alice,
            to: pair.bob,
            path: pair.to_bob,
            from_uri: pair.alice_uri,
            back: pair.to_alice,
            to_uri: pair.bob_uri,
        }
    }

    /// A first request and its answer: from here on the two ends belong together.
    pub fn bind(&mut self) {
        let world = &mut self.world;
        world.send(self.from, Request::bodiless(&self.path, &self.from_uri, "first").bytes());
        world.run();
        world.take(self.from);
        let first = only(world.take(self.to), "SEND");
        world.send(self.to, first.response(200));
        world.run();
    }

    /// The same line seen from its other end.
    pub fn reversed(self) -> Self {
        Self {
            world: self.world,
            from: self.to,
            to: self.from,
            path: self.back,
            from_uri: self.to_uri,
            back: self.path,
            to_uri: self.from_uri,
        }
    }
}

pub fn line(shape: Shape, a: usize, b: usize) -> Line {
    line_in(World::new(2), shape, a, b)
}

/// The same in a world of two cores without connections.
pub fn line_in(mut world: World, shape: Shape, a: usize, b: usize) -> Line {
    match shape {
        Shape::Both => {
            let pair = world.pair(a, b);
            Line::of(world, pair)
        }
        Shape::Receiver => {
            let (bob, session) = world.client(b, "bob");
            let from = world.connect(a);
            let from_uri = world.end(from).uri.clone();
            let to_uri = world.end(bob).uri.clone();
            Line {
                from,
                to: bob,
                path: format!("{session} {to_uri}"),
                back: format!("{session} {from_uri}"),
                from_uri,
                to_uri,
                world,
            }
        }
        Shape::Sender => {
            let (alice, session) = world.client(a, "alice");
            let from_uri = world.end(alice).uri.clone();
            let to_uri = "msrps://203.0.113.40:49300/p8Yc2nB6vH1xLk;tcp".to_owned();
            let path = format!("{session} {to_uri}");
            // The first, empty SEND makes the relay dial.
            let first = Request::bodiless(&path, &from_uri, "first0");
            world.send(alice, first.bytes());
            world.run();
            let (_, to) = world.dialled[0].clone();
            world.take(alice);
            let first = only(world.take(to), "SEND");
            world.send(to, first.response(200));
            world.run();
            Line { from: alice, to, back: format!("{session} {from_uri}"), path, from_uri, to_uri, world }
        }
    }
}

pub fn lines() -> impl Iterator<Item = (String, Line)> {
    [Shape::Both, Shape::Receiver, Shape::Sender].into_iter().flat_map(|shape| {
        LAYOUTS.into_iter().map(move |(a, b)| (format!("{shape:?} {a} {b}"), line(shape, a, b)))
    })
}
