//! What a peer may send, what it may not send, and what it is answered: records made by hand, against both record
//! layers where they compare.

use super::*;
use crate::RecordLayer;
use crate::by_hand::{
    ALERT, DATA, HANDSHAKE, Peer, Terms, UPDATE, UPDATE_AND_ASK, connect, pattern, records, ticket,
};
use crate::{Layer, TlsConn};

const CHANGE_CIPHER_SPEC: u8 = 20;

/// Our end with this layer, and the peer's keys.
struct Pair {
    ours: TlsConn,
    peer: Peer,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl Pair {
    fn new(terms: Terms) -> Self {
        let (ours, peer) = connect(terms, RecordLayer::Direct);
        Self { ours, peer, plain: Vec::new(), out: Vec::new() }
    }

    fn receive(&mut self, wire: &[u8]) -> Result<usize, TlsError> {
        self.ours.receive(&mut wire.to_vec(), &mut self.plain, &mut self.out)
    }

    fn accepts(&mut self, wire: &[u8]) {
        assert_eq!(self.receive(wire).unwrap(), wire.len());
    }

    /// The bytes are refused, the connection is over, and the peer gets the alert.
    #[track_caller]
    fn refuses(mut self, wire: &[u8], alert: AlertDescription) -> Error {
        let before = self.plain.len();
        let Err(TlsError::Protocol(error)) = self.receive(wire) else { panic!("{wire:?}") };
        assert_eq!(self.plain.len(), before, "nothing of it is handed on");
        assert_eq!(self.peer.read(&self.out), [(ALERT, vec![2, alert.into()])]);
        assert!(matches!(self.receive(&[]), Err(TlsError::Closed)));
        let mut more = Vec::new();
        assert!(matches!(self.ours.encrypt(b"more", &mut more), Err(TlsError::Closed)));
        self.ours.close_notify(&mut more);
        assert!(more.is_empty());
        error
    }

    fn direct(&mut self) -> &mut Direct {
        match &mut self.ours.layer {
            Layer::Direct(direct) => direct,
            _ => panic!("the keys were not taken over"),
        }
    }

    fn sends(&mut self, data: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.ours.encrypt(data, &mut self.out).unwrap();
        let out = mem::take(&mut self.out);
        self.peer.read(&out)
    }
}

fn pairs() -> impl Iterator<Item = Pair> {
    Terms::ALL.into_iter().map(Pair::new)
}

const SERVER: Terms = Terms { server: true, aes_256: false };
const CLIENT: Terms = Terms { server: false, aes_256: false };

/// Known answers: RFC 8448, 3, "Client application traffic": key, IV, and the records with the sequence numbers 0 and 1.
#[test]
fn records_of_rfc_8448_are_made_and_read() {
    const KEY: &str = "17422dda596ed5d9acd890e3c63f5051";
    const IV: &str = "5b78923dee08579033e523d9";
    const DATA_RECORD: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
    const CLOSE_RECORD: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
    let secrets = || {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&hex(KEY));
        let iv = <[u8; 12]>::try_from(hex(IV)).unwrap();
        (key, iv)
    };
    let half = || {
        let (key, iv) = secrets();
        Half::of(&aws_lc_rs::aead::AES_128_GCM, &key[..16], iv)
    };
    let data: Vec<u8> = (0..50).collect();

    let mut out = Vec::new();
    let mut sending = half();
    sending.seal(ContentType::ApplicationData, &data, &mut out).unwrap();
    sending.seal(ContentType::Alert, &[1, 0], &mut out).unwrap();
    assert_eq!(out, [hex(DATA_RECORD), hex(CLOSE_RECORD)].concat());

    let mut receiving = half();
    let mut plain = Vec::new();
    for (record, kind) in [(DATA_RECORD, ContentType::ApplicationData), (CLOSE_RECORD, ContentType::Alert)] {
        let record = hex(record);
        let (header, sealed) = record.split_first_chunk().unwrap();
        assert_eq!(receiving.open(*header, sealed, &mut plain), Ok(kind));
    }
    assert_eq!(plain, [&data[..], &[1, 0]].concat());
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn nothing_in_a_record_can_be_changed() {
    for terms in Terms::ALL {
        let record = Pair::new(terms).peer.data(b"sixteen and more bytes");
        for at in 0..record.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut altered = record.clone();
                altered[at] ^= flip;
                let mut pair = Pair::new(terms);
                // A longer record is awaited; the next bytes are then part of it.
                let received = pair.receive(&altered).and_then(|used| match used {
                    0 => pair.receive(&[altered, vec![0; 1 << 16]].concat()),
                    used => Ok(used),
                });
                let Err(TlsError::Protocol(_)) = received else { panic!("byte {at}, flipped with {flip}") };
                assert!(pair.plain.is_empty());
                let [(ALERT, alert)] = &pair.peer.read(&pair.out)[..] else { panic!("one alert") };
                let expected = match at {
                    0 => AlertDescription::UnexpectedMessage,
                    3 if flip != 0x01 => AlertDescription::RecordOverflow,
                    _ => AlertDescription::BadRecordMac,
                };
                assert_eq!(*alert, [2, expected.into()], "byte {at}, flipped with {flip}");
            }
        }
    }
}

