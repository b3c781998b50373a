// crocodile-msrp in a page: a client for MSRP over WebSocket by others, whose last version is of 2013. The tests get its sources
// from a checkout (scripts/demo-web.sh --sources) and drive it through window.crocodile.

import { existsSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Its page in the directory of the site; null without a checkout. */
export function makeCrocodilePage(sources, site) {
    const checkout = join(sources, 'crocodile-msrp');
    if (!sources || !existsSync(checkout)) return null;
    symlinkSync(checkout, join(site, 'crocodile'));
    const scripts = [
        'crocodile/libs/md5/md5.js',
        ...readdirSync(join(checkout, 'src')).filter((name) => name.endsWith('.js')).sort().map((name) => `crocodile/src/${name}`),
        'test/browser/crocodile-page.js',
    ];
    const tags = scripts.map((path) => `<script src="${path}"></script>\n`).join('');
    writeFileSync(join(site, 'crocodile.html'), `<!doctype html>\n<meta charset="utf-8">\n<title>crocodile-msrp</title>\n${tags}`);
    return 'crocodile.html';
}

export class Crocodile {
    #tab;

    /** @param {{tab: object, url: string, relay: string, user: string, password: string}} options */
    static async open({ tab, url, relay, user, password }) {
        const client = new Crocodile();
        client.#tab = tab;
        await tab.open(url);
        const name = user.split('@', 1)[0];
        const authUri = `msrps://${name}@${new URL(relay).host};ws`;
        await tab.run((...options) => window.crocodile.connect(...options), relay, authUri, name, password);
        return client;
    }

    /** Opens sessions on the one WebSocket, and waits until the relay has granted all. */
    async sessions(count) {
        await this.#tab.run((count) => window.crocodile.open(count), count);
        await this.#until('its sessions are granted', (count) => window.crocodile.granted() === count, count);
    }

    #until(what, action, ...args) {
        return this.#tab.until(`crocodile-msrp: ${what}`, 300, action, ...args);
    }

    offer(session) {
        return this.#tab.run((session) => window.crocodile.sessions[session].getSdpOffer(), session);
    }

    answer(session, offer) {
        return this.#tab.run((session, offer) => window.crocodile.sessions[session].getSdpAnswer(offer), session, offer);
    }

    accept(session, answer) {
        return this.#tab.run((session, answer) => window.crocodile.sessions[session].processSdpAnswer(answer), session, answer);
    }

    async path(session) {
        return /^a=path:(.*)$/m.exec(await this.offer(session))[1].trim();
    }

    say(session, text) {
        return this.#tab.run((session, text) => window.crocodile.sessions[session].send(text), session, text);
    }

    /** Sends what is at a URL, and waits until all of it is reported as received. */
    async sendFile(session, url, name, seconds) {
        await this.#tab.run((...options) => void window.crocodile.sendFile(...options), session, url, name);
        return this.#tab.until(`crocodile-msrp: ${name} is sent`, seconds, (name) => window.crocodile.outcome(name), name);
    }

    hears(session, text) {
        return this.#until(`it hears "${text}"`, (session, text) => window.crocodile.heard(session, text), session, text);
    }

    /** `{name, size, hash}` of the file that a session has received. */
    received(session, seconds) {
        return this.#tab.until('crocodile-msrp: a file comes', seconds, (session) => window.crocodile.files[session], session);
    }

    webSockets() {
        return this.#tab.run(() => window.crocodile.webSockets);
    }

    close() {
        return this.#tab.close();
    }

    problems() {
        return this.#tab.run(() => window.crocodile.problems);
    }
}

/** What crocodile-msrp takes for the SDP of another client. */
export function sdpOf(path) {
    return [
        'v=0', 'o=- 1 1 IN IP4 other.invalid', 's=-', 'c=IN IP4 other.invalid', 't=0 0',
        'm=message 2855 TCP/TLS/MSRP *', 'a=accept-types:*', `a=path:${path}`, '',
    ].join('\r\n');
}
