// The demonstration page. What it uses of MSRP is in msrp.js; here is what people see.

import { ERROR_CODES, MsrpSession } from '../msrp.js';

const page = new Proxy({}, { get: (_, id) => document.getElementById(id) });
const STATES = {
    new: 'Not logged in',
    connecting: 'Connecting …',
    authenticating: 'Logging in …',
    open: 'Logged in',
    waiting: 'Connection lost; trying again …',
    closed: 'Not logged in',
};

let session = null;
/** What AUTH is addressed to, if not the relay's own address: a SIP domain, for one. */
let authUri;

prefill();
page['login-form'].addEventListener('submit', (event) => {
    event.preventDefault();
    void logIn();
});
page['log-out'].addEventListener('click', () => session?.close());
page.copy.addEventListener('click', copyPath);
page['peer-form'].addEventListener('submit', (event) => {
    event.preventDefault();
    void link();
});
page['chat-form'].addEventListener('submit', (event) => {
    event.preventDefault();
    say();
});
page.file.addEventListener('change', () => {
    sendFiles(page.file.files);
    page.file.value = '';
});
takeDrops();
// The keyboard of a phone takes half of the window: the newest message stays in sight.
new ResizeObserver(showNewest).observe(page.log);

/** Relay and user may stand behind the # of the address, which no server gets to see. */
function prefill() {
    const given = new URLSearchParams(location.hash.slice(1));
    page.url.value = given.get('relay') ?? '';
    page.user.value = given.get('user') ?? '';
    authUri = given.get('auth') ?? undefined;
    (page.url.value === '' ? page.url : page.user.value === '' ? page.user : page.password).focus();
}

// -- the session -----------------------------------------------------------------------------------

async function logIn() {
    showError(null);
    const { url, user, password } = page;
    page['log-in'].disabled = true;
    try {
        session = new MsrpSession({ url: url.value, user: user.value, password: password.value, authUri, reconnect: true, accept });
        listen(session);
        await session.open();
        page.login.hidden = true;
        page.session.hidden = false;
        page['own-path'].focus();
        page['log-out'].hidden = false;
    } catch (error) {
        showError(error);
    } finally {
        page['log-in'].disabled = false;
    }
}

function listen(session) {
    session.addEventListener('state', () => showState());
    session.addEventListener('path', () => {
        page['own-path'].value = session.path;
        page['peer-path'].value = '';
        showState();
    });
    session.addEventListener('peer', ({ detail: { path, error } }) => {
        page['peer-path'].value = path ?? '';
        if (error) showError(error, 'The other side has left. ');
        showState();
    });
    session.addEventListener('message', ({ detail: { text, from } }) => addMessage(text, { from: from ?? 'Other side' }));
    session.addEventListener('warning', ({ detail: { error } }) => showError(error));
    session.addEventListener('close', ({ detail: { error } }) => {
        showState();
        if (error.code === 'aborted') {
            page.login.hidden = false;
            page.session.hidden = true;
            page['log-out'].hidden = true;
            page.user.focus();
        } else {
            showError(error, 'Tell the other side your new path once you are back. ');
        }
    });
}

function showState() {
    const linked = session.state === 'open' && session.peer !== null;
    page.status.dataset.state = session.state;
    page['status-text'].textContent = linked ? 'Connected to the other side' : STATES[session.state];
    for (const id of ['text', 'say', 'file']) page[id].disabled = !linked;
    page.drop.dataset.disabled = String(!linked);
    page.link.disabled = session.state !== 'open';
    // Once it has done its work it makes room.
    if (linked !== ('linked' in page.status.dataset)) page.paths.open = !linked;
    if (linked) page.status.dataset.linked = 'true';
    else delete page.status.dataset.linked;
}

async function link() {
    showError(null);
    page.link.disabled = true;
    try {
        await session.setPeer(page['peer-path'].value);
        page.text.focus();
    } catch (error) {
        showError(error);
    } finally {
        showState();
    }
}

async function copyPath() {
    page['own-path'].select();
    try {
        await navigator.clipboard.writeText(page['own-path'].value);
        page.copy.textContent = 'Copied';
    } catch {
        // The text is selected: the keyboard does the rest.
        page.copy.textContent = 'Press Ctrl+C';
    }
    setTimeout(() => {
        page.copy.textContent = 'Copy';
    }, 2000);
}

function showError(error, before = '') {
    page.error.hidden = error === null;
    page.error.textContent = error ? `${before}${error.message}` : '';
    if (error && !(error.code in ERROR_CODES)) throw error;
}

// -- chat ------------------------------------------------------------------------------------------

function say() {
    const { value } = page.text;
    if (value.trim() === '') return;
    page.text.value = '';
    const [item, meta] = addMessage(value, { from: 'You', mine: true });
    session.send(value, { successReport: true }).done.then(
        () => {
            meta.textContent = `You · ${clock()} · delivered`;
        },
        (error) => {
            item.classList.add('failed');
            meta.textContent = `You · not delivered: ${error.message}`;
        },
    );
}

function addMessage(text, { from, mine = false }) {
    const item = document.createElement('li');
    const meta = document.createElement('span');
    item.className = mine ? 'mine' : '';
    meta.className = 'meta';
    meta.textContent = `${from} · ${clock()}`;
    const words = document.createElement('span');
    words.className = 'words';
    words.textContent = text;
    item.append(meta, words);
    page.log.append(item);
    showNewest();
    page['log-empty'].hidden = true;
    return [item, meta];
}

