// Sessions from AUTH to the end, through a relay in memory.

import './setup.js';

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import test from 'node:test';

import { connect, ERROR_CODES, MsrpError, MsrpSession } from '../msrp.js';
import { header, request } from '../lib/frame.js';
import { Relay } from './relay.js';

const sha256 = (data) => createHash('sha256').update(data).digest('hex');

function options(relay, more = {}) {
    const { WebSocket } = relay;
    return { url: 'wss://relay.example.com/', user: 'alice@example.com', password: 'wonderland', WebSocket, ...more };
}

/** Two sessions that know each other. */
async function pair(context, more = {}) {
    const relay = new Relay();
    const alice = await connect(options(relay, more));
    const bob = await connect(options(relay, more));
    context.after(() => {
        alice.close();
        bob.close();
    });
    await alice.setPeer(bob.path);
    return { relay, alice, bob };
}

/** The detail of the next event. */
async function next(session, name) {
    const [event] = await once(session, name);
    return event.detail;
}

function settled(promise) {
    return promise.then((value) => ({ value }), (error) => ({ error }));
}

test('AUTH is addressed as RFC 7977 has it, and SHA-256 is preferred', async (context) => {
    const relay = new Relay();
    const session = await connect(options(relay));
    context.after(() => session.close());
    const [first, second] = relay.seen;
    assert.deepEqual(relay.sockets[0].protocols, ['msrp']);
    assert.equal(header(first, 'To-Path'), 'msrps://alice@relay.example.com:443;ws');
    assert.match(header(first, 'From-Path'), /^msrps:\/\/[a-z0-9]{12}\.invalid:2855\/[A-Za-z0-9]{20};tcp$/);
    assert.match(header(second, 'Authorization'), /algorithm=SHA-256$/);
    assert.doesNotMatch(header(second, 'Authorization'), /uri=/);
    assert.equal(session.state, 'open');
    assert.equal(session.path, `${relay.uriOf(relay.sockets[0])} ${header(first, 'From-Path')}`);
    assert.deepEqual(session.grant, { algorithm: 'SHA-256', realm: 'example.com', expires: 600, proved: true });
});

test('MD5 will do where the relay knows nothing else, unless the page forbids it', async (context) => {
    const relay = new Relay();
    relay.algorithms = ['MD5'];
    const session = await connect(options(relay));
    context.after(() => session.close());
    assert.equal(session.grant.algorithm, 'MD5');
    await assert.rejects(connect(options(relay, { algorithms: ['SHA-256'] })), { code: 'auth' });
});

test('the page may choose ws for its own URI, and another URI for AUTH', async (context) => {
    const relay = new Relay();
    const session = await connect(options(relay, { transport: 'ws', authUri: 'msrps://example.com;tcp', expires: 300 }));
    context.after(() => session.close());
    assert.equal(header(relay.seen[0], 'To-Path'), 'msrps://example.com;tcp');
    assert.match(session.path, /;ws$/);
    assert.equal(header(relay.seen[1], 'Expires'), '300');
});

test('each failure to log in has its code', async () => {
    const cases = [
        ['credentials', (relay) => { relay.password = 'other'; }],
        ['connect', (relay) => { relay.opens = false; }],
        ['protocol', (relay) => { relay.protocol = ''; }],
        ['auth', (relay) => { relay.proof = '0'.repeat(64); }],
        ['forbidden', (relay) => { relay.intercept = (socket, frame) => (relay.answer(socket, frame, 403, 'Forbidden'), true); }],
        ['auth', (relay) => { relay.intercept = (socket, frame) => (relay.answer(socket, frame, 423, 'Interval', [['Min-Expires', '60']]), true); }],
        ['timeout', (relay) => { relay.intercept = () => true; }],
        ['lost', (relay) => { relay.intercept = (socket) => (socket.ended(1001), true); }],
        ['protocol', (relay) => { relay.intercept = (socket) => (socket.deliver(Buffer.from('HTTP/1.1 200 OK\r\n\r\n')), true); }],
    ];
    for (const [code, break_] of cases) {
        const relay = new Relay();
        break_(relay);
        const session = new MsrpSession(options(relay, { connectTimeout: 0.1 }));
        await assert.rejects(session.open(), (error) => error instanceof MsrpError && error.code === code && code in ERROR_CODES, code);
        assert.equal(session.state, 'closed');
    }
});

