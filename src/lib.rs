//! An MSRP relay, RFC 4976 on top of RFC 4975: this page is the map.
//!
//! A client behind NAT opens a connection to the relay, authenticates, and is given a URI that leads to it. Whoever
//! sends to that URI reaches the client through the relay; what the client sends through it leaves with the relay's
//! URI in its From-Path, so that everything comes back the same way. The relay forwards each chunk while it is still
//! arriving and holds no message.
//!
//! # Who may use whom
//!
//! One direction, no cycles:
//!
//! ```text
//! bin/msrprelay -> runtime -> relay   -> proto        bin/msrprelay, runtime, control, telemetry -> config
//!                  runtime -> control -> proto        bin/msrprelay, runtime, control -> telemetry
//! bin/msrprelay -> control (the users' file), client (when a certificate expires)
//! bin/msrp      -> client  -> proto                   config, telemetry -> relay (names of limits), proto
//! runtime, client, bin/msrp -> trust
//! bin/msrp bench -> msrp_tls: it must not be slower than what it measures
//! bin/msrprelay -> ops -> runtime (what an operator asks of it), telemetry
//! runtime, client -> engine
//! ```
//!
//! * [`proto`] is bytes: parser, heads, URIs, digests. No socket, clock, randomness, log, or async.
//! * [`relay`] decides: one pure state machine per core. Time and its random seed are given to it; what must be done
//!   comes out as effects.
//! * [`runtime`] does: connections, cores, upgrades. The only code of the server on glommio; [`engine`] has the sockets, and
//!   [`msrp_tls`] is TLS as bytes to bytes.
//! * [`engine`] makes every executor, and keeps it from sleeping over tasks that are due. What of glommio can bite, and
//!   what is done about it, stands in `docs/dev/engine.md`.
//! * [`control`] is one thread for what may wait on something slow: account and name look-ups. A file that is read
//!   has a second one, for a disk cannot be waited for in any other way.
//! * [`config`] turns YAML into a [`config::Config`] that is valid, or into everything that is wrong with it.
//! * [`telemetry`] is the log, which never blocks a core, and the counters.
//! * [`ops`] is what an operator needs around the relay: the way in from another relay's config, metrics, what the service
//!   manager is told, and the socket through which one looks inside.
//! * [`srv`] is the order in which the DNS wants relays to be tried; pure, for the relay's own look-ups and the client's.
//! * [`trust`] is certificates: whom a peer's lead to, at a bounded cost, and what is wrong with TLS in words; for the relay's
//!   own connections and the client's.
//! * [`client`] is an MSRP endpoint for the `msrp` tool and the tests, and how that tool finds a domain's relays. It
//!   shares the grammar with the relay, and [`trust`], nothing else.
//! * [`files`] creates and replaces files where others may write, and gives up root's rights. [`text`] is the way of
//!   foreign text to a person. [`ring`] says why there may be no io_uring. None of them knows anything of the relay; every
//!   layer but the pure ones may use them.
//! * [`fuzz`] holds what the fuzzer runs against [`proto`], [`relay`] and [`msrp_tls`]; only tests use it.
//!
//! The crates, and `clippy.toml` in the pure ones, hold the purity of [`proto`] and [`relay`]. Names below that are no links are private modules:
//! `cargo doc --document-private-items` shows them.
//!
//! # The path of a chunk
//!
//! 1. `runtime::conn`: the reader of a connection waits without a buffer of its own and receives into its core's.
//!    [`msrp_tls`] decrypts it from there to where it is parsed.
//! 2. [`proto::parser`] cuts what came into heads, body ranges and ends. Body octets stay where they are; only
//!    references to them travel.
//! 3. `runtime::core::feed` lends the relay to the reader, which feeds it everything one read brought, and then carries
//!    out the effects.
//! 4. `relay::peers::receive` reads in the first To-Path URI which session is meant, and which core minted its id. From
//!    there on the session goes by a reference, its owner beside its id ([`relay::SessionRef`]).
//! 5. `relay::sessions::route`, on that core, decides whether the request may pass and where it goes: to the client, to
//!    another session of this relay, or out to a next hop, for which a connection is dialled (`runtime::dial`).
//! 6. `relay::outbound`, where the leaving connection lives, queues it, writes the new head (the first To-Path URI
//!    moves to the front of From-Path, the transaction id is new), and cuts the chunk where somebody else waits.
//! 7. The writer of that connection takes one flush at a time, encrypts it and writes it in one piece.
//! 8. Written octets are credited to the connection they came in by. One that has too many outstanding is not read
//!    from until they have drained, so a slow receiver stops its sender's TCP window and nobody else's.
//! 9. At its end the hop before is answered 200 if it asked for that, and `relay::transactions` waits for the next
//!    hop. A refusal, silence for 30 s, or a lost connection becomes a REPORT to the sender, if it wants one.
//!
//! Each of the steps 4 to 6, and the credits, is a [`relay::Message`], a step in an envelope that says what takes it. On
//! one core it is pushed onto a queue; between cores the same value crosses as a parcel (`runtime::mesh`). There is one
//! path, not two. Sessions never move. A connection does, once, if its first request is for a session on another core: then the
//! whole of it crosses, and its octets do not have to (`runtime::migrate`).
//!
//! # The path of an AUTH
//!
//! `relay::auth` answers the first AUTH with a challenge. The second one is judged as far as that costs nothing;
//! then the user is looked up by `control::accounts` (in the config, a file, or the SIP proxy's database), which
//! answers found, unknown or unavailable. What
//! [`proto::digest`] has checked is a [`proto::digest::Verified`], and only with one of those does
//! `relay::sessions` mint a URI. While the look-up is under way the connection is not read from.
//!
//! A client behind another relay asks through that (`relay::auth::through_relay`): the relay by its certificate, which
//! [`msrp_tls`] has judged, the client by Digest. Its session is at home here like any other, but leads to the relay,
//! by whatever connection there is with it (`relay::sessions`). An AUTH for a relay further on is forwarded
//! (`relay::sessions::route`), to a host that has proven its name.
//!
//! # Invariants, and who owns them
//!
//! | Invariant | Owner |
//! |---|---|
//! | The steps' octets, joined, are the input; a head is bounded; nothing is allocated and no body octet copied | [`proto::parser`] |
//! | One URI moves from To-Path to From-Path for each hop made here; every octet of the head that is not ours stays as it was | [`proto::head`] |
//! | No [`proto::digest::Verified`] without a check in constant time | [`proto::digest`] |
//! | Only the relay of the core that owns a connection writes to it | [`relay`] |
//! | A request is answered at most once; octets a peer sent are outstanding until written or dropped | `relay::peers` |
//! | No session without proof; a session never moves; once bound, its outer side is never another's | `relay::sessions` |
//! | A relay is who has proven the host that it puts first into From-Path; on any connection it is the same | `relay::identity`, `relay::sessions` |
//! | Clients behind one relay neither wait nor pay for each other | `relay::auth::through_relay` |
//! | One open chunk per connection; only an interruptible one is cut; the pieces are gapless; no chunk holds its own end-line | `relay::outbound` |
//! | A transaction ends once: by its response, its deadline, or the loss of the connection | `relay::transactions` |
//! | Addresses are compared in one form | [`proto::address`] |
//! | A connection of which nothing is proven makes room for others, who has got least far first | `relay::quota::newcomers` |
//! | What addresses and users have is counted once, over all cores, and again by a core that is started again | `relay::quota::counts` |
//! | The allowances of all cores are the memory budget, whoever lends whom | `relay::quota::memory` |
//! | A nonce belongs to one connection and its count rises; an unknown user looks like a wrong password | `relay::auth` |
//! | The relay is borrowed for one step, never across an await; every task is held | `runtime::core::drive`, `runtime::tasks` |
//! | At most one flush is out of the relay's hands | `runtime::conn` |
//! | No TLS record ends within an end-line | [`msrp_tls::records`] |
//! | What is received lies in buffers that are used again; a thread keeps few of them | `runtime::pool` |
//! | A certificate names a relay only if its chain was verified and its key was held; no other ends a handshake | [`msrp_tls`] |
//! | Of the certificates that a peer shows, one path is verified, and no other is searched for | [`trust`] |
//! | No sequence number of a key is used twice; nothing that is not authenticated gets further | [`msrp_tls`] |
//! | A connection that changes cores has been counted out by the one, and nothing of it looked at, before the other has it | `runtime::migrate` |
//! | What another process says is not trusted to be well formed; no packet is waited for on a core | [`runtime::upgrade`] |
//! | No more of a session's id than its prefix, and of a URI than host and port, is shown to an operator | `relay::view` |
//! | A connection that is not traced pays nothing; a slow reader of a trace holds up no connection | `runtime::trace` |
//! | No executor sleeps long over a task that is due | [`engine`] |
//! | Only owned values cross cores; the task that empties an inbox never waits for another inbox | `runtime::mesh` |
//! | Listening sockets outlive their cores; a core that dies takes no other with it | [`runtime::server`], `runtime::supervisor` |
//! | What cores know of the config is one immutable value, swapped whole | `runtime::settings` |
//! | A port that anybody listens on is refused; the only `unsafe` code | [`engine::sock`] |
//! | What is dialled is judged after the name has been resolved | `runtime::dial`, [`config::Outbound::permits`] |
//! | Every request is answered in time; a broken backend is never "no such user" | [`control`] |
//! | In look-ups and connects no asker waits for another's beyond its turn | `control::turns` |
//! | A core's waker is in no other thread's hands once the core can see the answer | `control::reply` |
//! | An account is found only if exactly one is meant; a database that fails is tried by one task; what was proven is remembered no longer than the operator says, and no one is refused by it | `control::accounts` |
//! | Whoever asks for the metrics gets one answer in bounded time, and nobody is named in it | [`ops::metrics`] |
//! | No file is created, replaced or appended to through a name that another user has planted | [`files`] |
//! | Foreign text reaches a person escaped and bounded | [`text`] |
//! | Every problem of a config is told at once; every limit has a default, a floor and a ceiling | [`config`] |
//!
//! # Lexicon
//!
//! The RFCs' words, each for one thing; `docs/dev/lexicon.md` has all of them, and ours:
//!
//! * *message*: what has one Message-ID. *Chunk*: one SEND request, a whole message or a part of one.
//! * *Transaction*: a request and its response on one hop, named by its *transaction id* (tid).
//! * *Hop*: two adjacent nodes of a path. *To-Path*, *From-Path*, *Use-Path*: as on the wire.
//! * *Peer*: the program at the other end of one connection: a client, a foreign endpoint, another relay.
//! * *Session*: what an AUTH was granted, and what it leads to: one URI, or two while a client replaces the old one
//!   before that expires. Its *inner side* is the client's connection,
//!   its *outer side* the connection, or the other session, that the first request bound it to.
//! * *Core*: one pinned executor and all that it owns. *Home*: the core that owns a session's client connection; it
//!   is written into the session id. *Incarnation*: how often a core was started again.
//! * *Parcel*: what crosses from core to core. *Credit*: bytes a sender may have again.
//! * *Flush*: what is handed to the kernel in one piece.
//!
//! # Where to begin
//!
//! To see what the relay does: [`relay`], its first page. To follow an octet: `runtime::conn`, then
//! `relay::outbound`. To see how it starts and recovers: `runtime::supervisor`. To change what is on the wire:
//! [`proto::head`].

pub use engine::{self, ring};
pub use msrp_client as client;
pub use msrp_proto::{self as proto, srv};
pub use msrp_relay_core as relay;
pub use msrp_tls::trust;
pub use untrusted::{files, text};

pub mod config;
pub mod control;
pub mod ops;
pub mod runtime;
pub mod telemetry;