function showNewest() {
    page.log.scrollTop = page.log.scrollHeight;
}

function clock() {
    return new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}

// -- files -----------------------------------------------------------------------------------------

function takeDrops() {
    const over = (value) => {
        page.drop.dataset.over = String(value && !page.file.disabled);
    };
    // A file that is dropped beside must not replace the page.
    for (const name of ['dragover', 'drop']) document.addEventListener(name, (event) => event.preventDefault());
    page.drop.addEventListener('dragover', () => over(true));
    page.drop.addEventListener('dragleave', () => over(false));
    page.drop.addEventListener('drop', (event) => {
        over(false);
        if (!page.file.disabled) sendFiles(event.dataTransfer.files);
    });
}

function sendFiles(files) {
    for (const file of files) sendFile(file);
}

function sendFile(file) {
    const card = addTransfer(file.name, file.size, 'sending');
    const sending = session.sendFile(file);
    const stop = card.button('Cancel', () => sending.abort());
    const meter = speedometer();
    sending.addEventListener('progress', () => {
        switch (sending.phase) {
            case 'hashing':
                card.show(`Computing its SHA-256 … ${percent(sending.hashed, file.size)}`, sending.hashed);
                break;
            case 'sending':
                card.show(`Sending … ${percent(sending.acknowledged, file.size)}${meter(sending.acknowledged)}`, sending.acknowledged);
                break;
            case 'confirming':
                card.show('Waiting for the other side to confirm it …', sending.acknowledged);
                break;
        }
        if (sending.sha256) card.hash(sending.sha256);
    });
    sending.done.then(
        () => card.end('done', 'Sent, and confirmed by the other side', file.size),
        (error) => card.end('failed', `Not sent: ${error.message}`, sending.acknowledged, error.code),
    ).finally(() => stop.remove());
}

/** Decides about a file that is offered, and shows it while it comes. */
function accept(file) {
    const card = addTransfer(file.name, file.size, 'receiving');
    if (!page.ask.checked) {
        receive(file, card);
        return true;
    }
    card.show('The other side wants to send this file.', 0);
    return new Promise((resolve) => {
        const buttons = [];
        const decide = (wanted) => {
            for (const button of buttons) button.remove();
            if (wanted) receive(file, card);
            resolve(wanted);
        };
        buttons.push(card.button('Accept', () => decide(true), 'primary'), card.button('Decline', () => decide(false)));
        file.done.catch((error) => {
            for (const button of buttons) button.remove();
            card.end('failed', `Not received: ${error.message}`, 0, error.code);
        });
    });
}

function receive(file, card) {
    const stop = card.button('Cancel', () => file.abort());
    const meter = speedometer();
    file.addEventListener('progress', () => {
        card.show(`Receiving … ${percent(file.received, file.size)}${meter(file.received)}`, file.received);
    });
    file.done.then(
        ({ blob, name, sha256, verified, size }) => {
            card.hash(sha256);
            card.end('done', verified ? 'Received; the SHA-256 is the one that the sender announced' : 'Received', size);
            const save = document.createElement('a');
            save.className = 'button';
            save.textContent = 'Save';
            save.download = name;
            save.href = URL.createObjectURL(blob);
            card.add(save);
        },
        (error) => card.end('failed', `Not received: ${error.message}`, file.received, error.code),
    ).finally(() => stop.remove());
}

function addTransfer(name, size, direction) {
    const [card] = page.transfer.content.cloneNode(true).children;
    const part = (selector) => card.querySelector(selector);
    const progress = part('progress');
    card.dataset.direction = direction;
    card.dataset.phase = 'moving';
    part('.name').textContent = name;
    part('.size').textContent = size === null ? 'unknown size' : inWords(size);
    progress.setAttribute('aria-label', `${direction === 'sending' ? 'Sending' : 'Receiving'} ${name}`);
    page.transfers.prepend(card);
    page['transfers-empty'].hidden = true;
    return {
        show(text, bytes) {
            part('.state').textContent = text;
            if (size) progress.value = bytes / size;
        },
        hash(digest) {
            part('.hash').hidden = false;
            part('.hash code').textContent = digest;
        },
        end(phase, text, bytes, code = '') {
            this.show(text, bytes);
            if (phase === 'done') progress.value = 1;
            card.dataset.phase = phase;
            card.dataset.code = code;
            part('.state').setAttribute('role', 'status');
        },
        add: (element) => part('.buttons').append(element),
        button(label, action, kind = '') {
            const button = document.createElement('button');
            button.type = 'button';
            button.className = kind;
            button.textContent = label;
            button.setAttribute('aria-label', `${label}: ${name}`);
            button.addEventListener('click', action);
            this.add(button);
            return button;
        },
    };
}

function percent(bytes, of) {
    return of ? `${Math.floor((bytes / of) * 100)} %` : inWords(bytes);
}

function inWords(bytes) {
    const units = ['bytes', 'KB', 'MB', 'GB'];
    let unit = 0;
    let value = bytes;
    while (value >= 1000 && unit < units.length - 1) {
        value /= 1000;
        unit++;
    }
    return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** The speed since the last look, half a second ago at least. */
function speedometer() {
    let [time, bytes, words] = [performance.now(), 0, ''];
    return (now) => {
        const passed = performance.now() - time;
        if (passed > 500) {
            words = now > bytes ? `, ${inWords(Math.round(((now - bytes) / passed) * 1000))}/s` : '';
            [time, bytes] = [performance.now(), now];
        }
        return words;
    };
}
