// In the page: what crocodile.js calls. A plain script beside crocodile-msrp's own.
/* global CrocMSRP */

window.crocodile = (() => {
    const sessions = [];
    const said = [];
    const files = [];
    const problems = [];
    const outcomes = new Map();
    const outgoing = new Map();
    let connection = null;
    let granted = 0;
    const it = { sessions, files, problems, webSockets: 0 };

    window.WebSocket = class extends WebSocket {
        constructor(...options) {
            super(...options);
            it.webSockets += 1;
        }
    };

    const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');

    function events(index) {
        const names = new Map();
        said[index] = [];
        return {
            onAuthenticated: () => { granted += 1; },
            onAuthFailed: () => problems.push(`session ${index}: AUTH failed`),
            onError: () => problems.push(`session ${index}: error`),
            onFirstChunkReceived: (id, type, name) => names.set(id, name),
            onMessageReceived: async (id, type, body) => {
                const blob = new Blob([body]);
                const name = names.get(id);
                if (!name) said[index].push(await blob.text());
                else files[index] = { name, size: blob.size, hash: hex(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer())) };
            },
            onMessageReceiveAborted: (id) => problems.push(`session ${index}: ${names.get(id)} was aborted`),
            onMessageReceiveTimeout: (id) => problems.push(`session ${index}: ${names.get(id)} does not go on`),
            onMessageSent: () => {},
            onMessageDelivered: (id) => outcomes.set(outgoing.get(id), 'delivered'),
            onMessageSendFailed: (id, status, comment) => {
                outcomes.set(outgoing.get(id), `failed: ${status} ${comment}`);
                problems.push(`session ${index}: ${status} ${comment}`);
            },
        };
    }

    return Object.assign(it, {
        connect(url, uri, username, password) {
            connection = new CrocMSRP.Connection(url, uri, { username, password });
        },
        open(count) {
            for (let index = 0; index < count; index++) sessions.push(connection.createSession(events(index)));
        },
        granted: () => granted,
        heard: (session, text) => said[session].includes(text),
        outcome: (name) => outcomes.get(name),
        async sendFile(session, url, name) {
            const data = await (await fetch(url)).blob();
            outgoing.set(sessions[session].send(new File([data], name, { type: 'application/octet-stream' })), name);
        },
    });
})();
