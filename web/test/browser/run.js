// The demonstration page in a real browser, with pages, `msrp` and clients by others at the other end. scripts/demo-web.sh starts
// what it needs and tells it by the environment.

import { randomFillSync as randomFill } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { Crocodile, makeCrocodilePage, sdpOf } from './crocodile.js';
import { makeFirstPage, receiveOptions } from './document.js';
import { MemoryWatch } from './memory.js';
import { check, hashOf, pause, start, stopPrograms, takePrograms, until } from './programs.js';
import { Browser } from './webdriver.js';

const {
    DRIVER, DRIVER_PID, CHROMIUM, SITE, SITE_URL, DOCUMENT, RELAY, PIN, RELAY_TLS, CA, MSRP, WORK, PICTURES, ALICE, BOB, SIZE, SHORT,
    PYTHON = '', PEER = '', SOURCES = '',
} = process.env;
const size = Number(SIZE);
const short = SHORT === 'yes';
/** No transfer may take longer. */
const seconds = Math.max(120, size / 1_000_000);
/** What the browser may take more than before while a file passes through two of its pages, whatever the file's size. */
const GROWTH_BYTES_MAX = 150_000_000;
const users = { alice: ['alice@example.com', ALICE], bob: ['bob@example.com', BOB] };
const downloads = join(WORK, 'downloads');

const msrp = (command, user, ...options) =>
    start(MSRP, [command, '--user', users[user][0], '--relay', RELAY_TLS, '--ca', CA, '--timeout', '120s', ...options], users[user][1]);

// -- pages -----------------------------------------------------------------------------------------

let browser;
let pictured = false;

const pageOf = (user) => `${SITE_URL}demo/#${new URLSearchParams({ relay: RELAY, user: users[user][0] })}`;

async function logIn(user) {
    const tab = await browser.newTab();
    await tab.open(pageOf(user));
    await tab.type('#password', users[user][1]);
    // By the keyboard alone.
    await tab.press('\uE007');
    tab.path = await tab.until(`${user} logs in`, 60, () => {
        const error = document.getElementById('error');
        return error.hidden ? document.getElementById('own-path').value : `error ${error.textContent}`;
    });
    check(tab.path.startsWith('msrp'), tab.path);
    return tab;
}

async function link(tab, path) {
    await tab.fill('#peer-path', path);
    await tab.click('#link');
    await linked(tab);
}

const linked = (tab) => tab.until('the two are connected', 60, () => document.getElementById('status').dataset.linked);

async function pages() {
    const alice = await logIn('alice');
    const bob = await logIn('bob');
    if (!pictured) await picture(bob, 'paths');
    pictured = true;
    await link(alice, bob.path);
    await linked(bob);
    return [alice, bob];
}

async function say(tab, text) {
    await tab.type('#text', text);
    await tab.press('\uE007');
}

const hears = (tab, text, limit = 60) =>
    tab.until(`"${text}" arrives`, limit, (text) => [...document.querySelectorAll('#log .words')].some((words) => words.textContent === text), text);

const delivered = (tab) =>
    tab.until('it is delivered', 60, () => document.querySelector('#log .mine:last-of-type .meta')?.textContent.includes('delivered'));

const card = (tab) =>
    tab.run(() => {
        const card = document.querySelector('.transfer');
        return card && {
            phase: card.dataset.phase,
            code: card.dataset.code,
            name: card.querySelector('.name').textContent,
            state: card.querySelector('.state').textContent,
            hash: card.querySelector('.hash code').textContent,
            value: card.querySelector('progress').value,
        };
    });

/** Waits for the end of the newest transfer of a page. */
async function ended(tab, phase) {
    await tab.until('the transfer ends', seconds, () => ['done', 'failed'].includes(document.querySelector('.transfer')?.dataset.phase));
    const found = await card(tab);
    check(found.phase === phase, `${found.name}: ${found.state}`);
    return found;
}