#[test]
fn records_cannot_be_dropped_repeated_or_exchanged() {
    for terms in Terms::ALL {
        let order = |order: &[usize]| {
            let mut pair = Pair::new(terms);
            let records: Vec<_> = (0..3).map(|i| pair.peer.data(&[i; 10])).collect();
            let wire: Vec<u8> = order.iter().flat_map(|i| records[*i].clone()).collect();
            let received = pair.receive(&wire);
            assert!(matches!(received, Err(TlsError::Protocol(Error::DecryptError))));
            pair.plain.len()
        };
        assert_eq!(order(&[1]), 0);
        assert_eq!(order(&[0, 0]), 10);
        assert_eq!(order(&[0, 2]), 10);
        assert_eq!(order(&[0, 1, 0]), 20);
    }
}

#[test]
fn padding_of_any_length_is_taken_off() {
    for mut pair in pairs() {
        for (length, padding) in
            [(0, 0), (0, 1), (1, 0), (1, 1), (1, 16_383), (0, 16_384), (16_384, 0), (16_383, 1)]
        {
            let record = pair.peer.write.seal(DATA, &pattern(length), padding);
            pair.accepts(&record);
            assert!(mem::take(&mut pair.plain) == pattern(length));
        }
    }
}

#[test]
fn zeros_alone_are_no_record() {
    for zeros in [0, 1, 100, 16_384] {
        let mut pair = Pair::new(SERVER);
        let record = pair.peer.write.seal(0, &[], zeros);
        pair.refuses(&record, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn a_record_too_long_is_refused_by_its_header_or_when_it_is_open() {
    // One byte too much inside, in ciphertext of a permitted length.
    for (length, padding) in [(16_385, 0), (16_384, 1), (1, 16_384), (0, 16_600)] {
        let mut pair = Pair::new(SERVER);
        let record = pair.peer.write.seal(DATA, &pattern(length), padding);
        let error = pair.refuses(&record, AlertDescription::RecordOverflow);
        assert_eq!(error, Error::PeerSentOversizedRecord);
    }
    let header = |length: u16| [&[DATA, 3, 3][..], &length.to_be_bytes()].concat();
    Pair::new(SERVER).refuses(&header(16_384 + 257), AlertDescription::RecordOverflow);
    let mut pair = Pair::new(SERVER);
    assert_eq!(pair.receive(&header(16_384 + 256)).unwrap(), 0);
}

#[test]
fn a_record_too_short_for_its_tag_is_forged() {
    for length in 0..17 {
        let wire = [&[DATA, 3, 3, 0, length][..], &vec![7; usize::from(length)]].concat();
        Pair::new(SERVER).refuses(&wire, AlertDescription::BadRecordMac);
    }
}

#[test]
fn after_the_handshake_every_record_looks_like_data() {
    for kind in (0..=255).filter(|kind| *kind != DATA) {
        Pair::new(SERVER).refuses(&[kind], AlertDescription::UnexpectedMessage);
    }
    // The dummy of the compatibility mode, which is dropped before the handshake ends.
    let error =
        Pair::new(CLIENT).refuses(&[CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1], AlertDescription::UnexpectedMessage);
    assert_eq!(error, PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into());
}

#[test]
fn protected_records_of_other_types_are_refused() {
    for kind in (1..=255).filter(|kind| !(ALERT..=DATA).contains(kind)) {
        for content in [&b""[..], b"\x01", b"content"] {
            let mut pair = Pair::new(SERVER);
            let record = pair.peer.write.seal(kind, content, 3);
            pair.refuses(&record, AlertDescription::UnexpectedMessage);
        }
    }
}

#[test]
fn empty_records_are_cover_traffic_and_bounded() {
    let mut pair = Pair::new(SERVER);
    for _ in 0..3 {
        for _ in 0..EMPTY_RECORDS_MAX {
            let record = pair.peer.data(b"");
            pair.accepts(&record);
        }
        let record = pair.peer.data(b"x");
        pair.accepts(&record);
    }
    assert_eq!(mem::take(&mut pair.plain), b"xxx");
    let flood: Vec<u8> = (0..=EMPTY_RECORDS_MAX).flat_map(|_| pair.peer.data(b"")).collect();
    let error = pair.refuses(&flood, AlertDescription::UnexpectedMessage);
    assert_eq!(error, PeerMisbehaved::TooManyEmptyFragments.into());
    for kind in [ALERT, HANDSHAKE] {
        let mut pair = Pair::new(SERVER);
        let record = pair.peer.write.seal(kind, b"", 0);
        pair.refuses(&record, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn close_notify_of_the_peer_ends_its_direction_only() {
    for mut pair in pairs() {
        let mut wire = pair.peer.data(b"last words");
        wire.extend(pair.peer.write.seal(ALERT, &[1, 0], 5));
        wire.extend(b"\x17\x03\x03\xff\xffjunk");
        pair.accepts(&wire);
        pair.accepts(b"more junk");
        assert!(pair.ours.peer_closed());
        assert_eq!(pair.plain, b"last words");
        assert!(pair.out.is_empty());
        assert_eq!(pair.sends(b"and ours"), [(DATA, b"and ours".to_vec())]);
        pair.ours.close_notify(&mut pair.out);
        pair.ours.close_notify(&mut pair.out);
        assert_eq!(pair.peer.read(&pair.out), [(ALERT, vec![1, 0])]);
    }
}

#[test]
fn no_alert_follows_our_close_notify() {
    let mut pair = Pair::new(SERVER);
    pair.ours.close_notify(&mut pair.out);
    let closed = pair.out.len();
    let data = pair.peer.data(b"still heard");
    pair.accepts(&data);
    assert_eq!(pair.plain, b"still heard");
    assert!(pair.receive(b"\x16").is_err());
    assert_eq!(pair.out.len(), closed);
}

#[test]
fn a_stream_that_merely_ends_is_not_closed() {
    for mut pair in pairs() {
        let record = pair.peer.data(b"cut short");
        assert_eq!(pair.receive(&record[..record.len() - 1]).unwrap(), 0);
        assert!(!pair.ours.peer_closed() && pair.plain.is_empty());
        pair.accepts(&record);
        assert!(!pair.ours.peer_closed());
    }
}

#[test]
fn alerts_of_the_peer_end_the_connection_in_silence_whatever_their_level() {
    for level in [0, 1, 2, 255] {
        for description in (1..=255).filter(|description| *description != 90) {
            let mut pair = Pair::new(CLIENT);
            let record = pair.peer.write.seal(ALERT, &[level, description], 0);
            let Err(TlsError::Protocol(Error::AlertReceived(received))) = pair.receive(&record) else {
                panic!("alert {description}")
            };
            assert_eq!(u8::from(received), description);
            assert!(pair.out.is_empty());
            assert!(pair.ours.encrypt(b"more", &mut pair.out).is_err());
        }
    }
}

#[test]
fn alerts_that_mean_nothing_are_bounded() {
    let mut pair = Pair::new(SERVER);
    for _ in 0..WARNINGS_MAX {
        let record = pair.peer.write.seal(ALERT, &[1, 90], 0);
        pair.accepts(&record);
        let data = pair.peer.data(b"x");
        pair.accepts(&data);
    }
    let record = pair.peer.write.seal(ALERT, &[1, 90], 0);
    let error = pair.refuses(&record, AlertDescription::UnexpectedMessage);
    assert_eq!(error, PeerMisbehaved::TooManyWarningAlertsReceived.into());
}

#[test]
fn an_alert_is_alone_and_whole_in_its_record() {
    for content in [&[1][..], &[1, 0, 1], &[2, 40, 2, 40]] {
        let mut pair = Pair::new(SERVER);
        let record = pair.peer.write.seal(ALERT, content, 0);
        pair.refuses(&record, AlertDescription::DecodeError);
    }
}

#[test]
fn key_updates_of_the_peer_are_followed_and_answered_once_with_the_next_data() {
    for mut pair in pairs() {
        for round in 0..5_u8 {
            for (message, answered) in [(UPDATE, false), (UPDATE_AND_ASK, true)] {
                let mut wire = pair.peer.data(b"old key, ");
                wire.extend(pair.peer.update(message));
                wire.extend(pair.peer.update(message));
                wire.extend(pair.peer.data(b"new key"));
                pair.accepts(&wire);
                assert_eq!(mem::take(&mut pair.plain), b"old key, new key");
                assert!(pair.out.is_empty(), "the answer waits for data");
                let update = answered.then(|| (HANDSHAKE, UPDATE.to_vec()));
                let expected: Vec<_> = update.into_iter().chain([(DATA, vec![round; 10])]).collect();
                assert_eq!(pair.sends(&[round; 10]), expected);
                assert_eq!(pair.sends(b"again"), [(DATA, b"again".to_vec())]);
            }
        }
    }
}

#[test]
fn the_answer_to_a_key_update_precedes_close_notify() {
    let mut pair = Pair::new(SERVER);
    let record = pair.peer.update(UPDATE_AND_ASK);
    pair.accepts(&record);
    pair.ours.close_notify(&mut pair.out);
    assert_eq!(pair.peer.read(&pair.out), [(HANDSHAKE, UPDATE.to_vec()), (ALERT, vec![1, 0])]);
}

#[test]
fn an_alert_can_be_read_though_an_answer_is_owed() {
    let mut pair = Pair::new(SERVER);
    let record = pair.peer.update(UPDATE_AND_ASK);
    pair.accepts(&record);
    pair.refuses(&[HANDSHAKE], AlertDescription::UnexpectedMessage);
}

#[test]
fn key_updates_without_data_between_them_are_bounded() {
    let mut pair = Pair::new(SERVER);
    for _ in 0..3 {
        let flood: Vec<u8> = (0..KEY_UPDATES_MAX).flat_map(|_| pair.peer.update(UPDATE_AND_ASK)).collect();
        pair.accepts(&flood);
        // Empty data is not data.
        let data = [pair.peer.data(b""), pair.peer.data(b"x")].concat();
        pair.accepts(&data);
    }
    pair.plain.clear();
    let mut flood: Vec<u8> = (0..KEY_UPDATES_MAX).flat_map(|_| pair.peer.update(UPDATE)).collect();
    flood.extend(pair.peer.data(b""));
    flood.extend(pair.peer.update(UPDATE));
    let error = pair.refuses(&flood, AlertDescription::UnexpectedMessage);
    assert_eq!(error, PeerMisbehaved::TooManyKeyUpdateRequests.into());
}

#[test]
fn a_malformed_key_update_is_refused() {
    for (message, alert) in [
        (&[24, 0, 0, 1, 2][..], AlertDescription::IllegalParameter),
        (&[24, 0, 0, 0], AlertDescription::DecodeError),
        (&[24, 0, 0, 2, 0, 0], AlertDescription::DecodeError),
        (&[24, 1, 0, 0], AlertDescription::DecodeError),
        // Not at the end of its record.
        (&[24, 0, 0, 1, 0, 24], AlertDescription::UnexpectedMessage),
        (&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], AlertDescription::UnexpectedMessage),
    ] {
        let mut pair = Pair::new(SERVER);
        let record = pair.peer.write.seal(HANDSHAKE, message, 0);
        pair.refuses(&record, alert);
    }
}

#[test]
fn a_key_update_over_several_records_is_put_together() {
    for cut in 1..UPDATE.len() {
        for mut pair in pairs() {
            let (first, second) = UPDATE_AND_ASK.split_at(cut);
            let mut wire = pair.peer.write.seal(HANDSHAKE, first, 1);
            wire.extend(pair.peer.write.seal(HANDSHAKE, second, 2));
            pair.peer.write.next();
            wire.extend(pair.peer.data(b"new key"));
            pair.accepts(&wire);
            assert_eq!(pair.plain, b"new key");
            assert_eq!(pair.direct().held().capacity(), 0);
            assert_eq!(pair.sends(b"x").len(), 2);
        }
    }
}

#[test]
fn nothing_may_come_between_the_parts_of_a_message() {
    for (kind, content) in [(DATA, &b"data"[..]), (DATA, b""), (ALERT, &[1, 0]), (ALERT, &[2, 40])] {
        let mut pair = Pair::new(CLIENT);
        let mut wire = pair.peer.write.seal(HANDSHAKE, &UPDATE[..3], 0);
        wire.extend(pair.peer.write.seal(kind, content, 0));
        let error = pair.refuses(&wire, AlertDescription::UnexpectedMessage);
        assert_eq!(error, PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
    }
}

#[test]
fn tickets_are_for_clients_however_they_are_cut() {
    for length in [1, 100, 255] {
        let tickets = [ticket(length), ticket(length)].concat();
        for size in [1, 3, 100, tickets.len()] {
            let mut pair = Pair::new(CLIENT);
            let parts: Vec<_> =
                tickets.chunks(size).map(|part| pair.peer.write.seal(HANDSHAKE, part, 0)).collect();
            for record in parts {
                pair.accepts(&record);
                // We continue meanwhile.
                assert_eq!(pair.sends(b"x"), [(DATA, b"x".to_vec())]);
            }
            let data = pair.peer.data(b"data");
            pair.accepts(&data);
            assert_eq!(pair.plain, b"data");
            assert_eq!(pair.direct().held().capacity(), 0);
        }
        let mut pair = Pair::new(SERVER);
        let record = pair.peer.write.seal(HANDSHAKE, &ticket(length), 0);
        pair.refuses(&record, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn malformed_and_endless_tickets_are_refused() {
    let mut cut = ticket(9);
    cut.pop();
    cut[3] -= 1;
    let mut pair = Pair::new(CLIENT);
    let record = pair.peer.write.seal(HANDSHAKE, &cut, 0);
    pair.refuses(&record, AlertDescription::DecodeError);

    let mut pair = Pair::new(CLIENT);
    let record = pair.peer.write.seal(HANDSHAKE, &[4, 1, 0, 1], 0);
    pair.refuses(&record, AlertDescription::DecodeError);

    // The longest permitted message is kept until its last byte, and no longer.
    let mut pair = Pair::new(CLIENT);
    let mut message = vec![4, 1, 0, 0];
    message.resize(4 + FRAGMENTS_BYTES_MAX, 0);
    for part in message.chunks(16_000) {
        let record = pair.peer.write.seal(HANDSHAKE, part, 0);
        let received = pair.receive(&record);
        let held = pair.direct().held().len();
        assert!(held <= FRAGMENTS_BYTES_MAX + 3);
        assert_eq!(received.is_err(), held == 0, "malformed, in the end");
    }
    assert_eq!(pair.direct().held().len(), 0);
}

#[test]
fn other_handshake_messages_are_refused_by_their_first_byte() {
    for kind in (0..=255).filter(|kind| *kind != 24) {
        for terms in [SERVER, CLIENT] {
            if terms.server || kind != 4 {
                let mut pair = Pair::new(terms);
                let record = pair.peer.write.seal(HANDSHAKE, &[kind], 0);
                pair.refuses(&record, AlertDescription::UnexpectedMessage);
            }
        }
    }
}

#[test]
fn keys_are_renewed_before_they_are_used_up() {
    const EACH: u64 = 5;
    for mut pair in pairs() {
        pair.direct().records_per_key = EACH;
        let mut updates = 0;
        for number in 0..50_u8 {
            for (kind, content) in pair.sends(&[number]) {
                match kind {
                    HANDSHAKE => updates += 1,
                    _ => assert_eq!(content, [number]),
                }
                assert!(pair.peer.read.sequence < EACH);
            }
        }
        // The last record of each key is the KeyUpdate.
        assert_eq!(updates, 49 / (EACH - 1));
        // Within one call as well.
        let sent = pair.sends(&pattern(20 * PLAINTEXT_BYTES_MAX));
        assert_eq!(sent.iter().filter(|(kind, _)| *kind == HANDSHAKE).count(), 5);
        let data: Vec<u8> =
            sent.into_iter().filter(|(kind, _)| *kind == DATA).flat_map(|(_, data)| data).collect();
        assert!(data == pattern(20 * PLAINTEXT_BYTES_MAX));
    }
    const { assert!(RECORDS_PER_KEY_MAX < 1 << 24) };
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let mut half = Half::of(&aws_lc_rs::aead::AES_256_GCM, &[1; 32], [2; 12]);
    half.skip_to(u64::MAX);
    let mut out = Vec::new();
    assert!(matches!(half.seal(ContentType::ApplicationData, b"x", &mut out), Err(TlsError::KeysExhausted)));
    assert!(out.is_empty());
    assert_eq!(half.open([23, 3, 3, 0, 20], &[0; 20], &mut out), Err(OpenError::Forged));
}

#[test]
fn nothing_secret_can_be_printed() {
    let pair = Pair::new(SERVER);
    let shown = format!("{:?}", pair.ours);
    assert!(shown.contains("TLS13_AES_128_GCM_SHA256") && shown.contains("Direct"), "{shown}");
    assert!(!shown.contains("key") && !shown.contains("iv:"), "{shown}");
}

/// What the fuzzer runs, on random scripts.
#[test]
fn both_record_layers_say_the_same() {
    for seed in 0..400_u32 {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let script: Vec<u8> = (0..20 + seed % 200)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[1]
            })
            .collect();
        records(&script);
    }
}
