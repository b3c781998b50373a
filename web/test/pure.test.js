// What needs no connection, against node's own crypto, the digest example of RFC 7616, and frames as they are on the wire.

import './setup.js';

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import test from 'node:test';

import { openDesk } from '../lib/desk.js';
import { answerChallenge, chooseChallenge } from '../lib/digest.js';
import { formatDisposition, isTalk, parseDisposition, safeName, spoken } from '../lib/disposition.js';
import { byteRange, header, holdsEndLine, parseFrame, parsePath, parseUri, request, response, sameUri } from '../lib/frame.js';
import { md5 } from '../lib/md5.js';
import { RangeSet } from '../lib/ranges.js';
import { hex, Sha256 } from '../lib/sha256.js';

const bytes = (text) => new TextEncoder().encode(text);
const text = (data) => new TextDecoder().decode(data);
const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const crlf = (lines) => bytes(lines.replaceAll('\n', '\r\n'));

test('SHA-256 is that of node, whatever the length and the pieces', () => {
    for (let length = 0; length < 300; length++) {
        const data = randomBytes(length);
        const hash = new Sha256();
        for (let at = 0; at < length; ) {
            const piece = 1 + Math.floor(Math.random() * 130);
            hash.update(data.subarray(at, at + piece));
            at += piece;
        }
        assert.equal(hex(hash.digest()), sha256(data), `${length} bytes`);
    }
    const large = randomBytes(5_000_011);
    assert.equal(hex(new Sha256().update(large).digest()), sha256(large));
});

test('SHA-256 counts more than 512 MiB', () => {
    const block = new Uint8Array(1 << 20);
    const [ours, theirs] = [new Sha256(), createHash('sha256')];
    for (let count = 0; count < 520; count++) {
        ours.update(block);
        theirs.update(block);
    }
    assert.equal(hex(ours.digest()), theirs.digest('hex'));
});

test('MD5 is that of node', () => {
    for (let length = 0; length < 200; length++) {
        const data = randomBytes(length);
        assert.equal(hex(md5(data)), createHash('md5').update(data).digest('hex'), `${length} bytes`);
    }
});

test('a challenge is answered as the example of RFC 4976 with MD5 and with SHA-256', () => {
    const challenge = chooseChallenge([
        'Digest realm="osier.example", nonce="MTc3NDAwMDAwMDozLkZfc2VhbGVkLW5vbmNlLTAwMDE", opaque="b7d1c0", algorithm=MD5, qop="auth"',
    ]);
    const uri = 'msrps://relay.osier.example:2855;tcp';
    const login = { user: 'wren', password: 'Tarn-Quill-77', uri, cnonce: '5cdf0a9e71b2' };
    const answer = answerChallenge(challenge, login);
    assert.match(answer.authorization, /response="faaf82f2ca28d909972c1667dd923891"/);
    assert.match(answer.authorization, /, opaque="b7d1c0", cnonce="5cdf0a9e71b2", qop=auth, nc=00000001, algorithm=MD5$/);
    assert.equal(answer.proof, 'e1209ddf737e472eec57bc66694107e7');
    const stronger = { ...challenge, algorithm: 'SHA-256' };
    const ha1 = sha256('wren:osier.example:Tarn-Quill-77');
    const expected = sha256([ha1, challenge.nonce, '00000001', '5cdf0a9e71b2', 'auth', sha256(`AUTH:${uri}`)].join(':'));
    assert.ok(answerChallenge(stronger, login).authorization.includes(`response="${expected}"`));
});

test('the strongest challenge is chosen, and none that is not allowed or not known', () => {
    const offer = (algorithm) => `Digest realm="r", nonce="n", algorithm=${algorithm}, qop="auth"`;
    const both = [offer('MD5'), offer('SHA-256')];
    assert.equal(chooseChallenge(both).algorithm, 'SHA-256');
    assert.equal(chooseChallenge(both, ['MD5']).algorithm, 'MD5');
    assert.equal(chooseChallenge([offer('MD5')], ['SHA-256']), null);
    assert.equal(chooseChallenge([offer('SHA-512-256'), 'Basic realm="r"', 'Digest realm="r", qop="auth"']), null);
    assert.equal(chooseChallenge(['Digest realm="r", nonce="n", qop="auth-int"']), null);
    assert.equal(chooseChallenge(['Digest realm="a \\"b\\"",nonce="n",qop="auth,auth-int",stale=TRUE']).realm, 'a "b"');
});

test('frames are read as they were written', () => {
    const body = bytes('Hello\r\n-------other$\r\n');
    const { tid, bytes: written } = request('SEND', [['To-Path', 'a'], ['Content-Type', 'text/plain']], body, '+');
    const frame = parseFrame(written);
    assert.deepEqual([frame.method, frame.tid, frame.status, frame.flag], ['SEND', tid, null, '+']);
    assert.equal(text(frame.body), text(body));
    assert.equal(header(frame, 'content-type'), 'text/plain');
    const answer = parseFrame(response(tid, 413, 'Stop it', [['To-Path', 'a']]));
    assert.deepEqual([answer.method, answer.status, answer.comment, answer.body], [null, 413, 'Stop it', null]);
});