test('wrong calls are told at once', () => {
    const relay = new Relay();
    for (const wrong of [{ url: 'http://a/' }, { url: undefined }, { user: '' }, { password: undefined }, { transport: 'udp' }, { chunkBytes: 1 }, { windowBytes: NaN }]) {
        assert.throws(() => new MsrpSession(options(relay, wrong)), { code: 'usage' });
    }
    const session = new MsrpSession(options(relay));
    assert.throws(() => session.send('x'), { code: 'usage' });
});

test('closing ends a session that is being opened, and another one may be opened at once', async (context) => {
    const relay = new Relay();
    for (const hang of [() => { relay.intercept = () => true; }, () => { relay.opens = null; }]) {
        const session = new MsrpSession(options(relay));
        context.after(() => session.close());
        hang();
        const opening = settled(session.open());
        await new Promise((resolve) => setTimeout(resolve, 10));
        session.close();
        relay.intercept = () => false;
        relay.opens = true;
        await session.open();
        assert.equal((await opening).error.code, 'aborted');
        assert.equal(session.state, 'open');
    }
});

test('a path that leads nowhere names no other side', async (context) => {
    const relay = new Relay();
    const session = await connect(options(relay));
    context.after(() => session.close());
    await assert.rejects(session.setPeer('msrps://relay.example.com:2855/none;tcp msrps://a.invalid:2855/x;tcp'), { code: 'no-session', status: 481 });
    await assert.rejects(session.setPeer('nonsense'), { code: 'usage' });
    await assert.rejects(session.setPeer(session.path), { code: 'usage' });
    assert.equal(session.peer, null);
});

test('one side names the other, and both can write', async (context) => {
    const { alice, bob } = await pair(context);
    assert.equal(bob.peer, alice.path);
    const said = next(bob, 'message');
    const delivery = await alice.send('Grüße ✓', { successReport: true }).done;
    assert.equal((await said).text, 'Grüße ✓');
    assert.equal(delivery.confirmed, true);
    const back = next(alice, 'message');
    await bob.send('hello').done;
    assert.equal((await back).text, 'hello');
});

test('an empty message is delivered as one', async (context) => {
    const { alice, relay } = await pair(context);
    assert.equal((await alice.send('', { successReport: true }).done).bytes, 0);
    assert.equal(header(relay.seen.find((frame) => frame.body), 'Byte-Range'), '1-0/0');
});

test('a file arrives with its name and hash, whole and cut by the relay', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024 });
    for (const cut of [(body) => [body], (body) => [body.subarray(0, 1000), body.subarray(1000, 1001), body.subarray(1001)]]) {
        relay.cut = cut;
        const data = randomBytes(3_000_001);
        const arriving = next(bob, 'file');
        const sending = alice.sendFile(new File([data], 'ünï "q".bin', { type: 'application/x-test' }));
        const phases = new Set();
        sending.addEventListener('progress', () => phases.add(sending.phase));
        const { file } = await arriving;
        assert.deepEqual([file.name, file.size, file.type], ['ünï _q_.bin', data.length, 'application/x-test']);
        const received = await file.done;
        assert.equal(received.sha256, sha256(data));
        assert.equal(received.verified, true);
        assert.deepEqual(Buffer.from(await received.blob.arrayBuffer()), data);
        const sent = await sending.done;
        assert.deepEqual([sent.sha256, sent.bytes, sent.confirmed], [received.sha256, data.length, true]);
        assert.equal(sending.acknowledged, data.length);
        assert.deepEqual([...phases], ['hashing', 'sending', 'confirming', 'done']);
    }
});

test('no more is on the way than the window, and chat does not wait behind a file', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024, windowBytes: 256 * 1024 });
    const held = [];
    relay.intercept = (socket, frame) => {
        const chunk = frame.method === 'SEND' && frame.body?.length === 64 * 1024;
        if (chunk) held.push(() => relay.forward(socket, frame));
        return chunk;
    };
    const arriving = next(bob, 'file');
    const sending = alice.sendFile(new Blob([randomBytes(1024 * 1024)]), { announceHash: false });
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(held.length, 4);
    assert.equal(sending.sent, 256 * 1024);
    const said = next(bob, 'message');
    await alice.send('in between').done;
    assert.equal((await said).text, 'in between');
    relay.intercept = () => false;
    held.forEach((release) => release());
    await (await arriving).file.done;
    await sending.done;
});