/** Waits until some of a file has come that a page did not have yet. */
const moving = (tab, count) =>
    tab.until('it moves', seconds, (count) => {
        const cards = document.querySelectorAll('.transfer');
        return cards.length === count && cards[0].querySelector('progress').value > 0;
    }, count);

async function picture(tab, name) {
    for (const [width, height] of [[1280, 800], [390, 844]]) {
        writeFileSync(join(PICTURES, `${name}-${width}x${height}.png`), await tab.picture(width, height));
    }
}

/** No script of another origin, nothing inline, nothing that the page's policy forbids, no error. */
async function clean(tab) {
    const found = await tab.run(() => ({
        inline: document.querySelectorAll('script:not([src]), style, [style], [onclick]').length,
        unlabelled: [...document.querySelectorAll('input, textarea, button, progress')].filter((field) =>
            !(field.labels?.length || field.getAttribute('aria-label') || field.textContent.trim())).length,
        wider: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    }));
    check(found.inline === 0 && found.unlabelled === 0 && !found.wider, `the page: ${JSON.stringify(found)}`);
}

// -- what is tried ---------------------------------------------------------------------------------

const cases = {
    async 'browser to browser'() {
        const [alice, bob] = await pages();
        await say(alice, 'Grüße, привет ✓ <b>');
        await hears(bob, 'Grüße, привет ✓ <b>');
        await delivered(alice);
        await say(bob, 'hello back');
        await hears(alice, 'hello back');
        const results = [];
        const memory = new MemoryWatch(DRIVER_PID);
        for (const [from, to, file] of [[alice, bob, 'file-1.bin'], [bob, alice, 'file-2.bin']]) {
            await from.type('#file', join(WORK, file));
            await moving(to, results.length / 2 + 1);
            const before = await card(to);
            await say(from, `while ${file} travels`);
            await hears(to, `while ${file} travels`);
            await say(to, `${file}: I see it coming`);
            await hears(from, `${file}: I see it coming`);
            const during = await card(to);
            if (from === alice) await picture(bob, 'receiving');
            results.push(await arrived(from, to, file));
            results.push(`chat during it, from ${percent(before)} to ${percent(during)}`);
        }
        const growth = memory.stop();
        results.push(`memory: at most ${Math.round(growth / 1e6)} MB more than before, of all of the browser`);
        check(growth < GROWTH_BYTES_MAX, results.at(-1));
        await picture(alice, 'done');
        await saved(bob, 'file-1.bin');
        await clean(alice);
        for (const tab of [alice, bob]) await tab.close();
        return results;
    },

    async 'browser to msrp'() {
        const file = join(WORK, 'file-1.bin');
        const out = fresh('msrp');
        const receiver = msrp('receive', 'bob', '--out', out, '--path-file', join(out, '.path'));
        const path = await written(receiver, join(out, '.path'));
        const alice = await logIn('alice');
        await link(alice, path);
        await alice.type('#file', file);
        const sent = await ended(alice, 'done');
        check((await receiver.ended) === 0, receiver.output);
        const hash = await hashOf(join(out, 'file-1.bin'));
        check(hash === sent.hash && hash === (await hashOf(file)), 'the hashes differ');
        await alice.close();
        rmSync(out, { recursive: true });
        return [`${size} bytes  SHA-256 ${hash}`];
    },

    async 'msrp to browser'() {
        const file = join(WORK, 'file-2.bin');
        const bob = await logIn('bob');
        const sender = msrp('send', 'alice', file, '--to', bob.path);
        const received = await ended(bob, 'done');
        check((await sender.ended) === 0, sender.output);
        check(received.hash === (await hashOf(file)), 'the hashes differ');
        await saved(bob, 'file-2.bin');
        await bob.close();
        return [`${size} bytes  SHA-256 ${received.hash}`];
    },

    async 'a slow receiver'() {
        const [alice, bob] = await pages();
        await bob.click('#ask');
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', seconds, () => document.querySelector('.transfer button'));
        // Longer than any transaction may take without an answer (RFC 4975, 7.1.1: 30 s).
        const wait = short ? 4 : 40;
        await pause(wait * 1000);
        await picture(alice, 'sending');
        await picture(bob, 'asked');
        const held = await card(alice);
        check(held.phase === 'moving', held.state);
        check(held.value < 0.5, `${percent(held)} were taken on while the receiver took nothing`);
        await bob.click('.transfer button');
        const result = await arrived(alice, bob, 'long.bin');
        for (const tab of [alice, bob]) await tab.close();
        return [result, `after ${wait} s in which the receiver took nothing, and the relay ${percent(held)}`];
    },

    async 'a tab closed in mid-file'() {
        const results = [];
        let [alice, bob] = await pages();
        await bob.click('#ask');
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', seconds, () => document.querySelector('.transfer button'));
        await bob.close();
        const failed = await ended(alice, 'failed');
        check(['no-session', 'unreachable'].includes(failed.code), `code ${failed.code}: ${failed.state}`);
        results.push(`the receiver's: the sender is told "${failed.state}"`);
        await alice.close();
        [alice, bob] = await pages();
        await bob.click('#ask');
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', seconds, () => document.querySelector('.transfer button'));
        await alice.close();
        const lost = await ended(bob, 'failed');
        check(['no-session', 'aborted-by-peer', 'unreachable'].includes(lost.code), `code ${lost.code}: ${lost.state}`);
        results.push(`the sender's: the receiver is told "${lost.state}"`);
        await bob.close();
        return results;
    },

    async 'refusal and abort'() {
        const [alice, bob] = await pages();
        await bob.click('#ask');
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', seconds, () => document.querySelectorAll('.transfer button')[1]);
        await bob.run(() => document.querySelectorAll('.transfer button')[1].click());
        const refused = await ended(alice, 'failed');
        check(refused.code === 'refused', `code ${refused.code}: ${refused.state}`);
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', seconds, () => document.querySelector('.transfer button'));
        await alice.click('.transfer[data-phase="moving"] button');
        const aborted = await ended(alice, 'failed');
        check(aborted.code === 'aborted', aborted.state);
        // The end of it is behind what the relay holds for bob.
        await bob.click('.transfer button');
        const told = await ended(bob, 'failed');
        check(told.code === 'aborted-by-peer', `code ${told.code}: ${told.state}`);
        await say(alice, 'the session goes on');
        await hears(bob, 'the session goes on');
        for (const tab of [alice, bob]) await tab.close();
        return [`refused: "${refused.state}"`, `aborted: "${told.state}"`];
    },

    async 'browser and python3-msrplib'() {
        if (!PYTHON) return null;
        const out = fresh('msrplib');
        const alice = await logIn('alice');
        const peer = start(PYTHON, [
            PEER, '--user', users.bob[0], '--relay', RELAY_TLS, '--ca', CA, '--peer', alice.path, '--path-file', join(out, 'path'),
            '--out', join(out, 'file-1.bin'), '--file', join(WORK, 'file-2.bin'), '--timeout', String(4 * seconds),
        ], users.bob[1]);
        const path = await written(peer, join(out, 'path'));
        await link(alice, path);
        await alice.type('#file', join(WORK, 'file-1.bin'));
        await hears(alice, 'I have it: grüße', 2 * seconds);
        await alice.until('the file comes back', 2 * seconds, () =>
            document.querySelector('.transfer[data-direction="receiving"][data-phase="done"]'));
        const received = await card(alice);
        check((await peer.ended) === 0, peer.output);
        const there = await hashOf(join(out, 'file-1.bin'));
        check(there === (await hashOf(join(WORK, 'file-1.bin'))), 'the file that went is not the one that came');
        check(received.hash === (await hashOf(join(WORK, 'file-2.bin'))), 'the file that came back is another one');
        await alice.close();
        rmSync(out, { recursive: true });
        return [`there: ${size} bytes  SHA-256 ${there}`, `back:  ${size} bytes  SHA-256 ${received.hash}`];
    },

    async 'browser and crocodile-msrp'() {
        const page = makeCrocodilePage(SOURCES, SITE);
        if (!page) return null;
        // Its frames are of 2 KiB, and two answers bring two of them: the time grows with the number of them.
        const file = join(WORK, 'small.bin');
        writeFileSync(file, randomFill(Buffer.alloc(Math.min(size, 5_000_000))));
        symlinkSync(file, join(SITE, 'small.bin'));
        const hash = await hashOf(file);
        const crocodile = async (user) => Crocodile.open({
            tab: await browser.newTab(), url: SITE_URL + page, relay: RELAY, user: users[user][0], password: users[user][1],
        });
        const [alice, bob] = [await crocodile('alice'), await crocodile('bob')];
        for (const client of [alice, bob]) await client.sessions(3);
        for (const session of [0, 1]) await alice.accept(session, await bob.answer(session, await alice.offer(session)));
        const delivered = alice.sendFile(0, `${SITE_URL}small.bin`, 'croc.bin', seconds);
        for (const [from, to] of [[alice, bob], [bob, alice]]) {
            await from.say(1, 'on another session of the same WebSocket, grüße');
            await to.hears(1, 'on another session of the same WebSocket, grüße');
        }
        check((await delivered) === 'delivered', await delivered);
        const between = await bob.received(0, seconds);
        check(between.hash === hash, `crocodile-msrp to itself: ${JSON.stringify(between)}`);
        // The third session of alice's with our page.
        const tab = await logIn('bob');
        await alice.offer(2);
        await alice.accept(2, sdpOf(tab.path));
        await linked(tab);
        await alice.say(2, 'hello from 2013');
        await hears(tab, 'hello from 2013');
        await say(tab, 'hello, crocodile');
        await alice.hears(2, 'hello, crocodile');
        check((await alice.sendFile(2, `${SITE_URL}small.bin`, 'small.bin', seconds)) === 'delivered', 'it is not delivered');
        const there = await ended(tab, 'done');
        check(there.hash === hash, `crocodile-msrp to the page: ${there.hash}`);
        await tab.type('#file', file);
        const back = await alice.received(2, seconds);
        check(back.hash === hash, `the page to crocodile-msrp: ${JSON.stringify(back)}`);
        await tab.until('it is confirmed', seconds, () => document.querySelector('.transfer').dataset.phase === 'done');
        for (const client of [alice, bob]) {
            check((await client.webSockets()) === 1, 'it has opened more than one WebSocket');
            check((await client.problems()).length === 0, JSON.stringify(await client.problems()));
            await client.close();
        }
        await tab.close();
        return [
            '3 sessions of each user, on one WebSocket each; chat on one while a file passes on another',
            `to itself, to the page, and back: ${between.size} bytes  SHA-256 ${hash}`,
        ];
    },

    async 'the ten lines of docs/client/browser.md'() {
        const page = makeFirstPage(DOCUMENT, SITE, RELAY);
        const open = async (path) => {
            const tab = await browser.newTab();
            await tab.open(SITE_URL + page);
            await tab.answer(ALICE);
            await tab.answer(path);
            return tab;
        };
        const bob = await logIn('bob');
        let tab = await open(bob.path);
        await hears(bob, 'Hello from a web page');
        await say(bob, 'hello back');
        await delivered(bob);
        const said = await tab.console();
        check(said.some((line) => line.endsWith('"They" "said" "hello back"')), said.join('\n'));
        for (const done of [tab, bob]) await done.close();
        const out = fresh('inbox');
        const options = receiveOptions(DOCUMENT, { '--relay': RELAY_TLS, '--path-file': join(out, '.path'), '--out': out });
        const receiver = start(MSRP, [...options, '--ca', CA, '--timeout', '60s'], BOB);
        tab = await open(await written(receiver, join(out, '.path')));
        check((await receiver.ended) === 0, receiver.output);
        const [kept] = readdirSync(out).filter((name) => !name.startsWith('.'));
        check(readFileSync(join(out, kept), 'utf8') === 'Hello from a web page', `msrp has ${kept}`);
        await tab.close();
        return ['a page hears it and answers; msrp keeps it'];
    },

    async 'wrong password'() {
        const tab = await browser.newTab();
        await tab.open(pageOf('alice'));
        await tab.type('#password', 'wrong');
        await tab.press('\uE007');
        const said = await tab.until('an error is shown', 60, () => !document.getElementById('error').hidden && document.getElementById('error').textContent);
        check(said.includes('does not accept user and password'), said);
        await picture(tab, 'refused');
        await tab.close();
        return [`"${said}"`];
    },
};

