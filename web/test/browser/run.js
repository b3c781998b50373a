// The demonstration page in a real browser, with pages, `msrp` and python3-msrplib at the other end. scripts/demo-web.sh starts
// what it needs and tells it by the environment.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { Browser } from './webdriver.js';

const {
    DRIVER, CHROMIUM, PAGE, RELAY, AUTH_URI = '', PIN, RELAY_TLS, CA, MSRP, WORK, PICTURES, ALICE, BOB, SIZE, SHORT, PYTHON = '', PEER = '',
} = process.env;
const size = Number(SIZE);
const short = SHORT === 'yes';
/** No transfer may take longer. */
const seconds = Math.max(60, size / 1_000_000);
const users = { alice: ['alice@example.com', ALICE], bob: ['bob@example.com', BOB] };
const downloads = join(WORK, 'downloads');
const children = new Set();
let programs = [];

const msrp = (command, user, ...options) =>
    start(MSRP, [command, '--user', users[user][0], '--relay', RELAY_TLS, '--ca', CA, '--timeout', '120s', ...options], users[user][1]);

// -- pages -----------------------------------------------------------------------------------------

let browser;
let pictured = false;

async function logIn(user) {
    const tab = await browser.newTab();
    const fragment = new URLSearchParams({ relay: RELAY, user: users[user][0], ...(AUTH_URI && { auth: AUTH_URI }) });
    await tab.open(`${PAGE}#${fragment}`);
    await tab.type('#password', users[user][1]);
    // By the keyboard alone.
    await tab.press('\uE007');
    tab.path = await tab.until(`${user} logs in`, 20, () => {
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

const linked = (tab) => tab.until('the two are connected', 20, () => document.getElementById('status').dataset.linked);

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

const hears = (tab, text) =>
    tab.until(`"${text}" arrives`, 20, (text) => [...document.querySelectorAll('#log .words')].some((words) => words.textContent === text), text);

const delivered = (tab) =>
    tab.until('it is delivered', 20, () => document.querySelector('#log .mine:last-of-type .meta')?.textContent.includes('delivered'));

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
    tab.until('it moves', 30, (count) => {
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
        await say(alice, 'Grüße, 你好 <b>');
        await hears(bob, 'Grüße, 你好 <b>');
        await delivered(alice);
        await say(bob, 'hello back');
        await hears(alice, 'hello back');
        const results = [];
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
        const path = await until('msrp waits', 20, () => existsSync(join(out, '.path')) && readFileSync(join(out, '.path'), 'utf8').trim());
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
        await bob.until('bob is asked', 60, () => document.querySelector('.transfer button'));
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
        await bob.until('bob is asked', 60, () => document.querySelector('.transfer button'));
        await bob.close();
        const failed = await ended(alice, 'failed');
        check(['no-session', 'unreachable'].includes(failed.code), `code ${failed.code}: ${failed.state}`);
        results.push(`the receiver's: the sender is told "${failed.state}"`);
        await alice.close();
        [alice, bob] = await pages();
        await bob.click('#ask');
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', 60, () => document.querySelector('.transfer button'));
        await alice.close();
        await bob.click('.transfer button');
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
        await bob.until('bob is asked', 60, () => document.querySelectorAll('.transfer button')[1]);
        await bob.run(() => document.querySelectorAll('.transfer button')[1].click());
        const refused = await ended(alice, 'failed');
        check(refused.code === 'refused', `code ${refused.code}: ${refused.state}`);
        await alice.type('#file', join(WORK, 'long.bin'));
        await bob.until('bob is asked', 60, () => document.querySelector('.transfer button'));
        await alice.click('.transfer[data-phase="moving"] button');
        const aborted = await ended(alice, 'failed');
        check(aborted.code === 'aborted', aborted.state);
        await bob.click('.transfer button');
        const told = await ended(bob, 'failed');
        check(told.code === 'aborted-by-peer', `code ${told.code}: ${told.state}`);
        await say(alice, 'the session goes on');
        await hears(bob, 'the session goes on');
        for (const tab of [alice, bob]) await tab.close();
        return [`refused: "${refused.state}"`, `aborted: "${told.state}"`];
    },

    async 'browser and python3-msrplib'() {
        if (!PYTHON) return ['not tried: python3-msrplib is not here, see --sources'];
        const out = fresh('msrplib');
        const alice = await logIn('alice');
        const peer = start(PYTHON, [
            PEER, '--user', users.bob[0], '--relay', RELAY_TLS, '--ca', CA, '--peer', alice.path, '--path-file', join(out, 'path'),
            '--out', join(out, 'file-1.bin'), '--file', join(WORK, 'file-2.bin'), '--timeout', String(2 * seconds),
        ], users.bob[1]);
        const path = await until('its path', 30, () => {
            check(peer.status === null, peer.output);
            return existsSync(join(out, 'path')) && readFileSync(join(out, 'path'), 'utf8');
        });
        await link(alice, path);
        await alice.type('#file', join(WORK, 'file-1.bin'));
        await hears(alice, 'I have it: grüße');
        await alice.until('the file comes back', seconds, () =>
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

    async 'wrong password'() {
        const tab = await browser.newTab();
        await tab.open(`${PAGE}#${new URLSearchParams({ relay: RELAY, user: users.alice[0], ...(AUTH_URI && { auth: AUTH_URI }) })}`);
        await tab.type('#password', 'wrong');
        await tab.press('\uE007');
        const said = await tab.until('an error is shown', 20, () => !document.getElementById('error').hidden && document.getElementById('error').textContent);
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
    'goog:chromeOptions': {
        binary: CHROMIUM,
        args: [
            '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
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
        programs = [];
        const told = await run();
        console.log(`OK: ${name}, ${((Date.now() - began) / 1000).toFixed(1)} s`);
        for (const line of told) console.log(`    ${line}`);
    }
} catch (error) {
    console.error(`FAILED: ${error.message}`);
    for (const { child, output } of programs) console.error(`${child.spawnfile} said:\n${output}`);
    status = 1;
} finally {
    await browser?.quit().catch(() => {});
    for (const child of children) child.kill();
}
process.exit(status);
