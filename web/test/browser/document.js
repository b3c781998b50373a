// The examples of docs/client/browser.md, as they stand there.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { check } from './programs.js';

/** @param {string} path of the document */
function blocks(path, language) {
    const text = readFileSync(path, 'utf8');
    return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, block]) => block);
}

/** Makes the page of the document in the directory of the site, with this relay's URL; returns its file name. */
export function makeFirstPage(document, site, relay) {
    const [page] = blocks(document, 'html');
    const lines = page.split('\n').filter((line) => line.trim() !== '' && !/^<\/?script/.test(line));
    check(lines.length <= 10, `${document} promises ten lines, and has ${lines.length}`);
    const placed = page.replace('wss://relay.example.com/', relay);
    check(placed !== page, `${document}: the first page does not name the relay`);
    writeFileSync(join(site, 'first.html'), `<!doctype html>\n<meta charset="utf-8">\n<title>First</title>\n${placed}`);
    return 'first.html';
}

/** The options of the document's `msrp receive`, with what is different here. */
export function receiveOptions(document, different) {
    const command = blocks(document, 'sh').map((block) => block.trim()).find((block) => block.startsWith('msrp receive '));
    check(command && !command.includes('\n'), `${document}: no msrp receive on a line of its own`);
    const options = command.split(' ').slice(1);
    for (const [name, value] of Object.entries(different)) {
        const at = options.indexOf(name);
        check(at >= 0, `${document}: msrp receive without ${name}`);
        options[at + 1] = value;
    }
    return options;
}