function fresh(name) {
    const directory = join(WORK, name);
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory);
    return directory;
}

/** The path that a client writes to a file when it is ready. */
const written = (program, file) =>
    until('its path', 60, () => {
        check(program.status === null, program.output);
        return existsSync(file) && readFileSync(file, 'utf8').trim();
    });

const percent = ({ value }) => `${Math.round(value * 100)} %`;

/** Both pages have the file, and the hash of the one on disk. */
async function arrived(from, to, file) {
    const [sent, received] = [await ended(from, 'done'), await ended(to, 'done')];
    const hash = await hashOf(join(WORK, file));
    check(sent.hash === hash && received.hash === hash, `${file}: the hashes differ: ${sent.hash} ${received.hash} ${hash}`);
    check(received.state.includes('the sender announced'), received.state);
    return `${statSync(join(WORK, file)).size} bytes  SHA-256 ${hash}`;
}

/** The page hands out what it says it has received. */
async function saved(tab, name) {
    rmSync(join(downloads, name), { force: true });
    await tab.run(() => document.querySelector('.transfer a.button').click());
    const path = join(downloads, name);
    await until(`${name} is saved`, seconds, () => existsSync(path) && statSync(path).size === size);
    check((await hashOf(path)) === (await hashOf(join(WORK, name))), `${name}: what was saved is another file`);
    rmSync(path);
}