test('nothing is sent while the browser holds much, and it goes on when something comes in', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024, bufferBytes: 64 * 1024 });
    const [socket] = relay.sockets;
    socket.bufferedAmount = 100_000;
    const sending = alice.sendFile(new Blob([randomBytes(100_000)]));
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(sending.sent, 0);
    socket.bufferedAmount = 0;
    await bob.send('wake').done;
    await sending.done;
});

test('files travel both ways at once', async (context) => {
    const { alice, bob } = await pair(context);
    const data = [randomBytes(700_000), randomBytes(900_000)];
    const arriving = [next(bob, 'file'), next(alice, 'file')];
    const sending = [alice.sendFile(new Blob([data[0]])), bob.sendFile(new Blob([data[1]]))];
    for (const [index, file] of (await Promise.all(arriving)).entries()) {
        assert.equal((await file.file.done).sha256, sha256(data[index]));
    }
    await Promise.all(sending.map(({ done }) => done));
});

test('the sender aborts, and the receiver is told', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024, windowBytes: 64 * 1024 });
    const arriving = next(bob, 'file');
    let chunks = 0;
    relay.intercept = (socket, frame) => frame.body?.length === 64 * 1024 && ++chunks === 3;
    const stop = new AbortController();
    const sending = alice.sendFile(new Blob([randomBytes(1024 * 1024)]), { signal: stop.signal });
    const { file } = await arriving;
    while (chunks < 3) await new Promise((resolve) => setTimeout(resolve, 1));
    stop.abort();
    assert.equal((await settled(sending.done)).error.code, 'aborted');
    assert.equal((await settled(file.done)).error.code, 'aborted-by-peer');
    const last = relay.seen.filter((frame) => frame.method === 'SEND').at(-1);
    assert.deepEqual([last.flag, last.body.length, header(last, 'Byte-Range')], ['#', 0, '196609-*/1048576']);
});

test('a file is aborted while it is hashed, and nothing of it is sent', async (context) => {
    const { relay, alice } = await pair(context);
    const before = relay.seen.length;
    const sending = alice.sendFile(new Blob([randomBytes(4_000_000)]));
    sending.abort();
    assert.equal((await settled(sending.done)).error.code, 'aborted');
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(relay.seen.length, before);
});

test('the receiver stops a file: what comes of it is answered 413', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024 });
    bob.addEventListener('file', ({ detail: { file } }) => file.abort());
    // The relay of this test answers for its own hop, and leaves it to the receiver to be asked.
    relay.intercept = (socket, frame) => {
        if (frame.status !== 413) return false;
        const [sender] = relay.sockets;
        const id = header(relay.seen.find((seen) => seen.body), 'Message-ID');
        sender.deliver(request('REPORT', [['To-Path', sender.client], ['From-Path', 'msrps://relay.example.com:2855/x;tcp'], ['Message-ID', id], ['Byte-Range', '1-2/2'], ['Status', '000 413 Stop']]).bytes);
        return true;
    };
    const { error } = await settled(alice.sendFile(new Blob([randomBytes(2_000_000)])).done);
    assert.deepEqual([error.code, error.status], ['refused', 413]);
});

test('a page that does not want files does not get them', async (context) => {
    const { relay, alice } = await pair(context, { accept: () => Promise.resolve(false) });
    alice.sendFile(new Blob([randomBytes(1000)]));
    while (!relay.seen.some(({ status }) => status === 413)) await new Promise((resolve) => setTimeout(resolve, 1));
});

test('what is not as announced is refused', async (context) => {
    const { relay, alice, bob } = await pair(context);
    const [socket, other] = relay.sockets;
    const chunk = (id, range, fields, body, flag = '$') => {
        const paths = [['To-Path', other.client], ['From-Path', `${relay.uriOf(other)} ${relay.uriOf(socket)} ${socket.client}`]];
        other.deliver(request('SEND', [...paths, ['Message-ID', id], ['Byte-Range', range], ...fields, ['Content-Type', 'a/b']], Buffer.from(body), flag).bytes);
    };
    const answers = () => relay.seen.filter(({ status }) => status !== null).map(({ status, comment }) => `${status} ${comment}`);
    const after = async (count) => {
        while (answers().length < count) await new Promise((resolve) => setTimeout(resolve, 1));
        return answers().at(-1);
    };
    const before = answers().length;
    chunk('longer', '1-*/3', [], 'abcd');
    assert.equal(await after(before + 1), '413 Not the announced size');
    chunk('shorter', '1-*/3', [], 'ab');
    assert.equal(await after(before + 2), '413 Not the announced size');
    chunk('torn', '1-*/3', [['Content-Disposition', 'attachment; size=4']], 'abc');
    assert.equal(await after(before + 3), '413 Not the announced size');
    chunk('range', '0-3/3', [], 'abc');
    assert.equal(await after(before + 4), '400 Bad Request');
    chunk('huge', `1-*/${17 * 2 ** 30}`, [], 'abc', '+');
    assert.equal(await after(before + 5), '413 Too large');
    const arriving = next(bob, 'file');
    chunk('hash', '1-3/3', [['Content-Disposition', `attachment; filename=x; hash=sha-256:${'00'.repeat(32)}`]], 'abc');
    const { error } = await settled((await arriving).file.done);
    assert.equal(error.code, 'hash');
    while (!relay.seen.some((frame) => header(frame, 'Status')?.startsWith('000 413'))) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.equal(alice.state, 'open');
});

