// A client of WebDriver (W3C), as far as the tests need it: Debian's chromium-driver is the other side. No packages.

const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';

export class Browser {
    #base;
    #id;
    #first = null;

    /** @param {string} driver URL of chromedriver */
    static async start(driver, capabilities) {
        const browser = new Browser();
        browser.#base = `${driver}/session`;
        const { sessionId } = await browser.#call('POST', '', { capabilities: { alwaysMatch: capabilities } });
        browser.#id = sessionId;
        browser.#base += `/${sessionId}`;
        await browser.#call('POST', '/timeouts', { script: 60_000, pageLoad: 60_000, implicit: 0 });
        return browser;
    }

    async #call(method, path, body) {
        const answer = await fetch(`${this.#base}${path}`, {
            method,
            headers: { 'Content-Type': 'application/json' },
            body: method === 'POST' ? JSON.stringify(body ?? {}) : undefined,
        });
        const { value } = await answer.json();
        if (value?.error) throw new Error(`WebDriver: ${value.error}: ${value.message.split('\n').slice(0, 3).join(' ')}`);
        return value;
    }

    async newTab() {
        // The last one that was looked at may be closed; the first one never is.
        this.#first ??= await this.#call('GET', '/window');
        await this.#call('POST', '/window', { handle: this.#first });
        const { handle } = await this.#call('POST', '/window/new', { type: 'tab' });
        return new Tab(this, handle);
    }

    async inTab(handle, method, path, body) {
        await this.#call('POST', '/window', { handle });
        return this.#call(method, path, body);
    }

    async quit() {
        await this.#call('DELETE', '');
    }
}

export class Tab {
    #browser;
    #handle;

    constructor(browser, handle) {
        this.#browser = browser;
        this.#handle = handle;
    }

    #call(method, path, body) {
        return this.#browser.inTab(this.#handle, method, path, body);
    }

    open(url) {
        return this.#call('POST', '/url', { url });
    }

    close() {
        return this.#call('DELETE', '/window');
    }

    /** Runs a function in the page; what it gets and returns must be JSON. */
    run(action, ...args) {
        return this.#call('POST', '/execute/sync', { script: `return (${action}).apply(null, arguments)`, args });
    }

    async #find(selector) {
        const found = await this.#call('POST', '/element', { using: 'css selector', value: selector });
        return found[ELEMENT];
    }

    async click(selector) {
        await this.#call('POST', `/element/${await this.#find(selector)}/click`);
    }

    /** Types, or names files to a field for files. */
    async type(selector, text) {
        await this.#call('POST', `/element/${await this.#find(selector)}/value`, { text });
    }

    async fill(selector, text) {
        await this.#call('POST', `/element/${await this.#find(selector)}/clear`);
        await this.type(selector, text);
    }

    /** Presses keys where the focus is. */
    async press(...keys) {
        const actions = keys.flatMap((value) => [{ type: 'keyDown', value }, { type: 'keyUp', value }]);
        await this.#call('POST', '/actions', { actions: [{ type: 'key', id: 'keys', actions }] });
    }

    /** Answers the page's `prompt()`, once it asks. */
    async answer(text) {
        for (const end = Date.now() + 60_000; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
            try {
                await this.#call('POST', '/alert/text', { text });
                return await this.#call('POST', '/alert/accept');
            } catch (error) {
                if (!error.message.includes('no such alert') || Date.now() > end) throw error;
            }
        }
    }

    /** What the page has written to its console since the last look. */
    async console() {
        const entries = await this.#call('POST', '/se/log', { type: 'browser' });
        return entries.map(({ level, message }) => `${level} ${message}`);
    }

    /** A picture of the page in a window of this size, as PNG. */
    async picture(width, height) {
        const override = { width, height, deviceScaleFactor: 1, mobile: width < 500 };
        await this.#devtools('Emulation.setDeviceMetricsOverride', override);
        const data = await this.#devtools('Page.captureScreenshot', { format: 'png' });
        await this.#devtools('Emulation.clearDeviceMetricsOverride', {});
        return Buffer.from(data.data, 'base64');
    }

    #devtools(cmd, params) {
        return this.#call('POST', '/goog/cdp/execute', { cmd, params });
    }

    /** Waits until a function in the page returns something that is true, and returns that. */
    async until(what, seconds, action, ...args) {
        const end = Date.now() + seconds * 1000;
        for (;;) {
            const value = await this.run(action, ...args);
            if (value) return value;
            if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`);
            await new Promise((resolve) => setTimeout(resolve, 100));
        }
    }
}