// -- the run ---------------------------------------------------------------------------------------

const chromium = {
    browserName: 'chrome',
    // Questions of a page are the tests' to answer.
    unhandledPromptBehavior: 'ignore',
    'goog:loggingPrefs': { browser: 'ALL' },
    'goog:chromeOptions': {
        binary: CHROMIUM,
        args: [
            '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking',
            '--disable-component-update', '--disable-sync', `--user-data-dir=${join(WORK, 'profile')}`,
            '--window-size=1280,800', ...(PIN ? [`--ignore-certificate-errors-spki-list=${PIN}`] : []),
        ],
        prefs: { 'download.default_directory': downloads, 'download.prompt_for_download': false, 'profile.default_content_setting_values.automatic_downloads': 1 },
    },
};

let status = 0;
try {
    mkdirSync(downloads, { recursive: true });
    mkdirSync(PICTURES, { recursive: true });
    // More than the relay, the system and both browsers hold together: the sender is in mid-file while the receiver takes nothing.
    writeFileSync(join(WORK, 'long.bin'), Buffer.alloc(64_000_000, 'MSRP'));
    browser = await Browser.start(DRIVER, chromium);
    const only = process.argv.slice(2);
    for (const [name, run] of Object.entries(cases)) {
        if (only.length > 0 && !only.includes(name)) continue;
        const began = Date.now();
        takePrograms();
        const told = await run();
        if (!told) {
            console.log(`Not tried: ${name}, as its sources are not here; see --sources`);
            continue;
        }
        console.log(`OK: ${name}, ${((Date.now() - began) / 1000).toFixed(1)} s`);
        for (const line of told) console.log(`    ${line}`);
    }
} catch (error) {
    console.error(`FAILED: ${error.message}`);
    for (const { name, output } of takePrograms()) console.error(`${name} said:\n${output}`);
    status = 1;
} finally {
    await browser?.quit().catch(() => {});
    stopPrograms();
}
process.exit(status);