test('who fills the memory of a slow page is refused', async (context) => {
    let accept;
    const { relay, bob } = await pair(context, { unstoredBytesMax: 64 * 1024, accept: () => new Promise((resolve) => { accept = resolve; }) });
    const [socket, other] = relay.sockets;
    for (let count = 0; count < 3; count++) {
        const paths = [['To-Path', other.client], ['From-Path', `${relay.uriOf(other)} ${relay.uriOf(socket)} ${socket.client}`]];
        const range = ['Byte-Range', `${count * 30_000 + 1}-*/900000`];
        other.deliver(request('SEND', [...paths, ['Message-ID', 'flood'], ['Failure-Report', 'yes'], range, ['Content-Type', 'a/b']], randomBytes(30_000), '+').bytes);
    }
    while (!relay.seen.some(({ comment }) => comment === 'Too fast')) await new Promise((resolve) => setTimeout(resolve, 1));
    accept(true);
    assert.equal(bob.state, 'open');
});

test('while the page has not decided about a file, a chunk is answered now and then, and each of them once', async (context) => {
    const decisions = [];
    const accept = () => new Promise((resolve) => decisions.push(resolve));
    const { relay, alice, bob } = await pair(context, { accept, answerEvery: 0.02, chunkBytes: 64 * 1024 });
    const answers = [];
    relay.intercept = (socket, frame) => {
        if (frame.status !== null && socket === relay.sockets[1]) answers.push(frame.tid);
        return false;
    };
    const data = randomBytes(200_000);
    const sending = alice.sendFile(new Blob([data]), { name: 'late.bin' });
    // All four chunks, though nothing is decided.
    while (answers.length < 4) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.notEqual(sending.phase, 'done');
    const arriving = next(bob, 'file');
    decisions[0](true);
    const { sha256: hash } = await (await arriving).file.done;
    assert.equal(hash, sha256(data));
    assert.equal((await sending.done).confirmed, true);
    assert.equal(answers.length, 4);
    assert.equal(new Set(answers).size, 4);
});

test('a file that is declined after all of it was answered is reported as refused', async (context) => {
    let decide;
    const { relay, alice } = await pair(context, { answerEvery: 0.02, accept: () => new Promise((resolve) => { decide = resolve; }) });
    const before = relay.seen.length;
    const sending = alice.sendFile(new Blob([randomBytes(1000)]));
    while (!relay.seen.slice(before).some(({ status }) => status === 200)) await new Promise((resolve) => setTimeout(resolve, 5));
    decide(false);
    const { error } = await settled(sending.done);
    assert.deepEqual([error.code, error.status], ['refused', 413]);
});

test('a file that the sender gives up is not asked about any longer', async (context) => {
    const { alice, bob } = await pair(context, { chunkBytes: 64 * 1024, windowBytes: 64 * 1024, accept: (file) => {
        asked.resolve(file);
        return new Promise(() => {});
    } });
    const asked = {};
    const offered = new Promise((resolve) => { asked.resolve = resolve; });
    const sending = alice.sendFile(new Blob([randomBytes(10_000_000)]));
    const file = await offered;
    sending.abort();
    const { error } = await settled(file.done);
    assert.equal(error.code, 'aborted-by-peer');
    assert.equal(bob.state, 'open');
});