test('an empty body is not the same as none', () => {
    assert.equal(parseFrame(crlf('MSRP abcd SEND\nTo-Path: a\n-------abcd$\n')).body, null);
    assert.equal(parseFrame(crlf('MSRP abcd SEND\nContent-Type: a/b\n\n\n-------abcd#\n')).body.length, 0);
    assert.equal(parseFrame(crlf('MSRP abcd SEND\nContent-Type: a/b\n\n\n-------abcd#\n')).flag, '#');
});

test('line ends alone are no frame, and anything else than one whole frame is refused', () => {
    assert.equal(parseFrame(bytes('\r\n\r\n')), null);
    for (const wrong of [
        'MSRP abcd SEND\nTo-Path: a\n-------abcd$\nMSRP',
        'MSRP abcd SEND\nTo-Path: a\n-------abc$\n',
        'MSRP abcd SEND\nTo-Path: a\n-------abcd!\n',
        'MSRP abcd SEND\nTo-Path: a\n\nbody\n-------abce$\n',
        'MSRP abcd SEND\nTo-Path: a\n\nbody\n-------abcd$',
        'MSRP abcd SEND\nno colon\n-------abcd$\n',
        'MSRP abcd send\n-------abcd$\n',
        'MSRP abcd 20\n-------abcd$\n',
        'HTTP/1.1 200 OK\n\n',
        `MSRP abcd SEND\n${'A: b\n'.repeat(200)}-------abcd$\n`,
        `MSRP abcd SEND\nA: ${'b'.repeat(70000)}\n-------abcd$\n`,
    ]) {
        assert.throws(() => parseFrame(crlf(wrong)), { code: 'protocol' }, wrong.slice(0, 60));
    }
    assert.throws(() => parseFrame(bytes('MSRP abcd SEND\nTo-Path: a\n-------abcd$\n')), { code: 'protocol' });
});

test('no bytes make the reader fail in another way', () => {
    const whole = request('SEND', [['To-Path', 'a b'], ['Byte-Range', '1-5/5'], ['Content-Type', 'a/b']], bytes('hello')).bytes;
    for (let round = 0; round < 5000; round++) {
        const broken = whole.slice(0, 1 + Math.floor(Math.random() * whole.length));
        broken[Math.floor(Math.random() * broken.length)] = Math.floor(Math.random() * 256);
        try {
            parseFrame(broken);
        } catch (error) {
            assert.equal(error.code, 'protocol');
        }
    }
});

test('an end-line in a body is found wherever it stands', () => {
    const tid = 'a1b2c3d4';
    for (let before = 0; before < 40; before++) {
        for (const filler of ['x', '-', '\r\n']) {
            const body = bytes(`${filler.repeat(before)}-------${tid}${'y'.repeat(before % 9)}`);
            assert.equal(holdsEndLine(body, tid), true, `${before} ${filler}`);
            assert.equal(holdsEndLine(body.slice(0, filler.length * before + 7 + tid.length - 1), tid), false);
        }
        assert.equal(holdsEndLine(bytes(`${'x'.repeat(before)}------${tid}`), tid), false);
    }
});

test('header values with line ends are refused', () => {
    assert.throws(() => request('SEND', [['Content-Type', 'a/b\r\nX: y']]), { code: 'usage' });
});

test('ranges are counted from 0, and wrong ones are refused', () => {
    const range = (value) => byteRange({ headers: [['Byte-Range', value]] });
    assert.deepEqual(range('1-10/20'), { start: 0, end: 10, total: 20 });
    assert.deepEqual(range('11-*/*'), { start: 10, end: null, total: null });
    assert.deepEqual(range('1-0/0'), { start: 0, end: 0, total: 0 });
    assert.equal(byteRange({ headers: [] }), null);
    for (const wrong of ['0-1/1', '1/2', '1-2', '-1-2/3', '1-99999999999999999/1', '9999999999999999-*/*']) {
        assert.throws(() => range(wrong), { code: 'protocol' }, wrong);
    }
});

test('URIs are compared as RFC 4975 says', () => {
    const uri = 'msrps://Relay.example:2855/aB/c=;tcp';
    assert.deepEqual(parseUri(uri), { scheme: 'msrps', host: 'relay.example', port: 2855, session: 'aB/c=', transport: 'tcp' });
    assert.ok(sameUri(uri, 'MSRPS://user@relay.EXAMPLE:2855/aB/c=;TCP;more=x'));
    for (const other of ['msrp://relay.example:2855/aB/c=;tcp', 'msrps://relay.example/aB/c=;tcp', 'msrps://relay.example:2855/ab/c=;tcp', 'msrps://relay.example:2855/aB/c=;ws', 'msrps://relay.example:2855;tcp']) {
        assert.ok(parseUri(other) && !sameUri(uri, other), other);
    }
    for (const wrong of ['', 'http://a:1/b;tcp', 'msrp://a:1/b', 'msrp://a:1/b c;tcp', 'msrp://ä:1/b;tcp']) {
        assert.equal(parseUri(wrong), null, wrong);
    }
    assert.equal(parsePath(`  ${uri}\n msrp://[::1]:9/x;tcp `).length, 2);
    assert.equal(parsePath(`${uri} nonsense`), null);
    assert.equal(parsePath(''), null);
});

