//! An MSRP relay, RFC 4976 on top of RFC 4975: this page is the map.
//!
//! A client behind NAT opens a connection to the relay, authenticates, and gets a URI that leads to it. Peers send to
//! that URI and reach the client through the relay. What the client sends through the relay leaves with the relay's URI
//! in its From-Path, so that everything comes back the same way. The relay forwards each chunk while it is still
//! arriving and holds no message.
//!
//! # Which crate may use which
//!
//! The server is this package: [`config`], [`control`], [`telemetry`], [`runtime`], [`ops`], and the program over them.
//! Whatever has its own reason to change is a crate below `crates/`. The compiler enforces the direction, one way,
//! without a circle:
//!
//! ```text
//! bin/msrprelay -> runtime, ops, control, telemetry, config -> msrp-relay-core, msrp-tls, msrp-ws, engine, msrp-client, msrp-proto, untrusted
//! bin/msrp      -> msrp-cli -> msrp-client -> msrp-tls, msrp-ws, engine, msrp-proto, untrusted
//! msrp-cli (bench) -> msrp-tls, msrp-ws, msrp-relay-core: it must not be slower than what it measures
//! msrp-relay-core -> msrp-proto     msrp-tls -> untrusted     engine -> msrp-proto (addresses)     manual -> untrusted
//! within the server: ops -> runtime -> control -> telemetry -> config
//! ```
//!
//! | Crate | What it is |
//! |---|---|
//! | [`msrp_proto`] | Bytes: parser, heads, URIs, digests, the order of SRV records. No socket, clock, randomness, log, or async |
//! | [`msrp_relay_core`] | Decides: one pure state machine per core. Time and its random seed are given to it; what must be done comes out as effects |
//! | [`engine`] | Makes every executor and keeps it from sleeping over tasks that are due; sockets, deadlines. What of glommio can bite stands in `docs/dev/engine.md` |
//! | [`msrp_tls`] | TLS as bytes to bytes, a record layer of its own, and [certificates](msrp_tls::trust): whom a peer's lead to, at a bounded cost |
//! | [`msrp_ws`] | WebSocket as bytes to bytes: the upgrade, and the frames |
//! | [`msrp_client`] | An MSRP endpoint, and how it finds a domain's relays. It shares the grammar with the relay, the frames of WebSocket, and the check of certificates: none of its decisions |
//! | `msrp-cli` | The `msrp` tool as a library. No database driver is linked into it |
//! | [`untrusted`] | What others control: text on its way to a person, and files in directories where others may write |
//! | `manual` | Man pages and shell completions from the definition of a command line |
//! | `testkit-pure`, `testkit-net`, `testkit-certs` | For tests alone: the simulated world and what the fuzzer runs; endpoints, relays and databases; certificates |
//!
//! * [`runtime`] does: connections, cores, upgrades. The only code of the server on glommio.
//! * [`control`] is one thread for what may wait on something slow: account and name look-ups. A file that is read
//!   has a second one, for a disk cannot be waited for in any other way.
//! * [`config`] turns YAML into a [`config::Config`] that is valid, or into everything that is wrong with it.
//! * [`telemetry`] is the log, which never blocks a core, and the counters.
//! * [`ops`] is what an operator needs around the relay: the way in from another relay's config, metrics, what the service
//!   manager is told, and the socket through which one looks inside.
//!
//! A `clippy.toml` in each pure crate forbids it clocks, sockets, files and threads. Names below that are no links are private
//! modules: `cargo doc --document-private-items` shows them.
//!
//! # The path of a chunk
//!
//! 1. `runtime::conn`: the reader of a connection waits without a buffer of its own and receives into its core's.
//!    [`msrp_tls`] decrypts it from there to where it is parsed.
//!    By WebSocket, [`msrp_ws`] unmasks it there.
//! 2. [`msrp_proto::parser`] cuts what came into heads, body ranges and ends. Body bytes stay where they are; only
//!    references to them travel.
//! 3. `runtime::core::feed` lends the relay to the reader, which feeds it everything one read brought, and then carries
//!    out the effects.
//! 4. `msrp_relay_core::peers::receive` reads in the first To-Path URI which session is meant, and which core minted its id. From
//!    there on the session goes by a reference, its owner beside its id ([`msrp_relay_core::SessionRef`]).
//! 5. `msrp_relay_core::sessions::route`, on that core, decides whether the request may pass and where it goes: to the client, to
//!    another session of this relay, or out to a next hop, for which a connection is dialled (`runtime::dial`).
//! 6. `msrp_relay_core::outbound`, where the leaving connection lives, queues it, writes the new head (the first To-Path URI
//!    moves to the front of From-Path, the transaction id is new), and cuts the chunk if an answer, a REPORT or
//!    another source waits.
//! 7. The writer of that connection takes one flush at a time, encrypts it and writes it in one piece.
//! 8. Written bytes are credited to the connection they came in by. One that has too many outstanding is not read
//!    from until they have drained, so a slow receiver stops only its own sender's TCP window.
//! 9. At its end the hop before is answered 200 if it asked for that, and `msrp_relay_core::transactions` waits for the next
//!    hop. A refusal, silence for 30 s, or a lost connection becomes a REPORT to the sender, if it wants one.
//!
//! Each of the steps 4 to 6, and the credits, is a [`msrp_relay_core::Message`], a step in an envelope that says what takes it. On
//! one core it is pushed onto a queue; between cores the same value crosses in a delivery (`runtime::mesh`). There is one
//! path, not two. A connection moves, once, if its first request is for a session on another core: then the whole of it
//! crosses, and its bytes do not have to (`runtime::migrate`). A client's takes its session along, to the one that this is
//! bound to (`msrp_relay_core::meet`).
//!
//! # The path of an AUTH
//!
//! `msrp_relay_core::auth` answers the first AUTH with a challenge. The second one is judged as far as that costs nothing;
//! then the user is looked up by `control::accounts` (in the config, a file, or the SIP proxy's database), which
//! answers found, unknown or unavailable. What
//! [`msrp_proto::digest`] has checked is a [`msrp_proto::digest::Verified`], and only with one of those does
//! `msrp_relay_core::sessions` mint a URI. While the look-up is under way the connection is not read from.
//!
//! A client behind another relay asks through that (`msrp_relay_core::auth::through_relay`): the relay by its certificate, which
//! [`msrp_tls`] has judged, the client by Digest. Its session is at home here like any other, but leads to the relay,
//! by whatever connection there is with it (`msrp_relay_core::sessions`). An AUTH for a relay further on is forwarded
//! (`msrp_relay_core::sessions::route`), to a host that has proven its name.
//!
//! # Invariants, and who owns them
//!
//! | Invariant | Owner |
//! |---|---|
//! | The steps' bytes, joined, are the input; a head is bounded; nothing is allocated and no body byte copied | [`msrp_proto::parser`] |
//! | One URI moves from To-Path to From-Path for each hop made here; every byte of the head that is not ours stays as it was | [`msrp_proto::head`] |
//! | No [`msrp_proto::digest::Verified`] without a check in constant time | [`msrp_proto::digest`] |
//! | Only the relay of the core that owns a connection writes to it | [`msrp_relay_core`] |
//! | A request is answered at most once; bytes a peer sent are outstanding until written or dropped | `msrp_relay_core::peers` |
//! | No session without proof; once bound, its outer side is never another's | `msrp_relay_core::sessions` |
//! | A session has one owner; it moves at most once, at rest, bound by that, to a core that has agreed | `msrp_relay_core::meet` |
//! | A peer is a relay if it has proven the host that it puts first into From-Path; on any connection it is the same relay | `msrp_relay_core::identity`, `msrp_relay_core::sessions` |
//! | Clients behind one relay neither wait nor pay for each other | `msrp_relay_core::auth::through_relay` |
//! | One open chunk per connection; only an interruptible one is cut; the pieces are gapless; no chunk holds its own end-line | `msrp_relay_core::outbound` |
//! | A transaction ends once: by its response, its deadline, or the loss of the connection | `msrp_relay_core::transactions` |
//! | Addresses are compared in one form | [`msrp_proto::address`] |
//! | A connection that has proven nothing makes room for others; the one at the lowest stage goes first | `msrp_relay_core::quota::newcomers` |
//! | What addresses and users have is counted once, over all cores, and again after the counting core restarts | `msrp_relay_core::quota::counts` |
//! | The allowances of all cores add up to the memory budget, however they are lent | `msrp_relay_core::quota::memory` |
//! | A nonce belongs to one connection and its count rises; an unknown user looks like a wrong password | `msrp_relay_core::auth` |
//! | The relay is borrowed for one step, never across an await; every task is held | `runtime::core::drive`, `runtime::tasks` |
//! | The runtime holds at most one flush of a connection | `runtime::conn` |
//! | No TLS record ends within an end-line | [`msrp_tls::records`] |
//! | A WebSocket is up only behind its 101; what waits of its control frames is one pong and one ping | `runtime::websocket` |
//! | A flush to a WebSocket holds whole frames; no session has more unanswered than its window | `msrp_relay_core::outbound::framing` |
//! | Received bytes lie in buffers that are used again; a thread keeps few of them | `runtime::pool` |
//! | A certificate names a relay only if its chain was verified and its key was held; no other ends a handshake | [`msrp_tls`] |
//! | Of the certificates that a peer shows, one path is verified, and no other is searched for | [`msrp_tls::trust`] |
//! | No sequence number of a key is used twice; nothing that is not authenticated gets further | [`msrp_tls`] |
//! | The core that gives a connection away has counted it out, and looked at none of its requests, before the other core has it | `runtime::migrate` |
//! | Messages of another process may be malformed; no core waits for one | [`runtime::upgrade`] |
//! | No more of a session's id than its prefix, and of a URI than host and port, is shown to an operator | `msrp_relay_core::view` |
//! | A connection that is not traced pays nothing; a slow reader of a trace holds up no connection | `runtime::trace` |
//! | No executor sleeps long over a task that is due | [`engine`] |
//! | Only owned values cross cores; the task that empties an inbox never waits for another inbox | `runtime::mesh` |
//! | Listening sockets outlive their cores; a core that dies takes no other with it | [`runtime::server`], `runtime::supervisor` |
//! | What cores know of the config is one immutable value, swapped whole | `runtime::settings` |
//! | A port that another process listens on is refused | [`engine::sock`] |
//! | What is dialled is judged after the name has been resolved | `runtime::dial`, [`config::Outbound::permits`] |
//! | Every request is answered in time; a broken backend is never "no such user" | [`control`] |
//! | In look-ups and connects no asker waits for another's beyond its turn | `control::turns` |
//! | A core's waker is in no other thread's hands once the core can see the answer | `control::reply` |
//! | An account is found only if exactly one is meant; a database that fails is tried by one task; a proven account is remembered no longer than the operator says, and is never the reason of a refusal | `control::accounts` |
//! | Every request for the metrics gets one answer in bounded time, which names no user | [`ops::metrics`] |
//! | No file is created, replaced or appended to through a name that another user has planted | [`untrusted::files`] |
//! | Foreign text reaches a person escaped and bounded | [`untrusted::text`] |
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
//! * *Core*: one pinned executor and all that it owns. *Home*: the core that opened a session; it
//!   is written into the session id, and owns the session until that moves. *Incarnation*: how often a core was started again.
//! * *Delivery*: what crosses from core to core. *Credit*: bytes a sender may have again.
//! * *Flush*: what is handed to the kernel in one piece.
//!
//! # Where to begin
//!
//! To see how the parts work together: `docs/dev/architecture.md`, with a drawing of a session and its sides, who is told what
//! when a core dies, the way of a byte from function to function, and recipes for a new limit, counter, account
//! backend or transport. To see what the relay does: [`msrp_relay_core`], its first page. To follow a byte:
//! `runtime::conn`, then `msrp_relay_core::outbound`. To see how it starts and recovers: `runtime::supervisor`. To
//! change what is on the wire: [`msrp_proto::head`].

pub mod config;
pub mod control;
pub mod ops;
pub mod runtime;
pub mod telemetry;