test('strangers and other methods are refused', async (context) => {
    const { relay, alice, bob } = await pair(context);
    const carol = await connect(options(relay));
    context.after(() => carol.close());
    let last;
    relay.intercept = (socket, frame) => {
        if (frame.status !== null) last = `${frame.status} ${frame.comment}`;
        return false;
    };
    // The relay of this test binds nothing: the page looks by itself who writes.
    await carol.setPeer(bob.path);
    assert.equal(last, '481 No such session');
    assert.equal(bob.peer, alice.path);
    const [socket, other] = relay.sockets;
    const paths = [['To-Path', other.client], ['From-Path', `${relay.uriOf(other)} ${relay.uriOf(socket)} ${socket.client}`]];
    other.deliver(request('NICKNAME', paths).bytes);
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(last, '501 Not Implemented');
});

test('the end of the connection ends all that is on the way, and a new session has a new path', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024 });
    let chunks = 0;
    relay.intercept = (socket, frame) => frame.body?.length > 1000 && ++chunks > 4;
    const arriving = next(bob, 'file');
    const sending = alice.sendFile(new Blob([randomBytes(2_000_000)]));
    const { file } = await arriving;
    const path = alice.path;
    const [closed] = [next(alice, 'close')];
    relay.sockets[0].ended(1006);
    relay.sockets[1].ended(1001, 'going away');
    assert.equal((await closed).error.code, 'lost');
    assert.equal((await settled(sending.done)).error.code, 'lost');
    assert.match((await settled(file.done)).error.message, /1001 going away/);
    assert.equal(alice.state, 'closed');
    relay.intercept = () => false;
    await alice.reconnect();
    await bob.reconnect();
    assert.notEqual(alice.path, path);
    await alice.setPeer(bob.path);
    await alice.send('again', { successReport: true }).done;
});

test('a session that is to come back does so by itself, and stops where that is hopeless', async (context) => {
    const relay = new Relay();
    const session = await connect(options(relay, { reconnect: true, connectTimeout: 0.2 }));
    context.after(() => session.close());
    relay.opens = false;
    relay.sockets[0].ended(1006);
    await next(session, 'warning');
    relay.opens = true;
    await once(session, 'path');
    assert.equal(session.state, 'open');
    relay.password = 'changed';
    relay.sockets.at(-1).ended(1006);
    assert.equal((await next(session, 'warning')).error.code, 'credentials');
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(session.state, 'closed');
});

test('a peer that is gone is noticed while a file of it is awaited', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 64 * 1024, keepAlive: 0.05 });
    let chunks = 0;
    relay.intercept = (socket, frame) => frame.body?.length > 1000 && ++chunks > 4;
    const arriving = next(bob, 'file');
    const sending = alice.sendFile(new Blob([randomBytes(2_000_000)]));
    const { file } = await arriving;
    const gone = next(bob, 'peer');
    alice.close();
    assert.equal((await settled(sending.done)).error.code, 'aborted');
    assert.equal((await settled(file.done)).error.code, 'no-session');
    assert.equal((await gone).path, null);
});

test('a session is renewed before it ends, with the nonce that was granted', async (context) => {
    const relay = new Relay();
    const session = new MsrpSession(options(relay));
    context.after(() => session.close());
    const later = [];
    const { setTimeout } = globalThis;
    globalThis.setTimeout = (action, wait) => later.push({ action, wait });
    context.after(() => {
        globalThis.setTimeout = setTimeout;
    });
    await session.open();
    const path = session.path;
    const before = relay.seen.length;
    later.find(({ wait }) => wait === 300_000).action();
    while (relay.seen.length === before) await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(relay.seen.length, before + 1);
    assert.equal(header(relay.seen.at(-1), 'To-Path'), relay.uriOf(relay.sockets[0]));
    assert.match(header(relay.seen.at(-1), 'Authorization'), /SHA-256/);
    assert.equal(session.path, path);
});

test('what does not move is given up', async (context) => {
    const { relay, alice } = await pair(context, { idleTimeout: 0.2 });
    relay.intercept = (socket, frame) => frame.body !== null;
    const { error } = await settled(alice.send('into the void').done);
    assert.equal(error.code, 'timeout');
});

test('without answers only what fits into a chunk is sent', async (context) => {
    const { relay, alice, bob } = await pair(context, { chunkBytes: 2048 });
    const said = next(bob, 'message');
    await alice.send('short', { failureReport: 'no' }).done;
    assert.equal((await said).text, 'short');
    assert.equal(relay.seen.filter(({ body }) => body).length, 1);
    assert.throws(() => alice.send('x'.repeat(3000), { failureReport: 'no' }), { code: 'usage' });
});