test('a set of ranges knows what is missing', () => {
    for (let round = 0; round < 300; round++) {
        const present = new Uint8Array(60);
        const set = new RangeSet();
        for (let count = 0; count < 8; count++) {
            const start = Math.floor(Math.random() * 60);
            const end = Math.min(60, start + Math.floor(Math.random() * 20));
            assert.ok(set.add(start, end));
            present.fill(1, start, end);
        }
        assert.equal(set.bytes, present.reduce((sum, one) => sum + one, 0));
        const gap = present.indexOf(0);
        const whole = gap < 0 ? 60 : gap;
        assert.ok(set.covers(whole));
        assert.equal(set.covers(whole + 1), false);
    }
});

test('pieces that are scattered too widely are refused', () => {
    const set = new RangeSet();
    const fits = Array.from({ length: 2000 }, (_, index) => set.add(index * 2, index * 2 + 1));
    assert.equal(fits[1000], true);
    assert.equal(fits[1999], false);
});

test('a Content-Disposition is read as it was written, and as others write it', () => {
    const digest = sha256('x');
    const value = formatDisposition({ name: 'a "b" \\ ü\r\n.txt', size: 5, sha256: digest });
    assert.doesNotMatch(value, /[\r\n]/);
    assert.deepEqual(parseDisposition(value), { kind: 'attachment', name: 'a "b" \\ ü__.txt', size: 5, sha256: digest });
    assert.equal(parseDisposition(`attachment; filename=x; filename*=UTF-8''na%C3%AFve.txt`).name, 'naïve.txt');
    assert.equal(parseDisposition(`attachment; filename="x;y"; filename*=UTF-8''%FF`).name, 'x;y');
    assert.equal(parseDisposition(`render; hash=sha-256:${digest}`).sha256, digest);
    assert.equal(parseDisposition('attachment; hash=sha-256:12; size=-5; hash=sha-1:aa').sha256, null);
});

test('an offered name becomes one visible component', () => {
    for (const [offered, name] of [
        ['../../etc/passwd', 'passwd'],
        ['C:\\dir\\file.txt', 'file.txt'],
        ['..', 'file'],
        ['', 'file'],
        [null, 'file'],
        ['invoice\u202Efdp.exe', 'invoice_fdp.exe'],
        ['a\0b<c>', 'a_b_c_'],
    ]) {
        assert.equal(safeName(offered), name);
    }
    const long = safeName(`${'ü'.repeat(300)}.tar`);
    assert.equal([...long].length, 120);
    assert.ok(long.endsWith('.tar'));
});

test('chat is told from files and from notices', () => {
    const none = parseDisposition();
    assert.ok(isTalk('text/plain; charset=utf-8', none));
    assert.ok(isTalk('message/CPIM', none));
    assert.equal(isTalk('application/pdf', none), false);
    assert.equal(isTalk('text/plain', parseDisposition('attachment; filename="a.txt"')), false);
    assert.equal(spoken('text/plain', bytes('hello')).text, 'hello');
    const cpim = 'From: Ann <im:ann@example.com>\r\n\r\nContent-Type: text/plain\r\n\r\nhello';
    assert.deepEqual(spoken('message/cpim', bytes(cpim)), { text: 'hello', contentType: 'text/plain', from: 'Ann <im:ann@example.com>' });
    assert.equal(spoken('application/im-iscomposing+xml', bytes('<x/>')), null);
    assert.equal(spoken('message/cpim', bytes('nonsense')), null);
});

test('files are put together and hashed, also out of order and where chunks overlap', async () => {
    const data = randomBytes(3 * 1024 * 1024 + 17);
    const orders = {
        inOrder: [[0, 1e6], [1e6, 2e6], [2e6, data.length]],
        backwards: [[2e6, data.length], [1e6, 2e6], [0, 1e6]],
        overlapping: [[0, 1.5e6], [1e6, 1.2e6], [1.2e6, 2.5e6], [2.4e6, data.length]],
    };
    const desk = openDesk();
    for (const [id, pieces] of Object.entries(orders)) {
        await desk.ask('open', { id, type: 'a/b', size: data.length, disk: true });
        for (const [at, end] of pieces) await desk.ask('write', { id, at, bytes: new Uint8Array(data.subarray(at, end)) });
        const { blob, sha256: found } = await desk.ask('finish', { id, size: data.length });
        assert.equal(found, sha256(data), id);
        assert.deepEqual(Buffer.from(await blob.arrayBuffer()), data, id);
    }
    await desk.ask('open', { id: 'short', type: '', size: 10, disk: true });
    await desk.ask('write', { id: 'short', at: 0, bytes: bytes('12345') });
    await assert.rejects(desk.ask('finish', { id: 'short', size: 10 }), /not all bytes/);
    assert.equal(await desk.ask('hash', new Blob([data])), sha256(data));
});
